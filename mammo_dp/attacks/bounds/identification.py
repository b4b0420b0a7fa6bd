# SPDX-License-Identifier: Apache-2.0
"""Rung 1: an adversary who knows all others, sees every noisy update, and holds a list.

The stated bound is ``mammo_dp.privacy.accounting.risk.risk_of``, by privacy loss distributions.
Here stands the second opinion on it.
"""

import math

import numpy as np

from mammo_dp.attacks.bounds.edgeworth import Values, power
from mammo_dp.privacy.accounting.account import Mechanism


def reconstruction_robustness(mechanism: Mechanism, kappa: float) -> float:
    """Largest chance to name one patient among ``1 / kappa`` candidates, by Edgeworth expansion.

    Args:
        mechanism: Steps that saw the patient.
        kappa: Chance of success without the release, in ``(0, 1)``.

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
    drawn = math.log(rate) + z / noise_multiplier - 0.5 / noise_multiplier**2
    return drawn if rate == 1 else np.logaddexp(math.log1p(-rate), drawn)
