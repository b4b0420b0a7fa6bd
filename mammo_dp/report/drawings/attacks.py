# SPDX-License-Identifier: Apache-2.0
"""What membership attacks achieved, beside what the statement allows any of them."""

from collections.abc import Sequence

import numpy as np

from mammo_dp.attacks.audit import roc
from mammo_dp.attacks.scoring import bounds_of
from mammo_dp.attacks.signals import read_signals
from mammo_dp.report.compare import Row
from mammo_dp.report.drawings.svg import (
    SERIES,
    WIDTH,
    Drawing,
    Entry,
    Point,
    Scale,
    legend,
    legend_height,
    shortened,
    x_axis,
    y_axis,
)

_NAMES, _LINE = 190.0, 30.0
_SHARES = [(tick / 4, f"{tick / 4:g}") for tick in range(5)]


def attacks_and_bounds(rows: Sequence[Row]) -> str | None:
    """The strongest attack on each model: advantage, and rate at 1 % false positives.

    Returns:
        SVG, or none if no model was attacked.
    """
    attacked = [row for row in rows if row.strongest]
    if not attacked:
        return None
    entries: list[Entry] = [
        ("s0", "circle", False, "strongest attack, 95 % interval"),
        ("muted full veil", "area", False, "allowed by the statement"),
        ("warn full veil", "area", False, "no bound: no guarantee"),
    ]
    bottom = 14 + _LINE * len(attacked)
    drawing = Drawing(bottom + 74 + legend_height(entries))
    half = (WIDTH - _NAMES - 40) / 2
    unit = " or ".join(sorted({str((row.attack or {})["unit"]) for row in attacked}))
    for panel, title in enumerate((f"advantage, unit {unit}", "TPR at 1 % false positives")):
        left = _NAMES + panel * (half + 30)
        x = Scale(low=0, high=1, start=left, end=left + half)
        x_axis(drawing, x, top=8, bottom=bottom, ticks=_SHARES, title=title)
        for place, row in enumerate(attacked):
            found = row.strongest or {}
            measured = found["tpr_at_fpr"]["0.01"] if panel else found["advantage"]
            _bar(drawing, x, 14 + _LINE * place, measured, bool(found["exceeds_bound"]))
    for place, row in enumerate(attacked):
        name = shortened(row.name, _NAMES - 10, 12)
        drawing.text((_NAMES - 14, 14 + _LINE * place + 17), name, anchor="end")
    legend(drawing, bottom + 70, 40, entries)
    described = "Strongest membership attack on each model beside its bound, as in the table."
    return drawing.svg("bounds", "Attacks beside their bounds", described)


def attack_curves(row: Row) -> str | None:
    """ROC curves of all attacks on one model on logarithmic axes, below what is allowed.

    Returns:
        SVG, or none if the model was not attacked or its signals are gone.
    """
    if row.attack is None or row.attacker is None:
        return None
    path = row.attacker.folder / "scores.csv"
    if not path.is_file():
        return None
    signals, unit = read_signals(path), row.attack["unit"]
    curves = {}
    for name, attack in row.attack["attacks"].items():
        groups = signals.scores(signals.of(name), unit, attack["combine"])
        curves[name] = roc(*groups)[:2]
    entries: list[Entry] = [
        (f"s{place % SERIES} bold", "line", False, name) for place, name in enumerate(curves)
    ]
    entries.append(("muted dots", "line", False, "random guess"))
    entries.append(("muted full veil", "area", False, "allowed by the statement"))
    least = min(1 / row.attack["nonmembers"], 1 / row.attack["members"]) / 1.2
    drawing = Drawing(384 + legend_height(entries))
    x = Scale(low=least, high=1, start=62, end=WIDTH - 10, log=True)
    y = Scale(low=least, high=1, start=310, end=14, log=True)
    shown = [(tick, f"{tick:g}") for tick in x.ticks(6)]
    y_axis(drawing, y, left=62, right=WIDTH - 10, ticks=shown, title="true-positive rate")
    title = f"false-positive rate, unit {unit}"
    x_axis(drawing, x, top=14, bottom=310, ticks=shown, title=title)
    if row.own:
        bounds = bounds_of(row.own.stored)
        grid = np.geomspace(least, 1, 60).tolist()
        edge = [(x(fpr), y(bounds.tpr(fpr))) for fpr in grid]
        drawing.area([(x(least), y(least)), *edge, (x(1), y(least))], "muted veil")
    drawing.line((x(least), y(least)), (x(1), y(1)), "muted dots")
    for place, (fpr, tpr) in enumerate(curves.values()):
        points: list[Point] = []
        for at, height in zip(fpr.tolist(), tpr.tolist(), strict=True):
            if at > 0 and height > 0:  # zero is nowhere on a logarithmic axis
                points += [(x(at), points[-1][1])] if points else []
                points.append((x(at), y(height)))
        drawing.polyline(points, f"s{place % SERIES} bold")
    legend(drawing, 380, 70, entries)
    described = f"ROC curves of attacks on {row.name}: {', '.join(curves)}."
    return drawing.svg("curves", "Membership attacks at every threshold", described)


def _bar(drawing: Drawing, x: Scale, top: float, measured: dict[str, float], exceeds: bool) -> None:
    """One measured value with its interval, on a bar as long as the bound."""
    vacuous = measured["bound"] >= 1
    css, middle = ("warn" if exceeds else "s0"), top + 13
    wash = "warn full veil" if vacuous else "muted full veil"
    drawing.box((x(0), top + 3), x(min(1.0, measured["bound"])) - x(0), 20, wash, radius=2)
    drawing.line((x(measured["low"]), middle), (x(measured["high"]), middle), f"{css} bold")
    drawing.marker("circle", (x(measured["value"]), middle), css)
