# SPDX-License-Identifier: Apache-2.0
"""Scores of members and non-members: ROC curve, rates with intervals, comparison with a bound.

Scores grow with membership. There is one score per privacy unit, and units are apart from
one another. Intervals of rates are exact; thresholds are chosen on the non-members, and the
uncertainty of that choice is part of every comparison with a bound.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from classifier.evaluate import Estimate
from classifier.intervals import auroc_interval

Scores = NDArray[np.float64]
LEVEL = 0.95
FPRS = (0.01, 0.001)  # false-positive rates that results of attacks name
AUDIT_SCHEMA = 3  # of audit.json


@dataclass(frozen=True, slots=True, kw_only=True)
class RateAtFpr:
    """True-positive rate at a false-positive rate that non-members can only estimate.

    Attributes:
        tpr: Share of members above ``threshold``. The interval is for the rate at which fresh
            non-members pass exactly as often as asked for; few non-members leave it wide.
        above: The same share; its interval holds for ``threshold`` itself.
        fpr_high: Upper confidence limit of how often a fresh non-member passes ``threshold``.
        false_positives: Non-members above the threshold.
        allowed: Most non-members that may lie above it: ``floor(fpr * nonmembers)``.
        threshold: Scores above it count as members.
    """

    tpr: Estimate
    above: Estimate
    fpr_high: float
    false_positives: int
    allowed: int
    threshold: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What privacy accounting allows any attack on one cohort.

    Attributes:
        epsilon: End-to-end epsilon of the cohort, > 0; may be infinite.
        delta: Its delta, in ``[0, 1)``.
        advantage: Largest TPR - FPR, in ``[0, 1]``.
        tpr_at_fpr: Largest true-positive rate at some false-positive rates.
        sentence: What is stated, in words, with all that epsilon refers to; empty for no statement.
    """

    epsilon: float
    delta: float
    advantage: float
    tpr_at_fpr: Mapping[float, float]
    sentence: str = ""

    @property
    def auc(self) -> float:
        """Largest area under an ROC curve that lies at most ``advantage`` above the diagonal."""
        return 0.5 + self.advantage - self.advantage**2 / 2

    def tpr(self, fpr: float) -> float:
        """Largest true-positive rate at any false-positive rate.

        The exact curve is concave and starts at or above zero, so beyond a known point it stays
        below the ray through it; before one it stays below its height.

        Args:
            fpr: False-positive rate, in ``[0, 1]``.

        Returns:
            An upper limit of the trade-off curve at ``fpr``, in ``[0, 1]``.
        """
        limits = [1.0, fpr + self.advantage]
        limits += [
            height * max(1.0, fpr / known) for known, height in self.tpr_at_fpr.items() if known > 0
        ]
        if self.epsilon < 100:  # beyond that the exponential form says nothing
            limits.append(math.exp(self.epsilon) * fpr + self.delta)
        return min(limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Success of one attack on units whose membership is known.

    Attributes:
        members: Number of member units.
        nonmembers: Number of non-member units.
        auc: Probability that a member scores above a non-member, ties counted half.
        advantage: Largest TPR - FPR over all thresholds.
        tpr_at_fpr: By false-positive rate.
        level: Coverage of each interval.
    """

    members: int
    nonmembers: int
    auc: Estimate
    advantage: Estimate
    tpr_at_fpr: Mapping[float, RateAtFpr]
    level: float = LEVEL


def audit(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    *,
    fprs: tuple[float, ...] = (0.01, 0.001),
    level: float = LEVEL,
) -> Audit:
    """Rates with intervals from the scores of members and non-members.

    Args:
        member_scores: One score per member unit, shape ``(members,)``, finite.
        nonmember_scores: One score per non-member unit, shape ``(nonmembers,)``, finite.
        fprs: False-positive rates, each in ``(0, 1)``.
        level: Coverage of each interval, in ``(0, 1)``.

    Raises:
        ValueError: If a group is empty or a score is not finite.
    """
    members, nonmembers = _checked(member_scores, nonmember_scores)
    return Audit(
        members=len(members),
        nonmembers=len(nonmembers),
        auc=auc(members, nonmembers, level=level),
        advantage=advantage(members, nonmembers, level=level),
        tpr_at_fpr={fpr: tpr_at_fpr(members, nonmembers, fpr=fpr, level=level) for fpr in fprs},
        level=level,
    )


def roc(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> tuple[Scores, Scores, Scores]:
    """ROC curve with one point per distinct score.

    Returns:
        False-positive rates, true-positive rates and thresholds, each of shape ``(points,)``. The
        first point is (0, 0) with an infinite threshold, the last (1, 1); at a threshold, scores
        at or above it count as members.
    """
    members, nonmembers = _checked(member_scores, nonmember_scores)
    thresholds = np.unique(np.concatenate([members, nonmembers]))[::-1]
    fpr = 1 - np.searchsorted(np.sort(nonmembers), thresholds, side="left") / len(nonmembers)
    tpr = 1 - np.searchsorted(np.sort(members), thresholds, side="left") / len(members)
    return np.append(0.0, fpr), np.append(0.0, tpr), np.append(np.inf, thresholds)


def auc(member_scores: ArrayLike, nonmember_scores: ArrayLike, *, level: float = LEVEL) -> Estimate:
    """Area under the ROC curve, with the interval of :func:`classifier.intervals.auroc_interval`.

    The units are apart from one another, as members and non-members are different patients.
    """
    members, nonmembers = _checked(member_scores, nonmember_scores)
    is_member = np.repeat([1, 0], [len(members), len(nonmembers)])
    scores = np.concatenate([members, nonmembers])
    return Estimate(*auroc_interval(is_member, scores, np.arange(len(scores)), level=level))


def advantage(
    member_scores: ArrayLike, nonmember_scores: ArrayLike, *, level: float = LEVEL
) -> Estimate:
    """Largest TPR - FPR over all thresholds.

    The maximum over thresholds is biased upwards, so its bootstrap interval would exclude zero
    for random scores. The interval here holds for all thresholds at once and therefore for the
    best one; it is wide, and it is right.

    Source: Dvoretzky, Kiefer, Wolfowitz 1956 with the constant of Massart 1990, once per group.
    """
    members, nonmembers = _checked(member_scores, nonmember_scores)
    fpr, tpr, _ = roc(members, nonmembers)
    value = float((tpr - fpr).max())
    tail = (1 - level) / 4  # two ends, two groups
    margin = sum(math.sqrt(math.log(1 / tail) / (2 * len(g))) for g in (members, nonmembers))
    return Estimate(value, max(0.0, value - margin), min(1.0, value + margin))


def tpr_at_fpr(
    member_scores: ArrayLike, nonmember_scores: ArrayLike, *, fpr: float, level: float = LEVEL
) -> RateAtFpr:
    """Share of members above a threshold that at most ``floor(fpr * nonmembers)`` others exceed.

    Thresholds are order statistics of the non-members, so how often a fresh non-member exceeds
    one follows a beta law, whose limits are those of Clopper and Pearson. Members take no part in
    the choice, so the limits of their rate are exact too. The interval of ``tpr`` joins both: its
    lower end stands at a threshold that surely lets at most ``fpr`` pass, its upper end at one
    that surely lets more pass.

    Args:
        member_scores: Shape ``(members,)``.
        nonmember_scores: Shape ``(nonmembers,)``.
        fpr: False-positive rate, in ``(0, 1)``.
        level: Coverage of each interval.
    """
    members, nonmembers = _checked(member_scores, nonmember_scores)
    if not 0 < fpr < 1:
        raise ValueError(f"{fpr=}. Give a false-positive rate between 0 and 1.")
    size, highest = len(nonmembers), np.sort(nonmembers)[::-1]
    allowed = math.floor(fpr * size + 1e-9)  # 0.29 * 100 is 28.999...
    threshold = float(highest[allowed])
    found = int((members > threshold).sum())
    strict = (1 + level) / 2  # half of the error for the threshold, half for the members
    order = np.arange(min(size, 10 * allowed + 50))  # further ones let far more than fpr pass
    passing = stats.beta(order + 1, size - order)  # how often a fresh non-member exceeds each
    surely_at_most = np.flatnonzero(passing.ppf((1 + strict) / 2) <= fpr)
    surely_more = np.flatnonzero(passing.ppf((1 - strict) / 2) >= fpr)
    low, high = 0.0, 1.0
    if len(surely_at_most):
        passed = int((members > highest[surely_at_most[-1]]).sum())
        low = clopper_pearson(passed, len(members), level=strict)[0]
    if len(surely_more):
        passed = int((members >= highest[surely_more[0]]).sum())
        high = clopper_pearson(passed, len(members), level=strict)[1]
    share = found / len(members)
    return RateAtFpr(
        tpr=Estimate(share, min(low, share), max(high, share)),
        above=Estimate(share, *clopper_pearson(found, len(members), level=level)),
        fpr_high=clopper_pearson(allowed, size, level=level)[1],
        false_positives=int((nonmembers > threshold).sum()),
        allowed=allowed,
        threshold=threshold,
    )


def clopper_pearson(successes: int, trials: int, *, level: float = LEVEL) -> tuple[float, float]:
    """Exact two-sided interval of a binomial proportion, as lower and upper limit."""
    tail = (1 - level) / 2
    low = stats.beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1
    return float(low), float(high)


def exceeds(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    bounds: Bounds,
    *,
    fprs: tuple[float, ...] = (0.01, 0.001),
    level: float = LEVEL,
) -> bool:
    """Whether the scores refute the bounds.

    Asks, for the advantage and for each false-positive rate, whether the lower limit of the
    success lies above what the bound allows at the *upper* limit of the false-positive rate. The
    questions share the error: where units' scores are independent, as those of canaries are, an
    attack on a model that keeps its bounds is called a finding with probability at most
    ``1 - level``. Patients of one run share its noise, for which no interval accounts: a narrow
    finding on them asks for a second run.
    """
    each = 1 - (1 - level) / (1 + len(fprs))
    best = advantage(member_scores, nonmember_scores, level=each)
    rates = [tpr_at_fpr(member_scores, nonmember_scores, fpr=fpr, level=each) for fpr in fprs]
    return best.low > bounds.advantage or any(
        rate.above.low > bounds.tpr(rate.fpr_high) for rate in rates
    )


def log_mixture(log_ratio: ArrayLike, rate: float) -> Scores:
    """Log-likelihood ratio of one step that includes a unit with probability ``rate``.

    Args:
        log_ratio: Log-likelihood ratio of a step that certainly includes it, any shape.
        rate: Sampling rate ``q``, in ``(0, 1]``.

    Returns:
        ``log(1 - q + q exp(log_ratio))``, of the same shape.
    """
    included = np.log(rate) + np.asarray(log_ratio, np.float64)
    return included if rate == 1 else np.asarray(np.logaddexp(np.log1p(-rate), included))


def likelihood_ratios(
    products: NDArray[np.float64],
    squares: ArrayLike,
    *,
    noise_multiplier: float,
    sampling_rate: float,
) -> Scores:
    """Log-likelihood ratio of "this unit may have been sampled" against "it was not", of one step.

    Args:
        products: ``<r, g> / C^2`` of a noisy sum without all others and the clipped gradient of
            the unit, any shape.
        squares: ``||g||^2 / C^2``, broadcasts with ``products``; 1 for a canary.
        noise_multiplier: ``sigma``, > 0.
        sampling_rate: ``q``, in ``(0, 1]``.

    Returns:
        ``log(1 - q + q exp((2 <r, g> - ||g||^2) / (2 sigma^2 C^2)))``, of the same shape. Sums over
        steps are scores; by Neyman and Pearson no test of the products does better.

    Source: the privacy loss of Poisson-subsampled Gaussian noise.
    """
    return log_mixture(
        (2 * products - np.asarray(squares, np.float64)) / (2 * noise_multiplier**2), sampling_rate
    )


def rates_as_json(found: Audit, bounds: Bounds | None = None) -> dict[str, Any]:
    """Area, advantage and rates with intervals, and beside each the bound if there is one."""

    def cell(estimate: Estimate, bound: float | None) -> dict[str, float]:
        return asdict(estimate) | ({} if bound is None else {"bound": bound})

    return {
        "auc": cell(found.auc, bounds.auc if bounds else None),
        "advantage": cell(found.advantage, bounds.advantage if bounds else None),
        "tpr_at_fpr": {
            f"{fpr:g}": cell(rate.tpr, bounds.tpr(fpr) if bounds else None)
            | {
                "false_positives": rate.false_positives,
                "false_positives_allowed": rate.allowed,
                "at_this_threshold": cell(rate.above, bounds.tpr(rate.fpr_high) if bounds else None)
                | {"fpr_high": rate.fpr_high},
            }
            for fpr, rate in found.tpr_at_fpr.items()
        },
    }


def _checked(member_scores: ArrayLike, nonmember_scores: ArrayLike) -> tuple[Scores, Scores]:
    members = np.asarray(member_scores, dtype=np.float64)
    nonmembers = np.asarray(nonmember_scores, dtype=np.float64)
    for name, scores in (("member_scores", members), ("nonmember_scores", nonmembers)):
        if scores.ndim != 1 or not len(scores):
            raise ValueError(f"{name}: shape {scores.shape}. Give one score per unit, at least 1.")
        if bad := int((~np.isfinite(scores)).sum()):
            raise ValueError(f"{name}: {bad} scores are not finite. Check the attacked model.")
    return members, nonmembers
