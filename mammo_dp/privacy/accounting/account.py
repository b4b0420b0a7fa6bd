# SPDX-License-Identifier: Apache-2.0
"""Accounts: from noisy mechanisms, composed, to a privacy curve.

Neighbouring cohorts differ in one unit, in one of two ways. *Zero-out*: the unit's data are
blanked, so that it adds nothing to any sum, and the number of units is the same and public.
*Add-or-remove*: the unit is there or not, which takes a divisor that is a declared constant. Either
way the clipped sum changes by the unit's part and nothing else does: both have the same accounts.

A unit is drawn as a whole, or it consists of crops that are drawn and clipped each on its own: then
more of them weaken its guarantee.

Privacy loss distributions (PLD, dp-accounting) give what is stated; Renyi accounting (RDP, Opacus)
gives the second opinion and takes over where PLD overflows, at noise so small that the loss leaves
the range of floating-point numbers. The best of a random number of fits has an account by RDP alone
(dp-accounting).
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, lru_cache
from importlib.machinery import PathFinder
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from dp_accounting import dp_event
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom

from mammo_dp.privacy.errors import PrivacyError

Accountant = Literal["PLD", "RDP"]
Adjacency = Literal["zero-out", "add-or-remove"]
_ERROR = 2.5e-4  # of epsilon at delta 1e-4, upwards, by the width of the grid
# Of delta, for each step. Steps are composed by Fourier transforms, whose rounding adds to tails or
# takes from them: between grids of several lengths up to 1e-16 for each of 2,700 to 100,000 steps.
_ROUNDING = 1e-15
_FINEST_INTERVAL = 1e-5
_SUBNORMAL = (690.0, 760.0)  # epsilons around those whose e^-epsilon is one
_MOST_POINTS, _MOST_POINTS_OF_STEP, _MOST_POINTS_OF_CROPS = 100_000, 30_000, 10_000
# By Renyi accounting. PLD would say less, slowly, and overflow soon after; none is protected.
_HOPELESS = 1e7
_ORDERS = (*(1 + x / 10.0 for x in range(1, 100)), *range(12, 64))  # those of Opacus
# Enough for the size of epsilon; Opacus takes .5 s for all of its fractional orders.
_ROUGH_ORDERS = (2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 63.0)  # whole ones are fast


def common(adjacencies: Iterable[Adjacency]) -> Adjacency:
    """The adjacency that all of some guarantees hold for.

    What holds for adding or removing a unit holds for blanking it too: a blanked unit adds nothing
    either. The reverse is not true where the number of units can be seen.
    """
    return "add-or-remove" if set(adjacencies) == {"add-or-remove"} else "zero-out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """Equal noisy steps on Poisson samples.

    Attributes:
        noise_multiplier: Standard deviation of the noise / clipping norm, > 0.
        sampling_rate: Probability that what is drawn joins a step, in ``(0, 1]``.
        steps: Number of steps, > 0.
        clipping_norm: Largest L2 norm of one clipped gradient; does not enter the account.
        crops_of_unit: Crops of one unit, each drawn and clipped on its own, >= 1; 1 is the plain
            subsampled Gaussian, whatever the unit is.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int
    clipping_norm: float = 1.0
    crops_of_unit: int = 1

    def __post_init__(self) -> None:
        """Refuses what is no mechanism.

        Raises:
            PrivacyError: For a value outside its range.
        """
        for name, holds, allowed in (  # accountants take squares, which must be finite
            ("noise_multiplier", 0 < self.noise_multiplier < 1e150, "above 0, below 1e150"),
            ("sampling_rate", 0 < self.sampling_rate <= 1, "above 0 and at most 1"),
            ("steps", self.steps >= 1 and self.steps == int(self.steps), "of 1, 2, 3 ..."),
            ("clipping_norm", 0 < self.clipping_norm < math.inf, "above 0 and finite"),
            ("crops_of_unit", self.crops_of_unit >= 1, "at least 1"),
        ):
            if not holds:
                raise PrivacyError(f"{name}={getattr(self, name)}. Give a value {allowed}.")

    @property
    def dominating(self) -> "Mechanism":
        """A plain subsampled Gaussian whose loss is at least this one's; itself for one crop.

        A unit of K crops shifts the sum by 0 to K clipping norms, by j with probability
        ``Bin(j; K, q)``. Both ways round, densities with and without the unit have a monotone
        ratio, so half-lines are the best tests; and the more a Gaussian is shifted, the better a
        half-line tells it from the one at 0. Moving every shift above 0 to K therefore raises
        delta at every epsilon, and with it every Renyi divergence. It leaves a shift of K with
        probability ``1 - (1 - q)^K``, or of 1 under ``noise / K``.
        """
        if self.crops_of_unit == 1:
            return self
        rate = self.sampling_rate
        drawn = 1.0 if rate == 1 else -math.expm1(self.crops_of_unit * math.log1p(-rate))
        return replace(
            self,
            noise_multiplier=self.noise_multiplier / self.crops_of_unit,
            sampling_rate=drawn,
            crops_of_unit=1,
        )

    def on_crops(self, crops: int) -> "Mechanism":
        """What it is to a unit of so many crops, each drawn and clipped on its own."""
        return replace(self, crops_of_unit=crops)

    @property
    def words(self) -> str:
        """For people."""
        return (
            f"{self.steps} noisy steps (noise multiplier {self.noise_multiplier:g}, sampling rate "
            f"{self.sampling_rate:g})"
        )

    @property
    def event(self) -> dp_event.DpEvent:
        """The same in the words of dp-accounting."""
        plain = self.dominating
        step = dp_event.PoissonSampledDpEvent(
            plain.sampling_rate, dp_event.GaussianDpEvent(plain.noise_multiplier)
        )
        return dp_event.SelfComposedDpEvent(step, plain.steps)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``privacy.json``."""
        return asdict(self)


PLANNED = ("law", "mean", "score_noise_multiplier")  # what plan and account share
Law = Literal["logarithmic", "geometric"]
# Shape of the truncated negative binomial, Papernot and Steinke 2021, arXiv 2110.03620.
_SHAPES: dict[Law, float] = {"logarithmic": 0.0, "geometric": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The best of a random number of equal fits; the others, and how many there were, stay private.

    Attributes:
        mechanisms: Of one fit, at least one.
        law: Of the number of fits, see :class:`SelectionPlan`.
        mean: Of the law, >= 1.
        score_noise_multiplier: Of the score of each fit, one Gaussian step on all units; ``None``
            if the score is no function of their data beyond the fit.

    Source: Papernot and Steinke 2021, arXiv 2110.03620, theorem 2: a best-of-n for a fixed n costs
    about n fits, a random n only a little more than one.
    """

    mechanisms: tuple[Mechanism, ...]
    law: Law
    mean: float
    score_noise_multiplier: float | None = None

    def __post_init__(self) -> None:
        """Refuses what is no selection.

        Raises:
            PrivacyError: For no mechanism, an unknown law, or a mean below 1.
        """
        if not self.mechanisms:
            raise PrivacyError("selection: of fits without a mechanism. Give those of one fit.")
        if self.law not in _SHAPES:
            raise PrivacyError(f"law={self.law!r}. Choose {' or '.join(_SHAPES)}.")
        if not 1 <= self.mean < math.inf:
            raise PrivacyError(f"mean={self.mean} fits. Give at least 1.")
        if (noise := self.score_noise_multiplier) is not None and not 0 < noise < math.inf:
            raise PrivacyError(f"score_noise_multiplier={noise}. Give a finite value above 0.")

    @property
    def clipping_norm(self) -> float:
        """Of the gradients of each fit."""
        return self.mechanisms[0].clipping_norm

    def on_crops(self, crops: int) -> "Selection":
        """What it is to a unit of so many parts, each drawn, clipped and scored on its own."""
        noise = self.score_noise_multiplier
        return replace(
            self,
            mechanisms=tuple(m.on_crops(crops) for m in self.mechanisms),
            score_noise_multiplier=None if noise is None else noise / crops,
        )

    @property
    def words(self) -> str:
        """For people."""
        each = " and ".join(mechanism.words for mechanism in self.mechanisms)
        if self.score_noise_multiplier is not None:
            each += f" and a noisy score (noise multiplier {self.score_noise_multiplier:g})"
        return (
            f"the best of a random number of fits ({self.law} law, mean {self.mean:g}), each of "
            f"{each}"
        )

    @property
    def event(self) -> dp_event.DpEvent:
        """The same in the words of dp-accounting."""
        one = dp_event.ComposedDpEvent([mechanism.event for mechanism in self.mechanisms])
        if self.score_noise_multiplier is not None:
            score = dp_event.GaussianDpEvent(self.score_noise_multiplier)
            one = dp_event.ComposedDpEvent([one, score])
        return dp_event.RepeatAndSelectDpEvent(one, self.mean, _SHAPES[self.law])

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``privacy.json``."""
        return {
            "law": self.law,
            "mean": self.mean,
            "score_noise_multiplier": self.score_noise_multiplier,
            "mechanisms": [mechanism.as_json() for mechanism in self.mechanisms],
        }


Noisy = Mechanism | Selection


def mechanism_from_json(stored: Mapping[str, Any]) -> Noisy:
    """Reads what ``as_json`` of either gave."""
    if "mechanisms" not in stored:
        return Mechanism(**stored)
    return Selection(
        **{**stored, "mechanisms": tuple(Mechanism(**each) for each in stored["mechanisms"])}
    )


def fits_of(mechanism: Noisy | None) -> tuple[Mechanism, ...]:
    """What one fit did, whether or not it was chosen among several."""
    if isinstance(mechanism, Selection):
        return mechanism.mechanisms
    return () if mechanism is None else (mechanism,)


def planned(mechanism: Noisy | None) -> dict[str, Any] | None:
    """What of a plan an account holds; ``None`` if nothing was selected."""
    if not isinstance(mechanism, Selection):
        return None
    return {name: getattr(mechanism, name) for name in PLANNED}


def rdp_epsilon(
    mechanisms: Sequence[Noisy],
    delta: float,
    orders: tuple[float, ...] = _ORDERS,
) -> float:
    """Epsilon of a composition by Renyi accounting.

    Args:
        mechanisms: Applied to the same units.
        delta: In ``(0, 1)``.
        orders: Renyi orders, > 1. Those of Opacus; dp-accounting drops some of its own and states
            70 where these give 60.

    Returns:
        An upper bound. Units of several crops have no closed form; they are accounted by the
        mechanism that dominates theirs, which is up to several times looser. Where something was
        selected, orders are those of dp-accounting.
    """
    plain = [mechanism for mechanism in mechanisms if isinstance(mechanism, Mechanism)]
    if len(plain) < len(mechanisms):
        return float(_renyi(mechanisms).get_epsilon(delta))
    rdp = _opacus_rdp()
    total = sum(
        mechanism.steps
        * np.asarray(_rdp_of_step(mechanism.sampling_rate, mechanism.noise_multiplier, orders))
        for mechanism in (each.dominating for each in plain)
    )
    with warnings.catch_warnings():  # the optimum may be the first or last order; still a bound
        warnings.simplefilter("ignore")
        epsilon, _ = rdp.get_privacy_spent(orders=orders, rdp=total, delta=delta)
    return max(0.0, float(epsilon))


@lru_cache(maxsize=512)
def _rdp_of_step(
    sampling_rate: float, noise_multiplier: float, orders: tuple[float, ...]
) -> tuple[float, ...]:
    """Renyi divergence of one step at each order; a tenth of a second where the noise is large."""
    found = _opacus_rdp().compute_rdp(
        q=sampling_rate, noise_multiplier=noise_multiplier, steps=1, orders=orders
    )
    return tuple(float(one) for one in np.atleast_1d(found))


@cache
def _opacus_rdp() -> ModuleType:
    """Opacus' Renyi accounting, which needs numpy and scipy only, without importing torch.

    ``import opacus`` imports torch, which takes seconds; ``mammo-dp privacy risk`` does without.
    """
    package = PathFinder.find_spec("opacus")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'opacus'", name="opacus")
    folder = Path(package.submodule_search_locations[0])
    spec = spec_from_file_location("opacus_rdp", folder / "accountants" / "analysis" / "rdp.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True, kw_only=True)
class PrivacyCurve:
    """Privacy of one unit under a composition of mechanisms.

    Attributes:
        accountant: Where the numbers come from.
        mechanisms: What was composed; no mechanism is perfect privacy.
        deltas: Maps epsilons, shape ``(n,)``, ascending, >= 0, to deltas.
        epsilon: Smallest stated epsilon for a delta; infinite below ``smallest_delta``.
        smallest_delta: Smallest delta, to two digits, that the accountant has an epsilon for. PLD
            counts tails that it cuts off, of 1e-15 for each mechanism, as an infinite loss, and so
            do we what rounding may have taken from them, up to 1e-15 for each step.
    """

    accountant: Accountant
    mechanisms: tuple[Noisy, ...]
    deltas: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    epsilon: Callable[[float], float]
    smallest_delta: float = 0.0

    def too_small(self, delta: float) -> str:
        """Says that there is no epsilon for a delta, in two sentences; empty if there is one."""
        if delta >= self.smallest_delta:
            return ""
        return (
            f"delta={delta:g} is below what {self.source} resolves, so its epsilon is infinite. "
            f"Give a delta of at least {self.smallest_delta:.2g}."
        )

    @cached_property
    def source(self) -> str:
        """Accountant and version, such as ``"PLD, dp-accounting 0.6.0"``."""
        plain = all(isinstance(mechanism, Mechanism) for mechanism in self.mechanisms)
        package = "opacus" if self.accountant == "RDP" and plain else "dp-accounting"
        return f"{self.accountant}, {package} {version(package)}"


def compose(mechanisms: Sequence[Noisy]) -> PrivacyCurve:
    """Privacy curve of mechanisms applied to the same units, one after the other.

    Args:
        mechanisms: At least one.

    Returns:
        Curve by PLD, or by RDP where PLD overflows or something was selected.

    Raises:
        PrivacyError: If there is none.

    Source: connect-the-dots, Doroshenko et al. 2022, arXiv 2207.04380.
    """
    if not (composed := tuple(mechanisms)):
        raise PrivacyError("mechanisms: are none. Give one at least; without any, epsilon is 0.")
    return _composed(composed)


@lru_cache(maxsize=128)  # statement, risks and check of one run ask for the same curves
def _composed(mechanisms: tuple[Noisy, ...]) -> PrivacyCurve:
    plain = tuple(each for each in mechanisms if isinstance(each, Mechanism))
    if len(plain) < len(mechanisms):
        return _curve_of_selection(mechanisms)
    rough = rdp_epsilon(plain, 1e-4, _ROUGH_ORDERS)
    if rough > _HOPELESS:
        return _rdp_curve(plain)
    try:
        interval = _interval(rough, plain)
        total = _loss(plain, interval)
        while interval > 1.5 * (finer := _interval(_epsilon(total, 1e-4), plain)):
            interval = finer  # RDP is loose at large epsilon
            total = _loss(plain, interval)
    except OverflowError:
        return _rdp_curve(plain)

    rounding = _ROUNDING * sum(mechanism.steps for mechanism in plain)
    return PrivacyCurve(
        accountant="PLD",
        mechanisms=plain,
        deltas=lambda epsilons: np.clip(total.get_delta_for_epsilon(epsilons) + rounding, 0.0, 1.0),
        epsilon=lambda delta: math.inf if delta <= rounding else _epsilon(total, delta - rounding),
        smallest_delta=_smallest_delta(total, rounding),
    )


def _epsilon(loss: privacy_loss_distribution.PrivacyLossDistribution, delta: float) -> float:
    """Smallest epsilon for a delta.

    dp-accounting divides by ``e^-epsilon``; where that is a subnormal number it returns infinity.
    """
    with np.errstate(over="ignore"):
        found = float(loss.get_epsilon_for_delta(delta))
    low, high = _SUBNORMAL
    if math.isinf(found) and loss.get_delta_for_epsilon(high) <= delta:
        return float(brentq(lambda e: loss.get_delta_for_epsilon(e) - delta, low, high))
    return found


def _smallest_delta(
    loss: privacy_loss_distribution.PrivacyLossDistribution, rounding: float
) -> float:
    """Smallest delta of two digits, rounded up, whose epsilon is finite."""
    cut_off = float(loss.get_delta_for_epsilon(math.inf)) + rounding
    if cut_off == 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(cut_off)) - 1)
    return float(f"{(math.floor(cut_off / unit) + 1) * unit:.1e}")


def _interval(epsilon: float, mechanisms: Sequence[Mechanism]) -> float:
    """Width of the grid, for an epsilon at delta 1e-4 that is known roughly.

    Connecting dots of distance h lifts the mean of one step's loss by up to ``h^2 / 8`` and its
    variance by up to ``h^2 / 6``. The total is about normal with variance ``mu^2``, where
    ``epsilon = mu^2 / 2 + z mu``, so ``T`` steps lift epsilon by ``T h^2 (1/8 + z / (12 mu))``.

    The points of all steps' losses and of one step's are bounded. The first matters at large
    epsilons, the second where epsilon says little about these losses: at tiny sampling rates.
    """
    z = 3.72  # standard normals exceed it with probability 1e-4
    mu = math.sqrt(z**2 + 2 * epsilon) - z
    steps = sum(mechanism.steps for mechanism in mechanisms)
    accurate = math.sqrt(_ERROR * epsilon / steps / (1 / 8 + z / (12 * mu))) if mu > 0 else 0.0
    noise = min(mechanism.dominating.noise_multiplier for mechanism in mechanisms)
    one_step = 0.5 / noise**2 + 10 / noise  # losses beyond have probability below 1e-20
    plain = all(mechanism.crops_of_unit == 1 for mechanism in mechanisms)
    points = _MOST_POINTS_OF_STEP if plain else _MOST_POINTS_OF_CROPS
    return max(_FINEST_INTERVAL, accurate, epsilon / _MOST_POINTS, one_step / points)


def _loss(
    mechanisms: Sequence[Mechanism], interval: float
) -> privacy_loss_distribution.PrivacyLossDistribution:
    """Privacy loss of a composition on a grid of one width."""
    first, *others = (
        _step_loss(mechanism, interval).self_compose(mechanism.steps) for mechanism in mechanisms
    )
    for part in others:
        first = first.compose(part)
    return first


def _step_loss(
    mechanism: Mechanism, interval: float
) -> privacy_loss_distribution.PrivacyLossDistribution:
    """Privacy loss of one step.

    Source: a mixture of Gaussians for units of several crops, Charles et al. 2024, arXiv
    2407.07737. We measure shifts in standard deviations: dp-accounting inverts mixtures with an
    absolute precision, and fails where the noise is not far above that. Where every crop is always
    drawn there is no mixture, and its inversion can fail.
    """
    if (most := mechanism.crops_of_unit) == 1 or mechanism.sampling_rate == 1:
        return privacy_loss_distribution.from_gaussian_mechanism(
            mechanism.noise_multiplier / most,
            sampling_prob=mechanism.sampling_rate,
            value_discretization_interval=interval,
            use_connect_dots=True,
        )
    drawn = np.arange(most + 1)
    return privacy_loss_distribution.from_mixture_gaussian_mechanism(
        1.0,
        drawn / mechanism.noise_multiplier,
        binom.pmf(drawn, most, mechanism.sampling_rate),
        value_discretization_interval=interval,
        use_connect_dots=True,
    )


def _rdp_curve(mechanisms: tuple[Mechanism, ...]) -> PrivacyCurve:
    """Curve for noise so small that only the probability of never being drawn protects a unit.

    Delta is bounded by the probability of being drawn at all, whatever epsilon: below the noise at
    which PLD overflows a drawn unit is certain to be seen.
    """
    plain = [mechanism.dominating for mechanism in mechanisms]
    always = any(mechanism.sampling_rate == 1 for mechanism in plain)
    never = (
        -math.inf if always else math.fsum(m.steps * math.log1p(-m.sampling_rate) for m in plain)
    )
    seen = -math.expm1(never)
    return PrivacyCurve(
        accountant="RDP",
        mechanisms=mechanisms,
        deltas=lambda epsilons: np.full(np.shape(epsilons), seen),
        epsilon=lambda delta: 0.0 if delta >= seen else rdp_epsilon(mechanisms, delta),
    )


def _curve_of_selection(mechanisms: tuple[Noisy, ...]) -> PrivacyCurve:
    """Curve by RDP of a composition in which something was selected.

    Each delta follows from the Renyi divergences, so that trade-offs read off the curve are valid;
    they are looser than those by PLD, most of all the advantage.
    """
    account = _renyi(mechanisms)
    return PrivacyCurve(
        accountant="RDP",
        mechanisms=mechanisms,
        deltas=lambda epsilons: np.array([account.get_delta(float(e)) for e in epsilons]),
        epsilon=lambda delta: float(account.get_epsilon(delta)),
    )


def _renyi(mechanisms: Sequence[Noisy]) -> RdpAccountant:
    account = RdpAccountant()
    for mechanism in mechanisms:
        account.compose(mechanism.event)
    return account
