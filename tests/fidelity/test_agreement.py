import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mammo_dp.fidelity.agreement import resampled_aurocs, with_interval


def test_the_value_is_the_mean_auroc_over_seeds_ties_included() -> None:
    rng = np.random.default_rng(0)
    malignant, patient = np.arange(40) % 2, np.arange(40) // 2
    seeds = [np.round(rng.standard_normal(40) + malignant, 1) for _ in range(3)]
    found = resampled_aurocs(malignant, patient, {"a": seeds}, draws=5, seed=0)["a"]
    assert found[0] == pytest.approx(np.mean([roc_auc_score(malignant, s) for s in seeds]))


def test_a_resample_equals_the_auroc_of_the_repeated_crops() -> None:
    rng = np.random.default_rng(1)
    malignant, patient = rng.integers(2, size=30), np.arange(30) // 3
    score = rng.standard_normal(30)
    found = resampled_aurocs(malignant, patient, {"a": [score]}, draws=1, seed=5)["a"]
    counts = np.random.default_rng(5).multinomial(10, np.full(10, 0.1), size=1)[0][patient]
    expected = roc_auc_score(malignant.repeat(counts), score.repeat(counts))
    assert found[1] == pytest.approx(expected)


def test_the_interval_has_the_width_that_patients_and_not_crops_give() -> None:
    rng = np.random.default_rng(2)
    patient = np.arange(400) // 4
    malignant = patient % 2
    score = malignant + rng.standard_normal(100)[patient]  # four equal crops a patient
    alone = resampled_aurocs(malignant[::4], patient[::4], {"a": [score[::4]]}, draws=500, seed=0)
    fourfold = resampled_aurocs(malignant, patient, {"a": [score]}, draws=500, seed=0)
    one, four = with_interval(alone["a"]), with_interval(fourfold["a"])
    assert four.value == pytest.approx(one.value)
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.05)
