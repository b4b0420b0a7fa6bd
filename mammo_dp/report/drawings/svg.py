# SPDX-License-Identifier: Apache-2.0
"""SVG by hand: scales, marks, axes and legends that read on light, on dark and on paper.

Colours are roles (``ink``, ``s0``, ...) that one style sheet inside each drawing resolves, so that
a figure follows the reader's colour scheme, alone or on a page. Text stays text and is escaped
here, in one place. The same facts give the same bytes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720.0
SHAPES = ("circle", "square", "diamond", "triangle", "wedge", "pentagon")
SERIES = len(SHAPES)
LEGEND_ROW = 21.0
_LIGHT = (
    "--ink:#2b323b;--muted:#667080;--grid:#dde1e6;--wash:#eef1f4;--warn:#b3372b;"
    "--s0:#1f6fb2;--s1:#b5590f;--s2:#14795b;--s3:#8d4a9e;--s4:#8a6a00;--s5:#a83a55"
)
_DARK = (
    "--ink:#d9dee4;--muted:#98a2ae;--grid:#353c45;--wash:#22282f;--warn:#f28b7d;"
    "--s0:#79b8ee;--s1:#f0a561;--s2:#62c7a3;--s3:#cf9be0;--s4:#d8b64a;--s5:#f0919f"
)
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_COLOURS = "".join(
    f".drawing .{name}:not(text){{stroke:var(--{name})}}"
    f".drawing .{name}.full,.drawing text.{name}{{fill:var(--{name})}}"
    for name in ("ink", "muted", "grid", "wash", "warn", *(f"s{place}" for place in range(SERIES)))
)
STYLE = (
    f".drawing{{{_LIGHT}}}"
    f"@media (prefers-color-scheme:dark){{.drawing{{{_DARK}}}}}"
    f"@media print{{.drawing{{{_LIGHT}}}}}"
    f".drawing text{{font-family:{_FONT};font-size:12px;fill:var(--ink)}}"
    ".drawing text.small{font-size:11px}"
    ".drawing text.strong{font-weight:640}"
    ".drawing :is(line,path,polyline,circle,rect){fill:none;stroke-width:1.4}"
    f"{_COLOURS}.drawing .full.full{{stroke:none}}.drawing .hair{{stroke-width:.8}}"
    ".drawing .bold{stroke-width:2.2}.drawing .faint{opacity:.5}.drawing .veil{opacity:.16}"
    ".drawing .dash{stroke-dasharray:5 4}.drawing .dots{stroke-dasharray:1.5 3}"
    ".drawing .paper{fill:var(--paper,Canvas)}"
)
_CORNERS = {
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "diamond": ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
    "triangle": ((0, -1.25), (1.2, 0.95), (-1.2, 0.95)),
    "wedge": ((0, 1.25), (1.2, -0.95), (-1.2, -0.95)),
    "pentagon": ((0, -1.25), (1.2, -0.35), (0.75, 1.05), (-0.75, 1.05), (-1.2, -0.35)),
}

Point = tuple[float, float]
# Of a legend: colours; a marker, "line" or "area"; whether it is hollow; words.
Entry = tuple[str, str, bool, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """From data to pixels.

    Attributes:
        low: Smallest shown value; above 0 if ``log``.
        high: Largest shown value, above ``low``.
        start: Pixel of ``low``.
        end: Pixel of ``high``.
        log: Whether equal distances are equal ratios.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value; values outside are drawn at the edge."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About ``count`` round values within the scale; powers of ten if it is logarithmic."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            powers = range(first, last + 1, max(1, math.ceil((last - first + 1) / count)))
            return [10.0**power for power in powers]
        raw = (self.high - self.low) / count
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step = next(m for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999) * magnitude
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(place * step, 12) for place in range(first, last + 1)]


