# SPDX-License-Identifier: Apache-2.0
"""The one style of all figures, and how they are saved: SVG that follows its page, or PNG.

Figures are drawn by matplotlib in the light palette. In an SVG each of these colours becomes a CSS
variable, so that the figure follows the reader's colour scheme, alone or on a page; text stays
text, and the same facts give the same bytes. One unit of a figure is one CSS pixel.
"""

import io
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from classifier.evaluate import Estimate

WIDTH = 720.0
INK, MUTED, GRID, WARN, PAPER = "#2b323b", "#667080", "#dde1e6", "#b3372b", "#ffffff"
SERIES = ("#1f6fb2", "#b5590f", "#14795b", "#8d4a9e", "#8a6a00", "#a83a55")
MARKERS = ("o", "s", "D", "^", "v", "p")
# A colour of the palette, or, for PNG alone, red, green, blue and opacity in [0, 1].
Colour = str | tuple[float, float, float, float]
DASH, DOTS = (0, (4, 3)), (0, (1.2, 2.4))
VEIL = 0.16  # opacity of an area that marks a region
ROW = 21.0  # height of one row of a legend, in pixels

_DARK = {
    INK: "#d9dee4",
    MUTED: "#98a2ae",
    GRID: "#353c45",
    WARN: "#f28b7d",
    **dict(
        zip(
            SERIES,
            ("#79b8ee", "#f0a561", "#62c7a3", "#cf9be0", "#d8b64a", "#f0919f"),
            strict=True,
        )
    ),
}
_ROLES = {INK: "ink", MUTED: "muted", GRID: "grid", WARN: "warn"} | {
    colour: f"s{place}" for place, colour in enumerate(SERIES)
}
_VARIABLES = {colour: f"var(--{role})" for colour, role in _ROLES.items()} | {
    PAPER: "var(--paper,Canvas)"
}
_LIGHT_RULE = ";".join(f"--{role}:{colour}" for colour, role in _ROLES.items())
_DARK_RULE = ";".join(f"--{role}:{_DARK[colour]}" for colour, role in _ROLES.items())
_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"
_STYLE = (
    f".drawing{{{_LIGHT_RULE}}}"
    f"@media (prefers-color-scheme:dark){{.drawing{{{_DARK_RULE}}}}}"
    f"@media print{{.drawing{{{_LIGHT_RULE}}}}}"
    f".drawing text{{font-family:{_FONT}}}"
    ".drawing{stroke-linejoin:round;stroke-linecap:butt}"
)
_RC: dict[Any, Any] = {  # matplotlib types each key
    "figure.dpi": 72,
    "figure.constrained_layout.h_pad": 0.1,  # inches of 72 pixels
    "figure.constrained_layout.w_pad": 0.1,
    "font.size": 12,
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is wider than what browsers take
    "text.color": INK,
    "text.parse_math": False,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.labelsize": 12,
    "axes.labelpad": 8,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.0,
    "lines.markersize": 8,
    "patch.linewidth": 1.4,
    "xtick.color": MUTED,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "xtick.major.pad": 7,
    "ytick.color": MUTED,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "ytick.major.pad": 6,
    "legend.frameon": False,
    "legend.fontsize": 12,
    "legend.handlelength": 1.5,
    "legend.labelspacing": 0.55,
    "svg.fonttype": "none",
}
_TITLE = "title:"  # how the id of an artist begins whose words a pointer finds
_SVG = "http://www.w3.org/2000/svg"


def series(place: int) -> tuple[str, str]:
    """Colour and marker of a series; the next round of colours has other markers.

    Args:
        place: Number of the series, from 0.
    """
    around = place // len(SERIES)
    return SERIES[place % len(SERIES)], MARKERS[(place + around) % len(MARKERS)]


def style() -> AbstractContextManager[None]:
    """The style, for as long as a figure is made and saved."""
    return mpl.rc_context(_RC)


