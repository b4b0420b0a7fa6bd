import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import kstest

from data_prep.descriptors.voting import describe
from data_prep.errors import LabelError
from data_prep.manifest import CropsManifest
from mammo_dp.attacks.lower_bounds import gaussian_epsilon, many_run_gaussian
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.budget import PrivacyBudget, calibrate
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.population import Electorate, with_noise
from mammo_dp.privacy.training.sampling import PoissonSampling

WIDTH = 3  # of descriptions
Patient = list[tuple[bool, list[float]]]  # class and description of each crop


def electorate(patients: list[Patient]) -> Electorate:
    ends = np.cumsum([0, *map(len, patients)]).tolist()
    rows = tuple(tuple(range(a, b)) for a, b in pairwise(ends))
    crops = [crop for patient in patients for crop in patient]
    return Electorate(
        crops=np.array([description for _, description in crops], np.float32),
        malignant=np.array([malignant for malignant, _ in crops]),
        patient=np.repeat(np.arange(len(patients)), [len(patient) for patient in patients]),
        sampling=PoissonSampling(unit="patient", rows_of=rows, rate=1.0),
    )


def naive_votes(patients: list[Patient], candidates: NDArray[np.float32]) -> NDArray[np.float64]:
    total = np.zeros(candidates.shape[:2])
    for patient in patients:
        own = np.zeros(candidates.shape[:2])
        for malignant, description in patient:
            distances = [math.dist(description, one) for one in candidates[int(malignant)]]
            own[int(malignant), int(np.argmin(distances))] += 1
        total += own / np.linalg.norm(own)
    return total


def drawn(sizes: list[int], seed: int = 0) -> list[Patient]:
    rng = np.random.default_rng(seed)
    return [
        [(bool(rng.integers(2)), rng.normal(0, 4, WIDTH).tolist()) for _ in range(size)]
        for size in sizes
    ]


def candidates(seed: int = 0, count: int = 4) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 4, (2, count, WIDTH)).astype(np.float32)


sizes = st.lists(st.integers(1, 14), min_size=2, max_size=5)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(sizes=sizes, seed=st.integers(0, 99), count=st.integers(1, 6))
def test_one_patient_moves_the_histogram_by_exactly_one(
    sizes: list[int], seed: int, count: int
) -> None:
    patients, offered = drawn(sizes, seed), candidates(seed, count)
    among, without = (electorate(p).votes(offered) for p in (patients, patients[1:]))
    assert np.linalg.norm(among - without) == pytest.approx(1, abs=1e-9)
    assert (among - without > -1e-9).all()


@settings(derandomize=True, deadline=None, max_examples=20)
@given(sizes=sizes, seed=st.integers(0, 99))
def test_votes_are_those_of_a_double_loop(sizes: list[int], seed: int) -> None:
    patients, offered = drawn(sizes, seed), candidates(1)
    assert np.allclose(electorate(patients).votes(offered), naive_votes(patients, offered))


def test_a_crop_votes_among_candidates_of_its_class_only() -> None:
    offered = np.zeros((2, 2, WIDTH), np.float32)
    offered[0] += 100  # the benign candidates are far from every crop
    votes = electorate([[(False, [0.0] * WIDTH)], [(True, [0.0] * WIDTH)]]).votes(offered)
    assert votes.tolist() == [[1, 0], [1, 0]]


def test_patients_of_a_manifest_vote_with_all_their_crops(cohort: CropsManifest) -> None:
    voters = Electorate.of_manifest(cohort, "train")
    rows = [row for unit in voters.sampling.rows_of for row in unit]
    images = (cohort.images(rows) / 65535).astype(np.float32)
    assert voters.sampling.rate == 1
    assert voters.sampling.units == 4
    assert np.allclose(voters.crops, describe(images))
    for position, row in enumerate(rows):
        assert row in voters.sampling.rows_of[voters.patient[position]]
        assert cohort.crops[row].malignant == voters.malignant[position]


