# SPDX-License-Identifier: Apache-2.0
"""Synthetic crops beside their nearest training crops; private, since it shows patients."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data_prep.symmetries import symmetric
from mammo_dp.drawing import save_png
from mammo_dp.fidelity.nearest import Gallery, nearest_training_crop
from mammo_dp.fidelity.samples import Images, Samples

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
