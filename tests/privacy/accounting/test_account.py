import math
import warnings

import numpy as np
import pytest
from dp_accounting.pld.privacy_loss_distribution import from_mixture_gaussian_mechanism
from numpy.typing import NDArray
from opacus.accountants import PRVAccountant
from scipy.stats import binom, norm

from mammo_dp.privacy.accounting.account import Mechanism, compose, rdp_epsilon
from mammo_dp.privacy.errors import PrivacyError


def reference(noise: float, crops: int = 1) -> Mechanism:
    return Mechanism(noise_multiplier=noise, sampling_rate=1 / 9, steps=2700, crops_of_unit=crops)


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


@pytest.mark.parametrize(("steps", "mu"), [(1_000, 1.34), (10_000, 1.34), (10_000, 10.0)])
def test_no_rounding_of_many_steps_hides_a_part_of_the_loss(steps: int, mu: float) -> None:
    """Fourier transforms took from the tails what delta counts: epsilon was up to 7 % too small."""
    curve = compose(
        [Mechanism(noise_multiplier=math.sqrt(steps) / mu, sampling_rate=1.0, steps=steps)]
    )
    for delta in (1e-10, 2e-11, 2e-12, 2e-13, 2e-14, curve.smallest_delta):
        epsilon = curve.epsilon(delta)
        assert math.isinf(epsilon) or gaussian_delta(epsilon, mu) <= delta
        assert math.isfinite(epsilon) or delta < curve.smallest_delta
    assert curve.smallest_delta < 2e-11


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


MU_OF = {1: 0.314, 4: 1.043, 7: 1.647, 8: 1.841}  # Gaussian mechanisms of these epsilons at 1e-4


@pytest.mark.parametrize(
    ("epsilons", "together"), [((1, 1), 1.48), ((4, 4), 6.07), ((1, 7), 7.15), ((8, 8), 12.4)]
)
def test_composed_runs_cost_less_than_their_sum(epsilons: tuple[int, int], together: float) -> None:
    runs = [
        Mechanism(noise_multiplier=1 / MU_OF[epsilon], sampling_rate=1.0, steps=1)
        for epsilon in epsilons
    ]
    for run, epsilon in zip(runs, epsilons, strict=True):
        assert compose([run]).epsilon(1e-4) == pytest.approx(epsilon, rel=0.02)
    assert compose(runs).epsilon(1e-4) == pytest.approx(together, rel=0.02)


@pytest.mark.parametrize("noise", [20.3, 4.34, 1.79])
def test_the_accountant_of_opacus_agrees(noise: float) -> None:
    prv = PRVAccountant()
    prv.history = [(noise, 1 / 9, 2700)]
    with warnings.catch_warnings():  # its first guess of the range, by Renyi orders of its own
        warnings.simplefilter("ignore")
        theirs = prv.get_epsilon(1e-4, eps_error=0.005)
    assert compose([reference(noise)]).epsilon(1e-4) == pytest.approx(theirs, rel=0.02)


# Units of several crops, each drawn on its own.


@pytest.mark.parametrize(
    ("noise", "crops", "epsilon"),
    [
        (0.961, 14, 4.9e3),
        (4.33, 2, 13.1),
        (4.33, 4, 34),
        (4.33, 6, 63),
        (4.33, 14, 250),
        (20.3, 2, 1.97),
        (20.3, 4, 4.45),
        (20.3, 6, 7.3),
        (20.3, 14, 22),
    ],
)
def test_patients_pay_for_each_of_their_crops(noise: float, crops: int, epsilon: float) -> None:
    curve = compose([reference(noise, crops)])
    assert curve.accountant == "PLD"
    assert curve.epsilon(1e-4) == pytest.approx(epsilon, rel=0.02)


def test_a_mixture_over_one_crop_is_the_subsampled_gaussian() -> None:
    mixture = from_mixture_gaussian_mechanism(
        4.34, [0, 1], [8 / 9, 1 / 9], value_discretization_interval=1e-3
    ).self_compose(2700)
    curve = compose([reference(4.34)])
    assert mixture.get_epsilon_for_delta(1e-4) == pytest.approx(curve.epsilon(1e-4), rel=1e-3)
    epsilons = np.array([0.0, 1.0, 5.0])
    assert mixture.get_delta_for_epsilon(epsilons) == pytest.approx(
        curve.deltas(epsilons), rel=1e-2
    )


