import math

import numpy as np
import pytest
from scipy.stats import norm

from mammo_dp.privacy.accounting import Mechanism, compose, rdp_epsilon
from mammo_dp.privacy.errors import PrivacyError


def reference(noise: float) -> Mechanism:
    return Mechanism(noise_multiplier=noise, sampling_rate=1 / 9, steps=2700)


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Closed form, Balle and Wang 2018, arXiv 1805.06530."""
    return float(
        norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)
    )


@pytest.mark.parametrize(
    ("noise", "epsilon"), [(20.3, 0.898), (4.34, 5.48), (1.79, 18.5), (0.961, 56.1)]
)
def test_reference_schedule(noise: float, epsilon: float) -> None:
    curve = compose([reference(noise)])
    assert curve.epsilon(1e-4) == pytest.approx(epsilon, rel=0.02)
    assert curve.source.startswith("PLD, dp-accounting ")


@pytest.mark.parametrize(("noise", "steps"), [(5.0, 1), (8.0, 30), (2.0, 10)])
def test_full_batches_match_the_closed_form_gaussian(noise: float, steps: int) -> None:
    curve = compose([Mechanism(noise_multiplier=noise, sampling_rate=1.0, steps=steps)])
    epsilons = np.array([0.0, 0.3, 1.0, 3.0])
    exact = [gaussian_delta(epsilon, math.sqrt(steps) / noise) for epsilon in epsilons]
    assert curve.deltas(epsilons) == pytest.approx(exact, rel=5e-3, abs=1e-9)
    assert all(curve.deltas(epsilons) >= np.array(exact) - 1e-12)


def test_renyi_accounting_agrees_from_above() -> None:
    for noise in (20.3, 4.34, 0.961):
        mechanisms = [reference(noise)]
        epsilon = compose(mechanisms).epsilon(1e-4)
        assert epsilon <= rdp_epsilon(mechanisms, 1e-4) <= 1.13 * epsilon


def test_splitting_a_run_does_not_change_its_account() -> None:
    parts = [
        Mechanism(noise_multiplier=4.34, sampling_rate=1 / 9, steps=steps) for steps in (700, 2000)
    ]
    whole = compose([reference(4.34)]).epsilon(1e-4)
    assert compose(parts).epsilon(1e-4) == pytest.approx(whole, rel=1e-3)


def test_two_runs_at_epsilon_4_compose_to_6() -> None:
    run = Mechanism(noise_multiplier=1 / 1.043, sampling_rate=1.0, steps=1)
    assert compose([run]).epsilon(1e-4) == pytest.approx(4, rel=0.02)
    assert compose([run, run]).epsilon(1e-4) == pytest.approx(6.07, rel=0.02)


def test_tiny_noise_falls_back_to_renyi_and_says_so() -> None:
    curve = compose([reference(0.00122)])
    assert curve.source.startswith("RDP, opacus ")
    assert curve.epsilon(1e-4) == pytest.approx(1e9, rel=0.02)
    assert curve.deltas(np.array([0.0, 10.0])) == pytest.approx([1.0, 1.0])


def test_tiny_noise_reveals_at_most_those_who_were_drawn() -> None:
    once = Mechanism(noise_multiplier=1e-4, sampling_rate=0.01, steps=2)
    curve = compose([once])
    assert curve.accountant == "RDP"
    assert curve.deltas(np.array([0.0])) == pytest.approx([1 - 0.99**2])
    assert curve.epsilon(0.02) == 0
    assert curve.epsilon(1e-4) > 1e6
    everybody = Mechanism(noise_multiplier=1e-5, sampling_rate=1.0, steps=1)
    assert compose([everybody]).deltas(np.array([0.0])) == pytest.approx([1.0])


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.inf},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"steps": 0},
        {"clipping_norm": -1.0},
    ],
)
def test_impossible_mechanisms_are_refused(change: dict[str, float]) -> None:
    values = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "steps": 1} | change
    with pytest.raises(PrivacyError, match=next(iter(change))):
        Mechanism(**values)  # type: ignore[arg-type]
