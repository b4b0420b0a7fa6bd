import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mammo_dp.fidelity.agreement import resampled_aurocs, scores, with_interval
from mammo_dp.fidelity.descriptor import describe
from mammo_dp.fidelity.samples import FidelityError


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


def test_the_classifier_learns_what_differs_and_nothing_from_labels_at_random() -> None:
    rng = np.random.default_rng(3)
    malignant = np.arange(160) % 2
    y, x = np.mgrid[:32, :32] / 32 - 0.5
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    lobes = 0.04 * np.cos(8 * angle + rng.uniform(0, 6, (160, 1, 1)))
    edge = rng.uniform(0.22, 0.3, (160, 1, 1)) + malignant[:, None, None] * lobes
    images = 0.3 + 0.3 * (radius < edge) + 0.05 * rng.standard_normal((160, 32, 32))
    described = describe(images.astype(np.float32))
    found = scores((described[:100], malignant[:100]), described[100:])
    assert roc_auc_score(malignant[100:], found) > 0.8
    blind = scores((described[:100], rng.permutation(malignant[:100])), described[100:])
    assert roc_auc_score(malignant[100:], blind) < 0.75


def test_a_description_has_as_many_numbers_at_any_size_and_is_finite() -> None:
    rng = np.random.default_rng(4)
    for size in (16, 32):
        images = rng.random((3, size, size), np.float32)
        images[0] = 0.5  # a blank crop
        found = describe(images)
        assert found.shape == (3, 425)
        assert np.isfinite(found).all()
    with pytest.raises(FidelityError, match="multiple of 4"):
        describe(rng.random((1, 30, 30), np.float32))
