# SPDX-License-Identifier: Apache-2.0
"""Figures of a report as SVG text that reads on light and on dark.

Text stays text, in the fonts of the page; the background is transparent; ink and grid follow the
reader's colour scheme, series have mid-tones that stand out on both. The same rows give the same
bytes.
"""

import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullFormatter

from classifier.evaluate import Estimate
from mammo_dp.attacks.audit import roc
from mammo_dp.attacks.signals import read_signals
from mammo_dp.report.compare import Row, Statement
from mammo_dp.report.tables import epsilon

INK, MUTED, GRID = "#5b6470", "#87909c", "#b9c0c9"
SERIES = ("#2f7fc1", "#d0762a", "#2b9a77", "#ab5aa0", "#b8912a", "#c25563")
MARKERS = ("o", "s", "D", "^", "v", "P")
_THEME = {INK: "ink", MUTED: "muted", GRID: "grid"}
_STYLE = (
    "<style>.mdp-figure{--ink:#333a44;--muted:#6b7480;--grid:#d5dae0}"
    "@media (prefers-color-scheme: dark)"
    "{.mdp-figure{--ink:#d3d8de;--muted:#9aa3ae;--grid:#3d444d}}"
    "@media print{.mdp-figure{--ink:#333a44;--muted:#6b7480;--grid:#d5dae0}}</style>"
)
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_RC: dict[Any, Any] = {  # matplotlib types each key
    "svg.fonttype": "none",
    "font.size": 9.5,
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
}


def utility_privacy(rows: Sequence[Row]) -> str | None:
    """AUROC against the epsilon of the private stage, one series per start.

    Runs that are not private are horizontal bands. Hollow markers have no end-to-end guarantee.

    Returns:
        SVG, or none if no run is private.
    """
    private = [(row, row.own) for row in rows if row.own and row.is_private]
    if not private:
        return None
    with mpl.rc_context({**_RC, "svg.hashsalt": "utility"}):
        figure = Figure(figsize=(7.4, 4.5), layout="constrained")
        axes = figure.add_subplot()
        handles: list[Line2D | Patch] = []
        starts = list(dict.fromkeys(row.start for row, _ in private))
        for place, start in enumerate(starts):
            colour, marker = SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)]
            shift = 1.045 ** (place - (len(starts) - 1) / 2)  # side by side, not on one another
            points = [(own, row.metrics["auroc"]) for row, own in private if row.start == start]
            by_epsilon: dict[float, list[float]] = {}
            for own, auroc in points:
                by_epsilon.setdefault(own.stage_epsilon, []).append(auroc.value)
                _whisker(axes, own.stage_epsilon * shift, auroc, colour)
                hollow = math.isinf(own.epsilon)
                axes.plot(
                    own.stage_epsilon * shift,
                    auroc.value,
                    marker,
                    color=colour,
                    markerfacecolor="none" if hollow else colour,
                    markersize=6.5,
                    markeredgewidth=1.6,
                )
            line = sorted((e * shift, float(np.mean(v))) for e, v in by_epsilon.items())
            axes.plot(*zip(*line, strict=True), color=colour, linewidth=1.1, alpha=0.55)
            handles.append(
                Line2D([], [], color=colour, marker=marker, linewidth=1.1, label=f"from {start}")
            )
        if any(math.isinf(own.epsilon) for _, own in private):
            handles.append(
                Line2D(
                    [],
                    [],
                    color=INK,
                    marker="o",
                    markerfacecolor="none",
                    linestyle="none",
                    label="hollow: end-to-end ε is infinite",
                )
            )
        handles += _bands(axes, [row for row in rows if not row.is_private])
        axes.axhline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set_xscale("log")
        epsilons = sorted({own.stage_epsilon for _, own in private})
        axes.set_xlim(epsilons[0] / 1.7, epsilons[-1] * 1.7)
        axes.set_xticks(epsilons, [epsilon(e) for e in epsilons])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", which="minor", length=0)
        axes.set_xlabel(f"ε of the private training stage ({_conditions(private)})")
        splits = ", ".join(sorted({row.split for row in rows}))
        axes.set_ylabel(f"AUROC on {splits}, 95 % interval")
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
        return _svg(figure, "utility", "AUROC against epsilon; the numbers are in the table.")


