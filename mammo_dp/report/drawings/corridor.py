# SPDX-License-Identifier: Apache-2.0
"""The risk corridor: utility above, chances of adversaries below, along the noise."""

from collections.abc import Sequence
from dataclasses import dataclass

from classifier.evaluate import Estimate
from mammo_dp.report.drawings.svg import (
    WIDTH,
    Drawing,
    Entry,
    Point,
    Scale,
    legend,
    legend_height,
    x_axis,
    y_axis,
)

_LEFT, _RIGHT = 62.0, WIDTH - 10
_UTILITY, _CHANCES = (14.0, 134.0), (164.0, 424.0)
_SHIFT = 6.0  # pixels between markers at one budget
_SHARES = [(tick / 4, f"{tick / 4:g}") for tick in range(5)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One training.

    Attributes:
        name: Its epsilon, as text.
        noise: Noise multiplier; 0 without privacy.
        utility: AUROC.
    """

    name: str
    noise: float
    utility: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What theory says of an adversary: chances by noise multiplier."""

    css: str
    words: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """What an attack achieved at each budget; none where it was not tried."""

    css: str
    shape: str
    words: str
    measured: Sequence[Estimate | None]


def draw_corridor(
    budgets: Sequence[Budget], lines: Sequence[Line], marks: Sequence[Marks], *, axis: str
) -> str:
    """Two panels that share the axis of noise; what has no privacy has a slot at its end.

    Args:
        budgets: At least one of them private.
        lines: Theory.
        marks: Attacks, one value per budget.
        axis: Words below the epsilons.
    """
    entries: list[Entry] = [(f"{line.css} bold", "line", False, line.words) for line in lines]
    entries += [(mark.css, mark.shape, False, mark.words) for mark in marks]
    top, bottom = _CHANCES
    drawing = Drawing(bottom + 74 + legend_height(entries, columns=1))
    noises = [noise for line in lines for noise, _ in line.points]
    noises += [budget.noise for budget in budgets if budget.noise > 0]
    slot = 56.0 if any(budget.noise == 0 for budget in budgets) else 0.0
    low, high = min(noises) / 1.1, max(noises) * 1.1
    # Falling noise to the right, so that epsilon grows to the right.
    x = Scale(low=low, high=high, start=_RIGHT - slot, end=_LEFT, log=True)
    places = [x(budget.noise) if budget.noise else _RIGHT - slot / 2 for budget in budgets]
    across = Scale(low=_LEFT, high=_RIGHT, start=_LEFT, end=_RIGHT)  # of pixels, for the labels
    names = [(place, budget.name) for place, budget in zip(places, budgets, strict=True)]
    if slot:
        left, height = _RIGHT - slot, bottom - _UTILITY[0]
        drawing.box((left, _UTILITY[0]), slot, height, "warn full veil", radius=3)
    _utility(drawing, budgets, places)
    chance = Scale(low=0, high=1, start=bottom, end=top)
    title = "chance of success"
    y_axis(drawing, chance, left=_LEFT, right=_RIGHT, ticks=_SHARES, title=title)
    x_axis(drawing, across, top=_UTILITY[0], bottom=bottom, ticks=sorted(names), title=axis)
    for line in lines:
        drawing.polyline([(x(n), chance(value)) for n, value in line.points], f"{line.css} bold")
    for number, mark in enumerate(marks):
        shift = _SHIFT * (number - (len(marks) - 1) / 2)
        for place, measured in zip(places, mark.measured, strict=True):
            if measured is not None:
                _mark(drawing, place + shift, chance, measured, mark.css, mark.shape)
    legend(drawing, bottom + 70, _LEFT + 8, entries, columns=1)
    described = (
        f"Budgets {', '.join(name for _, name in names)}; {'; '.join(e[3] for e in entries)}"
    )
    return drawing.svg("corridor", "Utility and risk along budgets", described)


def _utility(drawing: Drawing, budgets: Sequence[Budget], places: Sequence[float]) -> None:
    measured = [budget.utility for budget in budgets]
    ends = [v for one in measured for v in (one.low, one.value, one.high) if v == v]
    y = Scale(low=min([0.48, *ends]), high=max([0.6, *ends]), start=_UTILITY[1], end=_UTILITY[0])
    shown = [(tick, f"{tick:g}") for tick in y.ticks(3)]
    y_axis(drawing, y, left=_LEFT, right=_RIGHT, ticks=shown, title="AUROC")
    for place, one in zip(places, measured, strict=True):
        _mark(drawing, place, y, one, "ink", "circle")


def _mark(drawing: Drawing, x: float, y: Scale, measured: Estimate, css: str, shape: str) -> None:
    if measured.low == measured.low:  # not NaN
        drawing.line((x, y(measured.low)), (x, y(measured.high)), f"{css} faint")
    drawing.marker(shape, (x, y(measured.value)), css)
