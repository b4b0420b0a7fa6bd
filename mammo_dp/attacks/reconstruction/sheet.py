# SPDX-License-Identifier: Apache-2.0
"""Originals, what attacks made of them at each budget, and guesses that saw no update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mammo_dp.attacks.reconstruction.quality import Images, ncc
from mammo_dp.drawing import save_png

_PRIVATE = "PRIVATE: shows images of patients. No epsilon covers this picture."
_NOBODY = "No patient: drawn by a procedure or a generator."


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the sheet: one target, one attacker.

    Attributes:
        name: Attacker and resolution, such as ``"no prior, 16 px"``.
        original: Shape ``(edge, edge)``, in ``[0, 1]``.
        guesses: By column, in the order of the sheet, shape ``(edge, edge)``, any range.
    """

    name: str
    original: Images
    guesses: Mapping[str, Images]


def draw_sheet(path: Path, lines: Sequence[Line], *, title: str, real: bool) -> None:
    """Draws the lines in one move, with the correlation below each guess.

    Args:
        path: Target, PNG.
        lines: At least one; all with the same columns.
        title: What was attacked.
        real: Whether the originals show patients.
    """
    columns = ["original", *lines[0].guesses]
    figure = Figure(
        figsize=(1.15 * len(columns) + 1.2, 1.38 * len(lines) + 0.9), layout="constrained"
    )
    grid = figure.subplots(len(lines), len(columns), squeeze=False)
    for y, line in enumerate(lines):
        for x, name in enumerate(columns):
            shown = line.original if x == 0 else line.guesses[name]
            axes = grid[y, x]
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if y == 0:
                axes.set_title(name, fontsize=8)
            if x == 0:
                axes.set_ylabel(line.name, fontsize=7)
            else:
                found = float(ncc(line.original[None], np.asarray(shown)[None])[0])
                axes.set_xlabel(f"NCC {found:.2f}", fontsize=7)
    figure.suptitle(f"{title}\n{_PRIVATE if real else _NOBODY}", fontsize=9)
    save_png(figure, path, dpi=130)