def sampled_losses(
    mechanism: Mechanism, rng: np.random.Generator, *, removed: bool
) -> NDArray[np.float64]:
    """Privacy losses of 100,000 runs, by the densities of the outputs and nothing else."""
    shifts = np.arange(mechanism.crops_of_unit + 1)
    probabilities = binom.pmf(shifts, mechanism.crops_of_unit, mechanism.sampling_rate)
    total = np.zeros(100_000)
    for _ in range(mechanism.steps):
        drawn = rng.choice(shifts, p=probabilities, size=total.size) if removed else 0
        seen = drawn + mechanism.noise_multiplier * rng.standard_normal(total.size)
        densities = [norm.pdf(seen, shift, mechanism.noise_multiplier) for shift in shifts]
        ratio = np.log(np.dot(probabilities, densities) / densities[0])
        total += ratio if removed else -ratio
    return total


@pytest.mark.parametrize(("crops", "steps"), [(2, 1), (3, 4), (5, 3)])
def test_a_naive_simulation_of_drawn_crops_agrees(crops: int, steps: int) -> None:
    def mechanism(noise: float) -> Mechanism:
        return Mechanism(
            noise_multiplier=noise, sampling_rate=0.3, steps=steps, crops_of_unit=crops
        )

    rng = np.random.default_rng(steps)
    losses = [sampled_losses(mechanism(2.0), rng, removed=removed) for removed in (True, False)]
    epsilons = np.array([0.0, 0.5, 1.0, 2.0])
    gains = np.array(
        [[np.maximum(0, -np.expm1(epsilon - loss)) for epsilon in epsilons] for loss in losses]
    )
    simulated = gains.mean(axis=2).max(axis=0)
    error = 5 * gains.std(axis=2).max(axis=0) / math.sqrt(gains.shape[2])
    assert np.all(abs(compose([mechanism(2.0)]).deltas(epsilons) - simulated) < error)
    assert np.any(compose([mechanism(2.4)]).deltas(epsilons) < simulated - error)


@pytest.mark.parametrize(("noise", "crops"), [(1.525, 14), (3.0, 6), (12.0, 2)])
def test_where_every_crop_is_always_drawn_a_patient_is_one_gaussian(
    noise: float, crops: int
) -> None:
    several = Mechanism(noise_multiplier=noise, sampling_rate=1.0, steps=32, crops_of_unit=crops)
    one = Mechanism(noise_multiplier=noise / crops, sampling_rate=1.0, steps=32)
    assert compose([several]).epsilon(1e-4) == pytest.approx(compose([one]).epsilon(1e-4), rel=0.01)


def test_the_dominating_mechanism_is_worse_at_every_epsilon() -> None:
    crops = Mechanism(noise_multiplier=3.0, sampling_rate=0.1, steps=5, crops_of_unit=4)
    bound = crops.dominating
    assert (bound.noise_multiplier, bound.crops_of_unit) == (0.75, 1)
    assert bound.sampling_rate == pytest.approx(1 - 0.9**4)
    epsilons = np.geomspace(1e-3, 20, 50)
    assert np.all(compose([bound]).deltas(epsilons) >= compose([crops]).deltas(epsilons) - 1e-12)
    assert rdp_epsilon([crops], 1e-4) == rdp_epsilon([bound], 1e-4)
    assert rdp_epsilon([crops], 1e-4) > compose([crops]).epsilon(1e-4)
    always = Mechanism(noise_multiplier=2.0, sampling_rate=1.0, steps=5, crops_of_unit=2)
    assert compose([always]).epsilon(1e-4) == pytest.approx(
        compose([always.dominating]).epsilon(1e-4), rel=1e-3
    )


def test_crops_drawn_alone_compose_with_whole_patients() -> None:
    crops = Mechanism(noise_multiplier=3.0, sampling_rate=0.2, steps=10, crops_of_unit=3)
    whole = Mechanism(noise_multiplier=3.0, sampling_rate=0.2, steps=10)
    both = compose([crops, whole]).epsilon(1e-4)
    assert compose([crops]).epsilon(1e-4) < both < 2 * compose([crops]).epsilon(1e-4)


# Extremes.


