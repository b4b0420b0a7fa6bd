import math

import pytest

from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.budget import (
    SMALLEST_NOISE,
    PrivacyBudget,
    calibrate,
    require_delta,
)
from mammo_dp.privacy.accounting.risk import TradeOff, risk_of
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.sampling import PoissonSampling


@pytest.mark.parametrize(("epsilon", "noise"), [(1.0, 18.47), (6.0, 4.034), (60.0, 0.9314)])
def test_calibrated_noise_holds_the_target_and_no_less_would(epsilon: float, noise: float) -> None:
    budget = PrivacyBudget(delta=1e-4, epsilon=epsilon)
    found = calibrate(budget, sampling_rate=1 / 9, steps=2700)
    assert found == pytest.approx(noise, rel=0.01)

    def spent(value: float) -> float:
        mechanism = Mechanism(noise_multiplier=value, sampling_rate=1 / 9, steps=2700)
        return compose([mechanism]).epsilon(1e-4)

    assert spent(found) <= epsilon < spent(found * 0.998)


@pytest.mark.parametrize(
    ("target", "noise", "epsilon"),
    [
        ({"epsilon": 8.0}, 3.23, 8.0),
        ({"advantage": 0.1}, 23.05, 0.78),
        ({"tpr": 0.05, "fpr": 0.01}, 8.51, 2.43),
        ({"reconstruction": 0.05, "kappa": 1 / 578}, 4.57, 5.13),
    ],
)
def test_each_kind_of_target_holds_for_what_is_returned(
    target: dict[str, float], noise: float, epsilon: float
) -> None:
    found = calibrate(PrivacyBudget(delta=1e-4, **target), sampling_rate=1 / 9, steps=2700)
    assert found == pytest.approx(noise, rel=0.005)

    def spent(noise: float) -> tuple[float, float]:
        curve = compose([Mechanism(noise_multiplier=noise, sampling_rate=1 / 9, steps=2700)])
        misses = TradeOff(curve)
        success = {
            "epsilon": curve.epsilon(1e-4),
            "advantage": misses.advantage,
            "tpr": 1 - misses(0.01),
            "reconstruction": 1 - misses(1 / 578),
        }
        return success[next(iter(target))], curve.epsilon(1e-4)

    limit = next(iter(target.values()))
    assert spent(found)[0] <= limit < spent(found * 0.998)[0]
    assert spent(found)[1] == pytest.approx(epsilon, rel=0.01)


@pytest.mark.parametrize(
    ("rate", "steps", "epsilon"),
    [
        *((1.0, 1, epsilon) for epsilon in (0.05, 1e5)),
        *((0.01, 50_000, epsilon) for epsilon in (0.05, 30.0, 1e5)),
        *((0.5, 3, epsilon) for epsilon in (0.7, 1e3, 1e7)),
    ],
)
def test_calibration_holds_for_schedules_far_from_its_first_guess(
    rate: float, steps: int, epsilon: float
) -> None:
    noise = calibrate(PrivacyBudget(delta=1e-5, epsilon=epsilon), sampling_rate=rate, steps=steps)

    def spent(noise: float) -> float:
        mechanism = Mechanism(noise_multiplier=noise, sampling_rate=rate, steps=steps)
        return compose([mechanism]).epsilon(1e-5)

    assert spent(noise) <= epsilon
    if noise > SMALLEST_NOISE:
        assert spent(noise * 0.998) > epsilon


def test_huge_targets_are_met_by_renyi_accounting() -> None:
    noise = calibrate(PrivacyBudget(delta=1e-4, epsilon=1e9), sampling_rate=1 / 9, steps=2700)
    assert noise == pytest.approx(0.00122, rel=0.01)
    curve = compose([Mechanism(noise_multiplier=noise, sampling_rate=1 / 9, steps=2700)])
    assert risk_of(curve, kappas=[1 / 1104]).as_json() == {
        "advantage": 1.0,
        "tpr_at_fpr": {"0.001": 1.0, "0.01": 1.0, "0.1": 1.0},
        "reconstruction_robustness": {"0.000905797": 1.0},
    }


