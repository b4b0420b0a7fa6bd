# SPDX-License-Identifier: Apache-2.0
"""The risk corridor: utility, probabilities of success along the noise, and images by resolution.

Everything is drawn from the content of ``ladder.json``, so that the figure beside it and the one on
the page of a report are the same.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from classifier.evaluate import Estimate
from mammo_dp import drawing
from mammo_dp.attacks.ladder.cells import NO_PRIOR, PRIOR, Key, find, probabilities
from mammo_dp.drawing import DASH, DOTS, GRID, INK, MARKERS, MUTED, SERIES, VEIL, WARN, WIDTH

_COLOURS = {1: SERIES[5], 2: SERIES[1], 3: SERIES[0], 4: SERIES[3], 5: SERIES[2]}  # by rung
_FULL = SERIES[4]  # rung 3 at the full resolution
_SLOT, _SHIFT = 56.0, 6.0  # pixels: of what has no privacy, and between markers at one budget
_PLOT = WIDTH - 70.0  # width of a panel, in pixels
_LINE = 80  # characters that fit below it

Stored = Mapping[str, Any]


def corridor(stored: Stored, names: Sequence[str], *, name: str) -> str:
    """Utility and probabilities of success as SVG; no privacy is a slot at the end of the axis.

    Args:
        stored: Content of ``ladder.json``, with at least one private budget.
        names: Epsilon of each budget as text.
        name: Start of the ids of the SVG.
    """
    with drawing.style():
        figure = drawing.new_figure(WIDTH, 490)
        top, bottom = figure.subplots(2, 1, gridspec_kw={"height_ratios": [1.0, 2.2]})
        entries = _corridor(top, bottom, stored, names)
        figure.set_figheight((490 + drawing.legend_height(len(entries))) / 72)
        drawing.legend(figure, entries)
        words = "; ".join(str(entry.get_label()) for entry in entries)
        return drawing.as_svg(
            figure,
            name=name,
            title="Utility and risk along budgets",
            description=f"Budgets {', '.join(names)}; {words}",
        )


def draw(path: Path, stored: Stored, names: Sequence[str]) -> None:
    """Writes the corridor and the images by resolution as PNG in one move.

    Args:
        path: The file.
        stored: As for :func:`corridor`.
        names: As for :func:`corridor`.
    """
    with drawing.style():
        figure = drawing.new_figure(WIDTH, 1050)
        upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.6, 1.0])[:, 0]
        top, bottom = upper.subplots(2, 1, gridspec_kw={"height_ratios": [1.0, 2.2]})
        drawing.legend(upper, _corridor(top, bottom, stored, names))
        _by_resolution(lower.subplots(), stored["budgets"], names)
        drawing.save_png(figure, path, dpi=144)


def _corridor(top: Axes, bottom: Axes, stored: Stored, names: Sequence[str]) -> list[Artist]:
    """Both panels on one axis of falling noise; returns the entries of their legend."""
    budgets, between = stored["budgets"], stored["between"]
    noises = [budget["noise_multiplier"] for budget in budgets]
    shown = [*between["noise"], *(noise for noise in noises if noise > 0)]
    low, high = min(shown) / 1.1, max(shown) * 1.1
    slot = _SLOT if 0 in noises else 0.0
    pixel = (high / low) ** (1 / (_PLOT - slot))  # ratio of two noises one pixel apart
    places = [noise or low / pixel ** (slot / 2) for noise in noises]
    for axes in (top, bottom):
        axes.set_xscale("log")
        axes.set_xlim(high, low / pixel**slot)  # so that epsilon grows to the right
        if slot:
            axes.axvspan(low, low / pixel**slot, color=WARN, alpha=VEIL, linewidth=0)
    drawing.ticks(bottom.xaxis, places, names)
    bottom.set_xlabel(textwrap.fill(f"ε ({stored['conditions']})", _LINE))
    drawing.ticks(top.xaxis, places, [f"{noise:.3g}" for noise in noises])
    top.xaxis.set_ticks_position("top")
    top.xaxis.set_label_position("top")
    top.set_xlabel("noise multiplier of a step")
    for budget, place in zip(budgets, places, strict=True):
        drawing.mark(top, place, Estimate(**budget["auroc"]), colour=INK, marker="o")
    top.axhline(0.5, color=MUTED, linewidth=1.4, linestyle=DOTS)
    top.set_ylabel("AUROC")
    top.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    top.yaxis.set_major_formatter("{x:g}")
    bottom.set_ylabel("probability of success")
    bottom.set_ylim(-0.02, 1.02)
    bottom.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    small, full = sorted(map(int, between["scratch"]))
    entries = _theory(bottom, between, small, full)
    keys = probabilities(budgets, small)
    for number, key in enumerate(keys):
        colour, marker = _COLOURS.get(key[0], INK), MARKERS[(number + 1) % len(MARKERS)]
        words = f"attack, rung {key[0]}: {key[1]}, {key[2]}"
        entries.append(drawing.key(words, colour, marker))
        shift = pixel ** -(_SHIFT * (number - (len(keys) - 1) / 2))
        for budget, place in zip(budgets, places, strict=True):
            if cell := find(budget, key):
                drawing.mark(bottom, place * shift, _measured(cell), colour=colour, marker=marker)
    return [*entries, *_blind(bottom, budgets, keys, between["kappa"])]


def _theory(axes: Axes, between: Stored, small: int, full: int) -> list[Artist]:
    """Lines between the budgets, as far as the ladder has them."""
    scratch = between["scratch"]
    lines: list[tuple[Sequence[float] | None, str, Any, str]] = [
        (
            between["worst_case"],
            _COLOURS[1],
            "-",
            "guarantee, rungs 1 and 5: any adversary, who guesses right with probability "
            f"{between['kappa']:g}",
        ),
        (
            between.get("worst_case_image"),
            _COLOURS[1],
            DOTS,
            "guarantee, rung 1: image read, if no blind guess reads more than "
            f"{between.get('kappa_image') or 0:.2f}",
        ),
        (between["relaxed"], _COLOURS[2], "-", "assumption, rung 2: the gradient's sign is hidden"),
        (
            between["prior"],
            _COLOURS[4],
            DASH,
            f"prediction, rung 4: image read at {small} px with a Gaussian prior",
        ),
        (
            scratch[str(small)],
            _COLOURS[3],
            "-",
            f"assumption, rung 3: image read at {small} px without a prior",
        ),
        (
            scratch[str(full)],
            _FULL,
            "-",
            f"assumption, rung 3: image read at {full} px without a prior",
        ),
    ]
    noise = between["noise"]
    highest = between.get("worst_case_image") or between["worst_case"]
    axes.fill_between(noise, scratch[str(full)], highest, color=GRID, alpha=0.45, linewidth=0)
    entries: list[Artist] = []
    for values, colour, line, words in lines:
        if values is not None:
            axes.plot(noise, values, color=colour, linestyle=line, linewidth=2)
            entries.append(drawing.line_key(words, colour, line))
    return entries


def _blind(
    axes: Axes, budgets: Sequence[Stored], keys: Sequence[Key], kappa: float
) -> list[Artist]:
    """Guesses that saw nothing: of an image, and of a name."""
    cells = [find(budget, key) for key in keys if key[1] == NO_PRIOR for budget in budgets]
    blind = next((cell["blind"] for cell in cells if cell and cell["blind"] is not None), None)
    entries: list[Artist] = []
    for value, line, words in (
        (blind, DASH, "blind guess: image read, nothing seen"),
        (kappa, DOTS, f"blind guess: {kappa:g}"),
    ):
        if value is not None:
            axes.axhline(value, color=MUTED, linewidth=1.2, linestyle=line)
            entries.append(drawing.line_key(words, MUTED, line))
    return entries


def _by_resolution(axes: Axes, budgets: Sequence[Stored], names: Sequence[str]) -> None:
    colours = mpl.colormaps["viridis"]
    widest: dict[int, float] = {}
    for number, budget in enumerate(budgets):
        colour = colours(0.9 * number / max(1, len(budgets) - 1))
        for attack, marker in ((NO_PRIOR, "o"), (PRIOR, "v")):
            cells = {
                int(cell["metric"].split()[2]): cell
                for cell in budget["attacks"]
                if cell["attack"] == attack and cell["metric"].startswith("NCC at")
            }
            bounds = [(e, c["bound"]) for e, c in sorted(cells.items()) if c["bound"] is not None]
            if attack == NO_PRIOR and len(bounds) == len(cells) > 0:
                axes.plot(*zip(*bounds, strict=True), color=colour, linewidth=1.4)
            if attack == PRIOR and cells:
                values = [cell["value"] for _, cell in sorted(cells.items())]
                axes.plot(sorted(cells), values, color=colour, linewidth=0.8, linestyle=DASH)
            for edge, cell in sorted(cells.items()):
                drawing.mark(
                    axes,
                    edge,
                    _measured(cell),
                    colour=colour,
                    marker=marker,
                    hollow=attack == PRIOR,
                )
                widest[edge] = cell["blind"] or 0.0
        label = "no privacy" if math.isinf(float(budget["epsilon"])) else f"ε {names[number]}"
        axes.plot([], [], label=label, **drawing.look(colour, "o"))
    edges = sorted(widest)
    blind = [widest[edge] for edge in edges]
    axes.plot(edges, blind, color=MUTED, linewidth=3, alpha=0.6, label="blind guess")
    axes.set_xscale("log", base=2)
    axes.set_xticks(edges, [f"{edge} px" for edge in edges])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.05, 1.05)
    axes.set_ylabel("correlation (NCC)")
    axes.set_xlabel(
        "resolution that the server reads: line and dot, no prior (closed form, measured); "
        "triangle, Gaussian prior",
        fontsize=10,
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _measured(cell: Stored) -> Estimate:
    return Estimate(cell["value"], cell["low"], cell["high"])
