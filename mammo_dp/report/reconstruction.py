# SPDX-License-Identifier: Apache-2.0
"""`attack reconstruction` on a page: who could read what, the sheet, and numbers by budget."""

from collections.abc import Mapping, Sequence
from typing import Any

from mammo_dp.report.beside import Result
from mammo_dp.report.sheets import attack_sheet
from mammo_dp.report.tables import NONE, epsilon, number

SHEET = "sheet.png"
_THUMBNAIL = 16  # pixels: what a server reads that averages images down


def reconstruction(result: Result, *, show_patients: bool) -> dict[str, Any]:
    """What the page says about one attack.

    Args:
        result: A ``reconstruction.json``.
        show_patients: Whether a sheet of real patients is embedded.
    """
    stored = result.stored
    edges = _edges(stored["budgets"])
    return {
        "name": result.name,
        "threats": list(stored["threat_models"].items()),
        "words": list(stored["caveats"]),
        "sheets": [
            attack_sheet(
                result.folder,
                SHEET,
                label="Originals and what was read of them, by budget",
                show_patients=show_patients,
            )
        ],
        "head": ["Budget", "ε per patient", *_heads(edges), "Named from a list", "at most"],
        "rows": [_cells(budget, edges) for budget in stored["budgets"]],
        "text": (),
        "note": f"{stored['patients']} patients of {stored['split']}, one crop each; mean "
        "correlation (NCC) of what was read with the original: without a prior, with a Gaussian "
        "one, and of a blind guess that saw no update. At most: chance that the guarantee leaves "
        f"to naming a patient from a list. Each ε: unit {stored['unit']}, delta "
        f"{stored['delta']:g}, {stored['adjacency']}, {_accountants(stored['budgets'])}. Only the "
        "last column is a guarantee; the others hold for adversaries as weak as described.",
    }


def _edges(budgets: Sequence[Mapping[str, Any]]) -> list[str]:
    """The resolution nearest to a thumbnail, and the finest."""
    known = sorted(map(int, budgets[0]["isolated"]))
    thumbnail = min(known, key=lambda edge: abs(edge - _THUMBNAIL))
    return [str(edge) for edge in sorted({thumbnail, known[-1]})]


def _heads(edges: Sequence[str]) -> list[str]:
    return [f"{edge} px: {who}" for edge in edges for who in ("no prior", "prior", "blind")]


def _cells(budget: Mapping[str, Any], edges: Sequence[str]) -> list[str]:
    cells = [
        "no privacy" if budget["mechanism"] is None else str(budget["name"]),
        epsilon(float(budget["epsilon"])),
    ]
    for edge in edges:
        attacks, blind = budget["isolated"][edge]["attacks"], budget["isolated"][edge]["blind"]
        guess = blind.get("mean", blind["blank"])
        for quality in (attacks["centred"], attacks.get("prior"), guess):
            cells.append(number(quality["ncc"]["value"]) if quality else NONE)
    named = budget["lists"].get("named")
    cells += [number(named["success"]["value"]), number(named["bound"])] if named else [NONE, "1"]
    return cells


def _accountants(budgets: Sequence[Mapping[str, Any]]) -> str:
    return " or ".join(dict.fromkeys(b["accountant"] for b in budgets if b["accountant"]))
