# SPDX-License-Identifier: Apache-2.0
"""Rung 1 along a ladder: patients named from a list, and canaries that attain the bound.

Canaries also audit the code that draws and adds noise: they put a lower bound under epsilon.
"""

from pathlib import Path

from classifier.evaluate import Estimate
from mammo_dp.attacks.ladder import stored
from mammo_dp.attacks.ladder.cells import Cell
from mammo_dp.attacks.lower_bounds import many_run
from mammo_dp.attacks.reconstruction.canary_lists import canary_lists
from mammo_dp.attacks.reconstruction.candidates import LEVEL, CandidateScores, named, recognised
from mammo_dp.privacy.accounting import Mechanism
from mammo_dp.privacy.sampling import new_key

COMPARISONS = 3  # with a guarantee at one budget here: named, recognised, audited
KAPPA = 0.01
_CANARIES = 1000


def cells(
    mechanism: Mechanism,
    *,
    epsilon: float,
    delta: float,
    heads: Path,
    canaries: Path,
    budgets: int,
) -> list[Cell]:
    """Scores the saved signals of rung 1 at one budget, and draws canaries if there are none yet.

    Args:
        mechanism: Steps of the fit, as its statement has them.
        epsilon: Of the fit, as stated.
        delta: Of epsilon.
        heads: Signals that were saved during the fit.
        canaries: Signals of canaries; written if missing.
        budgets: Of the ladder; all share one error when a guarantee is called refuted.

    Raises:
        AttackError: If the fit left no signals.
    """
    strict = 1 - (1 - LEVEL) / (COMPARISONS * budgets)
    patients = stored.candidates(heads)
    if not canaries.exists():
        drawn = canary_lists(mechanism, targets=_CANARIES, candidates=2, key=new_key())
        stored.save(canaries, targets=drawn.targets, lists=drawn.lists, outsiders=drawn.outsiders)
    worst = stored.candidates(canaries)
    found, again = named(patients, mechanism), named(patients, mechanism, level=strict)
    attained = recognised(worst, mechanism, [KAPPA])[KAPPA]
    strictly = recognised(worst, mechanism, [KAPPA], level=strict)[KAPPA]
    return [
        Cell.of(
            found.success,
            rung=1,
            attack="patients by their gradients",
            metric=f"named from {round(1 / found.kappa)}",
            bound=found.bound,
            kind="guarantee",
            blind=found.kappa,
            exceeds=again.exceeds_bound,
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
