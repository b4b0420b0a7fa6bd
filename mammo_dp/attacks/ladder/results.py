# SPDX-License-Identifier: Apache-2.0
"""Files of a ladder: ``ladder.json``, tables, bounds between the budgets, a sheet of images."""

import csv
import io
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mammo_dp.attacks.bounds.corridor import Questions
from mammo_dp.attacks.bounds.from_scratch import FromScratch, expected_observations
from mammo_dp.attacks.bounds.identification import LEAST_STEPS, relaxed_identification
from mammo_dp.attacks.bounds.schedules import Schedule
from mammo_dp.attacks.ladder import figure
from mammo_dp.attacks.ladder.cells import KAPPA, NO_PRIOR, PRIOR, Cell, Rung, findings, ncc_at
from mammo_dp.attacks.reconstruction.collect import Known, Targets
from mammo_dp.attacks.reconstruction.prior import best_hit, predicted
from mammo_dp.attacks.reconstruction.quality import Images
from mammo_dp.attacks.reconstruction.results import Scored, draw_sheet, lines_of
from mammo_dp.attacks.reconstruction.updates import pooled
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.risk import risk_of
from mammo_dp.privacy.statement.seals import with_seal
from mammo_dp.runs import write_text_atomically

_POINTS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Probabilities of success along the noise; each list has one entry per noise multiplier.

    Attributes:
        noise: Noise multipliers, falling.
        kappa: Probability of naming a patient by guessing, and false-positive rate of rung 2.
        kappa_image: Largest share of targets that one reference image hits; None without one.
        worst_case: Rung 1, by PLD, at ``kappa``.
        worst_case_image: Rung 1 at ``kappa_image``, a guarantee only if no guess hits more than the
            best reference image; None without reference.
        relaxed: Rung 2; None for fewer than 30 steps.
        scratch: Rung 3, probability that an image is read, by resolution.
        prior: Rung 4, prediction of the Gaussian prior at the smaller resolution; None without.
    """

    noise: tuple[float, ...]
    kappa: float
    kappa_image: float | None
    worst_case: tuple[float, ...]
    worst_case_image: tuple[float, ...] | None
    relaxed: tuple[float, ...] | None
    scratch: dict[int, tuple[float, ...]]
    prior: tuple[float, ...] | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def curve(
    mechanism: Mechanism,
    noises: Sequence[float],
    images: Images,
    known: Known | None,
    resolutions: tuple[int, int],
    correlation: float,
) -> Curve:
    """Bounds on a grid of noise multipliers that spans those of the budgets.

    Args:
        mechanism: Sampling rate and steps; its noise is replaced.
        noises: Noise multipliers of the budgets, at least one.
        images: Under attack, shape ``(images, edge, edge)``.
        known: What the adversary holds at the thumbnail's resolution; none for nothing.
        resolutions: Of a thumbnail and of the whole image.
        correlation: An image is read from this correlation on.
    """
    grid = np.geomspace(1.6 * max(noises), min(noises) / 1.6, _POINTS)
    rounds = max(1, round(expected_observations(mechanism)))
    hit = None
    if known is not None:
        hit = best_hit(pooled(images, resolutions[0]), known.images, correlation)
    kappas = [KAPPA] if hit is None else [KAPPA, hit]
    success: Mapping[float, float] = dict.fromkeys(kappas, 0.0)
    rows = []
    for noise in track(grid.tolist(), "Bounds between the budgets"):
        here = replace(mechanism, noise_multiplier=noise)
        if min(success.values()) < 1:  # with still less noise it stays certain
            success = risk_of(compose([here]), kappas=kappas).reconstruction_robustness
        views = [
            FromScratch(pixels=px**2, noise_multiplier=noise, observations=rounds)
            for px in resolutions
        ]
        read = None
        if known is not None:
            read = predicted(
                known.prior, noise_multiplier=noise, rounds=rounds, correlation=correlation
            ).read
        rows.append(
            (
                [success[kappa] for kappa in kappas],
                relaxed_identification(here, KAPPA) if here.steps >= LEAST_STEPS else None,
                [view.ncc_at_least(correlation) for view in views],
                read,
            )
        )
    worst, without_sign, scratch, read_with_prior = zip(*rows, strict=True)
    return Curve(
        noise=tuple(grid.tolist()),
        kappa=KAPPA,
        kappa_image=hit,
        worst_case=tuple(row[0] for row in worst),
        worst_case_image=None if hit is None else tuple(row[1] for row in worst),
        relaxed=None if None in without_sign else without_sign,
        scratch={px: tuple(row[place] for row in scratch) for place, px in enumerate(resolutions)},
        prior=None if known is None else read_with_prior,
    )


_WIDTH = 210
_FACTS = (
    "budget",
    "epsilon",
    "delta",
    "unit",
    "adjacency",
    "accountant",
    "end_to_end",
    "noise_multiplier",
    "auroc",
    "auroc_low",
    "auroc_high",
    "patients",
)
_CELL = [
    "rung",
    "attack",
    "metric",
    "value",
    "low",
    "high",
    "bound",
    "kind",
    "blind",
    "exceeds",
]  # fields of Cell


def columns(rungs: Sequence[Rung], thumbnail: int, edge: int) -> list[tuple[int, str, str]]:
    """Rung, attack and metric of the rows that a reader needs first; the rest is in the CSV."""
    wanted: dict[tuple[int, str, str], None] = {}
    for cell in (cell for rung in rungs for cell in rung.cells):
        read = cell.attack in (NO_PRIOR, PRIOR)
        of_image = cell.metric in {ncc_at(thumbnail), ncc_at(edge)}
        if cell.rung == 1 or (read and of_image) or cell.metric.startswith(("TPR", "NCC of")):
            wanted[cell.rung, cell.attack, cell.metric] = None
    return sorted(wanted, key=lambda key: key[0])


def table(rungs: Sequence[Rung], shown: Sequence[tuple[int, str, str]], conditions: str) -> Table:
    """Budgets as columns, attacks as rows; a cell is ``attack [95 % interval] / bound / blind``."""
    made = Table("", *(rung.title for rung in rungs), box=SIMPLE_HEAD, caption=conditions)
    made.caption_justify = "left"
    made.add_row("epsilon, as executed", *(rung.shown_epsilon for rung in rungs))
    made.add_row("noise multiplier", *(f"{rung.noise_multiplier:.4g}" for rung in rungs))
    made.add_row(
        f"AUROC ({rungs[0].patients} patients)",
        *(f"{r.auroc.value:.3f} [{r.auroc.low:.2f}, {r.auroc.high:.2f}]" for r in rungs),
    )
    made.add_row(f"2, no sign: bound at {KAPPA:g}", *(_relaxed(rung) for rung in rungs))
    made.add_section()
    for rung, attack, metric in shown:
        cells = [_cell(r.cells, rung, attack, metric) for r in rungs]
        made.add_row(f"{rung}, {attack}: {metric}", *("" if c is None else c.text for c in cells))
    return made


def write_text(path: Path, made: Table, below: Sequence[str]) -> None:
    """Writes the table as plain text, with sentences below it, in one move."""
    text = io.StringIO()
    Console(file=text, width=_WIDTH).print(made)
    lines = [*(line.rstrip() for line in text.getvalue().splitlines()), *below]
    write_text_atomically(path, "\n".join(lines) + "\n")


def _cell(cells: Sequence[Cell], rung: int, attack: str, metric: str) -> Cell | None:
    found = (c for c in cells if (c.rung, c.attack, c.metric) == (rung, attack, metric))
    return next(found, None)


def _relaxed(rung: Rung) -> str:
    values = rung.bounds["relaxed"]
    return "-" if values is None else f"{values[f'{KAPPA:g}']:.3f}"


LADDER, CSV, TABLE = "ladder.json", "ladder.csv", "ladder.txt"
FIGURE, SHEET = "ladder.png", "sheet.png"
_NOTICE = (
    "Computed from private data, and covered by no epsilon: features/, runs/*/features, "
    "signals/, attacks/, sheet.png and all numbers here. What may be shared is "
    "checkpoints/last.ckpt of a private run, with its statement."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetResult:
    """One budget, attacked.

    Attributes:
        rung: What attacks achieved.
        schedule: Noise, rate and steps, as the statement of the run has them.
        scored: Images that were read.
    """

    rung: Rung
    schedule: Schedule
    scored: Scored


def write_csv(path: Path, by_budget: Sequence[BudgetResult], delta: float) -> None:
    """Writes one row per budget, attack and metric in one move.

    Args:
        path: The file.
        by_budget: By budget.
        delta: Of each epsilon.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FACTS, *_CELL])
    for one in by_budget:
        rung, stated = one.rung, one.schedule
        refers = (delta, "patient", stated.adjacency, rung.accountant, stated.end_to_end)
        utility = (rung.auroc.value, rung.auroc.low, rung.auroc.high, rung.patients)
        facts = (rung.name, rung.shown_epsilon, *refers, rung.noise_multiplier, *utility)
        for cell in rung.cells:
            values = cell.as_json()
            writer.writerow([*facts, *("" if values[n] is None else values[n] for n in _CELL)])
    write_text_atomically(path, text.getvalue())


