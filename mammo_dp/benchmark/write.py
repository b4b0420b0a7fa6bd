# SPDX-License-Identifier: Apache-2.0
"""Output of a benchmark: every number for programs, tables and figures for readers."""

import csv
import io
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from mammo_dp import drawing
from mammo_dp.benchmark.jobs import Outcome
from mammo_dp.benchmark.plan import Plan
from mammo_dp.benchmark.protocol import EvaluationSet, Opening
from mammo_dp.benchmark.results import LEVEL, Difference, Row
from mammo_dp.benchmark.spec import Published
from mammo_dp.drawing import DASH, DOTS, MUTED
from mammo_dp.report.results import Table, benchmark_tables
from mammo_dp.runs import file_sha256, versions

SCHEMA = 3


def content(
    plan: Plan,
    rows: Sequence[Row],
    differences: Sequence[Difference],
    *,
    evaluated: Mapping[EvaluationSet, str],
    looks: Sequence[Opening],
    published: Sequence[Published],
    outcomes: Mapping[str, Outcome],
    failures: Mapping[str, str],
) -> dict[str, Any]:
    """The whole result, for ``benchmark.json``.

    None stands for what is no number, ``"infinity"`` for no guarantee.

    Args:
        plan: Jobs and cells of the whole file.
        rows: All rows, of all sets.
        differences: All comparisons.
        evaluated: What a reader must know of each set.
        looks: Looks at test sets.
        published: Numbers of others.
        outcomes: How each job of this call ended; what was done before took no time.
        failures: Error by label of the job.
    """
    found = {
        "schema": SCHEMA,
        "title": plan.benchmark.title,
        "config_sha256": file_sha256(plan.benchmark.path),
        "level": LEVEL,
        "sets": [
            {"name": s.name, "split": s.split, "sha256": s.sha256, "purpose": s.purpose, "said": t}
            for s, t in evaluated.items()
        ],
        "regimes": {regime.name: regime.title for regime in plan.benchmark.regimes},
        "reference": plan.benchmark.reference,
        "rows": [row_as_json(row) for row in rows],
        "differences": [asdict(difference) for difference in differences],
        "published": [asdict(series) for series in published],
        "openings": [asdict(look) for look in looks],
        "cells": [
            {**asdict(cell), "folder": plan.run_folder(cell.key).relative_to(plan.out).as_posix()}
            for cell in plan.cells
        ],
        "failures": dict(failures),
        "skipped": plan.skipped,
        "processor_seconds_of_this_call": sum(one.processor_seconds for one in outcomes.values()),
        "versions": versions(),
    }
    return dict(finite(found))


def comma_separated(rows: Iterable[Row]) -> str:
    """One line per regime, budget, unit, set and statistic."""
    lines = []
    for row in rows:
        cost = asdict(row.cost) if row.cost else {}
        cost.pop("because", None)
        if row.cost:
            cost["exclusions"] = "; ".join(row.cost.exclusions)
        shared = {
            "set": row.evaluated,
            "regime": row.regime,
            "budget": row.budget,
            "budget_unit": row.unit,
            "seeds": len(row.seeds),
            "seeds_missing": len(row.missing),
            "perhaps_seen": " ".join(row.perhaps_seen),
        } | {f"end_to_end_{name}": _plain(value) for name, value in cost.items()}
        for name, estimate in row.metrics.items() or {"": None}.items():
            measured: dict[str, object] = {"statistic": name}
            if estimate is not None:
                patients, crops, malignant = row.counts[name]
                measured |= {key: _plain(value) for key, value in asdict(estimate).items()} | {
                    "seed_deviation": _plain(row.spread[name]),
                    "patients": patients,
                    "crops": crops,
                    "malignant": malignant,
                }
            lines.append(shared | measured)
    text = io.StringIO()
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def tables(stored: Mapping[str, Any]) -> list[Table]:
    """All tables, and what is missing from them.

    Args:
        stored: Content of ``benchmark.json``.
    """
    failed = [(label, error.splitlines()[0]) for label, error in stored["failures"].items()]
    skipped = [(stored["regimes"][name], reason) for name, reason in stored["skipped"].items()]
    missing = (
        Table(label="Failed", head=("Cell", "Error"), rows=failed),
        Table(label="Skipped", head=("Regime", "Reason"), rows=skipped),
    )
    return [*benchmark_tables(stored), *(table for table in missing if table.rows)]