def new_figure(
    width: float, height: float, *, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """An empty figure without a ground of its own.

    Args:
        width: In pixels.
        height: In pixels.
        layout: Whether axes make room for their labels and for legends.
    """
    figure = Figure(figsize=(width / 72, height / 72), layout=layout)
    figure.patch.set_visible(False)
    return figure


def tell(artist: Artist, words: str) -> None:
    """Words about a mark that a pointer or a screen reader finds."""
    artist.set_gid(_TITLE + words)


def mark(
    axes: Axes,
    x: float,
    measured: Estimate,
    *,
    colour: Colour,
    marker: str,
    hollow: bool = False,
    words: str = "",
) -> None:
    """A measured value as a marker, and its interval, if there is one, as a vertical line.

    Args:
        axes: Where to draw.
        x: Place on the horizontal axis, in data.
        measured: Value and interval.
        colour: Of both.
        marker: Of matplotlib.
        hollow: Whether the marker has the ground's colour inside.
        words: What a pointer finds.
    """
    if not math.isnan(measured.low):
        ends = [measured.low, measured.high]
        axes.plot([x, x], ends, color=colour, alpha=0.5, linewidth=1.4, clip_on=False)
    (drawn,) = axes.plot([x], [measured.value], **look(colour, marker, hollow=hollow))
    drawn.set_clip_on(False)
    if words:
        tell(drawn, words)


def look(colour: Colour, marker: str, *, hollow: bool = False) -> dict[str, Any]:
    """Colours and size of a marker, as arguments of a line without strokes."""
    size = {"D": 6.6, "s": 7.2, "x": 7.6}.get(marker, 8.4)
    edge = 2.0 if hollow or marker == "x" else 0.0
    return {
        "color": colour,
        "marker": marker,
        "linestyle": "none",
        "markersize": size - edge / 2,
        "markerfacecolor": PAPER if hollow else colour,
        "markeredgecolor": colour,
        "markeredgewidth": edge,
    }


def key(words: str, colour: str, marker: str, *, hollow: bool = False) -> Line2D:
    """Entry of a legend for markers."""
    return Line2D([], [], label=words, **look(colour, marker, hollow=hollow))


def line_key(words: str, colour: str, style: Any = "-") -> Line2D:  # noqa: ANN401  as matplotlib has it
    """Entry of a legend for a line."""
    return Line2D([], [], color=colour, linestyle=style, label=words)


def area_key(words: str, colour: str, alpha: float = VEIL) -> Patch:
    """Entry of a legend for an area."""
    return Patch(facecolor=colour, alpha=alpha, linewidth=0, label=words)


def legend(figure: Figure | SubFigure, entries: Sequence[Artist], *, columns: int = 1) -> None:
    """What each colour and shape means, below all axes, in reading order.

    Args:
        figure: Where to draw.
        entries: Each with its label; words that are too long lose their middle.
        columns: Entries side by side.
    """
    width = _width(figure) / columns - 32
    across = [entry for column in range(columns) for entry in entries[column::columns]]
    for entry in entries:
        entry.set_label(shortened(str(entry.get_label()), width, 12))
    figure.legend(
        handles=across, loc="outside lower left", ncols=columns, columnspacing=3.0, borderaxespad=0
    )


def legend_height(entries: int, *, columns: int = 1) -> float:
    """Height that a legend takes, in pixels."""
    return 20 + ROW * math.ceil(entries / columns)


def ticks(axis: Any, places: Sequence[float], labels: Sequence[str]) -> None:  # noqa: ANN401  matplotlib's Axis
    """Fixed ticks; labels that would touch the one before are left out.

    Args:
        axis: The x axis of axes whose limits and scale are set.
        places: In data, in any order.
        labels: Of the same length.
    """
    axes = axis.axes
    (left, right), width = axes.get_xlim(), 0.86 * _width(axes.figure)
    to = axis.get_transform().transform
    start, end = to([left, right])
    pixels = [float((to([place])[0] - start) / (end - start) * width) for place in places]
    last, shown = -math.inf, list(labels)
    for place in sorted(range(len(places)), key=lambda place: pixels[place]):
        half = text_width(labels[place], 12) / 2
        if pixels[place] - half > last:
            last = pixels[place] + half + 4
        else:
            shown[place] = ""
    axis.set_major_locator(FixedLocator(list(places)))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels(shown)


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


def as_svg(figure: Figure, *, name: str, title: str, description: str) -> str:
    """A figure as SVG text.

    Args:
        figure: Drawn in :func:`style`.
        name: Start of its ids; one per page.
        title: What it shows, in a few words.
        description: What one sees, for those who do not see it.
    """
    _lay_out(figure)
    with mpl.rc_context({"svg.hashsalt": name}), io.BytesIO() as buffer:
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
        root = ElementTree.fromstring(buffer.getvalue())
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        node.attrib = {
            name.rpartition("}")[2]: _shown(name, value)
            for name, value in node.attrib.items()
            if not value.startswith("rotate(-0 ")
        }
        node.tail = None
        if node.tag not in ("text", "style"):
            node.text = None
    used = set(re.findall(r"#([\w-]+)", ElementTree.tostring(root, encoding="unicode")))
    for node in root.iter():
        _name(node, used)
    _flatten(root)
    box = root.get("viewBox") or ""
    root.attrib.clear()
    for attribute, value in {
        "xmlns": _SVG,
        "class": "drawing",
        "role": "img",
        "viewBox": box,
        "aria-labelledby": f"{name}-title {name}-desc",
    }.items():
        root.set(attribute, value)
    for place, (tag, words) in enumerate((("title", title), ("desc", description))):
        told = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        told.text = words
        root.insert(place, told)
    rules = ElementTree.Element("style")
    rules.text = _STYLE
    root.insert(2, rules)
    return ElementTree.tostring(root, encoding="unicode")


def save_png(figure: Figure, path: Path, *, dpi: float = 150) -> None:
    """Writes a figure as PNG on white in one move, so that the file is whole or absent."""
    figure.patch.set_visible(True)
    figure.dpi = dpi
    _lay_out(figure)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, dpi=dpi, format="png", facecolor=PAPER, metadata={"Software": None})
    part.replace(path)


