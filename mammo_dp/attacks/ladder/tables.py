# SPDX-License-Identifier: Apache-2.0
"""The ladder as a table on screen and in ``ladder.txt``, and every number in ``ladder.csv``."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from mammo_dp.attacks.ladder.cells import KAPPA, NO_PRIOR, PRIOR, Cell, Rung, ncc_at
from mammo_dp.runs import write_text_atomically

_WIDTH = 210
_FACTS = ("budget", "epsilon", "accountant", "noise_multiplier", "auroc", "auroc_low", "auroc_high")
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
        "AUROC",
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


def write_csv(path: Path, rungs: Sequence[Rung]) -> None:
    """Writes one row per budget, attack and metric in one move."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FACTS, *_CELL])
    for rung in rungs:
        utility = (rung.auroc.value, rung.auroc.low, rung.auroc.high)
        facts = (rung.name, rung.shown_epsilon, rung.accountant, rung.noise_multiplier, *utility)
        for cell in rung.cells:
            values = cell.as_json()
            writer.writerow([*facts, *("" if values[n] is None else values[n] for n in _CELL)])
    write_text_atomically(path, text.getvalue())


def _cell(cells: Sequence[Cell], rung: int, attack: str, metric: str) -> Cell | None:
    found = (c for c in cells if (c.rung, c.attack, c.metric) == (rung, attack, metric))
    return next(found, None)


def _relaxed(rung: Rung) -> str:
    values = rung.bounds["relaxed"]
    return "-" if values is None else f"{values[f'{KAPPA:g}']:.3f}"
