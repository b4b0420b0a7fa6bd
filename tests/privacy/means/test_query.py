import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.means.query import (
    COUNTED,
    LARGEST_CHANGE,
    NoisySums,
    exact_sums,
    patient_vector,
)

Patient = tuple[NDArray[np.float64], NDArray[np.bool_]]
FEATURES = 5


def patients(count: int, seed: int = 0) -> list[Patient]:
    """One to six crops of one class or both, some of them alike, some far too long."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        crops = int(rng.integers(1, 7))
        features = rng.standard_normal((crops, FEATURES)) * 10.0 ** rng.integers(-3, 4)
        if number % 3 == 0:
            features[:] = features[0]
        malignant = rng.random(crops) < 0.5 if number % 2 else np.full(crops, number % 4 == 0)
        made.append((features, malignant))
    return made


def naive(cohort: list[Patient]) -> NDArray[np.float64]:
    """Crop by crop: each counts one over the number of its patient's crops."""
    total = np.zeros((2, FEATURES + 1))
    for features, malignant in cohort:
        for crop, is_malignant in zip(features, malignant, strict=True):
            vector = [*(crop / math.sqrt(sum(x * x for x in crop))), COUNTED]
            length = math.sqrt(sum(x * x for x in vector))
            for place, value in enumerate(vector):
                total[int(is_malignant), place] += value / length / len(features)
    return total


def test_sums_are_those_of_a_loop_over_crops() -> None:
    cohort = patients(12)
    np.testing.assert_allclose(exact_sums(cohort), naive(cohort), atol=1e-12)


def test_no_patient_moves_the_sums_by_more_than_the_bound() -> None:
    cohort = patients(40)
    everyone = naive(cohort)
    moved = [
        np.linalg.norm(everyone - exact_sums(cohort[:left] + cohort[left + 1 :]))
        for left in range(len(cohort))
    ]
    assert max(moved) <= LARGEST_CHANGE + 1e-12
    # the bound is reached by a patient whose crops look alike: a smaller one would not hold
    assert max(moved) == pytest.approx(LARGEST_CHANGE)
    both = [place for place, (_, malignant) in enumerate(cohort) if len(set(malignant)) == 2]
    assert both
    assert max(moved[place] for place in both) < LARGEST_CHANGE


def test_blanked_crops_and_scale_give_no_patient_a_longer_vector() -> None:
    for features, malignant in patients(40, seed=1):
        for blank, scale in itertools.product((0, len(features)), (1e-30, 1.0, 1e30)):
            seen = features * scale
            seen[:blank] = 0
            assert np.linalg.norm(patient_vector(seen, malignant)) <= LARGEST_CHANGE + 1e-12


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_features_without_a_length_are_refused(odd: float) -> None:
    with pytest.raises(PrivacyError, match="not finite"):
        patient_vector(np.array([[odd, 1.0]]), np.array([True]))


def test_means_of_many_patients_are_those_of_their_crops() -> None:
    rng = np.random.default_rng(3)
    centres = np.array([[0.9, 0.1, 0, 0, 0], [0, 0, 0.8, 0.2, 0]])
    cohort = []
    for number in range(600):
        label = number % 2
        crops = centres[label] + 0.3 * rng.standard_normal((1 + number % 3, FEATURES))
        cohort.append((crops, np.full(len(crops), bool(label))))
    noise = 2.0
    exact = exact_sums(cohort)
    means, length = NoisySums(
        sums=exact + noise * rng.standard_normal(exact.shape), noise=noise
    ).means()
    for label in (0, 1):
        unit = [
            (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(0)
            for features, malignant in cohort
            if malignant[0] == label
        ]
        away = np.linalg.norm(means[label] - np.mean(unit, axis=0))
        assert 0.1 * length[label] < away < 2.5 * length[label]
        # sum / count, the noise of a sum being stretched by the constant
        assert length[label] == pytest.approx(
            noise * math.sqrt(FEATURES) * math.hypot(1, COUNTED) / 300, rel=0.2
        )


def test_a_class_that_counts_no_more_than_its_noise_has_no_mean() -> None:
    sums = exact_sums(patients(6))
    with pytest.raises(PrivacyError, match=r"no mean\. Give more patients"):
        NoisySums(sums=sums, noise=10.0).means()
