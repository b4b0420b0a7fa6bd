# SPDX-License-Identifier: Apache-2.0
"""Naming a patient from a list: what scores of candidates amount to, beside the bound.

Threat model (rung 1, what privacy accounting assumes): the adversary knows all other patients,
who of them was drawn, every noisy update and all settings, and holds a list of candidates, one of
whom is the target. It takes what is left of an update without the others, compares it with the
gradient of each candidate, and adds up log-likelihood ratios over the steps.

Two successes at a chance ``kappa`` of guessing right:

* *recognised*: the target passes a threshold that outsiders pass with chance ``kappa``. Gradients
  at the clipping norm attain the bound ``1 - f(kappa)``.
* *named*: the target has the best score of ``1 / kappa`` candidates. The bound holds and is not
  attained by a list of more than two: it would take disjoint half-spaces of chance ``kappa`` each.

Source: Hayes et al. 2023, arXiv 2302.07225; bound by Kaissis et al. 2023, arXiv 2307.03928.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifier.evaluate import Estimate
from mammo_dp.attacks.audit import LEVEL, clopper_pearson, tpr_at_fpr
from mammo_dp.attacks.signals import AttackError
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.risk import risk_of

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateScores:
    """Scores of candidates, saved once so that they can be judged again; private data.

    Attributes:
        targets: Score of each target, who took part, shape ``(targets,)``.
        lists: Scores of the others on each target's list, shape ``(targets, others)``.
        outsiders: Scores of patients who took no part, on updates without them, shape
            ``(outsiders,)``: how high a score gets by chance.
    """

    targets: Scores
    lists: Scores
    outsiders: Scores

    def __post_init__(self) -> None:
        """Refuses scores that say nothing.

        Raises:
            AttackError: For missing or infinite scores.
        """
        if not (len(self.targets) == len(self.lists) and self.lists.ndim == 2):
            raise AttackError(
                f"candidates: {len(self.targets)} targets, lists of shape {self.lists.shape}. Give "
                "each target its list."
            )
        if not (self.targets.size and self.lists.size and self.outsiders.size):
            raise AttackError(
                "candidates: no target, nobody else on its list, or no outsider. Give patients who "
                "took part, and patients who did not."
            )
        for name in ("targets", "lists", "outsiders"):
            if not np.isfinite(getattr(self, name)).all():
                raise AttackError(f"candidates: a score of {name} is not finite. Train again.")

    @property
    def kappa(self) -> float:
        """Chance of naming a target by guessing: one over the length of its list."""
        return 1 / (1 + int(self.lists.shape[1]))

    @property
    def named(self) -> NDArray[np.bool_]:
        """Whether each target alone has the best score on its list, shape ``(targets,)``."""
        return np.asarray(self.targets > self.lists.max(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """Success of the attack at one chance of guessing right, beside its bound.

    Attributes:
        kappa: Chance of success without the release, in ``(0, 1)``.
        success: Share of targets, with an exact interval that takes them as independent.
        bound: Largest success of any adversary, ``1 - f(kappa)``; 1 without privacy.
        targets: Number of targets.
    """

    kappa: float
    success: Estimate
    bound: float
    targets: int

    @property
    def exceeds_bound(self) -> bool:
        """Whether the interval lies above the bound: a failed guarantee."""
        return self.success.low > self.bound


def recognised(
    scores: CandidateScores,
    mechanism: Mechanism | None,
    kappas: Sequence[float],
    *,
    level: float = LEVEL,
) -> Mapping[float, Identification]:
    """How often targets pass a threshold that outsiders pass with chance ``kappa``.

    Args:
        scores: Of targets and outsiders.
        mechanism: What was executed; none for training without privacy.
        kappas: Chances, each in ``(0, 1)``.
        level: Coverage of each interval, which includes that outsiders only estimate ``kappa``.

    Raises:
        AttackError: For a ``kappa`` outside ``(0, 1)``.
    """
    bounds = bound_on(mechanism, kappas)
    return {
        kappa: Identification(
            kappa=kappa,
            success=tpr_at_fpr(scores.targets, scores.outsiders, fpr=kappa, level=level).tpr,
            bound=bounds[kappa],
            targets=len(scores.targets),
        )
        for kappa in kappas
    }


def named(
    scores: CandidateScores, mechanism: Mechanism | None, *, level: float = LEVEL
) -> Identification:
    """How often the target has the best score on its list.

    Args:
        scores: Of targets and their lists.
        mechanism: What was executed; none for training without privacy.
        level: Coverage of the interval.
    """
    found, targets = int(scores.named.sum()), len(scores.targets)
    return Identification(
        kappa=scores.kappa,
        success=Estimate(found / targets, *clopper_pearson(found, targets, level=level)),
        bound=bound_on(mechanism, [scores.kappa])[scores.kappa],
        targets=targets,
    )


def bound_on(mechanism: Mechanism | None, kappas: Sequence[float]) -> Mapping[float, float]:
    """Largest success of any adversary, by chance of guessing right.

    Raises:
        AttackError: For a ``kappa`` outside ``(0, 1)``.
    """
    for kappa in kappas:
        if not 0 < kappa < 1:
            raise AttackError(
                f"{kappa=} is no chance of guessing right. Give a value between 0 and 1, such as "
                "one over the number of candidates."
            )
    curve = None if mechanism is None else compose([mechanism])
    return risk_of(curve, kappas=kappas).reconstruction_robustness


def likelihood_ratios(
    products: NDArray[np.float64],
    squares: NDArray[np.float64],
    *,
    noise_multiplier: float,
    sampling_rate: float,
) -> Scores:
    """Log-likelihood ratio of "this candidate may have been drawn" against "nobody was".

    Args:
        products: ``<r, g> / C^2`` of what is left of an update and the clipped gradient of each
            candidate, any shape.
        squares: ``||g||^2 / C^2``, broadcasts with ``products``.
        noise_multiplier: ``sigma``, > 0.
        sampling_rate: ``q``, in ``(0, 1]``.

    Returns:
        ``log(1 - q + q exp((2 <r, g> - ||g||^2) / (2 sigma^2 C^2)))``, of the same shape; sums over
        steps are scores.
    """
    drawn = np.log(sampling_rate) + (2 * products - squares) / (2 * noise_multiplier**2)
    if sampling_rate == 1:
        return np.asarray(drawn)
    return np.asarray(np.logaddexp(np.log1p(-sampling_rate), drawn))
