import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import beta, norm

from mammo_dp.attacks.lower_bounds import (
    LowerBound,
    gaussian_epsilon,
    many_run,
    many_run_gaussian,
    one_run,
)
from mammo_dp.attacks.statistics import Scores
from mammo_dp.privacy.accounting.account import Mechanism, compose

PERFECT = {n: (np.ones(n), np.zeros(n)) for n in (25, 50, 128, 500, 1000)}


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    return math.fsum(
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
        for k in range(max(0, successes), trials + 1)
    )


def gaussian(rng: np.random.Generator, mu: float, size: int) -> tuple[Scores, Scores]:
    return rng.normal(mu, 1, size), rng.normal(0, 1, size)


def randomised_response(
    rng: np.random.Generator, epsilon: float, members: int, nonmembers: int
) -> tuple[Scores, Scores]:
    truth_in, truth_out = (rng.random(n) < expit(epsilon) for n in (members, nonmembers))
    return truth_in + 0.5 * rng.random(members), ~truth_out + 0.5 * rng.random(nonmembers)


# Ceilings.


@pytest.mark.parametrize(
    ("canaries", "epsilon", "gaussian_form"),
    [(50, 2.57, 14.6), (128, 3.53, 20.7), (500, 4.91, 29.3), (1000, 5.60, 33.5)],
)
def test_perfect_attack_on_many_runs_reaches_the_ceiling(
    canaries: int, epsilon: float, gaussian_form: float
) -> None:
    found = many_run(*PERFECT[canaries], delta=1e-4, allowed=[0])
    assert found.epsilon == found.ceiling == pytest.approx(epsilon, abs=0.005)
    assert found.assumes == ""
    shifted = many_run_gaussian(*PERFECT[canaries], delta=1e-4, allowed=[0])
    assert shifted.epsilon == shifted.ceiling == pytest.approx(gaussian_form, abs=0.05)
    assert shifted.assumes == "Gaussian trade-off curve"


def perfect_guesses(canaries: int, guesses: int, wrong: int, delta: float) -> LowerBound:
    members, nonmembers = np.ones(canaries // 2), np.zeros(canaries - canaries // 2)
    members[: wrong // 2], nonmembers[: wrong - wrong // 2] = -1, 2
    return one_run(
        members,
        nonmembers,
        guessed_in=guesses // 2,
        guessed_out=guesses - guesses // 2,
        delta=delta,
    )


@pytest.mark.parametrize(
    ("canaries", "all_right", "fifty", "most_right"),
    [
        (64, (3.04, 3.02), (2.78, 2.77), 1.41),
        (128, (3.74, 3.71), (2.78, 2.75), 1.68),
        (289, (4.56, 4.49), (2.78, 2.70), 1.86),
        (578, (5.26, 5.10), (2.78, 2.61), 1.96),
        (1000, (5.81, 5.53), (2.78, 2.48), 2.02),
    ],
)
def test_perfect_guesses_in_one_run_reach_the_ceiling(
    canaries: int, all_right: tuple[float, float], fifty: tuple[float, float], most_right: float
) -> None:
    for delta, epsilon, few in zip((0.0, 1e-4), all_right, fifty, strict=True):
        whole = perfect_guesses(canaries, canaries, 0, delta)
        assert whole.epsilon == whole.ceiling == pytest.approx(epsilon, abs=0.006)
        assert perfect_guesses(canaries, 50, 0, delta).epsilon == pytest.approx(few, abs=0.006)
    wrong = math.floor(0.1 * canaries)  # a tenth need not be a whole number
    found = [perfect_guesses(canaries, canaries, wrong + more, 0.0) for more in (0, 1)]
    assert found[1].epsilon - 0.005 <= most_right <= found[0].epsilon + 0.005
    assert found[0].ceiling == pytest.approx(all_right[0], abs=0.006)


# Naive references.


@pytest.mark.parametrize("delta", [0.0, 1e-3])
def test_many_run_bound_is_the_largest_one_whose_tails_stay_unlikely(delta: float) -> None:
    members, nonmembers = gaussian(np.random.default_rng(0), 2.0, 60)
    allowed, best = (0, 3, 10), 0.0
    tail = 0.05 / (2 * len(allowed))
    grid = np.arange(0, 1, 1e-3)
    for count in allowed:
        passed = int((members > np.sort(nonmembers)[::-1][count]).sum())
        fpr = max(p for p in grid if 1 - binomial_tail(count + 1, 60, p) >= tail)
        tpr = min(p for p in grid if binomial_tail(passed, 60, p) >= tail)
        best = max(best, math.log((tpr - delta) / fpr))
    assert best > 0.5
    found = many_run(members, nonmembers, delta=delta, allowed=allowed)
    assert found.epsilon == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize(("right", "delta"), [(20, 0.0), (20, 1e-3), (24, 2e-2), (12, 0.0)])
def test_one_run_bound_is_where_the_p_value_crosses(right: int, delta: float) -> None:
    canaries = guesses = 24

    def p_value(epsilon: float) -> float:
        probability = 1 / (1 + math.exp(-epsilon))
        tail = binomial_tail(right, guesses, probability)
        alpha = max(
            (binomial_tail(right - i, guesses, probability) - tail) / i for i in range(1, right + 1)
        )
        return min(1.0, tail + 2 * canaries * delta * alpha)

    found = perfect_guesses(canaries, guesses, guesses - right, delta).epsilon
    grid = np.arange(0, 4, 0.01)
    values = [p_value(float(epsilon)) for epsilon in grid]
    assert (np.diff(values) > -1e-12).all()
    refuted = grid[np.array(values) <= 0.05]
    assert found == pytest.approx(refuted.max() if len(refuted) else 0.0, abs=0.011)


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-4])
def test_gaussian_epsilon_equals_that_of_the_accountant(mu: float, delta: float) -> None:
    curve = compose([Mechanism(noise_multiplier=1 / mu, sampling_rate=1.0, steps=1)])
    assert gaussian_epsilon(mu, delta) == pytest.approx(curve.epsilon(delta), rel=1e-3, abs=1e-4)


