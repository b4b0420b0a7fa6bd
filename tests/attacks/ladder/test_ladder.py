import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from data_prep.manifest import CropsManifest
from mammo_dp.attacks.ladder import stored
from mammo_dp.main import main
from tests.privacy.fits import quiet

pytestmark = quiet
MakeCohort = Callable[..., CropsManifest]


def config(tmp_path: Path) -> Path:
    body: dict[str, Any] = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    content = {
        "seed_everything": 0,
        "model": {
            "class_path": "mammo_dp.DPCropClassifier",
            "init_args": {
                "backbone_args": body,
                "image_size": 32,
                "trainable": "head",
                "target_epsilon": 8.0,
                "delta": 1e-2,
                "views": 2,
                "learning_rate": 0.05,
            },
        },
        "data": {
            "class_path": "mammo_dp.DPCropsDataModule",
            "init_args": {"image_size": 32, "unit": "patient", "rate": 1.0},
        },
        "trainer": {"max_steps": 30, "accelerator": "cpu", "devices": 1},
    }
    path = tmp_path / "dp.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def climb(tmp_path: Path, make_cohort: MakeCohort, *more: str) -> tuple[int, Path]:
    if not (tmp_path / "own").exists():
        make_cohort("own", patients=12, crops=30)
        make_cohort("phantoms", crops=40, origin="phantom", seed=3)
    words = ["attack", "ladder", "--fit", str(config(tmp_path)), "--out", str(tmp_path / "out")]
    words += ["--crops", str(tmp_path / "own"), "--reference", str(tmp_path / "phantoms")]
    words += ["--budgets", "[4, none]", "--resolutions", "[4, 8, 32, 100]", "--thumbnail", "8"]
    return main([*words, "--targets", "6", *more]), tmp_path / "out"


def test_a_ladder_writes_everything_resumes_and_blocks_what_is_refuted(
    tmp_path: Path, make_cohort: MakeCohort, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out = climb(tmp_path, make_cohort)
    assert status == 0, capsys.readouterr().err
    found = json.loads((out / "ladder.json").read_text())
    private, none = found["budgets"]
    assert (found["unit"], found["delta"], found["refuted"]) == ("patient", 1e-2, [])
    assert private["epsilon"] <= 4 < private["epsilon"] * 1.01
    assert private["bounds"]["mechanism"]["steps"] == 30
    assert (none["epsilon"], none["noise_multiplier"]) == ("infinity", 0.0)
    attacks = {(cell["rung"], cell["attack"], cell["metric"]) for cell in private["attacks"]}
    assert {rung for rung, _, _ in attacks} == {1, 3, 4, 5}
    assert (1, "patients by their gradients", "named from 5") in attacks
    assert (4, "prior", "NCC at 32 px") in attacks
    (exact,) = (
        cell["value"]
        for cell in none["attacks"]
        if (cell["attack"], cell["metric"]) == ("from scratch", "PSNR at 32 px")
    )
    assert exact > 40

    rows = list(csv.DictReader((out / "ladder.csv").open()))
    assert {row["budget"] for row in rows} == {"4", "none"}
    assert len(rows) == len(private["attacks"]) + len(none["attacks"])
    assert "add-or-remove" in (out / "ladder.txt").read_text()
    for picture in ("ladder.png", "sheets/all.png", "sheets/4.png", "sheets/none.png"):
        assert np.asarray(Image.open(out / picture)).std() > 5
    for text in (out / "ladder.json", out / "ladder.csv", out / "ladder.txt"):
        assert "P00" not in text.read_text()  # patients

    capsys.readouterr()
    assert climb(tmp_path, make_cohort)[0] == 0
    assert "AUROC" in capsys.readouterr().out
    assert climb(tmp_path, make_cohort, "--seed", "1")[0] == 1
    assert "another configuration" in capsys.readouterr().err

    # Planted: a run whose canaries are all recognised although the statement forbids it.
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(record | {"finished": None}))
    canaries = out / "signals" / "eps4" / "canaries.npz"
    scores = stored.candidates(canaries)
    stored.save(
        canaries, targets=scores.targets + 1e3, lists=scores.lists, outsiders=scores.outsiders
    )
    assert climb(tmp_path, make_cohort)[0] == 1
    message = capsys.readouterr().err
    assert "refute a guarantee. Do not release" in message
    assert "budget 4: worst-case canaries" in message
    assert "budget 4: audit by canaries" in message
    assert "EXCEEDS" in (out / "ladder.txt").read_text()
    assert json.loads((out / "run.json").read_text())["finished"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budgets", "[none]"], "none is private"),
        (["--thumbnail", "5"], "thumbnail=5"),
        (["--correlation", "2"], "correlation=2.0 is no chance"),
        (["--targets", "1"], "targets=1"),
        (["--resolutions", "[5]"], "none divides"),
    ],
)
def test_bad_input_is_refused_before_a_folder_is_made(
    tmp_path: Path,
    make_cohort: MakeCohort,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    status, out = climb(tmp_path, make_cohort, *flags)
    assert status == 1
    assert message in capsys.readouterr().err
    assert not out.exists()