def test_a_split_of_one_class_is_refused(cohort: CropsManifest) -> None:
    with pytest.raises(LabelError, match="split 'test' holds no crop"):
        Electorate.of_manifest(cohort, "test")


def test_noise_has_the_stated_scale_and_no_other() -> None:
    votes = np.arange(20_000.0).reshape(2, -1)
    noise = (with_noise(votes, noise_multiplier=3.0, key=5, step=2) - votes).ravel()
    assert kstest(noise / 3, "norm").pvalue > 1e-3
    assert kstest(noise / 3.6, "norm").pvalue < 1e-3
    assert kstest(noise / 2.5, "norm").pvalue < 1e-3


def test_noise_of_rounds_and_processes_is_unrelated() -> None:
    votes = np.zeros((2, 2000))
    one, *others = (
        with_noise(votes, noise_multiplier=1.0, key=key, step=step).ravel()
        for key, step in ((5, 0), (5, 1), (6, 0), (5 + 2**32, 0))
    )
    for other in others:
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan])
def test_votes_without_noise_are_refused(noise: float) -> None:
    with pytest.raises(PrivacyError, match="votes would be public"):
        with_noise(np.zeros((2, 1)), noise_multiplier=noise, key=1, step=0)


@pytest.mark.parametrize(
    ("epsilon", "noise"), [(1, 10.07), (4, 3.03)]
)  # 10 rounds at delta 1e-4; privacy.md, section 6
def test_ten_rounds_need_the_known_noise(epsilon: float, noise: float) -> None:
    budget = PrivacyBudget(delta=1e-4, epsilon=epsilon)
    calibrated = calibrate(budget, sampling_rate=1.0, steps=10)
    assert calibrated == pytest.approx(noise, rel=2e-3)
    exact = gaussian_epsilon(math.sqrt(10) / calibrated, 1e-4)
    assert epsilon * (1 - 1e-3) < exact <= epsilon


@pytest.mark.parametrize("steps", [1, 3, 6, 25])
@pytest.mark.parametrize("noise", [0.7, 2.3, 8.0])
def test_account_of_rounds_is_that_of_one_gaussian(steps: int, noise: float) -> None:
    mechanism = Mechanism(noise_multiplier=noise, sampling_rate=1.0, steps=steps)
    exact = gaussian_epsilon(math.sqrt(steps) / noise, 1e-4)
    assert exact * (1 - 1e-9) <= compose([mechanism]).epsilon(1e-4) <= exact * 1.001


def scores(noise: float, *, repeats: int, rounds: int) -> tuple[Any, Any]:
    """How strongly a canary of 40 crops shows in repeated votes, with it and without it."""
    patients = drawn([40, *[1] * 10], seed=3)
    found = []
    for keys, voters in ((range(repeats), patients), (range(repeats, 2 * repeats), patients[1:])):
        total = np.zeros(repeats)
        for step in range(rounds):
            offered = candidates(step)
            votes = electorate(voters).votes(offered)
            own = electorate(patients[:1]).votes(offered)
            total += [
                float((with_noise(votes, noise_multiplier=noise, key=key, step=step) * own).sum())
                for key in keys
            ]
        found.append(total)
    return found[0], found[1]


def test_a_canary_shows_no_more_than_stated_and_more_when_noise_is_off() -> None:
    noise, rounds = 1.0, 2
    stated = compose([Mechanism(noise_multiplier=noise, sampling_rate=1.0, steps=rounds)])
    epsilon = stated.epsilon(1e-4)
    found = many_run_gaussian(*scores(noise, repeats=400, rounds=rounds), delta=1e-4)
    assert 0.6 * epsilon < found.epsilon <= epsilon  # close, so that it can fail
    for less in (1e-6, noise / 2):
        found = many_run_gaussian(*scores(less, repeats=400, rounds=rounds), delta=1e-4)
        assert found.epsilon > epsilon
