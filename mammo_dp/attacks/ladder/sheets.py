# SPDX-License-Identifier: Apache-2.0
"""What a malicious server reads, to be looked at: original above, one row per budget below."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mammo_dp.attacks.reconstruction.isolated import Attacker, Reconstruction
from mammo_dp.attacks.reconstruction.quality import Images

NOTICE = "Shows images of the cohort: internal use only. No epsilon covers this picture."
_PEOPLE = 4
_TITLES: Mapping[Attacker, str] = {"centred": "no prior", "prior": "Gaussian prior"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Reconstructions at one budget.

    Attributes:
        name: Of the budget, for the margin.
        readings: By resolution.
    """

    name: str
    readings: Mapping[int, Reconstruction]


def draw(path: Path, rows: Sequence[Row], resolutions: Sequence[int]) -> None:
    """Writes a sheet as PNG in one move.

    Grey values are shown as they are, clipped to ``[0, 1]``: scaling each image to its own range
    would make noise look like an image.

    Args:
        path: The file.
        rows: Budgets, at least one.
        resolutions: Those to be shown, each with the original at this resolution on top.
    """
    first = rows[0].readings[resolutions[0]]
    attackers = [a for a in _TITLES if a in first.attacks]
    blocks = [(px, attacker) for px in resolutions for attacker in attackers]
    people = min(_PEOPLE, len(first.originals))
    lines = 2 + len(rows)
    with mpl.rc_context({"font.size": 7}):
        figure = Figure(figsize=(1.0 + 0.8 * people * len(blocks), 0.86 * lines + 0.5), dpi=130)
        grid = figure.add_gridspec(
            lines,
            people * len(blocks),
            wspace=0.04,
            hspace=0.06,
            left=0.07,
            right=0.995,
            top=0.94,
            bottom=0.035,
        )

        def show(line: int, block: int, images: Images) -> None:
            for person in range(people):
                axes = figure.add_subplot(grid[line, block * people + person])
                axes.imshow(np.clip(images[person], 0, 1), cmap="gray", vmin=0, vmax=1)
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
                if person == 0 and block == 0:
                    axes.set_ylabel(names[line], rotation=0, ha="right", va="center")
                if line == 0 and person == 0:
                    px, attacker = blocks[block]
                    axes.set_title(f"{px} px, {_TITLES[attacker]}", loc="left", fontsize=8)

        names = ["original", "blind", *(row.name for row in rows)]
        for block, (px, attacker) in enumerate(blocks):
            known = rows[0].readings[px]
            guess = known.blind["blank" if attacker == "centred" else "mean"]
            show(0, block, known.originals)
            show(1, block, guess.images)
            for line, row in enumerate(rows, start=2):
                show(line, block, row.readings[px].attacks[attacker].images)
        figure.text(0.995, 0.008, NOTICE, ha="right", fontsize=7)
        temporary = path.with_suffix(".part")
        figure.savefig(temporary, format="png")
        temporary.replace(path)
