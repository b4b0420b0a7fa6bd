# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm, t, ttest_1samp

from classifier.evaluate import auroc
from classifier.intervals import auroc_interval, fewer_patients, from_numbers, left_out

Sample = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


def sample(rng: np.random.Generator, patients: int, area: float, alike: float = 0.5) -> Sample:
    """Crops of patients, most of one class each, whose scores are alike within a patient."""
    while True:
        count = 1 + rng.poisson(1.0, patients)
        unit = np.repeat(np.arange(patients), count)
        label = np.where(rng.random(len(unit)) < 0.1, 1, 0) ^ (rng.random(patients) < 0.5)[unit]
        if 0 < label.sum() < len(label):
            break
    own, shared = rng.standard_normal(len(unit)), rng.standard_normal(patients)[unit]
    score = 2**0.5 * ndtri(area) * label + alike**0.5 * shared + (1 - alike) ** 0.5 * own
    return label.astype(np.int64), score, unit


def naive(label: NDArray[np.int64], score: NDArray[np.float64], unit: NDArray[np.int64]) -> float:
    """Obuchowski's variance, pair by pair."""
    ill, well = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    pairs = np.array(
        [[(score[i] > score[j]) + (score[i] == score[j]) / 2 for j in well] for i in ill]
    )
    area = pairs.mean()
    sums: dict[int, list[float]] = {}
    for number, (rows, values) in enumerate(((ill, pairs.mean(1)), (well, pairs.mean(0)))):
        for row, value in zip(rows, values, strict=True):
            sums.setdefault(int(unit[row]), [0.0, 0.0])[number] += value - area
    m, n, clusters = len(ill), len(well), len(sums)
    i10, i01 = len(set(unit[ill])), len(set(unit[well]))
    s10 = i10 / ((i10 - 1) * m) * sum(a**2 for a, _ in sums.values())
    s01 = i01 / ((i01 - 1) * n) * sum(b**2 for _, b in sums.values())
    s11 = clusters / (clusters - 1) * sum(a * b for a, b in sums.values())
    return float(s10 / m + s01 / n + 2 * s11 / (m * n))


@pytest.mark.parametrize("seed", range(4))
def test_the_variance_is_obuchowskis(seed: int) -> None:
    rng = np.random.default_rng(seed)
    label, score, unit = sample(rng, 12, 0.8)
    score = np.round(score, 1)  # with ties
    value, low, high = auroc_interval(label, score, unit)
    assert value == pytest.approx(auroc(label, score))
    odds = [np.log(v / (1 - v)) for v in (low, value, high)]
    assert odds[2] - odds[1] == pytest.approx(odds[1] - odds[0])
    ill, well = (len(set(unit[label == c])) for c in (1, 0))
    spread = naive(label, score, unit) ** 0.5 / (value * (1 - value))
    assert odds[2] - odds[1] == pytest.approx(t.ppf(0.975, ill + well - 2) * spread)


def test_the_interval_of_a_mean_of_models_is_that_of_averaged_placements() -> None:
    label, score, unit = sample(np.random.default_rng(3), 15, 0.8)
    other = score + np.random.default_rng(4).standard_normal(len(score))
    value, low, high = auroc_interval(label, [score, other], unit)
    assert value == pytest.approx((auroc(label, score) + auroc(label, other)) / 2)
    # Equal models: nothing is gained by a second one.
    assert auroc_interval(label, [score, score], unit) == pytest.approx(
        auroc_interval(label, score, unit)
    )
    # About the spread that leaving out one patient after the other gives.
    left = []
    for one in set(unit.tolist()):
        kept = unit != one
        left.append(np.mean([auroc(label[kept], s[kept]) for s in (score, other)]))
    naive = np.sqrt((len(left) - 1) * np.var(left))
    odds = np.log(high / (1 - high)) - np.log(low / (1 - low))
    ill, well = (len(set(unit[label == c])) for c in (1, 0))
    spread = odds / 2 / t.ppf(0.975, ill + well - 2) * value * (1 - value)
    assert spread == pytest.approx(naive, rel=0.2)


@pytest.mark.parametrize("value", [0.6, 0.75, 0.95])
def test_the_variance_from_numbers_is_that_of_exponential_scores(value: float) -> None:
    rng = np.random.default_rng(0)
    ratio = value / (1 - value)  # of the means of two exponential distributions
    ill, well = ratio * rng.exponential(size=(4000, 9)), rng.exponential(size=(4000, 7))
    areas = (ill[:, :, None] > well[:, None]).mean((1, 2))
    assert areas.mean() == pytest.approx(value, abs=0.01)
    assert areas.var() == pytest.approx(from_numbers(value, 9, 7), rel=0.1)


@pytest.mark.parametrize("turned", [False, True])
def test_separated_classes_leave_doubt_that_falls_with_the_patients(turned: bool) -> None:
    lengths = []
    for patients in (8, 40, 200):
        unit = np.arange(patients)
        label = unit % 2
        score = label.astype(float) * (1 - 2 * turned)
        value, low, high = auroc_interval(label, score, unit)
        assert value == 1 - turned
        assert 0 <= low <= value <= high <= 1
        lengths.append(high - low)
    assert lengths[0] > 0.3
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[2] < 0.06


def test_few_patients_leave_fewer_resamples_out_as_a_t_interval_of_a_mean_does() -> None:
    values = np.random.default_rng(0).standard_normal(6)
    exact = ttest_1samp(values, 0).confidence_interval(0.9)
    drawn = norm(values.mean(), values.std() / 6**0.5)  # what a bootstrap of the mean comes to
    assert drawn.ppf(left_out(0.9, 6)) == pytest.approx(exact.low)
    assert drawn.isf(left_out(0.9, 6)) == pytest.approx(exact.high)


@pytest.mark.parametrize("patients", [0, 1])
def test_one_patient_leaves_no_resample_out(patients: int) -> None:
    assert left_out(0.95, patients) == 0


def test_patients_of_both_classes_count_in_either() -> None:
    assert fewer_patients([1, 0, 0, 0, 1], ["a", "a", "b", "c", "a"]) == 1
    assert fewer_patients([1, 1, 1, 0, 0], ["a", "b", "c", "a", "b"]) == 2


@pytest.mark.parametrize(("patients", "area"), [(8, 0.96), (10, 0.96), (20, 0.75), (40, 0.9)])
def test_the_interval_covers_what_it_promises(patients: int, area: float) -> None:
    rng = np.random.default_rng(patients)
    covered = 0
    for _ in range(400):
        _, low, high = auroc_interval(*sample(rng, patients, area))
        covered += low <= area <= high
    assert 0.92 <= covered / 400 <= 0.995