def _width(figure: Figure | SubFigure) -> float:
    """In pixels, of a figure or a part of one."""
    return float(figure.get_window_extent().width * 72 / figure.dpi)


def _lay_out(figure: Figure) -> None:
    """Places axes and legends now; matplotlib would draw everything once more for that."""
    engine = figure.get_layout_engine()
    if engine is not None:
        FigureCanvasAgg(figure)  # knows the size of words
        engine.execute(figure)
        figure.set_layout_engine(None)


def _shown(name: str, value: str) -> str:
    """An attribute: palette colours as variables, the page's font, two digits of a pixel."""
    if name == "style":
        value = re.sub(r"font-family: [^;]*;?\s*", "", value)
        return re.sub(r"#[0-9a-f]{6}", lambda found: _VARIABLES.get(found[0], found[0]), value)
    if name in ("d", "x", "y", "width", "height", "transform"):
        value = re.sub(
            r"-?\d+\.\d+", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value
        )
        return re.sub(r"\s+", " ", value).strip()
    return value


def _name(node: ElementTree.Element, used: set[str]) -> None:
    """Words of :func:`tell` become a title; ids that nothing refers to go."""
    name = node.get("id")
    if name is None:
        return
    if name.startswith(_TITLE):
        told = ElementTree.Element("title")
        told.text = name.removeprefix(_TITLE)
        node.insert(0, told)
    if name not in used:
        del node.attrib["id"]


def _flatten(node: ElementTree.Element) -> None:
    """Groups that say nothing give way to what they hold; a style for all of a page goes."""
    children: list[ElementTree.Element] = []
    for child in node:
        _flatten(child)
        held = list(child)
        if child.tag in ("g", "defs") and not child.attrib and (not held or held[0].tag != "title"):
            children += held if child.tag == "g" else [child] * bool(held)
        elif child.tag != "style":
            children.append(child)
    node[:] = children
