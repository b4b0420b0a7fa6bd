# SPDX-License-Identifier: Apache-2.0
"""Rungs 3 and 4 along a ladder: what malicious servers read, as cells beside theory and guesses."""

from collections.abc import Mapping
from typing import Any

from classifier.evaluate import Estimate
from mammo_dp.attacks.audit import clopper_pearson
from mammo_dp.attacks.bounds.from_scratch import FromScratch
from mammo_dp.attacks.ladder.cells import NO_PRIOR, PRIOR, Cell, ncc_at
from mammo_dp.attacks.ladder.predicted import Predicted, predicted
from mammo_dp.attacks.reconstruction.collect import FEW, ROWS, SEARCH_PX, Known
from mammo_dp.attacks.reconstruction.isolated import Attacker, Reconstruction
from mammo_dp.attacks.reconstruction.judge import Judged
from mammo_dp.attacks.reconstruction.quality import Images, Quality, ncc

_NAMES: Mapping[Attacker, tuple[int, str]] = {
    "from_scratch": (3, "no prior, unbiased"),
    "centred": (3, NO_PRIOR),
    "prior": (4, PRIOR),
}


def image_cells(judged: Judged, known: Mapping[int, Known], correlation: float) -> list[Cell]:
    """All that was read at one budget.

    Args:
        judged: Scored signals.
        known: What the adversary holds, by resolution; empty for nothing.
        correlation: An image is read from this correlation on.
    """
    cells: list[Cell] = []
    for resolution, found in judged.reconstructions.items():
        belief = None
        if resolution in known:
            belief = predicted(
                known[resolution].prior,
                noise_multiplier=found.noise_multiplier,
                rounds=found.rounds,
                correlation=correlation,
            )
        for attacker in found.attacks:
            closed = judged.closed_forms[resolution].get(attacker, {})
            cells += _isolated(found, attacker, closed.get("ncc"), belief, correlation)
    return cells + _published(judged)


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


def _published(judged: Judged) -> list[Cell]:
    """One update, read as published traps read it, and a search for an image by its gradient."""

    def correlation(quality: Quality, rung: int, attack: str, **facts: Any) -> Cell:
        return Cell.of(quality.ncc, rung=rung, attack=attack, **facts)

    several = min(FEW, len(next(iter(judged.reconstructions.values())).originals))
    cells = [
        correlation(
            judged.rows[f"{how}_{rows}"],
            3,
            f"one update, {words} of {rows}",
            metric=f"NCC of {several} images",
        )
        for rows in ROWS
        for how, words in (("division", "one row divided"), ("mean_of_rows", "mean of rows"))
    ]
    for kind, trapped in judged.traps.items():
        cells.append(
            Cell(
                rung=3,
                attack=f"one update, {kind.replace('_', ' ')}",
                metric=f"NCC of {trapped['batch']} images, best match",
                blind=trapped["blind_best_match"]["ncc"]["value"],
                **trapped["best_match"]["ncc"],
            )
        )
    if judged.search is not None:
        cells.append(correlation(judged.search, 4, "search by gradient", metric=ncc_at(SEARCH_PX)))
    return cells


def _share(originals: Images, guesses: Images, correlation: float) -> Estimate:
    read = int((ncc(originals, guesses) >= correlation).sum())
    return Estimate(read / len(originals), *clopper_pearson(read, len(originals)))
