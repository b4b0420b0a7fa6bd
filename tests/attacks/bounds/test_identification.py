import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.bounds.identification import (
    identification,
    power,
    privacy_loss,
    relaxed_identification,
    relaxed_one_step,
)
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.risk import risk_of

KAPPAS = (1 / 578, 0.01, 1 / 13, 0.1)


def reference(noise: float) -> Mechanism:
    return Mechanism(noise_multiplier=noise, sampling_rate=1 / 9, steps=2700)


def central_limit(mechanism: Mechanism, kappa: float) -> float:
    """Naive reference: the Gaussian trade-off of Dong et al. 2019, arXiv 1905.02383."""
    noise, rate, steps = mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.steps
    mu = rate * math.sqrt(steps * math.expm1(noise**-2))
    return float(norm.cdf(norm.ppf(kappa) + mu))


def monte_carlo(mechanism: Mechanism, kappas: tuple[float, ...], draws: int) -> list[float]:
    """Naive reference: Hayes et al. 2023, from runs without the target, weighted by the ratio."""
    rng = np.random.default_rng(0)
    noise, rate = mechanism.noise_multiplier, mechanism.sampling_rate
    total = np.zeros(draws)
    for _ in range(mechanism.steps):
        total += privacy_loss(rng.standard_normal(draws), noise, rate)
    ratios = np.sort(np.exp(total))[::-1]
    return [float(ratios[: math.ceil(kappa * draws)].sum() / draws) for kappa in kappas]


def canary(mechanism: Mechanism, kappas: tuple[float, ...], draws: int) -> list[float]:
    """Naive reference: noisy updates along the target's gradient, drawn as the sampler draws."""
    rng = np.random.default_rng(1)
    noise, rate = mechanism.noise_multiplier, mechanism.sampling_rate
    scores: list[NDArray[np.float64]] = []
    for member in (False, True):
        total = np.zeros(draws)
        for _ in range(mechanism.steps):
            drawn = member * (rng.random(draws) < rate) / noise
            total += privacy_loss(rng.standard_normal(draws) + drawn, noise, rate)
        scores.append(total)
    absent, present = scores
    return [float((present > np.quantile(absent, 1 - kappa)).mean()) for kappa in kappas]


def test_three_ways_to_the_identification_bound_give_the_published_values() -> None:
    mechanism = reference(4.0)
    curve = compose([mechanism])
    assert curve.epsilon(1e-4) == pytest.approx(6.06, abs=0.01)
    risk = risk_of(curve, kappas=KAPPAS)
    assert risk.advantage == pytest.approx(0.534, abs=1e-3)
    exact = list(risk.reconstruction_robustness.values())
    assert exact == pytest.approx([0.0725, 0.1943, 0.5140, 0.5711], abs=2e-4)
    second = [identification(mechanism, kappa) for kappa in KAPPAS]
    assert second == pytest.approx([0.0725, 0.1942, 0.5140, 0.5711], abs=1e-4)
    limit = [central_limit(mechanism, kappa) for kappa in KAPPAS]
    assert limit == pytest.approx([0.0725, 0.1949, 0.5160, 0.5733], abs=1e-4)


def test_attacks_that_draw_noise_meet_the_bound_and_refute_a_fifth_more_noise() -> None:
    mechanism = Mechanism(noise_multiplier=1.5, sampling_rate=0.1, steps=100)
    kappas, draws = (0.01, 0.1), 40_000
    margins = [4 * math.sqrt(0.25 / draws) + 0.002, 4 * math.sqrt(0.25 / draws) + 0.005]
    bounds = [identification(mechanism, kappa) for kappa in kappas]
    quieter = Mechanism(noise_multiplier=1.5 * 1.2, sampling_rate=0.1, steps=100)
    for found in (monte_carlo(mechanism, kappas, draws), canary(mechanism, kappas, draws)):
        for got, bound, kappa, margin in zip(found, bounds, kappas, margins, strict=True):
            assert got == pytest.approx(bound, abs=margin)
            assert abs(got - identification(quieter, kappa)) > margin


