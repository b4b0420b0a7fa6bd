# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, t
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from classifier.evaluate import (
    Estimate,
    Metrics,
    auroc,
    calibration_intercept,
    calibration_slope,
    evaluate,
    write_metrics,
)
from classifier.predictions import Predictions
from data_prep.errors import LabelError

Array = NDArray[Any]
NAMES = tuple(field.name for field in fields(Metrics) if field.type is Estimate)


def scores(*, ties: bool, crops: int = 60, seed: int = 0) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    patient = rng.integers(0, 25, crops)
    label = rng.integers(0, 2, crops)
    logit = rng.normal(1.2 * label - 0.3, 1.0)
    logit = logit.round() if ties else logit
    return label, 1 / (1 + np.exp(-logit)), patient


def twin(label: Array, p: Array) -> dict[str, float]:
    """The same statistics by scikit-learn and root finding, for crops that may repeat."""
    fpr, tpr, _ = roc_curve(label, p, drop_intermediate=False)
    logit = np.log(p / (1 - p))
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit[:, None], label)
    return {
        "auroc": roc_auc_score(label, p),
        "auprc": average_precision_score(label, p),
        "sensitivity_at_90_specificity": tpr[fpr <= 0.1 + 1e-12].max(),
        "brier": brier_score_loss(label, p),
        "calibration_slope": fit.coef_[0, 0],
        "calibration_intercept": brentq(
            lambda a: (1 / (1 + np.exp(-logit - a)) - label).sum(), -20, 20
        ),
    }


@pytest.mark.parametrize("ties", [False, True])
def test_values_equal_scikit_learn(ties: bool) -> None:
    label, p, patient = scores(ties=ties)
    found = evaluate(label, p, patient, resamples=5)
    values = twin(label, p)
    assert tuple(values) == NAMES
    for name, value in values.items():
        assert getattr(found, name).value == pytest.approx(value, abs=1e-5), name
    assert auroc(label, p) == found.auroc.value


@pytest.mark.parametrize("ties", [False, True])
def test_intervals_equal_a_loop_over_drawn_patients(ties: bool) -> None:
    label, p, patient = scores(ties=ties)
    ids, unit = np.unique(patient, return_inverse=True)
    counts = np.random.default_rng(3).multinomial(len(ids), [1 / len(ids)] * len(ids), size=40)
    values: dict[str, list[float]] = {name: [] for name in NAMES}
    for drawn in counts:
        index = np.repeat(np.arange(len(label)), drawn[unit])
        for name, value in twin(label[index], p[index]).items():
            values[name].append(value)
    found = evaluate(label, p, patient, resamples=40, seed=3, level=0.8)
    fewer = min(len(set(patient[label == c].tolist())) for c in (0, 1))
    beyond = norm.sf(t.ppf(0.9, fewer - 1) * np.sqrt(fewer / (fewer - 1)))
    assert 0.05 < beyond < 0.1
    for name in NAMES[1:]:
        expected = np.quantile(values[name], [beyond, 1 - beyond], method="nearest")
        estimate = getattr(found, name)
        np.testing.assert_allclose([estimate.low, estimate.high], expected, atol=1e-5, err_msg=name)


def test_crops_of_a_patient_widen_the_interval() -> None:
    label, p, _ = scores(ties=False)
    ten = [np.repeat(x, 10) for x in (label, p, np.arange(60))]
    apart = evaluate(ten[0], ten[1], np.arange(600), resamples=400).auroc
    together = evaluate(*ten, resamples=400).auroc
    assert together.value == apart.value
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth = norm.cdf(1.2 / np.sqrt(2))  # of normal scores, 1.2 standard deviations apart
    inside = 0
    for seed in range(50):
        label, p, _ = scores(ties=False, crops=120, seed=seed)
        found = evaluate(label, p, np.arange(120), resamples=100, seed=seed, level=0.8).auroc
        inside += found.low <= truth <= found.high
    assert 32 <= inside <= 48  # 40 +- 3 standard deviations


