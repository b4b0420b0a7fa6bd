from functools import cache

import numpy as np
import pytest
from scipy.stats import norm

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.reconstruction.lists import CandidateScores, canary_lists, named, recognised
from mammo_dp.attacks.statistics import likelihood_ratios
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.accounting.budget import PrivacyBudget, calibrate

BUDGETS = (1.0, 6.0, 20.0)
KAPPAS = (0.01, 0.05)
LEVEL = 1 - 0.05 / len(BUDGETS) / len(KAPPAS)  # Bonferroni


def scaled(mechanism: Mechanism, factor: float) -> Mechanism:
    return Mechanism(
        noise_multiplier=factor * mechanism.noise_multiplier,
        sampling_rate=mechanism.sampling_rate,
        steps=mechanism.steps,
    )


@cache
def attacked(epsilon: float) -> tuple[CandidateScores, Mechanism]:
    noise = calibrate(PrivacyBudget(delta=1e-4, epsilon=epsilon), sampling_rate=0.25, steps=10)
    mechanism = Mechanism(noise_multiplier=noise, sampling_rate=0.25, steps=10)
    return canary_lists(mechanism, targets=1500, candidates=6, key=11), mechanism


@pytest.mark.parametrize("epsilon", BUDGETS)
def test_recognition_is_on_the_identification_bound(epsilon: float) -> None:
    scores, mechanism = attacked(epsilon)
    for found in recognised(scores, mechanism, KAPPAS, level=LEVEL).values():
        assert found.success.low <= found.bound <= found.success.high


@pytest.mark.parametrize("epsilon", BUDGETS[1:])
def test_recognition_is_off_the_bound_of_a_fifth_more_and_of_a_fifth_less_noise(
    epsilon: float,
) -> None:
    scores, mechanism = attacked(epsilon)
    for factor in (1 / 1.2, 1.2):
        (found,) = recognised(scores, scaled(mechanism, factor), (0.05,), level=LEVEL).values()
        assert not found.success.low <= found.bound <= found.success.high
        assert found.exceeds_bound == (factor > 1)


@pytest.mark.parametrize("epsilon", BUDGETS)
def test_the_best_of_a_list_is_named_as_often_as_draws_say_and_below_the_bound(
    epsilon: float,
) -> None:
    scores, mechanism = attacked(epsilon)
    found = named(scores, mechanism, level=LEVEL)
    assert found.kappa == 1 / 6
    assert not found.exceeds_bound
    rng = np.random.default_rng(0)
    trials, sigma, rate = 20_000, mechanism.noise_multiplier, mechanism.sampling_rate
    drawn = rng.random((mechanism.steps, trials)) < rate
    best, own = np.full(trials, -np.inf), np.zeros(trials)
    for candidate in range(6):
        seen = sigma * rng.standard_normal((mechanism.steps, trials))
        if candidate == 0:
            seen += drawn
        ratio = likelihood_ratios(seen, np.ones(()), noise_multiplier=sigma, sampling_rate=rate)
        if candidate == 0:
            own = ratio.sum(axis=0)
        else:
            best = np.maximum(best, ratio.sum(axis=0))
    assert found.success.low <= (own > best).mean() <= found.success.high


def test_two_opposite_gradients_attain_the_bound_by_name() -> None:
    mechanism = Mechanism(noise_multiplier=2.0, sampling_rate=1.0, steps=3)
    left = 1 + 2.0 * np.random.default_rng(0).standard_normal((3, 4000))
    settings = {"noise_multiplier": 2.0, "sampling_rate": 1.0}
    own, opposite = (
        likelihood_ratios(sign * left, np.ones(()), **settings).sum(axis=0) for sign in (1, -1)
    )
    scores = CandidateScores(targets=own, lists=opposite[:, None], outsiders=opposite)
    found = named(scores, mechanism)
    assert found.kappa == 0.5
    assert found.bound == pytest.approx(norm.cdf(np.sqrt(3) / 2), abs=1e-3)
    assert found.success.low <= found.bound <= found.success.high


def test_a_target_that_took_no_part_is_named_as_often_as_by_guessing() -> None:
    mechanism = Mechanism(noise_multiplier=1.0, sampling_rate=0.5, steps=10)
    scores = canary_lists(mechanism, targets=50, candidates=101, key=3)
    absent = CandidateScores(
        targets=scores.lists[:, :20].ravel(),
        lists=scores.lists[:, 20:].reshape(1000, 4),
        outsiders=scores.outsiders,
    )
    found = recognised(absent, None, (0.05,), level=0.99)[0.05]
    assert found.success.low <= 0.05 <= found.success.high
    guessed = named(absent, None, level=0.99)
    assert guessed.success.low <= guessed.kappa <= guessed.success.high


def test_without_privacy_the_bound_is_certainty() -> None:
    scores, _ = attacked(1.0)
    assert named(scores, None).bound == 1.0


@pytest.mark.parametrize("kappa", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_a_kappa_that_is_no_chance_is_refused(kappa: float) -> None:
    scores, mechanism = attacked(1.0)
    with pytest.raises(AttackError, match="is no probability"):
        recognised(scores, mechanism, (kappa,))


def test_lists_that_say_nothing_are_refused() -> None:
    one, none = np.zeros(1), np.zeros((1, 0))
    with pytest.raises(AttackError, match="nobody else on its list"):
        CandidateScores(targets=one, lists=none, outsiders=one)
    with pytest.raises(AttackError, match="Give each target its list"):
        CandidateScores(targets=one, lists=np.zeros((2, 3)), outsiders=one)
    with pytest.raises(AttackError, match="not finite"):
        CandidateScores(targets=one * np.nan, lists=np.zeros((1, 3)), outsiders=one)
    mechanism = Mechanism(noise_multiplier=1.0, sampling_rate=0.5, steps=1)
    with pytest.raises(AttackError, match="lists of at least two"):
        canary_lists(mechanism, targets=3, candidates=1, key=0)
