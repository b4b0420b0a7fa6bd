# SPDX-License-Identifier: Apache-2.0
"""The risk corridor: utility above, chances of adversaries below, along budgets."""

from collections.abc import Sequence
from dataclasses import dataclass

from classifier.evaluate import Estimate
from mammo_dp.report.drawings.svg import (
    SHAPES,
    WIDTH,
    Drawing,
    Entry,
    Scale,
    legend,
    legend_height,
    x_axis,
    y_axis,
)

_LEFT, _RIGHT = 62.0, WIDTH - 10
_UTILITY, _CHANCES = (14.0, 134.0), (164.0, 424.0)
_SHIFT = 5.0  # pixels between markers at one budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One adversary along the budgets.

    Attributes:
        css: Its colour.
        words: For the legend.
        bounds: What theory says at each budget, in ``[0, 1]``; none where it says nothing.
        measured: What the attack achieved at each budget; none where it was not tried.
    """

    css: str
    words: str
    bounds: Sequence[float | None]
    measured: Sequence[Estimate | None]


def draw_corridor(
    budgets: Sequence[str], utility: Sequence[Estimate], lines: Sequence[Line], *, axis: str
) -> str:
    """Two panels that share the budgets, evenly spaced.

    Args:
        budgets: Labels, from the least to the largest.
        utility: AUROC at each.
        lines: Adversaries.
        axis: Words below the budgets.
    """
    entries: list[Entry] = [
        (line.css, SHAPES[place % len(SHAPES)], False, line.words)
        for place, line in enumerate(lines)
    ]
    top, bottom = _CHANCES
    drawing = Drawing(bottom + 74 + legend_height(entries, columns=1))
    x = Scale(low=-0.5, high=len(budgets) - 0.5, start=_LEFT, end=_RIGHT)
    names = list(enumerate(budgets))
    ends = [v for one in utility for v in (one.low, one.value, one.high) if v == v]
    y = Scale(low=min([0.48, *ends]), high=max([0.6, *ends]), start=_UTILITY[1], end=_UTILITY[0])
    shown = [(tick, f"{tick:g}") for tick in y.ticks(3)]
    y_axis(drawing, y, left=_LEFT, right=_RIGHT, ticks=shown, title="AUROC")
    for place, one in enumerate(utility):
        _mark(drawing, x(place), y, one, "ink", "circle")
    chance = Scale(low=0, high=1, start=bottom, end=top)
    shares = [(tick / 4, f"{tick / 4:g}") for tick in range(5)]
    title = "chance of success"
    y_axis(drawing, chance, left=_LEFT, right=_RIGHT, ticks=shares, title=title)
    x_axis(drawing, x, top=_UTILITY[0], bottom=bottom, ticks=names, title=axis)
    for place, line in enumerate(lines):
        points = [
            (x(at), chance(bound)) for at, bound in enumerate(line.bounds) if bound is not None
        ]
        drawing.polyline(points, line.css)
        shift = _SHIFT * (place - (len(lines) - 1) / 2)
        for at, measured in enumerate(line.measured):
            if measured is not None:
                shape = SHAPES[place % len(SHAPES)]
                _mark(drawing, x(at) + shift, chance, measured, line.css, shape)
    legend(drawing, bottom + 70, _LEFT + 8, entries, columns=1)
    described = f"Budgets {', '.join(budgets)}; {'; '.join(line.words for line in lines)}."
    return drawing.svg("corridor", "Utility and risk along budgets", described)


def _mark(drawing: Drawing, x: float, y: Scale, measured: Estimate, css: str, shape: str) -> None:
    if measured.low == measured.low:
        drawing.line((x, y(measured.low)), (x, y(measured.high)), f"{css} faint")
    drawing.marker(shape, (x, y(measured.value)), css)
