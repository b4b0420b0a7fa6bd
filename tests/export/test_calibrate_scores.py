# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.export import PredictError
from mammo_dp.export.calibrate_scores import calibrate_scores
from mammo_dp.export.predict import predict
from mammo_dp.export.shared_classifier import SharedClassifier
from mammo_dp.main import main
from mammo_dp.privacy.commands import verify
from tests.export.classifiers import run_of_classifier


def epsilons(folder: Path) -> dict[str, float]:
    stored = json.loads((folder / "privacy.json").read_text())
    return {one["cohort_name"]: one["epsilon"] for one in stored["statements"]}


def test_other_patients_pay_for_the_calibration_and_those_of_the_fit_do_not(
    cohort: CropsManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = run_of_classifier(tmp_path / "run", cohort), tmp_path / "calibrated"
    words = ["calibrate-scores", "--run", str(run), "--crops", str(cohort.folder)]
    assert main([*words, "--out", str(tmp_path / "refused")]) == 1
    assert "noise alone would move the intercept" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
    assert main([*words, "--target_epsilon", "30", "--out", str(out)]) == 0
    assert "slope" in capsys.readouterr().out
    found = epsilons(out)
    assert found.keys() == {"phantom-archive/train", "phantom-archive/val"}
    assert found["phantom-archive/train"] == epsilons(run)["phantom-archive/train"]
    assert 29 < found["phantom-archive/val"] <= 30
    verify(str(out))
    assert "all that was checked agrees" in capsys.readouterr().out
    assert SharedClassifier.read(out).released.calibration is not None
    predict(run=str(out), crops=str(cohort.folder), out=str(tmp_path / "scores"))
    assert "not calibrated" not in capsys.readouterr().out
    with pytest.raises(PredictError, match="is calibrated already"):
        calibrate_scores(run=str(out), crops=str(cohort.folder), out=str(tmp_path / "twice"))


def test_the_same_patients_pay_twice(cohort: CropsManifest, tmp_path: Path) -> None:
    run, out = run_of_classifier(tmp_path / "run", cohort), tmp_path / "calibrated"
    crops = str(cohort.folder)
    calibrate_scores(run=str(run), crops=crops, split="train", target_epsilon=30, out=str(out))
    (before,), (after,) = epsilons(run).values(), epsilons(out).values()
    assert max(before, 30) < after < before + 30