def test_without_subsampling_the_expansion_is_the_gaussian_trade_off() -> None:
    for steps in (1, 5, 100):
        full = Mechanism(noise_multiplier=4.0, sampling_rate=1.0, steps=steps)
        exact = norm.cdf(norm.ppf(0.01) + math.sqrt(steps) / 4)
        assert identification(full, 0.01) == pytest.approx(exact, abs=1e-5)


@pytest.mark.parametrize(
    ("noise", "relaxed", "worst"),
    [(3.45, 0.0050, 0.112), (1.784, 0.0514, 0.694), (0.961, 0.905, 1)],
)
def test_an_adversary_without_the_sign_lags(noise: float, relaxed: float, worst: float) -> None:
    mechanism = reference(noise)
    assert relaxed_identification(mechanism, 1 / 578) == pytest.approx(relaxed, rel=0.01)
    assert identification(mechanism, 1 / 578) == pytest.approx(worst, abs=1e-3)


def test_the_unsigned_test_equals_a_convolution() -> None:
    noise, rate, steps, kappa = 2.0, 0.2, 60, 0.01
    z = np.linspace(-12, 12, 200_001)
    loss = np.log(1 - rate + rate * math.exp(-1 / (2 * noise**2)) * np.cosh(z / noise))
    width = 5e-4
    low, cells = -50.0, 2**18
    places = np.round((loss - low / steps) / width).astype(int)
    sums = []
    for weight in (norm.pdf(z), (1 - rate) * norm.pdf(z) + rate * norm.pdf(z - 1 / noise)):
        mass = np.bincount(places, weights=weight / weight.sum(), minlength=cells)
        sums.append(np.fft.irfft(np.fft.rfft(mass) ** steps, cells))
    absent, present = sums
    threshold = int(np.searchsorted(np.cumsum(absent), 1 - kappa))
    exact = float(present[threshold + 1 :].sum())
    mechanism = Mechanism(noise_multiplier=noise, sampling_rate=rate, steps=steps)
    assert relaxed_identification(mechanism, kappa) == pytest.approx(exact, rel=0.02)


def test_one_step_seen_by_its_length_alone() -> None:
    found = relaxed_one_step(dimensions=16, noise_multiplier=0.25, kappa=0.01)
    assert found == pytest.approx(0.4637, abs=1e-4)
    assert norm.cdf(norm.ppf(0.01) + 4) == pytest.approx(0.953, abs=1e-3)  # Neyman-Pearson
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((40_000, 16))
    absent, present = (noise**2).sum(1), ((noise + 1.0) ** 2).sum(1)  # |shift| = 4 = D / sigma
    share = (present > np.quantile(absent, 0.99)).mean()
    assert share == pytest.approx(found, abs=0.015)
    louder = relaxed_one_step(dimensions=16, noise_multiplier=0.3, kappa=0.01)
    assert abs(share - louder) > 0.015


@pytest.mark.parametrize("noise", [0.333, 0.0373, 0.00122])
def test_extreme_budgets_are_certain_risk(noise: float) -> None:
    assert identification(reference(noise), 1 / 578) == pytest.approx(1)
    assert relaxed_identification(reference(noise), 1 / 578) == pytest.approx(1)


def test_units_of_several_crops_are_at_more_risk() -> None:
    one, four = (
        Mechanism(noise_multiplier=4, sampling_rate=0.1, steps=100, crops_of_unit=crops)
        for crops in (1, 4)
    )
    assert identification(four, 0.01) > 2 * identification(one, 0.01)


@pytest.mark.parametrize("kappa", [0.0, 1.0, -0.1, math.nan])
def test_impossible_chances_are_refused(kappa: float) -> None:
    with pytest.raises(AttackError, match="is no probability"):
        power(privacy_loss, reference(4), kappa)
    with pytest.raises(AttackError, match="kappa="):
        relaxed_one_step(dimensions=16, noise_multiplier=1, kappa=kappa)


def test_expansions_of_few_steps_are_refused() -> None:
    few = Mechanism(noise_multiplier=4, sampling_rate=0.5, steps=29)
    with pytest.raises(AttackError, match="at least 30 steps"):
        identification(few, 0.01)
    with pytest.raises(AttackError, match="dimensions=0"):
        relaxed_one_step(dimensions=0, noise_multiplier=1, kappa=0.01)