class Drawing:
    """Collects marks and becomes SVG text.

    Args:
        height: Height of the canvas, in pixels.
        width: Its width.
    """

    def __init__(self, height: float, width: float = WIDTH) -> None:
        self.height = height
        self.width = width
        self._marks: list[str] = []

    def line(self, start: Point, end: Point, css: str) -> None:
        """A straight line."""
        self._add("line", css, x1=start[0], y1=start[1], x2=end[0], y2=end[1])

    def polyline(self, points: Iterable[Point], css: str) -> None:
        """Straight lines from point to point."""
        self._add("polyline", css, points=" ".join(f"{_px(x)},{_px(y)}" for x, y in points))

    def area(self, points: Iterable[Point], css: str) -> None:
        """A filled polygon."""
        path = "L".join(f"{_px(x)} {_px(y)}" for x, y in points)
        self._add("path", f"{css} full", d=f"M{path}Z")

    def curve(self, start: Point, end: Point, css: str) -> None:
        """A curve that leaves and arrives vertically."""
        (x1, y1), (x2, y2) = start, end
        bend = (y1 + y2) / 2
        path = f"M{_px(x1)} {_px(y1)}C{_px(x1)} {_px(bend)} {_px(x2)} {_px(bend)}"
        self._add("path", css, d=f"{path} {_px(x2)} {_px(y2)}")

    def box(self, corner: Point, width: float, height: float, css: str, radius: float = 0) -> None:
        """A rectangle, given by its upper left corner."""
        x, y = corner
        self._add("rect", css, x=x, y=y, width=max(0.0, width), height=max(0.0, height), rx=radius)

    def text(
        self, at: Point, words: str, css: str = "", *, anchor: str = "start", turn: bool = False
    ) -> None:
        """Words at the end of their base line; ``turn`` writes upwards."""
        x, y = at
        placed = {"transform": f"translate({_px(x)} {_px(y)}) rotate(-90)"} if turn else {}
        marks = {} if turn else {"x": x, "y": y}
        self._add("text", css, escape(words), **{"text-anchor": anchor}, **placed, **marks)

    def marker(self, shape: str, at: Point, css: str, *, hollow: bool = False) -> None:
        """A point of a series; ``cross`` is drawn by lines, all others by their outline."""
        x, y = at
        size = 4.2
        if shape == "cross":
            for sign in (-1, 1):
                self.line((x - size, y - sign * size), (x + size, y + sign * size), f"{css} bold")
            return
        css = f"{css} paper bold" if hollow else f"{css} full"
        if shape == "circle":
            self._add("circle", css, cx=x, cy=y, r=size + 0.4)
            return
        corners = " L".join(
            f"{_px(x + size * dx)} {_px(y + size * dy)}" for dx, dy in _CORNERS[shape]
        )
        self._add("path", css, d=f"M{corners}Z")

    def titled(self, words: str, start: int) -> None:
        """Groups what was drawn since ``start`` under words that a pointer or a reader finds."""
        marks = "".join(self._marks[start:])
        self._marks[start:] = [f"<g><title>{escape(words)}</title>{marks}</g>"]

    @property
    def count(self) -> int:
        """How many marks there are, for :meth:`titled`."""
        return len(self._marks)

    def svg(self, name: str, title: str, description: str) -> str:
        """The whole drawing.

        Args:
            name: Start of its ids; one per page.
            title: What it shows, in a few words.
            description: What one sees, for those who do not see it.
        """
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="drawing" role="img" '
            f'viewBox="0 0 {_px(self.width)} {_px(self.height)}" '
            f'aria-labelledby="{name}-title {name}-desc"><title id="{name}-title">{escape(title)}'
            f'</title><desc id="{name}-desc">{escape(description)}</desc><style>{STYLE}</style>'
            f"{''.join(self._marks)}</svg>"
        )

    def _add(self, tag: str, css: str, content: str = "", **attributes: float | str) -> None:
        shown = "".join(
            f' {name}="{_px(value) if isinstance(value, float | int) else escape(value)}"'
            for name, value in attributes.items()
        )
        style = f' class="{css}"' if css else ""
        end = f">{content}</{tag}>" if content else "/>"
        self._marks.append(f"<{tag}{style}{shown}{end}")


def x_axis(
    drawing: Drawing,
    scale: Scale,
    *,
    top: float,
    bottom: float,
    ticks: Sequence[tuple[float, str]],
    title: str,
    grid: bool = True,
) -> None:
    """Ticks with labels, lines of the grid and a title below; crowded labels are left out."""
    last = -math.inf
    for value, label in ticks:
        x = scale(value)
        if grid:
            drawing.line((x, top), (x, bottom), "grid hair")
        half = text_width(label, 12) / 2
        if x - half > last:
            drawing.text((x, bottom + 18), label, "muted", anchor="middle")
            last = x + half + 6
    drawing.line((scale.start, bottom), (scale.end, bottom), "muted hair")
    drawing.text(((scale.start + scale.end) / 2, bottom + 40), title, anchor="middle")


def y_axis(
    drawing: Drawing,
    scale: Scale,
    *,
    left: float,
    right: float,
    ticks: Sequence[tuple[float, str]],
    title: str,
) -> None:
    """Ticks with labels, lines of the grid and a title that reads upwards."""
    for value, label in ticks:
        y = scale(value)
        drawing.line((left, y), (right, y), "grid hair")
        drawing.text((left - 8, y + 4), label, "muted", anchor="end")
    drawing.text((15, (scale.start + scale.end) / 2), title, anchor="middle", turn=True)


def legend(
    drawing: Drawing,
    top: float,
    left: float,
    entries: Sequence[Entry],
    *,
    columns: int = 2,
) -> None:
    """What each colour and shape means.

    Args:
        drawing: Where to draw.
        top: Base line of the first row, in pixels.
        left: Left edge, in pixels.
        entries: In reading order.
        columns: Entries side by side.
    """
    column = (drawing.width - left) / columns
    for place, (css, shape, hollow, words) in enumerate(entries):
        x, y = left + column * (place % columns), top + LEGEND_ROW * (place // columns)
        if shape == "area":
            drawing.box((x - 8, y - 9), 16, 10, css)
        elif shape == "line":
            drawing.line((x - 9, y - 4), (x + 9, y - 4), css)
        else:
            drawing.marker(shape, (x, y - 4), css, hollow=hollow)
        drawing.text((x + 16, y), shortened(words, column - 20, 12))


def legend_height(entries: Sequence[Entry], *, columns: int = 2) -> float:
    """Height that a legend takes, in pixels."""
    return LEGEND_ROW * math.ceil(len(entries) / columns)


def text_width(words: str, size: float) -> float:
    """Width of words in a wide sans-serif, in pixels; an upper estimate, since fonts differ."""
    return 0.63 * size * len(words)


def shortened(words: str, width: float, size: float) -> str:
    """Words that fit a width, with an ellipsis in place of their middle where they would not."""
    most = max(3, int(width / (0.63 * size)))
    if len(words) <= most:
        return words
    head = (most - 1) // 2
    return f"{words[:head]}…{words[len(words) - (most - 1 - head) :]}"


def _px(value: float) -> str:
    """Pixels with two digits at most, so that the same facts give the same bytes."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
