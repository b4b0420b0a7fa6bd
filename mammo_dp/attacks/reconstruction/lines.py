# SPDX-License-Identifier: Apache-2.0
"""Which images stand on the sheet."""

from collections.abc import Sequence

from mammo_dp.attacks.reconstruction.isolated import Attacker, Blind
from mammo_dp.attacks.reconstruction.judge import Judged
from mammo_dp.attacks.reconstruction.sheet import Line

SHOWN = 2  # targets; the second and the last but one
_THUMBNAIL = 16  # pixels
_BLIND: dict[Blind, str] = {
    "mean": "no update:\nmean of others",
    "nearest": "no update: nearest\nother, by oracle",
}


def lines_of(judged: Sequence[Judged], titles: Sequence[str]) -> list[Line]:
    """Lines of two targets: without a prior as a thumbnail and in full, and with one in full.

    Args:
        judged: Budgets, in the order of the columns; all with the same targets and resolutions.
        titles: Of their columns: what was executed, such as ``"epsilon 6"``; equal ones are one.
    """
    resolutions = list(judged[0].reconstructions)
    fine = max(resolutions)
    coarse = min(resolutions, key=lambda one: abs(one - _THUMBNAIL))
    kinds: list[tuple[str, Attacker, int]] = [
        ("no prior", "centred", one) for one in sorted({coarse, fine})
    ]
    if "prior" in judged[0].reconstructions[fine].attacks:
        kinds.append(("prior", "prior", fine))
    count = len(judged[0].reconstructions[fine].originals)
    lines = []
    for target in sorted({min(1, count - 1), max(0, count - 2)})[:SHOWN]:
        for name, attacker, resolution in kinds:
            found = [one.reconstructions[resolution] for one in judged]
            guesses = {
                title: reconstruction.attacks[attacker].images[target]
                for title, reconstruction in zip(titles, found, strict=True)
            }
            blind = found[0].blind
            guesses |= {
                title: blind[guess].images[target]
                for guess, title in _BLIND.items()
                if guess in blind
            }
            lines.append(
                Line(
                    name=f"{name}\n{resolution} px",
                    original=found[0].originals[target],
                    guesses=guesses,
                )
            )
    return lines
