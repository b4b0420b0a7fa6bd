# SPDX-License-Identifier: Apache-2.0
"""What attacks achieved at one budget of a ladder, as cells beside theory and blind guesses.

Canaries also audit the code that samples and adds noise: they give a lower bound on epsilon, and
they alone decide whether a guarantee is refuted. Their scores are independent. Those of patients
are not: all share the noise of one run, and their gradients resemble each other, so that the share
that is named in a single run swings around its mean, which alone is bounded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from classifier.evaluate import Estimate
from mammo_dp.attacks.bounds.from_scratch import FromScratch
from mammo_dp.attacks.ladder.cells import KAPPA, NO_PRIOR, PRIOR, Bound, Cell, ncc_at
from mammo_dp.attacks.lower_bounds import many_run
from mammo_dp.attacks.membership.results import read_result
from mammo_dp.attacks.reconstruction.collect import FEW, ROWS, Known
from mammo_dp.attacks.reconstruction.isolated import Attacker, Reconstruction
from mammo_dp.attacks.reconstruction.lists import (
    CandidateScores,
    named,
    read_candidates,
    recognised,
)
from mammo_dp.attacks.reconstruction.prior import Predicted, predicted
from mammo_dp.attacks.reconstruction.quality import Images, Quality, ncc
from mammo_dp.attacks.reconstruction.results import Scored
from mammo_dp.attacks.reconstruction.search import SEARCH_PX
from mammo_dp.attacks.statistics import LEVEL, clopper_pearson
from mammo_dp.privacy.accounting.account import Mechanism

_COMPARISONS = 2  # with a guarantee at one budget: recognised, audited


def list_cells(
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


_NAMES: Mapping[Attacker, tuple[int, str]] = {
    "from_scratch": (3, "no prior, unbiased"),
    "centred": (3, NO_PRIOR),
    "prior": (4, PRIOR),
}


def image_cells(scored: Scored, known: Mapping[int, Known], correlation: float) -> list[Cell]:
    """All that was read at one budget.

    Args:
        scored: Scored signals.
        known: What the adversary holds, by resolution; empty for nothing.
        correlation: An image is read from this correlation on.
    """
    cells: list[Cell] = []
    for resolution, found in scored.reconstructions.items():
        belief = None
        if resolution in known:
            belief = predicted(
                known[resolution].prior,
                noise_multiplier=found.noise_multiplier,
                rounds=found.rounds,
                correlation=correlation,
            )
        for attacker in found.attacks:
            closed = scored.closed_forms[resolution].get(attacker, {})
            cells += _isolated(found, attacker, closed.get("ncc"), belief, correlation)
    return cells + _published(scored)


def _isolated(
    found: Reconstruction,
    attacker: Attacker,
    expected: float | None,
    belief: Predicted | None,
    correlation: float,
) -> list[Cell]:
    rung, name = _NAMES[attacker]
    px, quality = found.resolution, found.attacks[attacker].quality
    guess = found.blind.get("mean", found.blind["blank"])
    facts: dict[str, Any] = {"rung": rung, "attack": name}
    read = None
    if attacker == "prior" and belief is not None:
        expected, read, kind = belief.ncc, belief.read, "prediction"
    else:
        kind = "assumption" if expected is not None else "none"
    if attacker == "centred" and found.noise_multiplier > 0:
        law = FromScratch(
            pixels=px**2,
            noise_multiplier=found.noise_multiplier,
            observations=found.rounds,
        )
        read = law.ncc_at_least(correlation)
    share = _share(found.originals, found.attacks[attacker].images, correlation)
    blind = _share(found.originals, guess.images, correlation).value
    return [
        Cell.of(
            quality.ncc,
            metric=ncc_at(px),
            bound=expected,
            kind=kind,
            blind=guess.quality.ncc.value,
            **facts,
        ),
        Cell.of(
            share,
            metric=f"share with NCC >= {correlation:g} at {px} px",
            bound=read,
            kind="none" if read is None else kind,
            blind=blind,
            **facts,
        ),
        *(
            Cell.of(
                getattr(quality, metric.lower()),
                metric=f"{metric} at {px} px",
                blind=getattr(guess.quality, metric.lower()).value,
                **facts,
            )
            for metric in ("MSE", "PSNR", "SSIM")
        ),
    ]


def _published(scored: Scored) -> list[Cell]:
    """One update, read as published traps read it, and a search for an image by its gradient."""

    def correlation(quality: Quality, rung: int, attack: str, **facts: Any) -> Cell:
        return Cell.of(quality.ncc, rung=rung, attack=attack, **facts)

    several = min(FEW, len(next(iter(scored.reconstructions.values())).originals))
    cells = [
        correlation(
            scored.rows[f"{how}_{rows}"],
            3,
            f"one update, {words} of {rows}",
            metric=f"NCC of {several} images",
        )
        for rows in ROWS
        for how, words in (("division", "one row divided"), ("mean_of_rows", "mean of rows"))
    ]
    for kind, trapped in scored.traps.items():
        cells.append(
            Cell(
                rung=3,
                attack=f"one update, {kind.replace('_', ' ')}",
                metric=f"NCC of {trapped['batch']} images, best match",
                blind=trapped["blind_best_match"]["ncc"]["value"],
                **trapped["best_match"]["ncc"],
            )
        )
    if scored.search is not None:
        cells.append(correlation(scored.search, 4, "search by gradient", metric=ncc_at(SEARCH_PX)))
    return cells


def _share(originals: Images, guesses: Images, correlation: float) -> Estimate:
    read = int((ncc(originals, guesses) >= correlation).sum())
    return Estimate(read / len(originals), *clopper_pearson(read, len(originals)))


def membership_cells(path: Path) -> list[Cell]:
    """Every attack in an ``attack.json``: area, and true-positive rate at ``KAPPA``.

    Raises:
        AttackError: If the file is unreadable or of another schema.
    """
    stored, fpr = read_result(path), f"{KAPPA:g}"
    kind: Bound = "none" if stored["bound_from"]["epsilon"] == "infinity" else "guarantee"
    blind = stored["blind"]["label-only"]
    cells = []
    for name, attack in stored["attacks"].items():
        rate = attack["tpr_at_fpr"][fpr]
        for metric, found, guess in (
            ("AUC", attack["auc"], blind["auc"]["value"]),
            (f"TPR at FPR {fpr}", rate, blind["tpr_at_fpr"][fpr]["value"]),
        ):
            cells.append(
                Cell(
                    rung=5,
                    attack=name,
                    metric=metric,
                    value=found["value"],
                    low=found["low"],
                    high=found["high"],
                    bound=None if kind == "none" else found["bound"],
                    kind=kind,
                    blind=guess,
                    exceeds=bool(attack["exceeds_bound"]) and kind == "guarantee",
                )
            )
    return cells
