# SPDX-License-Identifier: Apache-2.0
"""Rung 2: as rung 1, but without the sign of the target's gradient (generalised ratio test).

An assumption about the adversary, no guarantee.

Source: Kaissis et al. 2022, arXiv 2210.13028; the subsampled form is derived here.
"""

import math

import numpy as np
from scipy.stats import chi2, ncx2

from mammo_dp.attacks.bounds.edgeworth import Values, power, require_chance
from mammo_dp.attacks.signals import AttackError
from mammo_dp.privacy.accounting.account import Mechanism


def one_step(*, dimensions: int, noise_multiplier: float, kappa: float) -> float:
    """Largest chance to recognise a patient in one full step by the length of the update.

    Args:
        dimensions: Trained parameters, >= 1.
        noise_multiplier: Standard deviation of the noise / sensitivity, > 0.
        kappa: False alarm rate, in ``(0, 1)``.

    Returns:
        Power of the chi-square test, or of the reversed test if that is larger.

    Raises:
        AttackError: For a value outside its range.
    """
    require_chance("kappa", kappa)
    if dimensions < 1 or not 0 < noise_multiplier < math.inf:
        raise AttackError(
            f"{dimensions=}, {noise_multiplier=}. Give at least one dimension and noise above 0."
        )
    signal = noise_multiplier**-2
    longer = ncx2.sf(chi2.isf(kappa, dimensions), dimensions, signal)
    shorter = chi2.cdf(ncx2.ppf(kappa, dimensions, signal), dimensions)
    return float(max(longer, shorter))


def unsigned(mechanism: Mechanism, kappa: float) -> float:
    """Chance to recognise a patient over all steps along a line whose direction has no sign.

    Args:
        mechanism: Steps that saw the patient.
        kappa: False alarm rate, in ``(0, 1)``.

    Raises:
        AttackError: For a ``kappa`` outside its range, or fewer than 30 subsampled steps.
    """
    return power(_unsigned_loss, mechanism, kappa)


def _unsigned_loss(z: Values, noise_multiplier: float, rate: float) -> Values:
    """``log(1 - q + q e^(-1 / (2 sigma^2)) cosh(z / sigma))``."""
    scaled = z / noise_multiplier
    either = np.logaddexp(scaled, -scaled) - math.log(2)
    drawn = math.log(rate) - 0.5 / noise_multiplier**2 + either
    return np.asarray(drawn if rate == 1 else np.logaddexp(math.log1p(-rate), drawn), np.float64)