def test_a_bootstrap_of_ten_patients_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)

    def drawn(patients: int) -> tuple[Array, Array, Array]:
        label = rng.permutation(np.arange(patients) % 2)
        return label, 1 / (1 + np.exp(-rng.normal(1.2 * label - 0.6, 1.0))), np.arange(patients)

    label, p, _ = drawn(200_000)
    truth = brier_score_loss(label, p)
    cohorts = [evaluate(*drawn(10), resamples=300).brier for _ in range(300)]
    covered = np.mean([one.low <= truth <= one.high for one in cohorts])
    assert 0.92 <= covered <= 0.98  # .88 with plain percentiles


def test_counts_are_reported_and_a_seed_repeats() -> None:
    label, p, patient = scores(ties=False)
    found = evaluate(label, p, patient, resamples=50)
    assert (found.crops, found.malignant) == (60, label.sum())
    assert found.patients == len(set(patient.tolist()))
    assert (found.level, found.resamples) == (0.95, 50)
    assert found == evaluate(label, p, patient, resamples=50)
    assert found != evaluate(label, p, patient, resamples=50, seed=1)


def test_resamples_with_one_class_are_left_out() -> None:
    found = evaluate([0, 1, 1], [0.2, 0.7, 0.1], [0, 1, 2], resamples=200)
    assert found.auprc.low == pytest.approx(1 / 3)
    assert found.auprc.high == 1.0
    assert found.auroc.low < 0.1
    assert found.auroc.high > 0.9


def test_separated_logits_have_an_infinite_slope_and_equal_ones_none() -> None:
    label = np.array([0.0, 0.0, 1.0, 1.0])
    logits = np.array([[-2.0, -1, 1, 2], [2, 1, -1, -2], [1, 1, 1, 1], [-1, 0, 0, 1]])
    one = np.ones((1, 4))
    slopes = [calibration_slope(label, logit, one)[0] for logit in logits]
    np.testing.assert_equal(slopes, [np.inf, -np.inf, np.nan, np.inf])


def test_nearly_separated_logits_converge() -> None:
    rng = np.random.default_rng(0)
    logit = np.sort(rng.normal(0, 30, 200))
    label = (logit > 0).astype(float)
    label[[90, 110]] = 1 - label[[90, 110]]
    slope = calibration_slope(label, logit, np.ones((1, 200)))[0]
    fit = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10000).fit(logit[:, None] / 30, label)
    assert slope == pytest.approx(fit.coef_[0, 0] / 30, rel=1e-4)


def test_a_shift_of_all_logits_is_found() -> None:
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 1, 20000)
    label = (rng.random(20000) < 1 / (1 + np.exp(-logit))).astype(float)
    shift = calibration_intercept(label, logit - 1.5, np.ones((1, 20000)))[0]
    assert shift == pytest.approx(1.5, abs=0.06)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1, 1], [0.1, 0.2], [0, 1]), LabelError, "2 crops, 2 of them malignant"),
        (([], [], []), LabelError, "0 crops"),
        (([0, 2], [0.1, 0.2], [0, 1]), ValueError, "other than 0 and 1"),
        (([0, 1], [0.1, np.nan], [0, 1]), ValueError, "NaN"),
        (([0, 1], [0.1, 1.1], [0, 1]), ValueError, r"outside \[0, 1\]"),
        (([0, 1], [0.1], [0, 1]), ValueError, r"shapes \(2,\), \(1,\), \(2,\)"),
    ],
)
def test_bad_input_is_refused(
    arguments: tuple[Any, Any, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        evaluate(*arguments)


@pytest.mark.parametrize("settings", [{"resamples": 0}, {"level": 1.0}])
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="resamples > 0, 0 < level < 1"):
        evaluate([0, 1], [0.1, 0.2], [0, 1], **settings)


def test_metrics_are_written_as_nested_json(tmp_path: Path) -> None:
    predictions = Predictions(
        row=np.arange(4),
        patient=np.arange(4),
        malignant=np.array([0, 0, 1, 1]),
        logit=np.array([-2.0, -1, 1, 2]),
    )
    metrics = write_metrics(tmp_path / "metrics.json", predictions, split="val")
    found = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert found["auroc"] == {"value": 1.0, "low": pytest.approx(0, abs=0.01), "high": 1.0}
    assert found["calibration_slope"] == {"value": None, "low": None, "high": None}
    assert (found["crops"], found["patients"], found["malignant"]) == (4, 4, 2)
    assert (found["split"], found["level"], found["resamples"]) == ("val", 0.95, 2000)
    assert isinstance(metrics.brier, Estimate)
