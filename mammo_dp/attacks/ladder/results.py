# SPDX-License-Identifier: Apache-2.0
"""What a ladder leaves: ``ladder.json``, tables, the corridor and a sheet of images."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mammo_dp.attacks.bounds.corridor import Questions
from mammo_dp.attacks.bounds.schedules import Schedule
from mammo_dp.attacks.ladder import figure, tables
from mammo_dp.attacks.ladder.cells import Rung, findings
from mammo_dp.attacks.ladder.curve import Curve, curve
from mammo_dp.attacks.reconstruction.collect import Known, Targets
from mammo_dp.attacks.reconstruction.judge import Judged
from mammo_dp.attacks.reconstruction.lines import lines_of
from mammo_dp.attacks.reconstruction.sheet import draw_sheet
from mammo_dp.runs import write_text_atomically

LADDER, CSV, TABLE = "ladder.json", "ladder.csv", "ladder.txt"
FIGURE, SHEET = "ladder.png", "sheet.png"
_NOTICE = (
    "Computed from private data, and covered by no epsilon: features/, runs/*/features, "
    "signals/, attacks/, sheet.png and all numbers here. What may be shared is "
    "checkpoints/last.ckpt of a private run, with its statement."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Climbed:
    """One budget, attacked.

    Attributes:
        rung: What attacks achieved.
        schedule: Noise, rate and steps, as the statement of the run has them.
        judged: Images that were read.
    """

    rung: Rung
    schedule: Schedule
    judged: Judged


def write(
    folder: Path,
    climbed: Sequence[Climbed],
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
        climbed: By budget, at least one private.
        targets: Whose images were read.
        known: What the adversary holds at the resolution of a thumbnail; none for nothing.
        questions: What was asked of the bounds.
        shown: Resolutions of a thumbnail and of the whole image.
        cohort: Hash of the manifest.
    """
    rungs = [one.rung for one in climbed]
    mechanisms = [one.schedule.mechanism for one in climbed if one.schedule.mechanism]
    between = curve(
        mechanisms[0],
        [mechanism.noise_multiplier for mechanism in mechanisms],
        targets.images,
        known,
        shown,
        questions.correlation,
    )
    conditions = _conditions(rungs, questions.delta)
    facts = {
        "conditions": conditions,
        "cohort": cohort,
        "correlation": questions.correlation,
        "delta": questions.delta,
        "targets": len(targets.images),
    }
    stored = _write_json(folder / LADDER, climbed, between, facts)
    made = tables.table(rungs, tables.columns(rungs, *shown), conditions)
    stages = [f"{one.rung.title}, end to end: {one.schedule.end_to_end}" for one in climbed]
    tables.write_text(folder / TABLE, made, stages)
    tables.write_csv(folder / CSV, rungs)
    figure.draw(folder / FIGURE, stored, [rung.shown_epsilon for rung in rungs])
    draw_sheet(
        folder / SHEET,
        lines_of([one.judged for one in climbed], [rung.label for rung in rungs]),
        title=textwrap.fill(
            f"Crops read from noisy updates, by epsilon {conditions}", 60 + 15 * len(climbed)
        ),
        real=targets.real,
    )
    console = Console()
    console.print(made)
    console.print(*stages, sep="\n", highlight=False, markup=False)
    console.print(f"Figure: {folder / FIGURE}. {_NOTICE}", highlight=False)


def _write_json(
    path: Path, climbed: Sequence[Climbed], between: Curve, facts: dict[str, Any]
) -> dict[str, Any]:
    """Writes everything that was found, and returns it as a reader of the file gets it."""
    content = {
        "schema": 1,
        "unit": "patient",
        "adjacency": "zero-out",
        **facts,
        "refuted": findings(one.rung for one in climbed),
        "notice": _NOTICE,
        "budgets": [
            {**one.rung.as_json(), "end_to_end": one.schedule.end_to_end} for one in climbed
        ],
        "between": between.as_json(),
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_text_atomically(path, text)
    return dict(json.loads(text))


def _conditions(rungs: Sequence[Rung], delta: float) -> str:
    """Unit, delta, adjacency and accountant of every epsilon."""
    by: dict[str, list[str]] = {}
    for rung in rungs:
        if rung.accountant:
            by.setdefault(rung.accountant, []).append(rung.shown_epsilon)
    first, *others = by
    more = "".join(f"; {', '.join(by[name])} by {name}" for name in others)
    return f"of each fit alone, per patient, delta {delta:g}, zero-out, by {first}{more}"