def test_gaussian_without_a_distance_is_perfectly_private() -> None:
    assert gaussian_epsilon(0.0, 1e-4) == gaussian_epsilon(1e-5, 1e-4) == 0.0


# Coverage: at most one bound in twenty may exceed the truth, and a wrong one does.

REPETITIONS = 200


def share_above(truth: float, bound: Callable[[np.random.Generator], float]) -> float:
    seeds = range(REPETITIONS)
    return float(np.mean([bound(np.random.default_rng(seed)) > truth for seed in seeds]))


def most(share: float) -> float:
    return share + 3 * math.sqrt(share * (1 - share) / REPETITIONS)


def test_many_run_bound_exceeds_the_truth_no_more_often_than_its_level_allows() -> None:
    epsilon = 1.0

    def bound(rng: np.random.Generator, **settings: Any) -> float:
        scores = randomised_response(rng, epsilon, 5000, 300)
        return many_run(*scores, delta=0.0, **settings).epsilon

    assert share_above(epsilon, bound) <= most(0.05)
    assert share_above(epsilon, lambda rng: bound(rng, allowed=[30])) <= most(0.05)
    # ... unlike rates without limits
    assert share_above(epsilon, lambda rng: bound(rng, allowed=[30], level=1e-6)) > 0.4


def test_the_best_of_many_thresholds_has_to_be_paid_for() -> None:
    epsilon, level, counts = 1.0, 0.8, np.arange(150)
    fpr = beta.ppf((1 + level) / 2, counts + 1, 300 - counts)

    def unpaid(rng: np.random.Generator) -> float:
        members, nonmembers = randomised_response(rng, epsilon, 5000, 300)
        above = (members > np.sort(nonmembers)[::-1][counts, None]).sum(axis=1)
        tpr = beta.ppf((1 - level) / 2, above, 5001 - above)
        return math.log(np.nanmax(tpr / fpr))

    assert share_above(epsilon, unpaid) > most(1 - level)


