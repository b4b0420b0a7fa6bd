# SPDX-License-Identifier: Apache-2.0
"""Power of a test on a sum of many per-step losses, from their first five cumulants.

It follows the noise analytically where privacy loss distributions are slow or overflow, and it
serves statistics that are no privacy loss, such as a test that does not know a sign.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.polynomial import hermite_e
from numpy.typing import NDArray
from scipy.stats import norm

from mammo_dp.attacks.signals import AttackError
from mammo_dp.privacy.accounting.account import Mechanism

Values = NDArray[np.float64]
Loss = Callable[[Values, float, float], Values]  # of z at a noise multiplier and a rate
LEAST_STEPS = 30
_Z = np.linspace(-10, 10, 8001)  # a standard normal leaves it with chance 1e-23
_WEIGHT = norm.pdf(_Z) / norm.pdf(_Z).sum()
_DEVIATIONS = np.linspace(-8, 8, 4001)


def require_chance(name: str, value: float) -> None:
    """Refuses what is no chance of success.

    Raises:
        AttackError: Unless ``0 < value < 1``.
    """
    if not 0 < value < 1:
        raise AttackError(f"{name}={value} is no chance. Give a value between 0 and 1.")


def power(loss: Loss, mechanism: Mechanism, kappa: float) -> float:
    """Chance that a test on the summed loss succeeds, at a false alarm rate.

    Args:
        loss: Per-step loss of ``z``, which is normal around 0 without the unit, and around
            ``1 / noise_multiplier`` in the steps that drew it.
        mechanism: Steps; one whose units consist of several crops is replaced by the one that
            dominates it.
        kappa: False alarm rate, in ``(0, 1)``.

    Returns:
        ``1 - F_Q(F_P^-1(1 - kappa))`` with fifth-order Edgeworth distribution functions of the sum
        without (P) and with (Q) the unit.

    Raises:
        AttackError: For a ``kappa`` outside its range, or too few subsampled steps.

    Source: as in Ziller et al. 2024, arXiv 2312.04590. Exact for a loss that is normal, as without
    subsampling.
    """
    require_chance("kappa", kappa)
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
    if absent[1] <= 0:  # the sum is constant without the unit: any other value betrays it
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
