# SPDX-License-Identifier: Apache-2.0
"""The risk corridor: utility, chances of success along the noise, and images by resolution."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from mammo_dp.attacks.ladder.cells import KAPPA, NO_PRIOR, Cell, Rung, is_chance
from mammo_dp.attacks.ladder.cells import PRIOR as GAUSSIAN
from mammo_dp.attacks.ladder.curve import Curve
from mammo_dp.attacks.membership.lira import ONLINE

INK, MUTED, GRID = "#22272e", "#7a828c", "#dde1e6"
WORST, RELAXED, PRIOR, SCRATCH, MEMBER = "#b3261e", "#d98324", "#7b4bb3", "#1f6f8b", "#3b7d3a"
_RC: dict[Any, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
}
_OPEN = 8.0  # the slot without privacy lies this factor below the least noise


def draw(path: Path, rungs: Sequence[Rung], curve: Curve, conditions: str) -> None:
    """Writes the figure as PNG in one move.

    Args:
        path: The file.
        rungs: Budgets of the ladder, at least one private.
        curve: Bounds between them.
        conditions: Unit, delta, adjacency, accountant, for the axis of epsilon.
    """
    least = min(rung.noise_multiplier for rung in rungs if rung.noise_multiplier > 0)
    places = [rung.noise_multiplier or least / _OPEN for rung in rungs]
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(8.6, 11.2), layout="constrained", dpi=140)
        top, middle, bottom = figure.subplots(3, 1, gridspec_kw={"height_ratios": [1.0, 2.3, 1.8]})
        _utility(top, rungs, places)
        _corridor(middle, rungs, places, curve)
        for axes in (top, middle):
            _noise_axis(axes, rungs, places)
        _epsilon_axis(top, rungs, places, conditions)
        top.tick_params(labelbottom=False)
        middle.set_xlabel("noise multiplier of a step (less noise to the right)")
        _by_resolution(bottom, rungs)
        temporary = path.with_suffix(".part")
        figure.savefig(temporary, format="png")
        temporary.replace(path)


def _utility(axes: Axes, rungs: Sequence[Rung], places: Sequence[float]) -> None:
    for rung, place in zip(rungs, places, strict=True):
        axes.plot([place] * 2, [rung.auroc.low, rung.auroc.high], color=INK, linewidth=1.2)
    axes.plot(places, [rung.auroc.value for rung in rungs], "o", color=INK, markersize=5)
    axes.axhline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.set_ylabel("AUROC,\n95 % interval")


def _corridor(axes: Axes, rungs: Sequence[Rung], places: Sequence[float], curve: Curve) -> None:
    noise = curve.noise
    small, full = sorted(curve.scratch)
    lines: list[tuple[Sequence[float] | None, str, str, Any]] = [
        (curve.worst_case_image, WORST, _image_label(curve), (0, (1, 1))),
        (
            curve.worst_case,
            WORST,
            f"1, 5 guarantee: name, recognise (guess {curve.kappa:g})",
            "-",
        ),
        (curve.relaxed, RELAXED, "2 assumption: sign unknown", "-"),
        (curve.prior, PRIOR, f"4 prediction: Gaussian prior, image read at {small} px", "--"),
        (curve.scratch[small], SCRATCH, f"3 assumption: no prior, image read at {small} px", "-"),
        (curve.scratch[full], SCRATCH, f"3 assumption: no prior, image read at {full} px", ":"),
    ]
    axes.fill_between(
        noise,
        curve.scratch[full],
        curve.worst_case_image or curve.worst_case,
        color=GRID,
        alpha=0.45,
        linewidth=0,
    )
    for values, colour, label, style in lines:
        if values is not None:
            axes.plot(noise, values, color=colour, linestyle=style, linewidth=1.5, label=label)
    membership = _membership(rungs)
    shown = [
        (1, None, "named from", WORST, "s", "1 attack: patient named by gradients, this run"),
        (1, None, "recognised", WORST, "D", "1 attack: worst-case canary recognised"),
        (5, membership, "TPR", MEMBER, "^", f"5 attack: {membership}, TPR at FPR {KAPPA:g}"),
        (3, NO_PRIOR, f"at {small} px", SCRATCH, "o", f"3 attack: image read at {small} px"),
        (4, GAUSSIAN, f"at {small} px", PRIOR, "v", f"4 attack: image read at {small} px"),
    ]
    for shift, (number, attack, word, colour, marker, label) in enumerate(shown):
        points = [
            (place * 1.07 ** (2 - shift), cell)
            for rung, place in zip(rungs, places, strict=True)
            for cell in rung.cells
            if cell.rung == number
            and attack in (None, cell.attack)
            and word in cell.metric
            and is_chance(cell.metric)
        ]
        _points(axes, points, colour, marker, label)
    _blind(axes, rungs, small)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("chance of success")
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.13), ncols=2)


def _points(
    axes: Axes, points: Sequence[tuple[float, Cell]], colour: str, marker: str, label: str
) -> None:
    for place, cell in points:
        axes.plot([place] * 2, [cell.low, cell.high], color=colour, linewidth=1.1)
    if points:
        axes.plot(
            [place for place, _ in points],
            [cell.value for _, cell in points],
            marker,
            color=colour,
            markersize=5,
            markerfacecolor="white",
            markeredgewidth=1.3,
            label=label,
        )


def _blind(axes: Axes, rungs: Sequence[Rung], px: int) -> None:
    guesses = [
        cell.blind
        for rung in rungs
        for cell in rung.cells
        if cell.metric.startswith("share") and cell.metric.endswith(f" {px} px")
    ]
    if guesses and guesses[0] is not None:
        axes.axhline(
            guesses[0],
            color=MUTED,
            linewidth=1.2,
            linestyle="--",
            label=f"blind: image read at {px} px, nothing seen",
        )
    guess = f"blind: guess, {KAPPA:g}"
    axes.axhline(KAPPA, color=MUTED, linewidth=1.0, linestyle=":", label=guess)


def _by_resolution(axes: Axes, rungs: Sequence[Rung]) -> None:
    colours = mpl.colormaps["viridis"]
    widest: dict[int, float] = {}
    for number, rung in enumerate(rungs):
        colour = colours(0.9 * number / max(1, len(rungs) - 1))
        for attack, style, filled in ((NO_PRIOR, "-", True), (GAUSSIAN, "--", False)):
            cells = {
                int(cell.metric.split()[2]): cell
                for cell in rung.cells
                if cell.attack == attack and cell.metric.startswith("NCC at")
            }
            if not cells:
                continue
            edges = sorted(cells)
            bounds = [bound for edge in edges if (bound := cells[edge].bound) is not None]
            if len(bounds) == len(edges) and filled:
                axes.plot(edges, bounds, color=colour, linewidth=1.2)
            for edge in edges:
                cell = cells[edge]
                axes.plot([edge] * 2, [cell.low, cell.high], color=colour, linewidth=1.0)
            axes.plot(
                edges,
                [cells[edge].value for edge in edges],
                "o" if filled else "v",
                color=colour,
                markersize=4.5 if filled else 5,
                markerfacecolor=colour if filled else "white",
                linestyle="none" if filled else style,
                linewidth=0.8,
                label=rung.label if filled else None,
            )
            widest |= {edge: cells[edge].blind or 0.0 for edge in edges}
    edges = sorted(widest)
    axes.plot(edges, [widest[e] for e in edges], color=MUTED, linewidth=3, alpha=0.6, label="blind")
    axes.set_xscale("log", base=2)
    axes.set_xticks(edges, [f"{edge} px" for edge in edges])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(-0.05, 1.05)
    axes.set_ylabel("correlation with the image (NCC)")
    axes.set_xlabel(
        "resolution that the server reads: line, no prior, closed form; dot, no prior, measured; "
        "triangle, Gaussian prior, measured"
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _noise_axis(axes: Axes, rungs: Sequence[Rung], places: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(max(places) * 2, min(places) / 2.2)
    axes.xaxis.set_major_locator(FixedLocator(list(places)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticklabels([f"{rung.noise_multiplier:.3g}" for rung in rungs])


def _epsilon_axis(
    axes: Axes, rungs: Sequence[Rung], places: Sequence[float], conditions: str
) -> None:
    upper = axes.secondary_xaxis("top")
    upper.xaxis.set_major_locator(FixedLocator(list(places)))
    upper.xaxis.set_minor_locator(NullLocator())
    upper.set_xticklabels([rung.shown_epsilon for rung in rungs])
    upper.set_xlabel(f"ε {conditions}")


def _membership(rungs: Sequence[Rung]) -> str | None:
    """The attack that is drawn: fixed in advance, not the best of several on the same run."""
    names = [cell.attack for rung in rungs for cell in rung.cells if cell.rung == 5]
    return next((name for name in (ONLINE.name, *names) if name in names), None)


def _image_label(curve: Curve) -> str:
    return (
        f"1 guarantee, if no blind guess reads more than {curve.kappa_image or 0:.2f}: image read"
    )
