"""The one-run bound by a whole trade-off curve, against a linear program and by simulation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

from mammo_dp.attacks.audit.canaries import canary_scores
from mammo_dp.attacks.lower_bounds import composed, guesses_refute, one_run, one_run_curve
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.accounting.budget import PrivacyBudget, calibrate
from mammo_dp.privacy.accounting.risk import TradeOff

SAMPLED = Mechanism(noise_multiplier=1.0, sampling_rate=0.4, steps=3)


def largest_chance(misses: TradeOff, right: int, guesses: int, canaries: int) -> float:
    """Most probability that the curve leaves for so many right guesses: a linear program."""
    epsilons = np.concatenate([[0.0], np.geomspace(1e-3, 30, 400)])
    deltas = misses.curve.deltas(epsilons)
    # f(a) is the largest of these lines, each (value at 0, slope)
    lines = [(1 - d, -np.exp(e)) for e, d in zip(epsilons, deltas, strict=True)]
    lines += [(v * np.exp(-e), -np.exp(-e)) for e, (v, _) in zip(epsilons, lines, strict=True)]
    number = np.arange(guesses + 1)
    rows, limits = [], []
    for fewer in range(right):
        correct = np.where(number > fewer, number, 0) / canaries
        wrong = np.where(number >= fewer, guesses - number, 0) / canaries
        for value, slope in lines:  # wrong >= value + slope (1 - correct)
            scale = max(1.0, abs(slope))
            rows.append((-slope * correct - wrong) / scale)
            limits.append(-(value + slope) / scale)
    found = linprog(
        -(number >= right).astype(float),
        A_ub=np.array(rows),
        b_ub=limits,
        A_eq=np.ones((1, guesses + 1)),
        b_eq=[1.0],
    )
    return float(-found.fun)


@pytest.mark.parametrize("stated", [SAMPLED, replace(SAMPLED, sampling_rate=1.0, steps=1)])
@pytest.mark.parametrize(("right", "guesses", "canaries"), [(9, 10, 10), (8, 8, 20), (6, 10, 16)])
def test_recursion_finds_the_optimum_of_the_linear_program(
    stated: Mechanism, right: int, guesses: int, canaries: int
) -> None:
    misses = TradeOff(composed(stated))
    most = largest_chance(misses, right, guesses, canaries)
    sizes = {"guesses": guesses, "canaries": canaries}
    assert not guesses_refute(misses, right, **sizes, level=1 - 0.97 * most)
    if most < 0.97:
        assert guesses_refute(misses, right, **sizes, level=1 - 1.03 * most)


def right_guesses(executed: Mechanism, stated: Mechanism, audits: int) -> NDArray[np.int64]:
    """Right ones of 20 guesses "in" and 20 "out" about 120 canaries, by the best score there is."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(audits):
        inside = rng.random(120) < 0.5
        drawn = inside & (rng.random((executed.steps, 120)) < executed.sampling_rate)
        order = np.argsort(
            canary_scores(
                drawn + executed.noise_multiplier * rng.standard_normal(drawn.shape),
                noise_multiplier=stated.noise_multiplier,
                sampling_rate=stated.sampling_rate,
            )
        )
        found.append(inside[order[-20:]].sum() + (~inside[order[:20]]).sum())
    return np.array(found)


