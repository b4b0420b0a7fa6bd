# SPDX-License-Identifier: Apache-2.0
"""Rung 1 along a ladder: patients named from a list, and canaries that attain the bound.

Canaries also audit the code that draws and adds noise: they put a lower bound under epsilon, and
they alone decide whether a guarantee is refuted. Their scores are independent. Those of patients
are not: all share the noise of one run, and their gradients resemble each other, so that the share
that is named in a single run swings around its mean, which alone is bounded.
"""

from pathlib import Path

from classifier.evaluate import Estimate
from mammo_dp.attacks.audit import LEVEL
from mammo_dp.attacks.ladder.cells import KAPPA, Cell
from mammo_dp.attacks.lower_bounds import many_run
from mammo_dp.attacks.reconstruction.candidates import CandidateScores, named, recognised
from mammo_dp.attacks.reconstruction.files import read_candidates
from mammo_dp.privacy.accounting.account import Mechanism

_COMPARISONS = 2  # with a guarantee at one budget: recognised, audited


def cells(
    mechanism: Mechanism,
    *,
    epsilon: float,
    delta: float,
    heads: Path,
    canaries: Path,
    budgets: int,
) -> list[Cell]:
    """Scores the saved signals of rung 1 at one budget.

    Args:
        mechanism: Steps of the fit, as its statement has them.
        epsilon: Of the fit, as stated.
        delta: Of epsilon.
        heads: Signals that were saved during the fit.
        canaries: Signals of canaries.
        budgets: Of the ladder; all share one error when a guarantee is called refuted.

    Raises:
        AttackError: If the fit left no signals.
    """
    strict = 1 - (1 - LEVEL) / (_COMPARISONS * budgets)
    patients, worst = read_candidates(heads), read_candidates(canaries)
    found = named(patients, mechanism)
    share = found.success.value
    attained = recognised(worst, mechanism, [KAPPA])[KAPPA]
    strictly = recognised(worst, mechanism, [KAPPA], level=strict)[KAPPA]
    return [
        Cell(
            value=share,
            low=share,  # no interval: one run says little about the mean that is bounded
            high=share,
            rung=1,
            attack="patients by their gradients",
            metric=f"named from {round(1 / found.kappa)}, this run",
            bound=found.bound,
            kind="guarantee",
            blind=found.kappa,
        ),
        Cell.of(
            attained.success,
            rung=1,
            attack="worst-case canaries",
            metric=f"recognised at FPR {KAPPA:g}",
            bound=attained.bound,
            kind="guarantee",
            blind=KAPPA,
            exceeds=strictly.exceeds_bound,
        ),
        _audited(worst, epsilon, delta, strict),
    ]


def _audited(worst: CandidateScores, epsilon: float, delta: float, strict: float) -> Cell:
    """Lower bound on epsilon beside its ceiling; the ceiling stands where blind guesses stand."""
    found = many_run(worst.targets, worst.outsiders, delta=delta)
    again = many_run(worst.targets, worst.outsiders, delta=delta, level=strict)
    return Cell.of(
        Estimate(found.epsilon, found.epsilon, found.epsilon),
        rung=1,
        attack="audit by canaries",
        metric=f"epsilon at least (ceiling {found.ceiling:.1f})",
        bound=epsilon,
        kind="guarantee",
        exceeds=again.epsilon > epsilon,
    )
