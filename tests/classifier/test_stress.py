# SPDX-License-Identifier: Apache-2.0
import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from classifier.evaluate import evaluate
from classifier.predictions import Predictions
from classifier.stress import MEASURES, stress, write_stress


@pytest.fixture(scope="module")
def scored() -> dict[str, Predictions]:
    """40 patients with three crops each: as they are, all one logit higher, and with noise."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 3)
    malignant = rng.integers(0, 2, 40)[patient]
    logit = malignant - 0.5 + rng.standard_normal(120)
    plain = Predictions(row=np.arange(120), patient=patient, malignant=malignant, logit=logit)
    noisy = logit + 3 * rng.standard_normal(120)
    return {
        "none": plain,
        "brighter": replace(plain, logit=logit + 1),
        "noisy": replace(plain, logit=noisy),
    }


def test_crops_as_they_are_have_the_metrics_of_a_test(scored: dict[str, Predictions]) -> None:
    plain = scored["none"]
    first = stress(scored)[0]
    metrics = evaluate(plain.malignant, plain.probability, plain.patient)
    assert first.measures == {name: getattr(metrics, name) for name in MEASURES}
    assert not first.differences


def test_differences_are_paired(scored: dict[str, Predictions]) -> None:
    found = {one.distortion: one for one in stress(scored)}
    assert list(found) == ["none", "brighter", "noisy"]
    label = scored["none"].malignant
    for name in ("brighter", "noisy"):
        before, after = scored["none"].probability, scored[name].probability
        area, brier = (found[name].differences[m].value for m in ("auroc", "brier"))
        assert area == pytest.approx(roc_auc_score(label, after) - roc_auc_score(label, before))
        assert brier == pytest.approx(
            brier_score_loss(label, after) - brier_score_loss(label, before)
        )
    # The order of crops is the same in every resample, so their AUROC differs by nothing at all.
    same = found["brighter"].differences["auroc"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    moved = found["brighter"].differences["calibration_intercept"]
    assert (moved.value, moved.low, moved.high) == pytest.approx((-1, -1, -1), abs=1e-6)
    lost = found["noisy"].differences["auroc"]
    assert lost.low < lost.value < 0
    assert f", difference {lost.value:.3f} [" in str(found["noisy"])
    assert "difference" not in str(found["none"])


def test_the_interval_of_a_difference_is_that_of_a_loop_over_patients(
    scored: dict[str, Predictions],
) -> None:
    label, patient = scored["none"].malignant, scored["none"].patient
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(400):
        rows = np.concatenate([np.flatnonzero(patient == p) for p in rng.integers(0, 40, 40)])
        ill = label[rows] == 1
        after, before = (
            (one.logit[rows][ill][:, None] > one.logit[rows][~ill]).mean()
            for one in (scored["noisy"], scored["none"])
        )
        drawn.append(after - before)
    found = stress(scored)[2].differences["auroc"]
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.03)


def test_other_crops_are_refused(scored: dict[str, Predictions]) -> None:
    other = replace(scored["noisy"], row=scored["noisy"].row[::-1])
    with pytest.raises(ValueError, match="'noisy' scores other crops"):
        stress({"none": scored["none"], "noisy": other})


def test_the_files_say_the_same(tmp_path: Path, scored: dict[str, Predictions]) -> None:
    write_stress(tmp_path, scored, split="val")
    stored = json.loads((tmp_path / "stress.json").read_text())
    assert (stored["crops"], stored["patients"], stored["split"]) == (120, 40, "val")
    with (tmp_path / "stress.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["distortion"] for line in lines] == ["none", "brighter", "noisy"]
    for line, row in zip(lines, stored["rows"], strict=True):
        assert (line["crops"], line["patients"]) == ("120", "40")
        assert float(line["brier_value"]) == row["measures"]["brier"]["value"]
        difference = row["differences"].get("auroc", {"low": None})["low"]
        assert line["auroc_difference_low"] == ("" if difference is None else str(difference))
