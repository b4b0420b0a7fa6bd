# SPDX-License-Identifier: Apache-2.0
"""One figure of a comparison: a panel per measure, a row per source, the bound as a band."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes

from mammo_dp import drawing
from mammo_dp.drawing import MUTED, SERIES, VEIL
from mammo_dp.fidelity.tables import NAMES

_BETTER = {
    "frechet": "lower",
    "kernel": "lower",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",
    "coverage": "higher",
    "ms_ssim": "as real",
    "grid": "lower",
    "slope": "as real",
    "tstr_machine": "higher",
    "trts_machine": "as real",
    "tstr_descent": "higher",
    "trts_descent": "as real",
}


def draw_figure(result: Mapping[str, Any], path: Path) -> None:
    """Draws all measures of a comparison as PNG, in one move.

    Args:
        result: Content of ``fidelity.json``.
        path: Target.
    """
    sources: Mapping[str, Any] = result["sources"]
    with drawing.style():
        figure = drawing.new_figure(1200, 150 + 3 * (90 + 19 * len(sources)))
        axes = list(figure.subplots(3, 5, sharey=True).flat)
        while len(axes) > len(NAMES) + 1:
            axes.pop().set_visible(False)
        for panel, (measure, name) in zip(axes, NAMES.items(), strict=False):
            scores = [source["scores"][measure] for source in sources.values()]
            _panel(panel, [score["found"] for score in scores], scores[0]["bound"])
            panel.set_title(f"{fill(name, 26)}\n{_BETTER[measure]} is better", fontsize=10)
            if measure == "grid" and max(score["found"]["value"] for score in scores) > 10:
                panel.set_xscale("log")
        ratios = [source["copying"]["features"]["all"]["ratio"] for source in sources.values()]
        _panel(axes[-1], ratios, result["real"]["copying"]["features"]["all"]["ratio"])
        axes[-1].set_title("copying ratio in features\nbelow 1: nearer to training", fontsize=10)
        axes[0].set_yticks(range(len(sources)), list(sources))
        axes[0].set_ylim(len(sources) - 0.5, -0.5)
        half = sum(result["crops_of_a_half"].values())
        figure.supxlabel(
            f"Band: real against real crops of other patients. {half} crops on each side; bars are "
            f"{result['level']:.0%} intervals.\n{result['extractor']['name']}, sha256 "
            f"{result['extractor']['sha256'][:12]}.\nComputed from private crops; no epsilon "
            "covers this figure.",
            fontsize=10,
            color=MUTED,
        )
        drawing.save_png(figure, path, dpi=120)


def _panel(
    axes: Axes, found: Sequence[Mapping[str, float | None]], bound: Mapping[str, float | None]
) -> None:
    if bound["value"] is not None and bound["low"] is not None and bound["high"] is not None:
        axes.axvspan(bound["low"], bound["high"], color=MUTED, alpha=VEIL, linewidth=0)
        axes.axvline(bound["value"], color=MUTED, linewidth=1.4)
    for place, value in enumerate(found):
        if value["value"] is None or value["low"] is None or value["high"] is None:
            continue
        colour = SERIES[place % len(SERIES)]
        axes.plot([value["low"], value["high"]], [place, place], color=colour)
        axes.plot(value["value"], place, "o", color=colour, markersize=7)
