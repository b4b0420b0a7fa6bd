import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from data_prep.manifest import CropsManifest
from mammo_dp.attacks.reconstruction.lists import read_candidates, write_candidates
from mammo_dp.main import main
from tests.privacy.training.fits import quiet

pytestmark = quiet
MakeCohort = Callable[..., CropsManifest]


def configs(tmp_path: Path) -> tuple[Path, Path]:
    """A private and an open configuration of one tiny head."""
    body: dict[str, Any] = {
        "backbone_args": {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2},
        "image_size": 32,
        "trainable": "head",
        "learning_rate": 0.05,
    }
    trainer = {"accelerator": "cpu", "devices": 1}
    found = []
    for name, model, data, steps in (
        (
            "DP",
            {"target_epsilon": 8.0, "delta": 1e-2, "views": 2},
            {"unit": "patient", "rate": 1.0},
            {"max_steps": 30},
        ),
        ("", {}, {}, {"max_epochs": 2}),
    ):
        content = {
            "seed_everything": 0,
            "model": {"class_path": f"mammo_dp.{name}CropClassifier", "init_args": body | model},
            "data": {
                "class_path": f"mammo_dp.{name}CropsDataModule",
                "init_args": {"image_size": 32, "augment": "none", **data},
            },
            "trainer": trainer | steps,
        }
        path = tmp_path / f"fit{name}.yaml"
        path.write_text(yaml.safe_dump(content))
        found.append(path)
    return found[0], found[1]


def climb(tmp_path: Path, make_cohort: MakeCohort, *more: str) -> tuple[int, Path]:
    if not (tmp_path / "own").exists():
        make_cohort("own", patients=12, crops=30)
        make_cohort("phantoms", crops=40, origin="phantom", seed=3)
    private, none = map(str, configs(tmp_path))
    words = ["attack", "ladder", "--fit", private, "--fit_without_privacy", none]
    words += ["--out", str(tmp_path / "out"), "--crops", str(tmp_path / "own")]
    words += ["--prior", str(tmp_path / "phantoms")]
    words += ["--budgets", "[4, none]", "--resolutions", "[4, 8, 32, 100]", "--thumbnail", "8"]
    return main([*words, "--patients", "4", *more]), tmp_path / "out"


@pytest.mark.slow
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
    assert (1, "patients by their gradients", "named from 5, this run") in attacks
    assert (4, "Gaussian prior", "NCC at 32 px") in attacks
    (exact,) = (
        cell["value"]
        for cell in none["attacks"]
        if (cell["attack"], cell["metric"]) == ("no prior, unbiased", "PSNR at 32 px")
    )
    assert exact > 40

    rows = list(csv.DictReader((out / "ladder.csv").read_text().splitlines()))
    assert {row["budget"] for row in rows} == {"4", "none"}
    for row in rows:
        assert (row["delta"], row["unit"], row["adjacency"]) == ("0.01", "patient", "zero-out")
        assert "epsilon = " in row["end_to_end"]
    assert len(rows) == len(private["attacks"]) + len(none["attacks"])
    table = (out / "ladder.txt").read_text()
    assert "of each fit alone, per patient, delta 0.01, zero-out, by PLD" in table
    assert "budget 4, end to end: epsilon = " in table
    assert "no privacy, end to end: No guarantee, epsilon = infinity" in table
    assert (out / "runs" / "eps4" / "features").samefile(out / "features")
    for picture in ("ladder.png", "sheet.png"):
        assert np.asarray(Image.open(out / picture)).std() > 5
    for text in (out / "ladder.json", out / "ladder.csv", out / "ladder.txt"):
        assert "P00" not in text.read_text()  # patients

    capsys.readouterr()
    assert climb(tmp_path, make_cohort)[0] == 0
    assert "AUROC" in capsys.readouterr().out
    assert climb(tmp_path, make_cohort, "--seed", "1")[0] == 1
    assert "another configuration" in capsys.readouterr().err

    # Planted: a run whose canaries are all recognised although the statement forbids it.
    canaries = out / "signals" / "eps4" / "canaries.npz"
    scores = read_candidates(canaries)
    write_candidates(canaries, replace(scores, targets=scores.targets + 1e3))
    assert climb(tmp_path, make_cohort, "--rescore", "true")[0] == 1
    message = capsys.readouterr().err
    assert "refute a guarantee. Do not release" in message
    assert "budget 4: worst-case canaries" in message
    assert "budget 4: audit by canaries" in message
    assert "EXCEEDS" in (out / "ladder.txt").read_text()
    assert climb(tmp_path, make_cohort)[0] == 1  # the folder was finished before
    assert "refute a guarantee" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budgets", "[none]"], "none is private"),
        (["--budgets", "[4, -1, none]"], "budgets: -1"),
        (["--thumbnail", "5"], "thumbnail=5"),
        (["--correlation", "2"], "correlation=2.0 is no probability"),
        (["--patients", "1"], "patients=1"),
        (["--resolutions", "[5]"], "there is none"),
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