@pytest.mark.parametrize("rate", [0.4, 1.0])
def test_a_curve_that_holds_is_refuted_in_at_most_one_of_twenty_audits_others_in_most(
    rate: float,
) -> None:
    stated = replace(SAMPLED, noise_multiplier=3.0, sampling_rate=rate)
    misses = TradeOff(composed(stated))
    refuted = [guesses_refute(misses, right, guesses=40, canaries=120) for right in range(41)]
    assert refuted == sorted(refuted)  # the more are right, the sooner
    assert 0 < sum(refuted) < 20

    def share(executed: Mechanism) -> float:
        return float(np.mean(np.array(refuted)[right_guesses(executed, stated, 1500)]))

    assert share(stated) <= 0.05
    assert share(replace(stated, noise_multiplier=0.5)) > 0.9
    assert 0.02 < share(replace(stated, noise_multiplier=1.5)) < 1  # not for any number of guesses


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.4, 1.0])
def test_bound_is_above_the_stated_epsilon_only_if_the_stated_curve_is_refuted(rate: float) -> None:
    stated = replace(SAMPLED, noise_multiplier=3.0, sampling_rate=rate)
    claimed = composed(stated).epsilon(1e-4)
    how: dict[str, Any] = {"guessed_in": 40, "guessed_out": 0, "stated": stated, "delta": 1e-4}
    both = set()
    for right in range(24, 41, 2):
        members = np.r_[np.full(right, 2.0), np.zeros(60 - right)]
        nonmembers = np.r_[np.full(40 - right, 2.0), np.zeros(20 + right)]
        found = one_run_curve(members, nonmembers, **how)
        refuted = guesses_refute(TradeOff(composed(stated)), right, guesses=40, canaries=120)
        assert refuted or found.epsilon <= claimed <= found.ceiling
        assert not refuted or found.epsilon >= claimed
        both.add(refuted)
    assert both == {True, False}


def test_level_is_used_up_where_the_mechanism_is_one_guess() -> None:
    # One canary, one guess: right with the probability that the curve allows, and no other.
    stated = Mechanism(noise_multiplier=1.0, sampling_rate=1.0, steps=1)
    misses = TradeOff(composed(stated))
    most = 0.5 + misses.advantage / 2
    assert not guesses_refute(misses, 1, guesses=1, canaries=1, level=1 - 0.999 * most)
    assert guesses_refute(misses, 1, guesses=1, canaries=1, level=1 - 1.001 * most)


@pytest.mark.parametrize(
    ("epsilon", "guesses", "right", "today", "curve"),
    [(3.8, 100, 87, 1.36, 1.79), (7.9, 200, 195, 2.86, 4.18), (15.0, 100, 100, 3.20, 4.85)],
)
def test_bound_is_about_that_of_the_reference(
    epsilon: float, guesses: int, right: int, today: float, curve: float
) -> None:
    # 1,000 canaries, 32 full batches, delta 1e-4; guesses as good as give today's bound.
    noise = calibrate(PrivacyBudget(delta=1e-4, epsilon=epsilon), sampling_rate=1.0, steps=32)
    stated = Mechanism(noise_multiplier=noise, sampling_rate=1.0, steps=32)
    members = np.concatenate([np.full(right, 2.0), np.zeros(500 - right)])
    nonmembers = np.concatenate([np.full(guesses - right, 2.0), np.zeros(500 - guesses + right)])
    how: dict[str, Any] = {"guessed_in": guesses, "guessed_out": 0, "delta": 1e-4}
    plain = one_run(members, nonmembers, **how).epsilon
    closer = one_run_curve(members, nonmembers, **how, stated=stated).epsilon
    assert plain == pytest.approx(today, rel=0.04)
    assert closer == pytest.approx(curve, rel=0.04)


@pytest.mark.parametrize(
    "how", [{"guessed_in": 0, "guessed_out": 0}, {"guessed_in": 9, "guessed_out": 9}]
)
def test_impossible_numbers_of_guesses_are_refused(how: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="for 10 canaries"):
        one_run_curve(np.ones(5), np.zeros(5), **how, stated=SAMPLED, delta=1e-4)


def test_scores_without_information_refute_nothing_and_perfect_ones_meet_the_ceiling() -> None:
    rng = np.random.default_rng(0)
    how: dict[str, Any] = {"guessed_in": 30, "guessed_out": 30, "stated": SAMPLED, "delta": 1e-4}
    assert one_run_curve(rng.normal(size=100), rng.normal(size=100), **how).epsilon < 0.3
    perfect = one_run_curve(np.ones(100), np.zeros(100), **how)
    assert perfect.epsilon == perfect.ceiling > 3
    assert perfect.assumes == "sampling rate and steps as stated"
