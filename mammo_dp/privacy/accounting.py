# SPDX-License-Identifier: Apache-2.0
"""From mechanisms to a privacy curve: what a sequence of noisy steps costs.

Adjacency is add-or-remove of one unit throughout. Privacy loss distributions (PLD, dp-accounting)
give what is stated; Renyi accounting (RDP, Opacus) gives the second opinion and takes over where
PLD overflows, at noise so small that the loss leaves the range of floating-point numbers.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Literal

import numpy as np
from dp_accounting.pld import privacy_loss_distribution
from numpy.typing import NDArray
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis import rdp

from mammo_dp.privacy.errors import PrivacyError

Accountant = Literal["PLD", "RDP"]
# Width of the discretisation, relative to epsilon. Beyond 100 the rounding of each step adds up.
_FINEST_INTERVAL, _RELATIVE_INTERVAL, _RELATIVE_INTERVAL_BEYOND_100 = 1e-5, 3e-4, 3e-5
_MOST_POINTS = 100_000
# Enough for the size of epsilon; Opacus takes .5 s for all of its fractional orders.
_ROUGH_ORDERS = (1.1, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 63.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """Equal noisy steps on Poisson samples.

    Attributes:
        noise_multiplier: Standard deviation of the noise / clipping norm, > 0.
        sampling_rate: Chance that a unit joins a step, in ``(0, 1]``.
        steps: Number of steps, > 0.
        clipping_norm: Largest L2 norm of one unit's gradient; does not enter the account.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    clipping_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuses what is no mechanism.

        Raises:
            PrivacyError: For a value outside its range.
        """
        for name, holds, allowed in (
            ("noise_multiplier", 0 < self.noise_multiplier < math.inf, "above 0 and finite"),
            ("sampling_rate", 0 < self.sampling_rate <= 1, "above 0 and at most 1"),
            ("steps", self.steps >= 1, "at least 1"),
            ("clipping_norm", 0 < self.clipping_norm < math.inf, "above 0 and finite"),
        ):
            if not holds:
                raise PrivacyError(f"{name}={getattr(self, name)}. Give a value {allowed}.")

    def as_json(self) -> dict[str, float | int]:
        """Plain values, for ``privacy.json``."""
        return asdict(self)


def rdp_epsilon(
    mechanisms: Sequence[Mechanism],
    delta: float,
    orders: Sequence[float] = tuple(RDPAccountant.DEFAULT_ALPHAS),
) -> float:
    """Epsilon of a composition by Renyi accounting.

    Args:
        mechanisms: Applied to the same units.
        delta: In ``(0, 1)``.
        orders: Renyi orders, > 1. Those of Opacus; dp-accounting drops some of its own and states
            70 where these give 60.

    Returns:
        An upper bound.
    """
    with warnings.catch_warnings():  # the optimum may be the first or last order; still a bound
        warnings.simplefilter("ignore")
        total = sum(
            np.asarray(
                rdp.compute_rdp(
                    q=mechanism.sampling_rate,
                    noise_multiplier=mechanism.noise_multiplier,
                    steps=mechanism.steps,
                    orders=orders,
                )
            )
            for mechanism in mechanisms
        )
        epsilon, _ = rdp.get_privacy_spent(orders=orders, rdp=total, delta=delta)
    return max(0.0, float(epsilon))


@dataclass(frozen=True, kw_only=True)
class PrivacyCurve:
    """Privacy of one unit under a composition of mechanisms.

    Attributes:
        accountant: Where the numbers come from.
        mechanisms: What was composed; no mechanism is perfect privacy.
        deltas: Maps epsilons, shape ``(n,)``, ascending, >= 0, to deltas.
        epsilon: Smallest stated epsilon for a delta.
    """

    accountant: Accountant
    mechanisms: tuple[Mechanism, ...]
    deltas: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    epsilon: Callable[[float], float]

    @cached_property
    def source(self) -> str:
        """Accountant and version, such as ``"PLD, dp-accounting 0.6.0"``."""
        package = {"PLD": "dp-accounting", "RDP": "opacus"}[self.accountant]
        return f"{self.accountant}, {package} {version(package)}"


def compose(mechanisms: Sequence[Mechanism]) -> PrivacyCurve:
    """Privacy curve of mechanisms applied to the same units, one after the other.

    Args:
        mechanisms: At least one.

    Returns:
        Curve by PLD, or by RDP where PLD overflows.

    Source: connect-the-dots, Doroshenko et al. 2022, arXiv 2207.04380.
    """
    mechanisms = tuple(mechanisms)
    try:
        interval = _interval(rdp_epsilon(mechanisms, 1e-4, _ROUGH_ORDERS), mechanisms)
        total = _loss(mechanisms, interval)
        while interval > 4 * (finer := _interval(total.get_epsilon_for_delta(1e-4), mechanisms)):
            interval = finer  # RDP is loose at large epsilon
            total = _loss(mechanisms, interval)
    except OverflowError:
        return _rdp_curve(mechanisms)

    def deltas(epsilons: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(np.asarray(total.get_delta_for_epsilon(epsilons), np.float64), 0, 1)

    return PrivacyCurve(
        accountant="PLD",
        mechanisms=mechanisms,
        deltas=deltas,
        epsilon=lambda delta: float(total.get_epsilon_for_delta(delta)),
    )


def _interval(epsilon: float, mechanisms: Sequence[Mechanism]) -> float:
    """Width of the grid: relative to epsilon, with a bound on the points of one step's losses.

    The bound matters at tiny sampling rates alone, where epsilon says little about these losses.
    """
    relative = _RELATIVE_INTERVAL if epsilon < 100 else _RELATIVE_INTERVAL_BEYOND_100
    noise = min(mechanism.noise_multiplier for mechanism in mechanisms)
    one_step = 0.5 / noise**2 + 10 / noise  # losses beyond have chance below 1e-20
    return max(_FINEST_INTERVAL, relative * epsilon, one_step / _MOST_POINTS)


def _loss(
    mechanisms: Sequence[Mechanism], interval: float
) -> privacy_loss_distribution.PrivacyLossDistribution:
    """Privacy loss of a composition on a grid of one width."""
    parts = [
        privacy_loss_distribution.from_gaussian_mechanism(
            mechanism.noise_multiplier,
            sampling_prob=mechanism.sampling_rate,
            value_discretization_interval=interval,
            use_connect_dots=True,
        ).self_compose(mechanism.steps)
        for mechanism in mechanisms
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total.compose(part)
    return total


def _rdp_curve(mechanisms: tuple[Mechanism, ...]) -> PrivacyCurve:
    """Curve for noise so small that only the chance of never being drawn protects a unit.

    Delta is bounded by the chance of being drawn at all, whatever epsilon: below the noise at which
    PLD overflows a drawn unit is certain to be seen.
    """
    never = math.fsum(m.steps * math.log1p(-m.sampling_rate) for m in mechanisms if _partial(m))
    seen = -math.expm1(never) if all(map(_partial, mechanisms)) else 1.0
    return PrivacyCurve(
        accountant="RDP",
        mechanisms=mechanisms,
        deltas=lambda epsilons: np.full(np.shape(epsilons), seen),
        epsilon=lambda delta: 0.0 if delta >= seen else rdp_epsilon(mechanisms, delta),
    )


def _partial(mechanism: Mechanism) -> bool:
    return mechanism.sampling_rate < 1
