# SPDX-License-Identifier: Apache-2.0
"""`attack ladder` on a page: utility and risk along budgets, as one figure and one table."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mammo_dp.attacks.ladder.cells import NO_PRIOR, PRIOR, is_chance, ncc_at
from mammo_dp.report.beside import Result
from mammo_dp.report.compare import estimate
from mammo_dp.report.drawings.corridor import Budget, Line, Marks, draw_corridor
from mammo_dp.report.sheets import attack_sheet
from mammo_dp.report.tables import NONE, epsilon, plain

Stored = Mapping[str, Any]
Key = tuple[int, str, str]  # rung, attack, metric
_SHEET = "sheet.png"
_SERVERS = (NO_PRIOR, PRIOR)
_CSS = {1: "s5", 3: "s0", 4: "s3", 5: "s2"}
_SHAPES = ("square", "diamond", "circle", "wedge", "triangle", "pentagon")


def ladder(result: Result, *, show_patients: bool) -> dict[str, Any]:
    """What the page says about one ladder.

    Args:
        result: A ``ladder.json``.
        show_patients: Whether a sheet of real patients is embedded.
    """
    stored, budgets = result.stored, result.stored["budgets"]
    small, full = sorted(map(int, stored["between"]["scratch"]))
    chances = _chances(budgets, small)
    shown = [*chances, *_correlations(budgets, small, full)]
    drawn = draw_corridor(
        [
            Budget(
                name=epsilon(float(budget["epsilon"])),
                noise=budget["noise_multiplier"],
                utility=estimate(budget["auroc"]),
            )
            for budget in budgets
        ],
        _lines(stored["between"], small, full),
        [_marks(budgets, key, place) for place, key in enumerate(chances)],
        axis=f"ε ({stored['conditions']})",
    )
    return {
        "name": result.name,
        "picture": Markup(drawn),
        "caption": f"Utility above; chances that an adversary succeeds below, less noise to the "
        f"right. Lines are theory, markers what an attack achieved, with 95 % intervals. Rungs 1 "
        f"and 5 are guarantees; rungs 2 and 3 hold for adversaries as weak as assumed; rung 4 is "
        f"a prediction. An image is read from a correlation of {stored['correlation']:g} on; "
        f"{stored['targets']} patients were attacked, one crop each.",
        "sheets": [
            attack_sheet(
                result.folder,
                _SHEET,
                label="Originals and what a server read of them, by budget",
                show_patients=show_patients,
            )
        ],
        "head": ["Budget", *(str(budget["name"]) for budget in budgets)],
        "rows": [
            ["ε", *(epsilon(float(budget["epsilon"])) for budget in budgets)],
            ["Noise multiplier", *(plain(budget["noise_multiplier"]) for budget in budgets)],
            ["AUROC", *(f"{budget['auroc']['value']:.3f}" for budget in budgets)],
            ["95 % interval", *map(_ends, budgets)],
            *([_title(key), *(_cell(_find(one, key)) for one in budgets)] for key in shown),
        ],
        "text": (),
        "note": "Below AUROC: attack / what theory says / blind guess that saw nothing. Each ε: "
        f"{stored['conditions']}.",
        "findings": list(stored["refuted"]),
    }


def _lines(between: Stored, small: int, full: int) -> list[Line]:
    """Theory along the noise, as far as the ladder has it."""
    guess = f"{between['kappa']:g}"
    named = [
        (
            between["worst_case"],
            "s5",
            f"1, 5: any adversary, who guesses right with chance {guess}",
        ),
        (between["relaxed"], "s1", "2, assumption: as 1, without the sign of the gradient"),
        (between["prior"], "s3", f"4, prediction: Gaussian prior reads {small} px"),
        (between["scratch"][str(small)], "s0", f"3, assumption: no prior, reads {small} px"),
        (between["scratch"][str(full)], "s4", f"3, assumption: no prior, reads {full} px"),
    ]
    return [
        Line(css=css, words=words, points=list(zip(between["noise"], values, strict=True)))
        for values, css, words in named
        if values is not None
    ]


def _chances(budgets: Sequence[Stored], small: int) -> list[Key]:
    """Rung, attack and metric of what the figure shows; of membership attacks, the strongest."""
    cells = [cell for budget in budgets for cell in budget["attacks"]]
    cells = [cell for cell in cells if is_chance(cell["metric"])]
    best = max((c for c in cells if c["rung"] == 5), key=lambda c: c["value"], default=None)
    keys = [
        _key(cell)
        for cell in cells
        if cell["rung"] == 1
        or (cell["metric"].endswith(f" {small} px") and cell["attack"] in _SERVERS)
    ]
    return sorted({*keys, *([_key(best)] if best else [])})


def _correlations(budgets: Sequence[Stored], small: int, full: int) -> list[Key]:
    metrics = {ncc_at(edge) for edge in (small, full)}
    keys = [_key(cell) for budget in budgets for cell in budget["attacks"]]
    return sorted({key for key in keys if key[1] in _SERVERS and key[2] in metrics})


def _key(cell: Stored) -> Key:
    return cell["rung"], cell["attack"], cell["metric"]


def _find(budget: Stored, key: Key) -> Stored | None:
    return next((cell for cell in budget["attacks"] if _key(cell) == key), None)


def _title(key: Key) -> str:
    return f"{key[0]}, {key[1]}: {key[2]}"


def _marks(budgets: Sequence[Stored], key: Key, place: int) -> Marks:
    cells = [_find(budget, key) for budget in budgets]
    return Marks(
        css=_CSS.get(key[0], "ink"),
        shape=_SHAPES[place % len(_SHAPES)],
        words=f"attack: {_title(key)}",
        measured=[None if cell is None else estimate(cell) for cell in cells],
    )


def _ends(budget: Stored) -> str:
    """Ends of the interval of AUROC, in words that a narrow column can break."""
    return " to ".join(f"{budget['auroc'][end]:.3f}" for end in ("low", "high"))


def _cell(cell: Stored | None) -> str:
    """Attack, theory and blind guess; three digits, since chances may be as small as 1e-32."""
    if cell is None:
        return NONE
    values = (cell[name] for name in ("value", "bound", "blind"))
    return " / ".join(NONE if value is None else f"{value:.3f}" for value in values)
