# SPDX-License-Identifier: Apache-2.0
"""How much noise a promise needs: from a target epsilon or risk to the noise multiplier."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from scipy.optimize import brentq

from mammo_dp.privacy.accounting import Mechanism, PrivacyCurve, compose
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.risk import TradeOff
from mammo_dp.privacy.sampling import PoissonSampling

__all__ = ["PrivacyBudget", "PrivacyError", "calibrate"]

SMALLEST_NOISE, LARGEST_NOISE = 1e-3, 1e3
_TARGETS = ("epsilon", "advantage", "tpr", "reconstruction")
_DIGITS = 4  # significant digits of a calibrated noise multiplier, rounded up


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyBudget:
    """What may be spent on one unit: exactly one target, an epsilon or an attacker's success.

    Attributes:
        delta: Chance that the bound of epsilon fails, in ``(0, 1)``, below 1 / units.
        epsilon: Target, > 0.
        advantage: Largest true minus false positive rate of a membership test, in ``(0, 1)``.
        tpr: Largest chance to recognise a member at false positive rate ``fpr``, in ``(fpr, 1)``.
        fpr: False positive rate that ``tpr`` refers to, in ``(0, 1)``.
        reconstruction: Largest chance to reconstruct a unit that is guessed with chance ``kappa``
            without the release, in ``(kappa, 1)``.
        kappa: Chance that ``reconstruction`` refers to, in ``(0, 1)``; none without it.
    """

    delta: float
    epsilon: float | None = None
    advantage: float | None = None
    tpr: float | None = None
    fpr: float = 0.01
    reconstruction: float | None = None
    kappa: float | None = None

    def __post_init__(self) -> None:
        """Refuses what no noise can meet.

        Raises:
            PrivacyError: For no target, two targets, or a value outside its range.
        """
        given = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            raise PrivacyError(
                f"budget: {' and '.join(given) or 'no target'} given. Give exactly one target: "
                f"{', '.join(_TARGETS[:-1])} or {_TARGETS[-1]}."
            )
        if not 0 < self.delta < 1:
            raise PrivacyError(f"budget: delta={self.delta}. Give a value between 0 and 1 / units.")
        if (self.reconstruction is None) != (self.kappa is None):
            raise PrivacyError(
                f"budget: reconstruction={self.reconstruction}, kappa={self.kappa}. Give both: kappa is the chance of "
                "the guess that a target of reconstruction refers to."
            )
        if self.epsilon is not None and not 0 < self.epsilon < math.inf:
            raise PrivacyError(
                f"budget: epsilon={self.epsilon} cannot be met by any noise. Give a finite value "
                "above 0, or train without DP."
            )
        if self.advantage is not None and not 0 < self.advantage < 1:
            raise PrivacyError(
                f"budget: advantage={self.advantage} cannot be met. Give 0 < advantage < 1."
            )
        for (name, success), (of, guess) in (
            (("tpr", self.tpr), ("fpr", self.fpr)),
            (("reconstruction", self.reconstruction), ("kappa", self.kappa)),
        ):
            if success is not None and guess is not None and not 0 < guess < success < 1:
                raise PrivacyError(
                    f"budget: {name}={success} at {of}={guess} cannot be met. Give 0 < {of} < "
                    f"{name} < 1; a guess already has {name} = {of}."
                )

    @property
    def target(self) -> str:
        """For people, such as ``"tpr=0.05 at fpr=0.01"``."""
        (name,) = (name for name in _TARGETS if getattr(self, name) is not None)
        condition = {
            "epsilon": f" at delta={self.delta}",
            "advantage": "",
            "tpr": f" at fpr={self.fpr}",
            "reconstruction": f" at kappa={self.kappa}",
        }
        return f"{name}={getattr(self, name)}{condition[name]}"

    def excess(self, curve: PrivacyCurve) -> float:
        """How far an account exceeds the budget: log of spent / target, at most 0 if it holds."""
        if self.epsilon is not None:
            spent, target = curve.epsilon(self.delta), self.epsilon
        elif self.advantage is not None:
            spent, target = TradeOff(curve).advantage, self.advantage
        elif self.tpr is not None:
            spent, target = 1 - TradeOff(curve)(self.fpr), self.tpr
        else:
            assert self.reconstruction is not None
            assert self.kappa is not None
            spent, target = 1 - TradeOff(curve)(self.kappa), self.reconstruction
        return math.log(max(spent, 1e-300) / target)

    def noise_multiplier(self, sampling: PoissonSampling, *, steps: int) -> float:
        """Smallest noise multiplier, to four digits, that keeps the budget.

        Args:
            sampling: The sampling that runs.
            steps: Steps of the whole run, > 0.

        Raises:
            PrivacyError: If delta is not below 1 / units, or the target cannot be met.
        """
        require_delta(self.delta, sampling.units, sampling.unit)
        return calibrate(self, sampling_rate=sampling.rate, steps=steps)


def require_delta(delta: float, units: int, unit: str) -> None:
    """Refuses a delta at which publishing some unit's data would count as private.

    Raises:
        PrivacyError: If ``delta >= 1 / units``.
    """
    if not 0 < delta * units < 1:
        raise PrivacyError(
            f"delta={delta} is not below 1/{units}, one over the number of units ({unit}s). "
            f"Give a smaller delta, such as {1 / (10 * units):.2g}."
        )


@lru_cache(maxsize=256)
def calibrate(budget: PrivacyBudget, *, sampling_rate: float, steps: int) -> float:
    """Smallest noise multiplier, to four digits, that keeps a budget, at least ``SMALLEST_NOISE``.

    The result is rounded up and re-evaluated, so that the target holds for the value that is
    returned.

    Args:
        budget: Target.
        sampling_rate: Chance that a unit joins a step, in ``(0, 1]``.
        steps: Number of steps, > 0.

    Raises:
        PrivacyError: If no noise multiplier up to ``LARGEST_NOISE`` keeps the budget.
    """

    def excess(log_noise: float) -> float:
        noise = math.exp(log_noise)
        return budget.excess(
            compose([Mechanism(noise_multiplier=noise, sampling_rate=sampling_rate, steps=steps)])
        )

    low, high = _bracket(excess, budget, sampling_rate, steps)
    if low == high:
        return SMALLEST_NOISE  # huge targets, and units that are hardly ever drawn
    root = brentq(excess, low, high, xtol=10.0 ** -(_DIGITS + 1), rtol=1e-12)
    noise = _round_up(math.exp(root - 10.0 ** -(_DIGITS + 1)))
    while excess(math.log(noise)) > 0:
        noise = _round_up(noise * (1 + 10.0**-_DIGITS))
    return noise


def _bracket(
    excess: Callable[[float], float], budget: PrivacyBudget, sampling_rate: float, steps: int
) -> tuple[float, float]:
    """Logarithms of two noise multipliers between which the budget begins to hold."""
    low, high = math.log(SMALLEST_NOISE), math.log(LARGEST_NOISE)
    at, step = 0.0, math.log(4)
    if excess(at) <= 0:
        while at > low:
            following = max(at - step, low)
            if excess(following) > 0:
                return following, at
            at = following
        return low, low
    while at < high:
        following = min(at + step, high)
        if excess(following) <= 0:
            return at, following
        at = following
    raise PrivacyError(
        f"budget: {budget.target} cannot be met in {steps} steps at sampling "
        f"rate {sampling_rate:.4g}: a noise multiplier of {LARGEST_NOISE:g} does not suffice. "
        "Raise the target, or train fewer steps at a smaller rate."
    )


def _round_up(value: float) -> float:
    digits = _DIGITS - 1 - math.floor(math.log10(value))
    return float(f"{math.ceil(value * 10.0**digits - 1e-9) / 10.0**digits:.{_DIGITS}g}")
