# SPDX-License-Identifier: Apache-2.0
"""Lower bounds on epsilon from attack scores: a smaller epsilon is refuted.

A lower bound above the stated epsilon refutes the statement. One far below it refutes nothing: no
attack on a limited number of canaries shows more than its ceiling, so the ceiling stands beside
every bound.

Scores grow with membership, one per canary. Those of :func:`many_run` and
:func:`many_run_gaussian` are independent: from a run of its own each, or from orthogonal canaries
of one run, since the noise of a Gaussian mechanism is independent along orthogonal directions.
:func:`one_run` needs no independence, but membership that was tossed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit, log_ndtr

from mammo_dp.attacks.statistics import LEVEL, Scores, clopper_pearson
from mammo_dp.privacy.accounting.account import Mechanism, PrivacyCurve, compose
from mammo_dp.privacy.accounting.risk import TradeOff

_LEAST_NOISE, _MOST_NOISE = -256, 320  # of the stated noise multiplier: steps of 2^(1/64), 1.1 %


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerBound:
    """What scores prove about the privacy of the unit that a canary is.

    Attributes:
        epsilon: Largest epsilon that the scores refute, >= 0; 0 refutes nothing.
        ceiling: What a perfect attack on as many canaries would have refuted.
        delta: Delta that the epsilon refers to.
        level: Confidence that the true epsilon is not below.
        assumes: What must hold of the mechanism beyond (epsilon, delta); empty for nothing.
    """

    epsilon: float
    ceiling: float
    delta: float
    level: float
    assumes: str = ""


def many_run(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    *,
    delta: float,
    allowed: Sequence[int] | None = None,
    level: float = LEVEL,
) -> LowerBound:
    """Lower bound from exact limits of true- and false-positive rates.

    Thresholds lie at order statistics of the non-members, whose false-positive rates have the
    limits of Clopper and Pearson; members take no part in the choice. All rates share the error,
    so that the best threshold may be taken. A mechanism that reveals absence rather than presence
    is found with the groups exchanged and the scores negated.

    Args:
        member_scores: Shape ``(members,)``, finite.
        nonmember_scores: Shape ``(nonmembers,)``, finite.
        delta: Delta of the statement, in ``[0, 1)``.
        allowed: Non-members that may lie above each threshold that is tried, fixed before the
            scores are seen; 0, 1, 3, 7, ... if not given. A single one needs no correction.
        level: Confidence, in ``(0, 1)``.

    Source: ``epsilon >= log((TPR - delta) / FPR)`` with Clopper-Pearson limits, Nasr et al. 2021,
    arXiv 2101.04535; the correction for the choice of the threshold is ours.
    """
    if not 0 <= delta < 1:
        raise ValueError(f"{delta=}. Give a value from 0 to below 1.")
    fpr, tpr, perfect = _limits(member_scores, nonmember_scores, allowed, level)

    def refuted(tpr: NDArray[np.float64]) -> float:
        ratio = np.maximum(tpr - delta, 0.0) / fpr
        return math.log(max(1.0, float(ratio.max())))

    return LowerBound(epsilon=refuted(tpr), ceiling=refuted(perfect), delta=delta, level=level)


def many_run_gaussian(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    *,
    delta: float,
    allowed: Sequence[int] | None = None,
    level: float = LEVEL,
) -> LowerBound:
    """As :func:`many_run`, for mechanisms whose trade-off curve is known to be Gaussian.

    The rates then fix the whole curve, also where no canary reaches, so the bound comes closer. It
    holds for full batches of a Gaussian mechanism; subsampled steps have another curve.

    Args:
        member_scores: Shape ``(members,)``, finite.
        nonmember_scores: Shape ``(nonmembers,)``, finite.
        delta: Delta of the statement, in ``(0, 1)``.
        allowed: See :func:`many_run`.
        level: Confidence, in ``(0, 1)``.

    Source: ``mu >= Phi^-1(1 - FPR) - Phi^-1(FNR)``, Nasr et al. 2023, arXiv 2302.07956.
    """
    fpr, tpr, perfect = _limits(member_scores, nonmember_scores, allowed, level)

    def refuted(tpr: NDArray[np.float64]) -> float:
        distance = stats.norm.isf(fpr) - stats.norm.isf(tpr)
        return gaussian_epsilon(max(0.0, float(distance.max())), delta)

    return LowerBound(
        epsilon=refuted(tpr),
        ceiling=refuted(perfect),
        delta=delta,
        level=level,
        assumes="Gaussian trade-off curve",
    )


def one_run(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    *,
    guessed_in: int,
    guessed_out: int,
    delta: float,
    level: float = LEVEL,
) -> LowerBound:
    """Lower bound from guesses about canaries of one run, each in by the toss of a fair coin.

    Guesses "in" for the highest scores and "out" for the lowest; ties count against the attacker.

    Args:
        member_scores: Scores of the canaries that were in, shape ``(members,)``, finite.
        nonmember_scores: Scores of those that were not, shape ``(nonmembers,)``, finite.
        guessed_in: Number of guesses "in", >= 0, fixed before the scores are seen.
        guessed_out: Number of guesses "out", >= 0, likewise; the other canaries stay open.
        delta: Delta of the statement, at most 1 / (2 canaries).
        level: Confidence, in ``(0, 1)``.

    Source: Steinke et al. 2023, arXiv 2305.08846, theorem 5.2; with ``2 m delta <= 1`` its p-value
    grows with epsilon.
    """
    right, guesses, canaries = _guessed(member_scores, nonmember_scores, guessed_in, guessed_out)
    if not 0 <= 2 * canaries * delta <= 1:
        raise ValueError(
            f"{delta=} for {canaries} canaries. Give at most {0.5 / canaries:.2g}, one over twice "
            "their number, or use fewer canaries."
        )

    def refuted(right: int) -> float:
        def excess(epsilon: float) -> float:
            return _probability_of_guesses(epsilon, right, guesses, canaries, delta) - (1 - level)

        return 0.0 if excess(0.0) >= 0 else float(brentq(excess, 0.0, 50.0))

    return LowerBound(epsilon=refuted(right), ceiling=refuted(guesses), delta=delta, level=level)


def one_run_curve(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    *,
    guessed_in: int,
    guessed_out: int,
    stated: Mechanism,
    delta: float,
    level: float = LEVEL,
) -> LowerBound:
    """As :func:`one_run`, for a mechanism whose trade-off curve is known up to its noise.

    Epsilon and delta are one point of a curve, and guesses meet all of it. So the bound asks which
    noise multipliers the guesses refute, sampling rate and steps as stated, and gives the epsilon
    of the smallest of these. It is above the stated epsilon only if the stated curve is refuted.

    Args:
        member_scores: Scores of the canaries that were in, shape ``(members,)``, finite.
        nonmember_scores: Scores of those that were not, shape ``(nonmembers,)``, finite.
        guessed_in: Number of guesses "in", >= 0, fixed before the scores are seen.
        guessed_out: Number of guesses "out", >= 0, likewise.
        stated: The mechanism; its noise multiplier is where the search starts.
        delta: Delta of the statement, in ``(0, 1)``.
        level: Confidence, in ``(0, 1)``.

    Source: auditing of f-DP in one run, Mahloujifar et al. 2024, arXiv 2410.22235, see
    :func:`guesses_refute`.
    """
    right, guesses, canaries = _guessed(member_scores, nonmember_scores, guessed_in, guessed_out)

    def curve(step: int) -> PrivacyCurve:
        return composed(
            replace(stated, noise_multiplier=stated.noise_multiplier * 2 ** (step / 64))
        )

    def refuted(right: int) -> float:
        def holds(step: int) -> bool:
            return not guesses_refute(
                TradeOff(curve(step)), right, guesses=guesses, canaries=canaries, level=level
            )

        low, high = _LEAST_NOISE, _MOST_NOISE  # more noise is refuted more easily
        if holds(high):
            return 0.0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(middle) else (low, middle)
        return curve(high).epsilon(delta)

    return LowerBound(
        epsilon=refuted(right),
        ceiling=refuted(guesses),
        delta=delta,
        level=level,
        assumes="sampling rate and steps as stated",
    )


def guesses_refute(
    misses: TradeOff, right: int, *, guesses: int, canaries: int, level: float = LEVEL
) -> bool:
    """Whether so many right guesses are too many for a trade-off curve.

    For j canaries, ``p_j`` the probability that just j guesses are right, compare a canary's true
    side with the other one. Right guesses about it, in events of at least i + 1 right ones, have
    probability ``r_(i+1) = sum_(j > i) j p_j / m``, wrong ones ``h_i = sum_(j >= i) (n - j) p_j /
    m``, and the curve asks ``1 - r_(i+1) >= f(h_i)``, that is, ``h_i >= f(1 - r_(i+1))``. If
    ``right`` or more had probability ``1 - level``, the least values that fulfil this, from
    ``right`` down to 0, may not add up to more than 1.

    Args:
        misses: The curve, its own inverse.
        right: Guesses that were right.
        guesses: Guesses, n.
        canaries: Canaries, m, each in by the toss of a fair coin.
        level: Confidence, in ``(0, 1)``.

    Returns:
        True if ``right`` or more have a probability below ``1 - level`` under the curve.

    Source: Mahloujifar et al. 2024, arXiv 2410.22235, for two sides; by induction, the least values
    from ``right`` down are the least for every smaller number, also where ``f`` asks for nothing.
    """
    correct = (1 - level) * right / canaries
    wrong = (1 - level) * (guesses - right) / canaries
    for fewer in range(right - 1, -1, -1):
        before, wrong = wrong, max(wrong, misses(1 - correct))
        correct += fewer / (guesses - fewer) * (wrong - before)
        if correct + wrong > guesses / canaries:
            return True
    return False


@lru_cache(maxsize=1024)
def composed(mechanism: Mechanism) -> PrivacyCurve:
    """Privacy curve of one mechanism; searches meet the same ones again and again."""
    return compose([mechanism])


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Smallest epsilon of a Gaussian mechanism at a delta.

    Args:
        mu: Distance of its two outputs in standard deviations, >= 0.
        delta: In ``(0, 1)``.

    Source: Balle and Wang 2018, arXiv 1805.06530, theorem 8.
    """
    if not 0 < delta < 1:
        raise ValueError(f"{delta=}. Give a value between 0 and 1; a Gaussian has no pure epsilon.")

    def excess(epsilon: float) -> float:
        above, below = mu / 2 - epsilon / mu, -mu / 2 - epsilon / mu
        return math.exp(log_ndtr(above)) - math.exp(epsilon + log_ndtr(below)) - delta

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, mu * (mu / 2 + stats.norm.isf(delta))))