def test_gaussian_bound_exceeds_the_truth_no_more_often_than_its_level_allows() -> None:
    mu, delta = 1.5, 1e-4
    truth = gaussian_epsilon(mu, delta)

    def bound(rng: np.random.Generator, **settings: Any) -> float:
        return many_run_gaussian(*gaussian(rng, mu, 300), delta=delta, **settings).epsilon

    assert share_above(truth, bound) <= most(0.05)
    assert share_above(truth, lambda rng: bound(rng, level=1e-6, allowed=[63])) > 0.4


def test_gaussian_bound_accuses_a_mechanism_with_another_curve() -> None:
    scores = randomised_response(np.random.default_rng(0), 2.0, 2000, 2000)
    assert (
        many_run(*scores, delta=1e-4).epsilon < 2.0 < many_run_gaussian(*scores, delta=1e-4).epsilon
    )


@pytest.mark.slow
def test_one_run_bound_exceeds_the_truth_in_about_one_of_twenty() -> None:
    epsilon, canaries, guesses = 1.0, 400, 80

    def bound(rng: np.random.Generator, copies: int = 1) -> float:
        members = rng.binomial(canaries, 0.5)
        groups = randomised_response(rng, epsilon, members, canaries - members)
        scores = [np.repeat(group, copies) for group in groups]
        each = copies * guesses
        return one_run(*scores, guessed_in=each, guessed_out=each, delta=0.0).epsilon

    assert 0.01 <= share_above(epsilon, bound) <= most(0.05)  # the worst case of the theorem
    assert share_above(epsilon, lambda rng: bound(rng, copies=3)) > most(0.05)


# Ties and wrong calls.


def test_ties_count_against_the_attacker() -> None:
    same = np.zeros(40), np.zeros(40)
    assert many_run(*same, delta=0.0).epsilon == 0.0
    assert many_run_gaussian(*same, delta=1e-4).epsilon == 0.0
    assert one_run(*same, guessed_in=20, guessed_out=20, delta=0.0).epsilon == 0.0


def test_a_smaller_claim_needs_no_more_than_its_scores() -> None:
    members, nonmembers = gaussian(np.random.default_rng(1), 2.0, 500)
    strict, loose = (
        many_run(members, nonmembers, delta=1e-4, level=level) for level in (0.99, 0.9)
    )
    assert strict.epsilon < loose.epsilon < loose.ceiling
    assert many_run(members, nonmembers, delta=0.3).epsilon < loose.epsilon


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: many_run([], [0.0], delta=0.0), "member_scores: shape"),
        (lambda: many_run([1.0], [math.nan], delta=0.0), "nonmember_scores: 1 scores are not"),
        (lambda: many_run([1.0], [0.0], delta=1.0), "delta=1.0"),
        (lambda: many_run([1.0], [0.0], delta=0.0, allowed=[1]), r"allowed=\[1\] of 1 non-members"),
        (lambda: many_run([1.0], [0.0], delta=0.0, allowed=[]), r"allowed=\[\] of 1"),
        (lambda: many_run_gaussian([1.0], [0.0], delta=0.0), "no pure epsilon"),
        (lambda: perfect_guesses(10, 12, 0, 0.0), "for 10 canaries"),
        (lambda: perfect_guesses(10, 0, 0, 0.0), "at least one guess"),
        (lambda: perfect_guesses(10, 10, 0, 0.06), "Give at most 0.05"),
    ],
)
def test_what_would_prove_nothing_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_normal_quantiles_bound_the_distance_of_two_normals() -> None:
    members, nonmembers = gaussian(np.random.default_rng(2), 2.0, 20_000)
    found = many_run_gaussian(members, nonmembers, delta=1e-4, allowed=[2_000])
    assert 0.9 * gaussian_epsilon(2.0, 1e-4) < found.epsilon < gaussian_epsilon(2.0, 1e-4)
    rate = norm.isf(0.1) - norm.isf(float((members > np.sort(nonmembers)[-2001]).mean()))
    assert found.epsilon < gaussian_epsilon(float(rate), 1e-4)
