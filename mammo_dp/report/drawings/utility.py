# SPDX-License-Identifier: Apache-2.0
"""AUROC against the epsilon that is guaranteed end to end."""

import math
from collections.abc import Iterable, Sequence

from mammo_dp.report.compare import Row
from mammo_dp.report.drawings.svg import (
    SERIES,
    SHAPES,
    WIDTH,
    Drawing,
    Scale,
    legend,
    legend_height,
    x_axis,
    y_axis,
)
from mammo_dp.report.tables import epsilon, interval

_TOP, _BOTTOM, _LEFT, _RIGHT = 16.0, 296.0, 62.0, WIDTH - 10
_GAP = 9.0  # pixels between markers at one epsilon
_LANE = 200.0  # widest lane of models without guarantee


def utility_privacy(rows: Sequence[Row]) -> str | None:
    """One marker per evaluation; models without a guarantee have a lane of their own.

    Models without patients in their lineage have no epsilon and are left to the table.

    Epsilon is that of the guarantee, over every stage of the lineage, not of the last stage. Lines
    connect means over models of one start and body at one epsilon.

    Returns:
        SVG, or none if no model has a finite epsilon.
    """
    rows = [row for row in rows if row.statements]
    finite = [row for row in rows if row.guarantee]
    if not finite:
        return None
    lane = [row for row in rows if math.isinf(row.epsilon)]
    starts = list(dict.fromkeys(map(_kind, rows)))
    entries = [
        (f"s{place % SERIES}", SHAPES[place % SERIES], False, f"from {start}")
        for place, start in enumerate(starts)
    ]
    if any(row.is_private for row in lane):
        entries.append(("ink", "circle", True, "hollow: private last stage, no guarantee"))
    if any(not row.is_private for row in lane):
        entries.append(("ink", "cross", False, "cross: trained without privacy"))
    drawing = Drawing(_BOTTOM + 74 + legend_height(entries))
    y = _y_scale(rows)
    shown = [(tick, f"{tick:g}") for tick in y.ticks(5)]
    title = f"AUROC on {_joined(row.split for row in rows)}, 95 % interval"
    y_axis(drawing, y, left=_LEFT, right=_RIGHT, ticks=shown, title=title)
    width = min(_LANE, max(100.0, 40 + 14.0 * len(lane))) if lane else 0.0
    right = _RIGHT - width - (12 if lane else 0)
    levels = sorted({row.epsilon for row in finite})
    x = Scale(low=levels[0] / 1.6, high=levels[-1] * 1.6, start=_LEFT, end=right, log=True)
    names = [(level, epsilon(level)) for level in levels]
    title = f"ε end to end ({_conditions(finite)})"
    x_axis(drawing, x, top=_TOP, bottom=_BOTTOM, ticks=names, title=title)
    drawing.line((_LEFT, y(0.5)), (_RIGHT, y(0.5)), "muted dots")
    _means(drawing, x, y, finite, starts)
    for row, place in _side_by_side(finite, x, starts):
        _mark(drawing, row, place, y, starts.index(_kind(row)))
    if lane:
        _lane(drawing, lane, y, starts, width)
    legend(drawing, _BOTTOM + 70, _LEFT + 8, entries)
    described = "; ".join(
        f"{row.name}: {interval(row.metrics['auroc'])} at epsilon {epsilon(row.epsilon)}"
        for row in rows
    )
    return drawing.svg("utility", "AUROC against epsilon end to end", described)


def _y_scale(rows: Sequence[Row]) -> Scale:
    """Room for each interval and for the line of chance."""
    measured = [row.metrics["auroc"] for row in rows]
    ends = [v for m in measured for v in (m.low, m.value, m.high) if math.isfinite(v)]
    low, high = min([0.48, *ends]) - 0.01, max([0.6, *ends]) + 0.01
    return Scale(low=low, high=high, start=_BOTTOM, end=_TOP)


def _means(
    drawing: Drawing, x: Scale, y: Scale, finite: Sequence[Row], starts: Sequence[str]
) -> None:
    for place, start in enumerate(starts):
        groups: dict[float, list[float]] = {}
        for row in finite:
            if _kind(row) == start:
                groups.setdefault(row.epsilon, []).append(row.metrics["auroc"].value)
        points = [(x(e), y(sum(v) / len(v))) for e, v in sorted(groups.items())]
        if len(points) > 1:
            drawing.polyline(points, f"s{place % SERIES} faint")


def _side_by_side(rows: Sequence[Row], x: Scale, starts: Sequence[str]) -> list[tuple[Row, float]]:
    """Pixels of markers; those that would lie on one another stand next to each other."""
    ordered = sorted(rows, key=lambda row: (row.epsilon, starts.index(_kind(row)), row.name))
    clusters: list[list[Row]] = []
    for row in ordered:
        if clusters and x(row.epsilon) - x(clusters[-1][-1].epsilon) < _GAP:
            clusters[-1].append(row)
        else:
            clusters.append([row])
    placed = []
    for cluster in clusters:
        centre = sum(x(row.epsilon) for row in cluster) / len(cluster)
        for place, row in enumerate(cluster):
            placed.append((row, centre + _GAP * (place - (len(cluster) - 1) / 2)))
    return placed


def _lane(
    drawing: Drawing, lane: Sequence[Row], y: Scale, starts: Sequence[str], width: float
) -> None:
    """Models without guarantee: private last stages first, then those without privacy."""
    left = _RIGHT - width
    drawing.box((left, _TOP), width, _BOTTOM - _TOP, "warn full veil", radius=3)
    drawing.text((left + width / 2, _BOTTOM + 18), "∞", "strong", anchor="middle")
    drawing.text((left + width / 2, _BOTTOM + 40), "no guarantee", anchor="middle")
    ordered = sorted(
        lane,
        key=lambda row: (not row.is_private, starts.index(_kind(row)), _stage(row), row.name),
    )
    for place, row in enumerate(ordered):
        x = left + width * (place + 0.5) / len(ordered)
        _mark(drawing, row, x, y, starts.index(_kind(row)))


def _kind(row: Row) -> str:
    """What the weights were before the run, and of what body."""
    return f"{row.start}, {row.backbone}" if row.backbone else row.start


def _stage(row: Row) -> float:
    return row.own.stage_epsilon if row.own else 0.0


def _mark(drawing: Drawing, row: Row, x: float, y: Scale, series: int) -> None:
    """Marker and interval of one model, with its name for a pointer."""
    auroc, css, start = row.metrics["auroc"], f"s{series % SERIES}", drawing.count
    if not math.isnan(auroc.low):
        drawing.line((x, y(auroc.low)), (x, y(auroc.high)), f"{css} faint")
    without = math.isinf(row.epsilon)
    shape = "cross" if without and not row.is_private else SHAPES[series % SERIES]
    drawing.marker(shape, (x, y(auroc.value)), css, hollow=without)
    drawing.titled(f"{row.name}: AUROC {interval(auroc)}, ε {epsilon(row.epsilon)}", start)


def _conditions(rows: Sequence[Row]) -> str:
    stated = [row.guarantee for row in rows if row.guarantee]
    units = " or ".join(sorted({one.unit for one in stated}))
    deltas = ", ".join(f"{delta:g}" for delta in sorted({one.delta for one in stated}))
    adjacency = " or ".join(sorted({str(one.stored["adjacency"]) for one in stated}))
    return f"unit {units}, δ = {deltas}, {adjacency}"


def _joined(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
