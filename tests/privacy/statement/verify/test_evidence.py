import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mammo_dp.main import run
from mammo_dp.runs import file_sha256
from tests.privacy.statement.verify.chain import (
    LINES,
    Verify,
    edit,
    files,
    forge,
    forge_evidence,
    mechanism,
    reconfigure,
    rehash,
    rewrite_crops,
    said,
)


def test_an_edited_mechanism_disagrees_with_the_account_even_under_the_seal(
    verify: Verify,
) -> None:
    forge("dp", lambda stored: mechanism(stored).update(noise_multiplier=50.0), key=True)
    found = verify()
    assert files(found) == {"dp/checkpoints/last.ckpt"}
    assert "but dp/privacy.json says [[50.0, 1.0, 4]]" in said(found, "dp/checkpoints/last.ckpt")


def test_a_checkpoint_with_more_steps_is_named(verify: Verify) -> None:
    path = "dp/checkpoints/last.ckpt"
    before = file_sha256(path)
    content = torch.load(path, weights_only=True)
    ((noise, rate, _),) = content["accountant"]["history"]
    content["accountant"]["history"] = [(noise, rate, 9)]
    torch.save(content, path)

    def change(stored: dict[str, Any]) -> None:
        mechanism(stored)["steps"] = 9
        stored["artefact"]["sha256"] = stored["accesses"][-1]["released"] = file_sha256(path)

    forge("dp", change, key=True)
    found = verify()
    assert before != file_sha256(path)
    assert files(found) == {path}
    assert said(found, path) == "ran 9 steps, but trainer.max_steps is 4"


def test_a_parent_that_became_unprivate_is_named(verify: Verify) -> None:
    shutil.rmtree("pretrain")
    lines = LINES[3].replace("phantoms", "real").split()
    run(lines)
    found = verify()
    assert "is not what dp read as weights" in said(found, "pretrain/checkpoints/last.ckpt")
    name = f"CropClassifier ({file_sha256(Path('pretrain/checkpoints/last.ckpt'))[:12]})"
    assert f"leaves out the access of {name}" in said(found, "dp/privacy.json")


def test_a_hidden_parent_is_named(verify: Verify) -> None:
    edit("dp/run.json", lambda stored: stored["inputs"].pop("weights"))
    found = verify()
    assert files(found) == {"dp/privacy.json", "dp/privacy_evidence.json"}
    assert "run.inputs.weights is recorded as" in said(found, "dp/privacy_evidence.json")
    assert "lineage_exclusions" in said(found, "dp/privacy.json")


def test_an_access_that_no_parent_lists_is_named(verify: Verify) -> None:
    def change(stored: dict[str, Any]) -> None:
        stored["accesses"].insert(0, {**stored["accesses"][0], "stage": "x", "released": "y"})

    forge("dp", change, key=True)
    found = verify()
    assert files(found) == {"dp/privacy.json"}
    assert "lists the access of x to phantom-archive/train, which no" in said(
        found, "dp/privacy.json"
    )


def test_an_omitted_own_access_is_named(verify: Verify) -> None:
    forge("dp", lambda stored: stored["accesses"].clear(), key=True)
    assert "lists no access to phantom-archive/train" in said(verify(), "dp/privacy.json")


def test_a_patient_moved_to_another_split_is_named(verify: Verify) -> None:
    def move(rows: list[dict[str, str]]) -> None:
        moved = next(row["patient_id"] for row in rows if row["split"] == "train")
        for row in rows:
            if row["patient_id"] == moved:
                row["split"] = "test"

    now = rewrite_crops("real", move)
    rehash("real")
    edit("dp/run.json", lambda stored: stored["inputs"]["data"].update(sha256=now))

    forge_evidence("dp", lambda stored: stored["run"]["inputs"].update(data=now))
    found = verify()
    assert files(found) == {"real/crops.csv"}
    assert "split 'train' holds other patients than dp/privacy.json says" in said(
        found, "real/crops.csv"
    )
    assert "evidence.manifest_sha256 is recorded as" in said(found, "real/crops.csv")
    rows = csv.DictReader(Path("real/crops.csv").read_text().splitlines())
    patients = {row["patient_id"] for row in rows}
    assert not any(patient in json.dumps(found) for patient in patients)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("data.init_args.rate", 0.5, "configured sampling_rate is recorded as 1.0, but is 0.5"),
        ("data.init_args.unit", "crop", "configured unit is recorded as 'patient', but is 'crop'"),
        ("model.init_args.delta", 1e-5, "configured delta is recorded as 0.001, but is 1e-05"),
        (
            "model.init_args.clipping_norm",
            2.0,
            "clipping_norm is recorded as 1.0, but is 2.0",
        ),
        ("data.init_args.insecure_seed", 1, "void is recorded as '', but is 'with draws and noise"),
        ("data.init_args.insecure_seed", 0, "void is recorded as '', but is 'with draws and noise"),
        ("model.init_args.malignant_weight", 2.0, "lineage_exclusions is recorded as"),
        ("model.init_args.prior", 0.1, "lineage_exclusions is recorded as"),
        ("trainer.max_steps", 3, "ran 4 steps, but trainer.max_steps is 3"),
    ],
)
def test_a_statement_that_is_not_about_its_configuration_is_named(
    name: str, value: object, shown: str, verify: Verify
) -> None:
    reconfigure(name, value)
    found = verify()
    assert files(found) <= {"dp/privacy.json", "dp/checkpoints/last.ckpt"}
    assert any(shown in finding["what"] for finding in found["findings"])


def test_a_loose_delta_is_derived_for_runs_without_dp(
    verify: Verify,
) -> None:
    forge("gan", lambda stored: stored.update(delta=1e-6), key=True)
    found = verify("gan")
    assert files(found) == {"gan/privacy.json"}
    assert "delta is recorded as 1e-06, but is 0.0001" in said(found, "gan/privacy.json")
