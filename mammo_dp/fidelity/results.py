# SPDX-License-Identifier: Apache-2.0
"""Table on screen, figure, and sheets of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from data_prep.symmetries import symmetric
from mammo_dp import drawing
from mammo_dp.drawing import MUTED, SERIES, VEIL, save_png
from mammo_dp.fidelity.copying import Gallery, nearest_training_crop
from mammo_dp.fidelity.samples import Images, Samples, draw, smallest
from mammo_dp.runs import write_text_atomically

MEASURES = {  # what tables, figure and report show, and which direction is better
    "frechet": ("Fréchet distance", "lower"),
    "kernel": ("kernel distance", "lower"),
    "public_frechet": ("Fréchet distance, public network", "lower"),
    "public_kernel": ("kernel distance, public network", "lower"),
    "precision": ("precision", "higher"),
    "recall": ("recall", "higher"),
    "density": ("density", "higher"),
    "coverage": ("coverage", "higher"),
    "ms_ssim": ("MS-SSIM of pairs", "as real"),
    "grid": ("grid index", "lower"),
    "slope": ("spectral slope", "as real"),
    "tstr_machine": ("AUROC, synthetic → real, kernel machine", "higher"),
    "trts_machine": ("AUROC, real → synthetic, kernel machine", "as real"),
    "tstr_descent": ("AUROC, synthetic → real, default classifier", "higher"),
    "trts_descent": ("AUROC, real → synthetic, default classifier", "as real"),
}
NAMES = {measure: words for measure, (words, _) in MEASURES.items()}


def print_table(result: Mapping[str, Any], folder: Path) -> None:
    """Prints the numbers, what they are taken in, and what no epsilon covers.

    Args:
        result: Content of ``fidelity.json``.
        folder: Where it lies.
    """
    sources: Mapping[str, Any] = result["sources"]
    table = Table("", "real, other patients", *sources, box=SIMPLE_HEAD)
    for measure, name in _measured(result).items():
        scores = [source["scores"][measure] for source in sources.values()]
        table.add_row(name, shown(scores[0]["bound"]), *(shown(s["found"]) for s in scores))
    everyone = [result["real"], *sources.values()]
    for space in ("features", "pixels"):
        found = [one["copying"][space]["all"] for one in everyone]
        table.add_row(f"copying ratio, {space}", *(shown(one["ratio"]) for one in found))
        table.add_row("  at the 1 % nearest", *(shown(one["low_ratio"]) for one in found))
        table.add_row("  probability if not copying", *(f"{one['p_value']:.2g}" for one in found))
    flags = ["yes" if one["copying"]["copies"] else "no" for one in everyone]
    table.add_row("copies", *flags)
    attributes = Column("asked against measured", overflow="fold")
    controls = Table(attributes, "ceiling, phantoms", *sources, box=SIMPLE_HEAD)
    for attribute, measured in result["controllability"]["attributes"].items():
        own = [measured["sources"].get(name) for name in sources]
        controls.add_row(
            f"{attribute}, {measured['measure']}",
            in_hundredths(measured["ceiling"]["found"]),
            *("—" if one is None else in_hundredths(one["found"]) for one in own),
        )
    half, agreement = result["crops_of_a_half"], result["agreement_crops"]
    console = Console()
    console.print(table)
    console.print(controls)
    console.print(
        f"Features: {result['extractor']['name']}, d = {result['extractor']['dimension']}, sha256 "
        f"{result['extractor']['sha256'][:12]}. Each side {sum(half.values())} crops "
        f"({half['malignant']} malignant), averaged over as many such sets as half of a source "
        f"has; copies sought among all crops; agreement trained on {agreement['train']}, tested on "
        f"{agreement['test']} real crops of {agreement['patients of test']} patients. "
        f"{result['level']:.0%} intervals over patients and crops, {result['draws']} draws.",
        *(
            f"{NAMES[f'tstr_{student}']}, {pair}: {shown(value)}."
            for student, pairs in result["tstr_differences"].items()
            for pair, value in pairs.items()
        ),
        f"Public network: {public['name']}, sha256 {public['sha256'][:12]}."
        if (public := result["public"])
        else 'Public network: absent; `pip install -e ".[imagenet]"` in the source tree brings it.',
        *([f"Volumes of {result['slices']} slices: middle slices."] if result["slices"] else []),
        result["controllability"]["words"],
        result["notice"],
        f"Result: {folder}",
        sep="\n",
        highlight=False,
        markup=False,
    )


def _measured(result: Mapping[str, Any]) -> dict[str, str]:
    """Measures that were taken and their names; those of a space without weights are absent."""
    taken = next(iter(result["sources"].values()))["scores"]
    return {measure: name for measure, name in NAMES.items() if measure in taken}


def shown(value: Mapping[str, float | None]) -> str:
    """A value with its interval, three significant digits."""
    if value["value"] is None:
        return "—"
    return f"{value['value']:.3g} [{value['low']:.3g}, {value['high']:.3g}]"


def in_hundredths(value: Mapping[str, float]) -> str:
    """A correlation or kappa with its interval, two digits after the point."""
    found, low, high = (round(value[end], 2) + 0.0 for end in ("value", "low", "high"))  # no -0.00
    return f"{found:.2f} [{low:.2f}, {high:.2f}]"


def draw_figure(result: Mapping[str, Any], path: Path) -> None:
    """Draws all measures of a comparison as PNG, in one move.

    Args:
        result: Content of ``fidelity.json``.
        path: Target.
    """
    sources: Mapping[str, Any] = result["sources"]
    with drawing.style():
        measured = _measured(result)
        lines = -(-(len(measured) + 1) // 5)
        figure = drawing.new_figure(1200, 150 + lines * (90 + 19 * len(sources)))
        axes = list(figure.subplots(lines, 5, sharey=True).flat)
        while len(axes) > len(measured) + 1:
            axes.pop().set_visible(False)
        for panel, (measure, name) in zip(axes, measured.items(), strict=False):
            scores = [source["scores"][measure] for source in sources.values()]
            _panel(panel, [score["found"] for score in scores], scores[0]["bound"])
            panel.set_title(f"{fill(name, 26)}\n{MEASURES[measure][1]} is better", fontsize=10)
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


PAIRS = 8  # in a line
_GAP = 4  # pixels


def draw_sheet(
    path: Path,
    synthetic: Samples,
    features: NDArray[np.float64],
    real_images: Images,
    real: Gallery,
    *,
    title: str,
) -> None:
    """Draws pairs in one move: synthetic left, its nearest training crop right, turned to match.

    For each class one line holds the pairs that are nearest of all, where copies would show, and
    one holds pairs spread evenly over the order of distances, which no eye has chosen.

    Args:
        path: Target, PNG.
        synthetic: Synthetic crops.
        features: They in the feature space of the gallery.
        real_images: Images of the gallery's crops, shape ``(m, size, size)``.
        real: Training and held-out crops.
        title: Name of the source.
    """
    lines, names = [], []
    for label, name in enumerate(("benign", "malignant")):
        own = np.flatnonzero(synthetic.malignant == label)
        rows, number, distance = nearest_training_crop(features[own], label, real)
        order = np.argsort(distance, kind="stable")
        spread = np.linspace(0, len(order) - 1, min(PAIRS, len(order))).round().astype(int)
        for chosen, what in ((order[:PAIRS], "nearest"), (order[spread], "evenly spread")):
            pairs = [
                np.hstack([synthetic.images[own[i]], symmetric(real_images[rows[i]], number[i])])
                for i in chosen
            ]
            lines.append(np.hstack([np.pad(pair, _GAP, constant_values=1.0) for pair in pairs]))
            names.append(f"{name}\n{what}")
    width = max(line.shape[1] for line in lines)
    sheet = np.vstack(
        [np.pad(o, ((0, 0), (0, width - o.shape[1])), constant_values=1.0) for o in lines]
    )
    height = len(sheet)
    figure = Figure(figsize=(14, 14 * height / width + 0.9), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    step = height / len(names)
    axes.set_yticks([step * (i + 0.5) for i in range(len(names))], names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(
        f"{title}: each synthetic crop (left) beside its nearest training crop (right)\n"
        "PRIVATE: shows images of patients. No epsilon covers this picture.",
        fontsize=11,
    )
    save_png(figure, path, dpi=130)


BLIND_COLUMNS = 8


def draw_blind_sheet(
    path: Path, key: Path, sources: Mapping[str, Samples], *, per_source: int, seed: int
) -> None:
    """Draws crops of all sources in random order without labels, and writes the key elsewhere.

    For a reader who is asked which crops are real, and which masses malignant. Crops are numbered
    from 1, line by line.

    Args:
        path: Target of the sheet, PNG.
        key: Target of the key, CSV: number in the sheet, source, and 1 for malignant.
        sources: Real crops and synthetic ones, by name.
        per_source: Crops of each source, half of each class, at least 2.
        seed: Of the choice and the order.
    """
    rng = np.random.default_rng(seed)
    chosen: list[tuple[str, int, NDArray[np.float32]]] = []
    for name, samples in sources.items():
        halves = (per_source - per_source // 2, per_source // 2)
        counts = smallest([samples.per_class, halves])
        for row in draw(samples.malignant, counts, rng):
            chosen.append((name, int(samples.malignant[row]), samples.images[row]))
    order = rng.permutation(len(chosen))
    lines = -(-len(order) // BLIND_COLUMNS)
    figure = Figure(figsize=(1.6 * BLIND_COLUMNS, 1.85 * lines + 0.5), layout="constrained")
    panels = list(figure.subplots(lines, BLIND_COLUMNS, squeeze=False).flat)
    for panel in panels:
        panel.set_axis_off()
    for number, (panel, place) in enumerate(zip(panels, order, strict=False), 1):
        panel.imshow(chosen[place][2], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(str(number), fontsize=9, pad=2)
    figure.suptitle("PRIVATE: some of these crops are of patients.", fontsize=10)
    save_png(figure, path, dpi=130)
    shown_as = enumerate((chosen[place] for place in order), 1)
    rows = [f"{number},{source},{malignant}" for number, (source, malignant, _) in shown_as]
    write_text_atomically(key, "\n".join(["number,source,malignant", *rows]) + "\n")
