# SPDX-License-Identifier: Apache-2.0
"""Naming a patient from a list: scores of candidates, and success beside the bound.

Threat model (rung 1, what privacy accounting assumes): the adversary knows all other patients,
who of them was sampled, every noisy update and all settings, and holds a list of candidates, one of
whom is the target. It takes what is left of an update without the others, compares it with the
gradient of each candidate, and adds up log-likelihood ratios over the steps.

Two kinds of success at a probability ``kappa`` of guessing right:

* *recognised*: the target passes a threshold that outsiders pass with probability ``kappa``.
  Gradients at the clipping norm attain the bound ``1 - f(kappa)``.
* *named*: the target has the best score of ``1 / kappa`` candidates. The bound holds and is not
  attained by a list of more than two: it would take disjoint half-spaces of probability ``kappa``
  each.

Source: Hayes et al. 2023, arXiv 2302.07225; bound by Kaissis et al. 2023, arXiv 2307.03928.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from classifier.evaluate import Estimate
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.arrays import read_arrays, write_arrays
from mammo_dp.attacks.audit.canaries import scores_of_mechanism
from mammo_dp.attacks.bounds.identification import require_probability
from mammo_dp.attacks.statistics import LEVEL, Scores, clopper_pearson, tpr_at_fpr
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.risk import risk_of

_OUTSIDERS = 20_000  # enough to know a probability of 1/100 to a tenth of itself


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateScores:
    """Scores of candidates, saved once so that they can be judged again; private data.

    Attributes:
        targets: Score of each target, who took part, shape ``(targets,)``.
        lists: Scores of the others on each target's list, shape ``(targets, others)``.
        outsiders: Scores of patients who took no part, on updates without them, shape
            ``(outsiders,)``: how high a score gets without membership.
    """

    targets: Scores
    lists: Scores
    outsiders: Scores

    def __post_init__(self) -> None:
        """Refuses scores that cannot be compared.

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
        """Probability of naming a target by guessing: one over the length of its list."""
        return 1 / (1 + int(self.lists.shape[1]))

    @property
    def named(self) -> NDArray[np.bool_]:
        """Whether each target alone has the best score on its list, shape ``(targets,)``."""
        return np.asarray(self.targets > self.lists.max(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """Success of the attack at one probability of guessing right, beside its bound.

    Attributes:
        kappa: Probability of success without the release, in ``(0, 1)``.
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
    """How often targets pass a threshold that outsiders pass with probability ``kappa``.

    Args:
        scores: Of targets and outsiders.
        mechanism: What was executed; None for training without privacy.
        kappas: Probabilities, each in ``(0, 1)``.
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
        mechanism: What was executed; None for training without privacy.
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
    """Largest success of any adversary, by probability of guessing right.

    Raises:
        AttackError: For a ``kappa`` outside ``(0, 1)``.
    """
    for kappa in kappas:
        require_probability("kappa", kappa)
    curve = None if mechanism is None else compose([mechanism])
    return risk_of(curve, kappas=kappas).reconstruction_robustness


def canary_lists(
    mechanism: Mechanism, *, targets: int, candidates: int, key: int
) -> CandidateScores:
    """The worst case of the attack with a list: canaries, whose gradients nobody else has.

    Args:
        mechanism: Noise, sampling rate and steps of patients.
        targets: Canaries that take part, > 0.
        candidates: Length of each target's list, the target included, >= 2.
        key: 256 bits of sampling and noise, see :func:`mammo_dp.privacy.training.sampling.new_key`.

    Returns:
        Scores; the outsiders are canaries on lists, none of whom took part.

    Raises:
        AttackError: For a list that holds nobody but the target.
    """
    if targets < 1 or candidates < 2:
        raise AttackError(
            f"{targets=}, {candidates=}. Give at least one target, and lists of at least two."
        )
    scores = scores_of_mechanism(mechanism, inside=targets, canaries=targets * candidates, key=key)
    others = scores[targets:]
    return CandidateScores(
        targets=scores[:targets], lists=others.reshape(targets, -1), outsiders=others[:_OUTSIDERS]
    )


def write_candidates(path: Path, scores: CandidateScores) -> None:
    """Writes the scores of lists."""
    write_arrays(path, {name: getattr(scores, name) for name in CandidateScores.__slots__})


def read_candidates(path: Path) -> CandidateScores:
    """Reads what :func:`write_candidates` wrote.

    Raises:
        AttackError: If the file is none of these.
    """
    names = CandidateScores.__slots__
    stored = read_arrays(path, *names)
    return CandidateScores(**{name: stored[name] for name in names})
