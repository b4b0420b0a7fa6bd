# SPDX-License-Identifier: Apache-2.0
"""Checks a private training loop on canaries: number of updates, noise, contribution of a unit.

Lower bounds on epsilon hold for any mechanism, so only a gross fault brings one above the stated
epsilon. These checks compare the loop with the mechanism that is stated: its noise, the clipped and
sampled contribution of a unit, its updates. Each test errs with probability ``1 - SURE`` on a loop
that does as stated, so rarely that a finding is a fault and no accident.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from classifier.evaluate import Estimate
from mammo_dp.attacks.audit.canary_fit import Observed
from mammo_dp.attacks.lower_bounds import composed
from mammo_dp.privacy.accounting.account import Mechanism

SURE = 1 - 1e-6  # a verdict stops a release, and audits are many
_MORE = 1.001  # of epsilon; accountants of other versions round differently


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopCheck:
    """Measurements on a fit with canaries, beside what its statement says.

    Attributes:
        updates: Updates of the weights that were seen.
        epsilon: Of what the fit itself accounted, at the statement's delta.
        noise: Noise multiplier, with its interval of ``SURE`` on either side.
        part: Clipping norms by which one canary moves the noisy sum, mean over steps; its interval
            as that of ``noise``. At most the sampling rate, if each is clipped once.
        same_noise: Pairs of updates with the same noise, those after another start from the same
            saved state among them.
        findings: What is worse than stated, in sentences without a full stop.
    """

    updates: int
    epsilon: float
    noise: Estimate
    part: Estimate
    same_noise: int
    findings: tuple[str, ...]

    def as_json(self) -> Mapping[str, Any]:
        """Plain values, for ``audit.json``."""
        return asdict(self)


def check_loop(observed: Observed, stated: Mechanism, *, epsilon: float, delta: float) -> LoopCheck:
    """Measures a fit with canaries against what is stated.

    Args:
        observed: The fit; at least 3 canaries in, and 3 out.
        stated: Mechanism of the statement.
        epsilon: Of the statement.
        delta: Of epsilon.
    """
    updates = len(observed.products)
    absent = observed.products[:, ~observed.inside]
    present = observed.products[:, observed.inside]
    spent = composed(observed.accounted).epsilon(delta)
    noise = _deviation(absent)
    part = _part(present, stated)
    same = _same_noise(np.concatenate([absent, observed.again[:, ~observed.inside]]))
    unlikely = 1 - SURE
    findings = []
    if updates > stated.steps:
        findings.append(f"{updates} updates of the weights were seen, {stated.steps} are stated")
    if spent > epsilon * _MORE:
        findings.append(
            f"the settings of the run spend epsilon {spent:.4g} (noise multiplier "
            f"{observed.accounted.noise_multiplier:.4g}, sampling rate "
            f"{observed.accounted.sampling_rate:.4g}, {observed.accounted.steps} steps), "
            f"{epsilon:.4g} is stated"
        )
    if noise.high < stated.noise_multiplier:
        findings.append(
            f"the noise multiplier is {noise.value:.3g} [{noise.low:.3g}, {noise.high:.3g}], "
            f"{stated.noise_multiplier:.3g} is stated"
        )
    if _probability_of_part(present, stated) < unlikely:
        findings.append(
            f"a unit moves the noisy sum by {part.value:.3g} clipping norms a step on average "
            f"[{part.low:.3g}, {part.high:.3g}]; drawn at rate {stated.sampling_rate:.3g} and "
            "clipped once, by no more than the rate"
        )
    if same:
        findings.append(
            f"{same} of the pairs of updates {'has' if same == 1 else 'have'} the same noise, "
            "which can be subtracted"
        )
    return LoopCheck(
        updates=updates,
        epsilon=spent,
        noise=noise,
        part=part,
        same_noise=same,
        findings=tuple(findings),
    )


def _deviation(absent: NDArray[np.float64]) -> Estimate:
    """Standard deviation of normal numbers around 0, with exact limits."""
    squares, count = float(np.square(absent).sum()), absent.size
    low, high = (math.sqrt(squares / stats.chi2.ppf(p, count)) for p in (SURE, 1 - SURE))
    return Estimate(math.sqrt(squares / count), low, high)


def _part(present: NDArray[np.float64], stated: Mechanism) -> Estimate:
    """Mean over steps and canaries, with limits of the normal law."""
    rate = stated.sampling_rate
    spread = math.sqrt((stated.noise_multiplier**2 + rate * (1 - rate)) / present.size)
    margin = float(stats.norm.ppf(SURE)) * spread
    mean = float(present.mean())
    return Estimate(mean, mean - margin, mean + margin)


def _probability_of_part(present: NDArray[np.float64], stated: Mechanism) -> float:
    """Probability that stated noise and stated draws add up to as much; exact.

    Draws of all canaries in all steps are binomial, their noise is normal.
    """
    count, rate = present.size, stated.sampling_rate
    draws = np.arange(count + 1)
    rest = (present.sum() - draws) / (stated.noise_multiplier * math.sqrt(count))
    return float(stats.binom.pmf(draws, count, rate) @ stats.norm.sf(rest))


def _same_noise(absent: NDArray[np.float64]) -> int:
    """Pairs of rows that are more alike than independent normal rows are.

    The law of a correlation of independent normal samples is Student's, exactly; all pairs share
    the error.
    """
    rows, columns = absent.shape
    pairs = rows * (rows - 1) // 2
    if not pairs:
        return 0
    threshold = float(stats.t.isf((1 - SURE) / pairs / 2, columns - 2))
    limit = threshold / math.sqrt(threshold**2 + columns - 2)
    centred = absent - absent.mean(axis=1, keepdims=True)
    units = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-300)
    found = 0
    for start in range(0, rows, 1000):  # of rows, so that long fits fit into memory
        alike = np.abs(units[start : start + 1000] @ units[start:].T) > limit
        found += int(np.triu(alike, 1).sum())
    return found
