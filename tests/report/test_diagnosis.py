# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_curve as reference

from classifier.predictions import Predictions
from data_prep.manifest import CropsManifest
from mammo_dp.report.diagnosis import LEAST_PATIENTS, calibration_bins, roc_curve, subgroups

Make = Callable[..., CropsManifest]


def predictions(count: int, *, slope: float = 1.0, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    logit = 1.5 * rng.standard_normal(count)
    malignant = (rng.random(count) < 1 / (1 + np.exp(-slope * logit))).astype(np.int64)
    return Predictions(
        row=np.arange(count), patient=np.arange(count) // 2, malignant=malignant, logit=logit
    )


def test_the_curve_is_that_of_scikit_learn_and_lies_in_its_band() -> None:
    given = predictions(200)
    curve = roc_curve(given)
    fpr, tpr, _ = reference(given.malignant, given.logit, drop_intermediate=False)
    expected = [tpr[fpr <= at + 1e-12].max() for at in curve.fpr]
    np.testing.assert_allclose(curve.tpr, expected)
    assert (curve.low <= curve.tpr + 1e-12).all()
    assert (curve.tpr <= curve.high + 1e-12).all()


def test_equal_scores_share_a_threshold() -> None:
    tied = replace(predictions(40), logit=np.zeros(40))
    curve = roc_curve(tied)
    assert curve.tpr[:-1].max() == 0
    assert curve.tpr[-1] == 1


def test_bins_of_honest_probabilities_hold_the_diagonal_and_of_others_do_not() -> None:
    honest, bold = (calibration_bins(predictions(4000, slope=s)) for s in (1.0, 0.3))

    def misses(bins: object) -> int:
        low, high, stated = (getattr(bins, name) for name in ("low", "high", "stated"))
        return int(((stated < low) | (stated > high)).sum())

    assert misses(honest) <= 2
    assert misses(bold) >= 5
    assert honest.crops.sum() == 4000
    assert (np.diff(honest.stated) > 0).all()


def test_small_sets_have_few_bins_of_at_least_ten_crops() -> None:
    assert calibration_bins(predictions(35)).crops.tolist() == [12, 12, 11]


def test_groups_of_few_patients_are_counted_but_not_measured(make_cohort: Make) -> None:
    manifest = make_cohort(patients=30, crops=60, size=16)
    rows = manifest.rows()
    given = Predictions(
        row=np.array(rows),
        patient=np.array([int(manifest.crops[row].patient_id[1:]) for row in rows]),
        malignant=np.array([manifest.crops[row].malignant for row in rows], np.int64),
        logit=np.random.default_rng(0).standard_normal(len(rows)),
    )
    assert subgroups(given, manifest) == []
    named = [
        replace(
            crop, view="CC", attributes={"density": "4" if int(crop.patient_id[1:]) < 4 else "2"}
        )
        for crop in manifest.crops
    ]
    view, large, small = subgroups(given, CropsManifest.write(manifest.folder, named))
    assert (view.attribute, view.value, view.crops, view.patients) == ("view", "CC", 60, 30)
    assert (large.value, small.value) == ("2", "4")
    assert small.patients == 4 < LEAST_PATIENTS
    assert small.metrics is None
    assert large.metrics is not None
    assert large.metrics.crops == large.crops
    assert view.metrics is not None
    assert view.metrics.auroc.value == pytest.approx(0.5, abs=0.2)