def write(
    folder: Path,
    by_budget: Sequence[BudgetResult],
    targets: Targets,
    known: Known | None,
    questions: Questions,
    *,
    shown: tuple[int, int],
    cohort: str,
) -> None:
    """Writes everything and prints the table.

    Args:
        folder: Of the ladder.
        by_budget: By budget, at least one private.
        targets: Whose images were read.
        known: What the adversary holds at the resolution of a thumbnail; none for nothing.
        questions: What was asked of the bounds.
        shown: Resolutions of a thumbnail and of the whole image.
        cohort: Hash of the manifest.
    """
    rungs = [one.rung for one in by_budget]
    mechanisms = [one.schedule.mechanism for one in by_budget if one.schedule.mechanism]
    between = curve(
        mechanisms[0],
        [mechanism.noise_multiplier for mechanism in mechanisms],
        targets.images,
        known,
        shown,
        questions.correlation,
    )
    adjacency = " or ".join(dict.fromkeys(one.schedule.adjacency for one in by_budget))
    conditions = _conditions(rungs, questions.delta, adjacency)
    facts = {
        "conditions": conditions,
        "adjacency": adjacency,
        "cohort": cohort,
        "correlation": questions.correlation,
        "delta": questions.delta,
        "targets": len(targets.images),
    }
    stored = _write_json(folder / LADDER, by_budget, between, facts)
    made = table(rungs, columns(rungs, *shown), conditions)
    stages = [f"{one.rung.title}, end to end: {one.schedule.end_to_end}" for one in by_budget]
    stages += [
        f"{rung.title}, AUROC: nobody knows whether of new patients: {rung.perhaps_seen}"
        for rung in rungs
        if rung.perhaps_seen
    ]
    write_text(folder / TABLE, made, stages)
    write_csv(folder / CSV, by_budget, questions.delta)
    figure.draw(folder / FIGURE, stored, [rung.shown_epsilon for rung in rungs])
    draw_sheet(
        folder / SHEET,
        lines_of([one.scored for one in by_budget], [rung.label for rung in rungs]),
        title=textwrap.fill(
            f"Crops read from noisy updates, by epsilon {conditions}", 60 + 15 * len(by_budget)
        ),
        real=targets.real,
    )
    console = Console()
    console.print(made)
    console.print(*stages, sep="\n", highlight=False, markup=False)
    console.print(f"Figure: {folder / FIGURE}. {_NOTICE}", highlight=False)


def _write_json(
    path: Path, by_budget: Sequence[BudgetResult], between: Curve, facts: dict[str, Any]
) -> dict[str, Any]:
    """Writes everything that was found, and returns it as a reader of the file gets it."""
    content = {
        "schema": 1,
        "unit": "patient",
        **facts,
        "refuted": findings(one.rung for one in by_budget),
        "notice": _NOTICE,
        "budgets": [
            {**one.rung.as_json(), "end_to_end": one.schedule.end_to_end} for one in by_budget
        ],
        "between": between.as_json(),
    }
    stored = with_seal(json.loads(json.dumps(content, allow_nan=False)))  # keys are texts
    write_text_atomically(path, json.dumps(stored, indent=2) + "\n")
    return stored


def _conditions(rungs: Sequence[Rung], delta: float, adjacency: str) -> str:
    """Unit, delta, adjacency and accountant of every epsilon."""
    by: dict[str, list[str]] = {}
    for rung in rungs:
        if rung.accountant:
            by.setdefault(rung.accountant, []).append(rung.shown_epsilon)
    first, *others = by
    more = "".join(f"; {', '.join(by[name])} by {name}" for name in others)
    return f"of each fit alone, per patient, delta {delta:g}, {adjacency}, by {first}{more}"