def markdown(found: Sequence[Table]) -> str:
    """Tables as Markdown."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return (
        "\n\n".join(
            "\n".join(
                [
                    f"## {table.label}\n",
                    line(table.head),
                    line(["---"] * len(table.head)),
                    *map(line, table.rows),
                    *([f"\n{table.note}"] if table.note else []),
                ]
            )
            for table in found
        )
        + "\n"
    )


def html(found: Sequence[Table], figures: Mapping[str, str]) -> str:
    """Tables and pictures as a fragment of HTML, to be put into a page.

    Args:
        found: Tables.
        figures: File name by alternative text.
    """

    def row(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    pictures = [f'<img src="{escape(f)}" alt="{escape(a)}">' for a, f in figures.items()]
    written = [
        f"<h3>{escape(table.label)}</h3>\n<table>\n<thead>{row(table.head, 'th')}</thead>\n<tbody>"
        + "\n".join(row(cells, "td") for cells in table.rows)
        + f"</tbody>\n</table>\n<p>{escape(table.note)}</p>"
        for table in found
    ]
    return "\n".join(['<section class="benchmark">', *pictures, *written, "</section>"]) + "\n"


def draw(
    path: Path, rows: Sequence[Row], titles: Mapping[str, str], published: Sequence[Published]
) -> None:
    """Draws AUROC against the budget of the last stage, on one set.

    Hollow markers have no end-to-end guarantee; at the right edge stands what has no budget.

    Args:
        path: File to write.
        rows: Rows of one set.
        titles: Title by name of the regime.
        published: Series of others, grey.
    """
    measured = [row for row in rows if "auroc" in row.metrics and row.cost]
    units = list(dict.fromkeys(row.unit for row in measured if row.unit)) or [""]
    budgets = sorted(
        {float(row.budget) for row in measured if row.budget != "none"}
        | {float(e) for series in published for e in series.auroc}
    )
    edge = 2.4 * (budgets[-1] if budgets else 1.0)
    regimes = list(dict.fromkeys(row.regime for row in measured))
    with drawing.style():
        figure = drawing.new_figure(400 * len(units) + 190, 330)
        panels = figure.subplots(1, len(units), sharey=True, squeeze=False)[0]
        for axes, unit in zip(panels, units, strict=True):
            for place, regime in enumerate(regimes):
                own = [r for r in measured if r.regime == regime and r.unit in (unit, "")]
                shift = 1.035 ** (place - (len(regimes) - 1) / 2)
                _series(axes, own, edge, shift, place, titles[regime])
            for series, line in zip(published, itertools.cycle((DASH, DOTS, "-.")), strict=False):
                axes.plot(
                    *zip(*sorted(series.auroc.items()), strict=True),
                    color=MUTED,
                    linestyle=line,
                    linewidth=1.4,
                    marker=".",
                    label=f"published, per {series.unit}: {series.regime}",
                )
            axes.axhline(0.5, color=MUTED, linewidth=0.9, linestyle=DOTS)
            axes.set_xscale("log")
            axes.set_xticks([*budgets, edge], [*(f"{budget:g}" for budget in budgets), "none"])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(f"ε of the last stage, unit {unit or 'none'}")
        panels[0].set_ylabel(f"AUROC on {rows[0].evaluated}" if rows else "AUROC")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=10)
        drawing.save_png(figure, path)


def _series(
    axes: Axes, rows: Sequence[Row], edge: float, shift: float, place: int, title: str
) -> None:
    """One regime: a line over its budgets, whiskers, and a marker at the edge without one."""
    colour, marker = drawing.series(place)
    points = [((edge if r.budget == "none" else float(r.budget)) * shift, r) for r in rows]
    line = [(x, row.metrics["auroc"].value) for x, row in points if row.budget != "none"]
    axes.plot([], [], color=colour, marker=marker, markersize=7, label=title)
    if line:
        axes.plot(*zip(*sorted(line), strict=True), color=colour, linewidth=1.4)
    for x, row in points:
        hollow = row.cost is not None and math.isinf(row.cost.epsilon)
        auroc = row.metrics["auroc"]
        drawing.mark(axes, x, auroc, colour=colour, marker=marker, hollow=hollow)


def row_as_json(row: Row) -> dict[str, Any]:
    """A row without its resamples."""
    return {
        "set": row.evaluated,
        "regime": row.regime,
        "budget": row.budget,
        "unit": row.unit or None,
        "seeds": row.seeds,
        "missing": row.missing,
        "failed": row.failed,
        "metrics": {
            name: {
                **asdict(estimate),
                "seed_deviation": row.spread[name],
                **dict(zip(("patients", "crops", "malignant"), row.counts[name], strict=True)),
            }
            for name, estimate in row.metrics.items()
        },
        "perhaps_seen": row.perhaps_seen,
        "auroc_by_seed": {seed: float(row.by_seed[seed][0]) for seed in row.seeds},
        "end_to_end": asdict(row.cost) if row.cost else None,
        "settings": dict(row.settings),
    }


def _plain(value: object) -> object:
    return "infinity" if value == math.inf else "" if value != value else value


def finite(value: Any) -> Any:  # noqa: ANN401  plain values
    """The same values without NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "infinity" if value == math.inf else None
    return value
