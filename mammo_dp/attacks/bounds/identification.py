# SPDX-License-Identifier: Apache-2.0
"""Rungs 1 and 2: the largest probability of naming a patient, by Edgeworth expansion.

Rung 1 is an adversary who knows all others, sees every noisy update, and holds a list. The bound
that is stated is :func:`mammo_dp.privacy.accounting.risk.risk_of`, by privacy loss distributions
(PLD); here is the second opinion on it. Rung 2 is the same adversary without the sign of the
target's gradient (generalised ratio test): an assumption about the adversary, no guarantee.

The power of a test on a sum of many per-step losses follows from their first five cumulants. It is
analytic in the noise where PLD are slow or overflow, and it serves statistics that are no privacy
loss, such as a test that does not know a sign.

Source: rung 2, Kaissis et al. 2022, arXiv 2210.13028; the subsampled form is derived here.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.polynomial import hermite_e
from numpy.typing import NDArray
from scipy.stats import chi2, ncx2, norm

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.statistics import log_mixture
from mammo_dp.privacy.accounting.account import Mechanism

Values = NDArray[np.float64]
Loss = Callable[[Values, float, float], Values]  # of z at a noise multiplier and a rate
LEAST_STEPS = 30
_Z = np.linspace(-10, 10, 8001)  # a standard normal leaves it with probability 1e-23
_WEIGHT = norm.pdf(_Z) / norm.pdf(_Z).sum()
_DEVIATIONS = np.linspace(-8, 8, 4001)


def require_probability(name: str, value: float) -> None:
    """Refuses a value that is no probability of success.

    Raises:
        AttackError: Unless ``0 < value < 1``.
    """
    if not 0 < value < 1:
        raise AttackError(f"{name}={value} is no probability. Give a value between 0 and 1.")


def power(loss: Loss, mechanism: Mechanism, kappa: float) -> float:
    """Power of a test on the summed loss: its true-positive rate at a false-positive rate.

    Args:
        loss: Per-step loss of ``z``, which is normal around 0 without the unit, and around
            ``1 / noise_multiplier`` in the steps that sampled it.
        mechanism: Steps; one whose units consist of several crops is replaced by the one that
            dominates it.
        kappa: False-positive rate, in ``(0, 1)``.

    Returns:
        ``1 - F_Q(F_P^-1(1 - kappa))`` with fifth-order Edgeworth distribution functions of the sum
        without (P) and with (Q) the unit.

    Raises:
        AttackError: For a ``kappa`` outside its range, or too few subsampled steps.

    Source: as in Ziller et al. 2024, arXiv 2312.04590. Exact for a loss that is normal, as without
    subsampling.
    """
    require_probability("kappa", kappa)
    plain = mechanism.dominating
    if plain.steps < LEAST_STEPS and plain.sampling_rate < 1:
        raise AttackError(
            f"steps={plain.steps} at sampling rate {plain.sampling_rate:g}: an expansion for sums "
            f"needs at least {LEAST_STEPS} steps. Read the bound by PLD alone."
        )
    noise, rate = plain.noise_multiplier, plain.sampling_rate
    without, drawn = loss(_Z, noise, rate), loss(_Z + 1 / noise, noise, rate)
    absent = plain.steps * _cumulants([(1.0, without)])
    present = plain.steps * _cumulants([(1 - rate, without), (rate, drawn)])
    if absent[1] <= 0:  # the sum is constant without the unit: any other value reveals it
        return 1.0
    sums = absent[0] + math.sqrt(absent[1]) * _DEVIATIONS
    below = np.maximum.accumulate(_cdf(absent, sums))
    threshold = np.interp(1 - kappa, below, sums)
    return float(1 - _cdf(present, np.array([threshold]))[0])


def _cumulants(parts: list[tuple[float, Values]]) -> Values:
    """First five cumulants of a mixture; values stand on the grid of a standard normal."""
    mean = sum(share * float(_WEIGHT @ values) for share, values in parts)
    second, third, fourth, fifth = (
        sum(share * float(_WEIGHT @ (values - mean) ** order) for share, values in parts)
        for order in (2, 3, 4, 5)
    )
    return np.array([mean, second, third, fourth - 3 * second**2, fifth - 10 * second * third])


def _cdf(cumulants: Values, at: Values) -> Values:
    """Distribution function with corrections up to the fifth cumulant."""
    mean, variance, *higher = cumulants
    deviation = math.sqrt(variance)
    z = (at - mean) / deviation
    g3, g4, g5 = (k / deviation**order for order, k in enumerate(higher, start=3))
    series = np.zeros(9)  # coefficients of Hermite polynomials
    series[2] = g3 / 6
    series[3] = g4 / 24
    series[4] = g5 / 120
    series[5] = g3**2 / 72
    series[6] = g3 * g4 / 144
    series[8] = g3**3 / 1296
    corrected = norm.cdf(z) - norm.pdf(z) * hermite_e.hermeval(z, series)
    return np.asarray(np.clip(corrected, 0, 1), np.float64)


def identification(mechanism: Mechanism, kappa: float) -> float:
    """Largest probability of naming one patient among ``1 / kappa`` candidates.

    Args:
        mechanism: Steps that saw the patient.
        kappa: Probability of success without the release, in ``(0, 1)``.

    Raises:
        AttackError: For a ``kappa`` outside its range, or too few subsampled steps.

    Source: ``1 - f(kappa)``, Kaissis et al. 2023, arXiv 2307.03928; Hayes et al. 2023, arXiv
    2302.07225. An approximation: the statement relies on PLD.
    """
    return power(privacy_loss, mechanism, kappa)


def privacy_loss(z: Values, noise_multiplier: float, rate: float) -> Values:
    """Privacy loss of one step whose noisy sum, along the patient's gradient, is ``z`` deviations.

    ``log(1 - q + q e^(z / sigma - 1 / (2 sigma^2)))``.
    """
    return log_mixture(z / noise_multiplier - 0.5 / noise_multiplier**2, rate)


def relaxed_one_step(*, dimensions: int, noise_multiplier: float, kappa: float) -> float:
    """Largest probability of recognising a patient in one full step by the length of the update.

    Args:
        dimensions: Trained parameters, >= 1.
        noise_multiplier: Standard deviation of the noise / sensitivity, > 0.
        kappa: False-positive rate, in ``(0, 1)``.

    Returns:
        Power of the chi-square test, or of the reversed test if that is larger.

    Raises:
        AttackError: For a value outside its range.
    """
    require_probability("kappa", kappa)
    if dimensions < 1 or not 0 < noise_multiplier < math.inf:
        raise AttackError(
            f"{dimensions=}, {noise_multiplier=}. Give at least one dimension and noise above 0."
        )
    signal = noise_multiplier**-2
    longer = ncx2.sf(chi2.isf(kappa, dimensions), dimensions, signal)
    shorter = chi2.cdf(ncx2.ppf(kappa, dimensions, signal), dimensions)
    return float(max(longer, shorter))


def relaxed_identification(mechanism: Mechanism, kappa: float) -> float:
    """Probability of recognising a patient over all steps along a line whose direction has no sign.

    Args:
        mechanism: Steps that saw the patient.
        kappa: False-positive rate, in ``(0, 1)``.

    Raises:
        AttackError: For a ``kappa`` outside its range, or fewer than 30 subsampled steps.
    """
    return power(_unsigned_loss, mechanism, kappa)


def _unsigned_loss(z: Values, noise_multiplier: float, rate: float) -> Values:
    """``log(1 - q + q e^(-1 / (2 sigma^2)) cosh(z / sigma))``."""
    scaled = z / noise_multiplier
    either = np.logaddexp(scaled, -scaled) - math.log(2)
    return log_mixture(either - 0.5 / noise_multiplier**2, rate)
