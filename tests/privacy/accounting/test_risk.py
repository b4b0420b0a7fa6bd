import math
import warnings

import numpy as np
import pytest
from scipy.stats import norm

from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.risk import TradeOff, risk_of
from mammo_dp.privacy.errors import PrivacyError

REFERENCE = [
    (20.3, 0.113, 0.0023, 0.021),
    (4.34, 0.498, 0.039, 0.164),
    (1.79, 0.912, 0.623, 0.863),
    (0.961, 0.9995, 1.0, 1.0),
]


def reference(noise: float) -> Mechanism:
    return Mechanism(noise_multiplier=noise, sampling_rate=1 / 9, steps=2700)


@pytest.mark.parametrize(("noise", "advantage", "reconstruction", "tpr"), REFERENCE)
def test_reference_schedule(
    noise: float, advantage: float, reconstruction: float, tpr: float
) -> None:
    risk = risk_of(compose([reference(noise)]), kappas=[1 / 1104])
    assert risk.advantage == pytest.approx(advantage, rel=0.02)
    assert risk.reconstruction_robustness[1 / 1104] == pytest.approx(reconstruction, rel=0.02)
    assert risk.tpr_at_fpr[0.01] == pytest.approx(tpr, rel=0.02)


def test_full_batches_match_the_gaussian_trade_off() -> None:
    misses = TradeOff(compose([Mechanism(noise_multiplier=2.0, sampling_rate=1.0, steps=9)]))
    mu = 3 / 2
    for fpr in (1e-3, 0.01, 0.1, 0.5, 0.9):
        exact = float(norm.cdf(norm.ppf(1 - fpr) - mu))
        assert misses(fpr) <= exact + 1e-9  # errs towards more risk
        assert misses(fpr) == pytest.approx(exact, rel=0.01)
    assert misses.advantage == pytest.approx(2 * norm.cdf(mu / 2) - 1, rel=1e-3)


def test_riskcal_agrees_where_it_can_be_trusted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from riskcal.dpsgd import get_advantage_for_dpsgd, get_beta_for_dpsgd

    schedule = {"sample_rate": 1 / 9, "num_steps": 2700, "grid_step": 1e-3}
    for noise in (20.3, 4.34, 1.79):
        misses = TradeOff(compose([reference(noise)]))
        theirs = get_advantage_for_dpsgd(noise_multiplier=noise, **schedule)
        assert misses.advantage == pytest.approx(theirs, rel=5e-3)
        for fpr in (1 / 1104, 0.01, 0.1):
            beta = get_beta_for_dpsgd(alpha=fpr, noise_multiplier=noise, **schedule)
            assert 1 - misses(fpr) == pytest.approx(1 - float(np.squeeze(beta)), rel=0.01)


def test_advantage_is_the_largest_gap_of_the_trade_off() -> None:
    misses = TradeOff(compose([reference(4.34)]))
    gaps = [1 - fpr - misses(fpr) for fpr in np.linspace(0.001, 0.999, 200)]
    assert max(gaps) == pytest.approx(misses.advantage, abs=2e-3)


@pytest.mark.parametrize("noise", [0.45, 0.2, 0.0373, 0.00122])
def test_extreme_accounts_report_certain_risk_and_not_none(noise: float) -> None:
    risk = risk_of(compose([reference(noise)]), kappas=[1 / 1104])
    assert risk.advantage == pytest.approx(1, abs=1e-6)
    assert set(risk.tpr_at_fpr.values()) == {1.0}
    assert risk.reconstruction_robustness[1 / 1104] == pytest.approx(1)


def test_risk_falls_with_noise() -> None:
    risks = [risk_of(compose([reference(noise)])) for noise in (0.3, 0.9, 2.0, 6.0, 30.0)]
    advantages = [risk.advantage for risk in risks]
    assert advantages == sorted(advantages, reverse=True)


def test_no_guarantee_is_certain_risk() -> None:
    risk = risk_of(None, kappas=[0.01])
    assert risk.as_json() == {
        "advantage": 1.0,
        "tpr_at_fpr": {"0.001": 1.0, "0.01": 1.0, "0.1": 1.0},
        "reconstruction_robustness": {"0.01": 1.0},
    }


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, math.nan])
def test_impossible_rates_are_refused(value: float) -> None:
    with pytest.raises(PrivacyError, match="kappa="):
        risk_of(None, kappas=[value])
    with pytest.raises(PrivacyError, match="fpr="):
        risk_of(None, fprs=[value])
