# SPDX-License-Identifier: Apache-2.0
"""`attack ladder` on a page: utility and risk along budgets, as one figure and one table."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mammo_dp.report.beside import Result
from mammo_dp.report.compare import estimate
from mammo_dp.report.drawings.corridor import Line, draw_corridor
from mammo_dp.report.tables import NONE, epsilon, interval, number, plain

Cell = Mapping[str, Any]
_NOT_CHANCES = ("NCC", "MSE", "PSNR", "SSIM", "AUC", "epsilon")
_PEOPLE = {1: "s5", 3: "s0", 4: "s3", 5: "s2"}
_KINDS = {"guarantee": "at most", "assumption": "if as weak as assumed", "prediction": "predicted"}


def ladder(result: Result) -> dict[str, Any]:
    """What the page says about one ladder.

    Args:
        result: A ``ladder.json``.
    """
    rungs = result.stored["rungs"]
    shown = _shown(rungs)
    conditions = _conditions(result.stored)
    return {
        "name": result.name,
        "words": "",
        "picture": Markup(
            draw_corridor(
                [_budget(rung) for rung in rungs],
                [estimate(rung["auroc"]) for rung in rungs],
                [_line(rungs, key) for key in shown],
                axis=f"ε per patient ({conditions})",
            )
        ),
        "caption": "Utility above; below it, for each budget, chances that an adversary succeeds. "
        "Lines are what theory says, markers what the attack achieved, with 95 % intervals. Only "
        "rungs 1 and 5 have guarantees; rungs 2 and 3 hold for adversaries as weak as assumed, "
        "rung 4 is a prediction.",
        "head": ["Budget", "ε per patient", "Noise multiplier", "AUROC [95 %]", *map(_head, shown)],
        "rows": [_cells(rung, shown) for rung in rungs],
        "text": (),
        "note": f"Each cell: attack / what theory says / blind guess. Each ε: {conditions}.",
    }


def _shown(rungs: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, str]]:
    """Rung, attack and metric of each chance; of membership attacks, the strongest."""
    cells = [cell for rung in rungs for cell in rung["attacks"] if _is_chance(cell)]
    rates = [cell for cell in cells if cell["rung"] == 5]
    best = max(rates, key=lambda cell: cell["value"], default=None)
    keys = [
        (cell["rung"], cell["attack"], cell["metric"])
        for cell in cells
        if cell["rung"] != 5 and cell["attack"] != "from scratch"
    ]
    if best:
        keys.append((5, best["attack"], best["metric"]))
    return sorted(dict.fromkeys(keys))


def _is_chance(cell: Cell) -> bool:
    return not cell["metric"].startswith(_NOT_CHANCES)


def _line(rungs: Sequence[Mapping[str, Any]], key: tuple[int, str, str]) -> Line:
    found = [_find(rung, key) for rung in rungs]
    kind = next((_KINDS.get(cell["kind"], "") for cell in found if cell and cell["bound"]), "")
    return Line(
        css=_PEOPLE.get(key[0], "s1"),
        words=f"{key[0]}, {key[1]}: {key[2]}" + (f" ({kind})" if kind else ""),
        bounds=[cell["bound"] if cell else None for cell in found],
        measured=[estimate(cell) if cell else None for cell in found],
    )


def _find(rung: Mapping[str, Any], key: tuple[int, str, str]) -> Cell | None:
    for cell in rung["attacks"]:
        if (cell["rung"], cell["attack"], cell["metric"]) == key:
            return dict(cell)
    return None


def _head(key: tuple[int, str, str]) -> str:
    return f"{key[0]}, {key[1]}: {key[2]}"


def _cells(rung: Mapping[str, Any], shown: Sequence[tuple[int, str, str]]) -> list[str]:
    cells = [
        str(rung["name"]),
        epsilon(float(rung["epsilon"])),
        plain(rung["noise_multiplier"]),
        interval(estimate(rung["auroc"])),
    ]
    for key in shown:
        cell = _find(rung, key)
        values = (cell[name] for name in ("value", "bound", "blind")) if cell else ()
        cells.append(" / ".join(map(number, values)) or NONE)
    return cells


def _budget(rung: Mapping[str, Any]) -> str:
    return epsilon(float(rung["epsilon"]))


def _conditions(stored: Mapping[str, Any]) -> str:
    accountants = dict.fromkeys(r["accountant"] for r in stored["rungs"] if r["accountant"])
    parts = [f"unit {stored['unit']}", f"delta {stored['delta']:g}", stored["adjacency"]]
    return ", ".join([*parts, " or ".join(accountants)])
