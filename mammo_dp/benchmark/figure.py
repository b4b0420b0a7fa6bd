# SPDX-License-Identifier: Apache-2.0
"""Utility against the budget, one panel per unit, as PNG."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from mammo_dp.benchmark.measure import METRICS
from mammo_dp.benchmark.published import Published
from mammo_dp.benchmark.results import Row

_COLOURS = ("#2f7fc1", "#d0762a", "#2b9a77", "#ab5aa0", "#b8912a", "#c25563", "#5b6470")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_GREY = "#87909c"


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
    measured = [row for row in rows if METRICS[0] in row.metrics and row.cost]
    units = list(dict.fromkeys(row.unit for row in measured if row.unit)) or [""]
    figure = Figure(figsize=(5.6 * len(units) + 2.6, 4.6), layout="constrained", dpi=150)
    panels = figure.subplots(1, len(units), sharey=True, squeeze=False)[0]
    budgets = sorted(
        {float(row.budget) for row in measured if row.budget != "none"}
        | {float(e) for series in published for e in series.auroc}
    )
    edge = 2.4 * (budgets[-1] if budgets else 1.0)
    regimes = list(dict.fromkeys(row.regime for row in measured))
    for axes, unit in zip(panels, units, strict=True):
        for place, regime in enumerate(regimes):
            own = [r for r in measured if r.regime == regime and r.unit in (unit, "")]
            shift = 1.035 ** (place - (len(regimes) - 1) / 2)
            _series(axes, own, edge, shift, place, titles[regime])
        for series, style in zip(published, itertools.cycle(("--", ":", "-.")), strict=False):
            axes.plot(
                *zip(*sorted(series.auroc.items()), strict=True),
                color=_GREY,
                linestyle=style,
                marker=".",
                label=f"published, per {series.unit}: {series.regime}",
            )
        axes.axhline(0.5, color=_GREY, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set_xscale("log")
        ticks = [*budgets, edge]
        axes.set_xticks(ticks, [*(f"{budget:g}" for budget in budgets), "none"])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(f"ε of the last stage, unit {unit or 'none'}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"AUROC on {rows[0].evaluated}" if rows else "AUROC")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    temporary = path.with_suffix(".part.png")
    figure.savefig(temporary, metadata={"Software": None})
    temporary.replace(path)


def _series(
    axes: Axes, rows: Sequence[Row], edge: float, shift: float, place: int, title: str
) -> None:
    """One regime: a line over its budgets, whiskers, and a marker at the edge without one."""
    colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
    points = [((edge if r.budget == "none" else float(r.budget)) * shift, r) for r in rows]
    line = [(x, row.metrics[METRICS[0]].value) for x, row in points if row.budget != "none"]
    axes.plot([], [], color=colour, marker=marker, label=title)
    if line:
        axes.plot(*zip(*sorted(line), strict=True), color=colour, linewidth=1.1)
    for x, row in points:
        auroc = row.metrics[METRICS[0]]
        hollow = row.cost is not None and math.isinf(row.cost.epsilon)
        axes.plot([x, x], [auroc.low, auroc.high], color=colour, linewidth=0.9, alpha=0.6)
        axes.plot(
            x,
            auroc.value,
            marker,
            color=colour,
            markerfacecolor="white" if hollow else colour,
            markersize=6,
        )
