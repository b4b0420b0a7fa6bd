# SPDX-License-Identifier: Apache-2.0
"""Calibration: the noise multiplier that keeps a target epsilon or risk."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from scipy.stats import norm

from data_prep.manifest import Unit
from mammo_dp.privacy.accounting.account import Mechanism, PrivacyCurve, compose
from mammo_dp.privacy.accounting.risk import TradeOff
from mammo_dp.privacy.errors import PrivacyError

__all__ = ["PrivacyBudget", "PrivacyError", "calibrate"]
# Sums are float32: around 500 clipping norms its numbers lie 3e-5 apart. Much less noise than this
# would be rounded away, and with it what the account counts on.
SMALLEST_NOISE, LARGEST_NOISE = 1e-3, 1e3
_TARGETS = ("epsilon", "advantage", "tpr", "reconstruction")
_DIGITS = 4  # significant digits of a calibrated noise multiplier, rounded up
_TOLERANCE = 10.0 ** -(_DIGITS + 1)
_LOWEST, _HIGHEST = math.log(SMALLEST_NOISE), math.log(LARGEST_NOISE)
# Of spent / target, so that logarithms and normal quantiles stay finite.
_LEAST, _ALMOST_ONE = 1e-300, 1 - 1e-15


class Sampling(Protocol):
    """What a budget needs to know of the sampling that runs."""

    @property
    def unit(self) -> Unit:
        """What is drawn and protected."""

    @property
    def rate(self) -> float:
        """Probability that a unit joins a step, in ``(0, 1]``."""

    @property
    def stated_units(self) -> int:
        """Number of units that may be known."""

    @property
    def units(self) -> int:
        """True number of units, which a declared one must not make small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyBudget:
    """What may be spent on one unit: exactly one target, an epsilon or an attacker's success.

    Attributes:
        delta: Probability that the bound of epsilon fails, in ``(0, 1)``, below 1 / units.
        epsilon: Target, > 0.
        advantage: Largest true minus false positive rate of a membership test, in ``(0, 1)``.
        tpr: Largest probability to recognise a member at false positive rate ``fpr``, in
            ``(fpr, 1)``.
        fpr: False positive rate that ``tpr`` refers to, in ``(0, 1)``.
        reconstruction: Largest probability to reconstruct a unit that is guessed with probability
            ``kappa`` without the release, in ``(kappa, 1)``.
        kappa: Probability of the guess that ``reconstruction`` refers to, in ``(0, 1)``; ``None``
            without it.
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
                f"budget: reconstruction={self.reconstruction}, kappa={self.kappa}. Give both: "
                "kappa is the probability of the guess that a target of reconstruction refers to."
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
        """How far an account exceeds the budget: at most 0 if it holds.

        Returns:
            Logarithm of spent / target: of epsilons, or, for attacks, of the ``mu`` of Gaussian
            mechanisms that allow them, which stays about linear in the logarithm of the noise.
        """
        if self.epsilon is not None:
            spent, target = curve.epsilon(self.delta), self.epsilon
        else:
            success, guess = self._attack
            misses = TradeOff(curve)
            reached = 1 - misses(guess) if self.advantage is None else 0.5 + misses.advantage / 2
            spent, target = _mu(reached, guess), _mu(success, guess)
        return math.log(max(spent, _LEAST) / target)

    @property
    def likely_mu(self) -> float:
        """About the ``mu`` of a Gaussian mechanism that just keeps the budget."""
        if self.epsilon is None:
            return _mu(*self._attack)
        z = float(norm.isf(self.delta))  # delta is about the probability of a loss beyond epsilon
        return math.sqrt(z * z + 2 * self.epsilon) - z

    @property
    def _attack(self) -> tuple[float, float]:
        """The largest success that is allowed, and that of a guess."""
        if self.advantage is not None:
            return 0.5 + self.advantage / 2, 0.5 - self.advantage / 2
        if self.tpr is not None:
            return self.tpr, self.fpr
        assert self.reconstruction is not None
        assert self.kappa is not None
        return self.reconstruction, self.kappa

    def noise_multiplier(self, sampling: Sampling, *, steps: int) -> float:
        """Smallest noise multiplier, to four digits, that keeps the budget.

        Args:
            sampling: The sampling that runs.
            steps: Steps of the whole run, > 0.

        Raises:
            PrivacyError: If delta is not below 1 / units, true and declared, or the target cannot
                be met.
        """
        require_delta(self.delta, max(sampling.units, sampling.stated_units), sampling.unit)
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
        sampling_rate: Probability that a unit joins a step, in ``(0, 1]``.
        steps: Number of steps, > 0.

    Raises:
        PrivacyError: If no noise multiplier up to ``LARGEST_NOISE`` keeps the budget, or the
            accountant has no epsilon for so small a delta.
    """

    def excess(log_noise: float) -> float:
        mechanism = Mechanism(
            noise_multiplier=math.exp(log_noise), sampling_rate=sampling_rate, steps=steps
        )
        return budget.excess(compose([mechanism]))

    root = _root(excess, math.log(_likely_noise(budget.likely_mu, sampling_rate, steps)))
    if root == _HIGHEST:
        most = Mechanism(noise_multiplier=LARGEST_NOISE, sampling_rate=sampling_rate, steps=steps)
        if budget.epsilon is not None and (reason := compose([most]).too_small(budget.delta)):
            raise PrivacyError(f"budget: {reason}")
        raise PrivacyError(
            f"budget: {budget.target} cannot be met in {steps} steps at sampling rate "
            f"{sampling_rate:.4g}: a noise multiplier of {LARGEST_NOISE:g} does not suffice. Raise "
            "the target, or train fewer steps at a smaller rate."
        )
    if root == _LOWEST:
        return SMALLEST_NOISE  # huge targets, and units that are hardly ever drawn
    noise = _round_up(math.exp(root - _TOLERANCE))
    while excess(math.log(noise)) > 0:
        noise = _round_up(noise * (1 + 10.0**-_DIGITS))
    return noise