def risk(rows: Sequence[Row]) -> str | None:
    """Measured membership attack beside its bound, per run: advantage, and TPR at 1 % FPR.

    Returns:
        SVG, or none if no run was attacked.
    """
    attacked = [row for row in rows if row.attack]
    if not attacked:
        return None
    with mpl.rc_context({**_RC, "svg.hashsalt": "risk", "axes.grid.axis": "x"}):
        figure = Figure(figsize=(7.4, 1.35 + 0.36 * len(attacked)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for place, row in enumerate(attacked):
            attack = row.strongest or {}
            for axes, found in (
                (left, attack["advantage"]),
                (right, attack["tpr_at_fpr"]["0.01"]),
            ):
                vacuous = found["bound"] >= 1
                axes.barh(
                    place,
                    min(1.0, found["bound"]),
                    height=0.62,
                    facecolor="none" if vacuous else GRID,
                    alpha=0.75,
                    edgecolor=GRID,
                    hatch="////" if vacuous else None,
                    linewidth=0.8,
                )
                colour = SERIES[5] if attack["exceeds_bound"] else SERIES[0]
                axes.plot([found["low"], found["high"]], [place] * 2, color=colour, linewidth=1.6)
                axes.plot(found["value"], place, "o", color=colour, markersize=5.5)
        left.set_yticks(range(len(attacked)), [row.name for row in attacked])
        left.set_ylim(len(attacked) - 0.4, -0.6)
        left.set_xlim(-0.02, 1.02)
        right.set_xlim(-0.02, 1.02)
        units = " or ".join(sorted({(row.attack or {})["unit"] for row in attacked}))
        left.set_xlabel(f"advantage (TPR − FPR), unit {units}")  # noqa: RUF001  minus sign
        right.set_xlabel(f"TPR at 1 % FPR, unit {units}")
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        figure.legend(
            handles=[
                Line2D([], [], color=SERIES[0], marker="o", label="attack, 95 % interval"),
                Patch(facecolor=GRID, alpha=0.75, label="allowed by the bound"),
                Patch(facecolor="none", edgecolor=GRID, hatch="////", label="no bound"),
            ],
            loc="outside lower center",
            ncols=3,
            fontsize=9,
        )
        return _svg(figure, "risk", "Attacks beside their bounds; the numbers are in the table.")


def attack_curves(rows: Sequence[Row]) -> str | None:
    """ROC curves of the membership attacks on logarithmic axes, from saved signals.

    Returns:
        SVG, or none if no signals were saved.
    """
    curves = []
    for row in rows:
        path = row.attacker and row.attacker.folder / "scores.csv"
        if path and path.is_file() and row.attack:
            signals = read_signals(path)
            name = row.attack["strongest"]
            combine = row.attack["attacks"][name]["combine"]
            scores = signals.scores(signals.of(name), row.attack["unit"], combine)
            curves.append((row, *scores))
    if not curves:
        return None
    with mpl.rc_context({**_RC, "svg.hashsalt": "curves"}):
        figure = Figure(figsize=(7.4, 4.2), layout="constrained")
        axes = figure.add_subplot()
        least = min(1 / len(nonmembers) for _, _, nonmembers in curves)
        for place, (row, members, nonmembers) in enumerate(curves):
            fpr, tpr, _ = roc(members, nonmembers)
            shown = fpr > 0
            axes.plot(
                fpr[shown],
                tpr[shown],
                color=SERIES[place % len(SERIES)],
                linestyle=("-", "--", ":")[place // len(SERIES) % 3],
                linewidth=1.4,
                drawstyle="steps-post",
                label=row.name,
            )
        axes.plot([least, 1], [least, 1], color=MUTED, linewidth=0.9, label="random guess")
        axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.05))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        units = " or ".join(sorted({(row.attack or {})["unit"] for row, _, _ in curves}))
        axes.set_xlabel(f"false-positive rate, unit {units}")
        axes.set_ylabel(f"true-positive rate, unit {units}")
        figure.legend(loc="outside right upper", fontsize=8.5)
        return _svg(figure, "curves", "ROC curves of the membership attacks.")


def _whisker(axes: Axes, x: float, measured: Estimate, colour: str) -> None:
    if not math.isnan(measured.low):
        axes.plot([x, x], [measured.low, measured.high], color=colour, linewidth=1.3)


def _bands(axes: Axes, rows: Sequence[Row]) -> list[Line2D | Patch]:
    """Runs without an epsilon of their own, as horizontal lines with their interval."""
    handles: list[Line2D | Patch] = []
    styles: tuple[Any, ...] = ("--", "-.", ":", (0, (6, 2, 1, 2, 1, 2)))
    for place, row in enumerate(rows):
        auroc = row.metrics["auroc"]
        if not math.isnan(auroc.low):
            axes.axhspan(auroc.low, auroc.high, color=MUTED, alpha=0.12, linewidth=0)
        style = styles[place % len(styles)]
        axes.axhline(auroc.value, color=INK, linewidth=1.2, linestyle=style)
        what = "no patient in training" if row.own is None else "not private"
        label = f"{what}, from {row.start}"
        handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=style, label=label))
    return handles


def _conditions(private: Sequence[tuple[Row, Statement]]) -> str:
    owns = [own for _, own in private]
    units = " or ".join(sorted({own.unit for own in owns}))
    deltas = ", ".join(f"{d:g}" for d in sorted({own.delta for own in owns}))
    return f"unit {units}, δ = {deltas}"


def _svg(figure: Figure, name: str, label: str) -> str:
    """SVG text with colours of the reader's scheme and ids of its own."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
    for colour, variable in _THEME.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    text = re.sub(r"(font:[^;\"]*?\bpx) [^;\"]*", rf"\1 {_FONT}", text)
    head, body = text.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    return f'{head} class="mdp-figure" role="img" aria-label="{escape(label)}">{_STYLE}{body}'