def _guessed(
    member_scores: ArrayLike, nonmember_scores: ArrayLike, guessed_in: int, guessed_out: int
) -> tuple[int, int, int]:
    """Guesses by the order of the scores: right ones, all, and the number of canaries."""
    members = _descending("member_scores", member_scores)
    nonmembers = _descending("nonmember_scores", nonmember_scores)
    canaries, guesses = len(members) + len(nonmembers), guessed_in + guessed_out
    if min(guessed_in, guessed_out) < 0 or not 0 < guesses <= canaries:
        raise ValueError(
            f"{guessed_in=}, {guessed_out=} for {canaries} canaries. Give counts that add up to "
            "at least one guess and at most one per canary."
        )
    scores = np.concatenate([members, nonmembers])
    member = np.arange(canaries) < len(members)
    highest = member[np.lexsort((member, -scores))][:guessed_in]
    lowest = member[np.lexsort((~member, scores))][:guessed_out]
    return int(highest.sum() + (~lowest).sum()), guesses, canaries


def _limits(
    member_scores: ArrayLike,
    nonmember_scores: ArrayLike,
    allowed: Sequence[int] | None,
    level: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Limits of rates that hold together, one of each per threshold, shape ``(thresholds,)``.

    Returns:
        Upper limits of false-positive rates, lower limits of true-positive rates, and what the
        latter would be if every member lay above the threshold.
    """
    members = _descending("member_scores", member_scores)
    nonmembers = _descending("nonmember_scores", nonmember_scores)
    if allowed is None:
        allowed = [2**k - 1 for k in range(len(nonmembers).bit_length())]
    if not allowed or min(allowed) < 0 or max(allowed) >= len(nonmembers):
        raise ValueError(
            f"allowed={list(allowed)} of {len(nonmembers)} non-members. Give at least one number "
            "of them, each from 0 to below all."
        )
    each = 1 - (1 - level) / len(allowed)  # the two tails serve the two rates of a threshold
    passed = [int((members > nonmembers[count]).sum()) for count in allowed]
    fpr = [clopper_pearson(count, len(nonmembers), level=each)[1] for count in allowed]
    tpr = [clopper_pearson(count, len(members), level=each)[0] for count in passed]
    perfect = clopper_pearson(len(members), len(members), level=each)[0]
    return np.array(fpr), np.array(tpr), np.full(len(allowed), perfect)


def _probability_of_guesses(
    epsilon: float, right: int, guesses: int, canaries: int, delta: float
) -> float:
    """Largest probability of at least ``right`` right guesses under (epsilon, delta)."""
    at_least = stats.binom.sf(np.arange(right, -1, -1) - 1, guesses, expit(epsilon))
    lost = (at_least[1:] - at_least[0]) / np.arange(1, right + 1)
    return min(1.0, float(at_least[0] + 2 * canaries * delta * lost.max(initial=0.0)))


def _descending(name: str, scores: ArrayLike) -> Scores:
    array = np.asarray(scores, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name}: shape {array.shape}. Give one score per canary, at least 1.")
    if bad := int((~np.isfinite(array)).sum()):
        raise ValueError(f"{name}: {bad} scores are not finite. Check the attacked run.")
    return np.sort(array)[::-1]