def _root(excess: Callable[[float], float], start: float) -> float:
    """Where a decreasing function falls to 0, or the end of the range nearest to that.

    Secant steps; halving where they leave the interval that holds the root, and where the function
    jumps over 0, which keeps secants from closing in.

    Args:
        excess: Function of the logarithm of the noise multiplier.
        start: First guess; there the function is taken to fall as fast as its argument rises.
    """
    low, high = _LOWEST - 1, _HIGHEST + 1
    at = min(max(start, _LOWEST), _HIGHEST)
    value = step = excess(at)
    secants = 8
    while high - low > _TOLERANCE:
        low, high = (at, high) if value > 0 else (low, at)
        if at in (_LOWEST, _HIGHEST) and not _LOWEST <= (low + high) / 2 <= _HIGHEST:
            return at
        following = min(max(at + step, _LOWEST), _HIGHEST)
        if abs(following - at) < _TOLERANCE:
            return following
        if not low < following < high or secants == 0:
            following = (low + high) / 2
        secants = max(0, secants - 1)
        change, before, at = following - at, value, following
        value = excess(at)
        step = change * value / (before - value) if before != value else math.inf
    return at


def _likely_noise(mu: float, sampling_rate: float, steps: int) -> float:
    """Noise multiplier at which a run is about as private as a Gaussian mechanism.

    The central limit theorem for subsampled Gaussians, ``mu = q sqrt(T (e^(1/sigma^2) - 1))``
    (Dong et al. 2019, arXiv 1905.02383), which overstates ``sigma`` where it is small; there a
    unit that joins every step bounds it. No account, only where the search starts.
    """
    limit = 1 / math.sqrt(math.log1p((mu / sampling_rate) ** 2 / steps))
    return min(limit, math.sqrt(steps) / mu)


def _mu(success: float, guess: float) -> float:
    """Gaussian ``mu`` at which a test succeeds so often when a guess succeeds so often."""
    return float(norm.ppf(min(success, _ALMOST_ONE)) - norm.ppf(guess))


def _round_up(value: float) -> float:
    digits = _DIGITS - 1 - math.floor(math.log10(value))
    return float(f"{math.ceil(value * 10.0**digits - 1e-9) / 10.0**digits:.{_DIGITS}g}")