def test_no_epsilon_is_lost_where_its_exponential_is_subnormal() -> None:
    epsilons = [
        compose([reference(noise)]).epsilon(1e-4) for noise in np.arange(0.355, 0.3665, 1e-3)
    ]
    assert 690 < epsilons[-1] < 709 < 745 < epsilons[0] < 770
    steps = np.diff(epsilons)
    assert np.all(steps < 0)
    assert np.all(steps > -8)


def test_tiny_noise_falls_back_to_renyi_and_says_so() -> None:
    curve = compose([reference(0.00122)])
    assert curve.source.startswith("RDP, opacus ")
    assert curve.epsilon(1e-4) == pytest.approx(1e9, rel=0.02)
    assert curve.deltas(np.array([0.0, 10.0])) == pytest.approx([1.0, 1.0])


def test_where_the_grid_overflows_renyi_takes_over() -> None:
    twice = Mechanism(noise_multiplier=4.8e-4, sampling_rate=1.0, steps=1, crops_of_unit=2)
    curve = compose([twice])
    assert curve.accountant == "RDP"
    assert curve.epsilon(1e-4) > 0.5 * (2 / 4.8e-4) ** 2
    assert curve.deltas(np.array([0.0])) == pytest.approx([1.0])


def test_tiny_noise_reveals_at_most_those_who_were_drawn() -> None:
    once = Mechanism(noise_multiplier=1e-4, sampling_rate=0.01, steps=2)
    curve = compose([once])
    assert curve.accountant == "RDP"
    assert curve.deltas(np.array([0.0])) == pytest.approx([1 - 0.99**2])
    assert curve.epsilon(0.02) == 0
    assert curve.epsilon(1e-4) > 1e6
    everybody = Mechanism(noise_multiplier=1e-5, sampling_rate=1.0, steps=1)
    assert compose([everybody]).deltas(np.array([0.0])) == pytest.approx([1.0])
    several = Mechanism(noise_multiplier=1e-4, sampling_rate=0.01, steps=2, crops_of_unit=3)
    assert compose([several]).deltas(np.array([0.0])) == pytest.approx([1 - 0.99**6])


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 0.0},
        {"noise_multiplier": math.inf},
        {"noise_multiplier": 1e308},
        {"steps": 1.5},
        {"sampling_rate": 0.0},
        {"sampling_rate": 1.5},
        {"steps": 0},
        {"clipping_norm": -1.0},
        {"crops_of_unit": 0},
    ],
)
def test_impossible_mechanisms_are_refused(change: dict[str, float]) -> None:
    values = {"noise_multiplier": 1.0, "sampling_rate": 0.5, "steps": 1} | change
    with pytest.raises(PrivacyError, match=next(iter(change))):
        Mechanism(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mechanisms",
    [
        [Mechanism(noise_multiplier=1.0, sampling_rate=0.01, steps=1000)],
        [Mechanism(noise_multiplier=4.0, sampling_rate=1.0, steps=32)],
        [Mechanism(noise_multiplier=1.0, sampling_rate=1.0, steps=1)],
        [Mechanism(noise_multiplier=4.0, sampling_rate=1.0, steps=steps) for steps in (3, 5, 7)],
    ],
    ids=["sampled", "full", "one step", "composed"],
)
def test_the_smallest_delta_is_the_smallest(mechanisms: list[Mechanism]) -> None:
    curve = compose(mechanisms)
    assert curve.smallest_delta > 0
    assert math.isfinite(curve.epsilon(curve.smallest_delta))
    assert curve.too_small(curve.smallest_delta) == curve.too_small(1e-4) == ""
    for part in (0.85, 0.1, 1e-5, 1e-20):
        delta = part * curve.smallest_delta
        assert math.isinf(curve.epsilon(delta))
        assert f"at least {curve.smallest_delta:.2g}" in curve.too_small(delta)


def test_renyi_accounting_has_an_epsilon_for_every_delta() -> None:
    curve = compose([Mechanism(noise_multiplier=1e-4, sampling_rate=1.0, steps=100)])
    assert curve.accountant == "RDP"
    assert curve.too_small(1e-300) == ""
    assert math.isfinite(curve.epsilon(1e-300))


def test_nothing_cannot_be_composed() -> None:
    with pytest.raises(PrivacyError, match="mechanisms: are none"):
        compose([])