def test_units_that_are_hardly_ever_drawn_need_the_smallest_noise_only() -> None:
    budget = PrivacyBudget(delta=1e-3, epsilon=8.0)
    assert calibrate(budget, sampling_rate=1e-9, steps=8) == SMALLEST_NOISE


def test_targets_beyond_the_largest_noise_are_refused_with_numbers() -> None:
    budget = PrivacyBudget(delta=1e-4, epsilon=1e-5)
    with pytest.raises(
        PrivacyError, match=r"epsilon=1e-05 at delta=0.0001.*2700 steps.*1000 does not suffice"
    ):
        calibrate(budget, sampling_rate=1 / 9, steps=2700)
    budget = PrivacyBudget(delta=1e-9, tpr=0.0100001)
    with pytest.raises(PrivacyError, match=r"tpr=0.0100001 at fpr=0.01"):
        calibrate(budget, sampling_rate=1.0, steps=100)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epsilon": 0.0}, "cannot be met by any noise"),
        ({"epsilon": -1.0}, "cannot be met by any noise"),
        ({"epsilon": math.inf}, "train without DP"),
        ({"epsilon": 1.0, "tpr": 0.5}, "epsilon and tpr given. Give exactly one target"),
        ({"advantage": 0.1, "reconstruction": 0.5, "kappa": 0.1}, "exactly one target"),
        ({}, "no target given. Give exactly one target"),
        ({"tpr": 0.005}, "0 < fpr < tpr < 1"),
        ({"tpr": 1.0}, "0 < fpr < tpr < 1"),
        ({"tpr": 0.5, "fpr": 0.0}, "0 < fpr < tpr < 1"),
        ({"advantage": 0.0}, "0 < advantage < 1"),
        ({"advantage": 1.0}, "0 < advantage < 1"),
        ({"reconstruction": 0.1, "kappa": 0.1}, "0 < kappa < reconstruction < 1"),
        ({"reconstruction": 1.0, "kappa": 0.1}, "0 < kappa < reconstruction < 1"),
        ({"reconstruction": 0.5}, "kappa=None. Give both"),
        ({"epsilon": 1.0, "kappa": 0.1}, "reconstruction=None, kappa=0.1. Give both"),
        ({"epsilon": 1.0, "delta": 0.0}, "delta=0.0"),
        ({"epsilon": 1.0, "delta": 1.0}, "delta=1.0"),
    ],
)
def test_impossible_budgets_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        PrivacyBudget(**({"delta": 1e-4} | values))


def test_delta_of_one_over_units_is_refused_with_the_count() -> None:
    sampling = PoissonSampling(unit="patient", rows_of=((0,), (1,), (2,), (3,)), rate=0.5)
    for delta in (0.25, 0.5):
        with pytest.raises(PrivacyError, match=rf"delta={delta} is not below 1/4.*such as 0.02"):
            PrivacyBudget(delta=delta, epsilon=1.0).noise_multiplier(sampling, steps=1)
    require_delta(0.2499, 4, "patient")


@pytest.mark.parametrize("delta", [1e-15, 1e-18, 1e-30, 1e-200])
@pytest.mark.parametrize(("rate", "steps"), [(0.25, 32), (1.0, 40)])
def test_a_delta_below_what_is_resolved_is_named_and_the_one_that_works_works(
    delta: float, rate: float, steps: int
) -> None:
    with pytest.raises(PrivacyError, match=r"delta=.* is below what PLD") as refused:
        calibrate(PrivacyBudget(delta=delta, epsilon=6.0), sampling_rate=rate, steps=steps)
    smallest = float(str(refused.value).split("at least ")[1].rstrip("."))
    noise = calibrate(PrivacyBudget(delta=smallest, epsilon=6.0), sampling_rate=rate, steps=steps)
    assert 0 < noise < 100


def test_targets_without_epsilon_do_not_depend_on_delta() -> None:
    found = {
        calibrate(PrivacyBudget(delta=delta, advantage=0.3), sampling_rate=1.0, steps=8)
        for delta in (1e-4, 1e-25)
    }
    assert len(found) == 1
