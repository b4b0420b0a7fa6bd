# SPDX-License-Identifier: Apache-2.0
"""Results of whole grids on a page: benchmark, ladder of attacks, reconstruction, fidelity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from classifier.evaluate import HEADINGS, Estimate
from mammo_dp.attacks.ladder.cells import NO_PRIOR, PRIOR, Key, find, key_of, ncc_at, probabilities
from mammo_dp.fidelity.results import NAMES, in_hundredths, shown
from mammo_dp.report.collect import Result, estimate
from mammo_dp.report.crops import attack_sheet
from mammo_dp.report.tables import NONE, epsilon, interval, number, plain

Stored = Mapping[str, Any]
SHEET = "sheet.png"
_THUMBNAIL = 16  # pixels: what a server reads that averages images down
_MAIN = (
    "Regime",
    "Budget ε",
    "Unit",
    "Seeds",
    "AUROC [95 %]",
    "± seeds",
    *(heading for name, heading in HEADINGS.items() if name != "auroc"),
    "ε end to end",
    "ε of a patient",
    "δ",
    "Advantage, at most",
    "TPR at 1 % FPR, at most",
    "Named among all, at most",
)
_EXCLUDED = ("Regimes", "Not covered")
_DIFFERENCE = ("Regime", "minus", "Budget ε", "Unit", "Seeds", "AUROC [95 %]", "± seeds", "Unlike")
_SUBGROUP = ("Regime", "Budget ε", "Unit", "Subgroup", "Patients", "Crops", "AUROC [95 %]")
_PUBLISHED = ("Regime", "ε", "Unit", "AUROC", "Data", "Guarantee", "Source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of a benchmark, for its own files and for the page of a report.

    Attributes:
        label: Heading.
        head: Names of the columns.
        rows: Cells, row by row.
        text: Columns that hold words, counted from 1.
        note: What must be read with it.
    """

    label: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: Sequence[int] = ()
    note: str = ""


def benchmark(result: Result) -> dict[str, Any]:
    """What the page says about one benchmark.

    Args:
        result: A ``benchmark.json``.
    """
    stored = result.stored
    missing = [f"Failed: {name}. {error}" for name, error in stored["failures"].items()]
    for name, reason in stored["skipped"].items():
        missing.append(f"Skipped: {stored['regimes'][name]}, {reason}.")
    return {"title": stored["title"], "missing": missing, "tables": benchmark_tables(stored)}


def benchmark_tables(stored: Stored) -> list[Table]:
    """All tables of a benchmark that have rows: results, exclusions, others' numbers and more.

    Args:
        stored: Content of ``benchmark.json``.
    """
    titles, reference, found = stored["regimes"], stored["reference"], []
    for evaluated in stored["sets"]:
        name = evaluated["name"]
        rows = [row for row in stored["rows"] if row["set"] == name]
        found.append(
            Table(
                label=f"Benchmark on {name}",
                head=_MAIN,
                rows=[_main(row, titles) for row in rows],
                note=f"On {name}. {_counted(rows)}{evaluated['said']} {_conditions(rows)}"
                f"{_perhaps_seen(rows, titles)}",
            )
        )
        compared = [
            _difference(one, titles, reference)
            for one in stored["differences"]
            if one["evaluated"] == name and reference in (one["regime"], one["other"])
        ]
        found.append(
            Table(
                label=f"Differences on {name}",
                head=_DIFFERENCE,
                rows=compared,
                text=(2,),
                note=f"On {name}: same patients, same seeds. An interval that holds 0 says that "
                "these patients do not tell the two apart. “Unlike” names settings that differ "
                "although compared regimes should share them. All pairs stand in benchmark.json.",
            )
        )
        parts = [part for row in rows for part in _subgroups(row, titles)]
        found.append(Table(label=f"Subgroups of {name}", head=_SUBGROUP, rows=parts, text=(4,)))
    found.append(
        Table(
            label="What no ε of the benchmark covers",
            head=_EXCLUDED,
            rows=_excluded(stored["rows"], titles),
            text=(2,),
            note="In the words of the privacy statements.",
        )
    )
    found.append(
        Table(
            label="Published numbers, not measured here",
            head=_PUBLISHED,
            rows=[
                (
                    one["regime"],
                    level,
                    one["unit"],
                    number(auroc),
                    one["data"],
                    one["guarantee"],
                    one["source"],
                )
                for one in stored["published"]
                for level, auroc in one["auroc"].items()
            ],
            text=(5, 6, 7),
            note="Published by others and not measured here: other bodies, patients and units; "
            "a point of reference, not a comparison.",
        )
    )
    return [table for table in found if table.rows]


def _main(row: Stored, titles: Mapping[str, str]) -> tuple[str, ...]:
    cost, metrics = row["end_to_end"], row["metrics"]
    total = len(row["seeds"]) + len(row["missing"])
    seeds = f"{len(row['seeds'])} of {total}" if row["missing"] else str(total)
    head = (titles[row["regime"]], _budget(row["budget"]), row["unit"] or NONE, seeds)
    if cost is None or "auroc" not in metrics:
        why = "failed" if row["failed"] else "not finished"
        return (*head, why, *[NONE] * (len(_MAIN) - len(head) - 1))
    return (
        *head,
        interval(estimate(metrics["auroc"])),
        number(metrics["auroc"]["seed_deviation"]),
        *(number(estimate(metrics.get(name, {})).value) for name in HEADINGS if name != "auroc"),
        f"{epsilon(float(cost['epsilon']))} per {cost['unit']}"
        if cost["unit"]
        else "0, no patient",
        epsilon(float(cost["epsilon_patient"])),
        f"{cost['delta']:g}" if cost["unit"] else NONE,
        *(number(cost[name]) for name in ("advantage", "tpr", "reconstruction")),
    )


def _difference(one: Stored, titles: Mapping[str, str], reference: str) -> tuple[str, ...]:
    """A comparison, seen from the regime that is not the reference."""
    auroc, regime = estimate(one["auroc"]), one["regime"]
    if regime == reference:
        regime = one["other"]
        auroc = Estimate(-auroc.value, -auroc.high, -auroc.low)
    return (
        titles[regime],
        titles[reference],
        _budget(one["budget"]),
        one["unit"] or NONE,
        str(one["seeds"]),
        interval(auroc),
        number(one["spread"]),
        ", ".join(one["unlike"]) or NONE,
    )


def _subgroups(row: Stored, titles: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [
        (
            titles[row["regime"]],
            _budget(row["budget"]),
            row["unit"] or NONE,
            name.removeprefix("auroc, "),
            str(measured["patients"]),
            str(measured["crops"]),
            interval(estimate(measured)),
        )
        for name, measured in row["metrics"].items()
        if name.startswith("auroc, ")
    ]


def _perhaps_seen(rows: Sequence[Stored], titles: Mapping[str, str]) -> str:
    """Of which regimes nobody knows whether the patients are new, and why; empty for none."""
    regimes: dict[str, list[str]] = {}
    for row in rows:
        for sentence in row["perhaps_seen"]:
            regimes.setdefault(sentence, []).append(titles[row["regime"]])
    return "".join(
        f" Nobody knows whether these patients are new to: {', '.join(dict.fromkeys(names))}. "
        f"{sentence}"
        for sentence, names in regimes.items()
    )


def _counted(rows: Sequence[Stored]) -> str:
    """How many crops and patients the rows were measured on."""
    measured = [row["metrics"]["auroc"] for row in rows if "auroc" in row["metrics"]]
    found = {(one["crops"], one["patients"], one["malignant"]) for one in measured}
    parts = [
        f"{crops} crops of {patients} patients, {malignant} malignant"
        for crops, patients, malignant in sorted(found)
    ]
    return f"Measured on {'; '.join(parts)}; malignant is positive. " if parts else ""


def _conditions(rows: Sequence[Stored]) -> str:
    """What must stand beside each epsilon, interval and bound."""
    costs = [row["end_to_end"] for row in rows if row["end_to_end"]]
    said = dict.fromkeys(
        f"{cost['adjacency']}, {cost['accountant']}, delta {cost['delta']:g}"
        for cost in costs
        if cost["accountant"]
    )
    finite = f" Each finite ε: {'; '.join(said)}." if said else ""
    return (
        "Means over seeds; intervals resample patients, all crops of one together. “± seeds” is "
        "the standard deviation over seeds of the last stage: a stage that cells share has one. "
        "“Budget ε” is what the last stage was given; “ε end to end” is from the sealed statement "
        "and covers every stage of the lineage (∞: no guarantee); “ε of a patient” is for the one "
        f"with the most crops.{finite} “At most” are bounds on any attack on one unit: membership "
        "advantage, true positives at 1 % false positives, naming the unit among all of its "
        "cohort. No ε covers these measurements, nor choices made by looking at them."
    )


def _excluded(rows: Sequence[Stored], titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Each exclusion of the statements once, after the regimes whose statements name it."""
    stated = [row for row in rows if row["end_to_end"]]
    regimes: dict[str, dict[str, None]] = {}
    for row in stated:
        for exclusion in row["end_to_end"]["exclusions"]:
            regimes.setdefault(exclusion, {})[titles[row["regime"]]] = None
    every = {titles[row["regime"]] for row in stated}
    return [
        ("all" if named.keys() == every else ", ".join(named), exclusion)
        for exclusion, named in regimes.items()
    ]


def _budget(budget: object) -> str:
    return f"{budget:g}" if isinstance(budget, float | int) else str(budget)


def ladder(result: Result, *, picture: str, show_patients: bool) -> dict[str, Any]:
    """What the page says about one ladder.

    Args:
        result: A ``ladder.json``.
        picture: Its corridor as SVG.
        show_patients: Whether a sheet of real patients is embedded.
    """
    stored, budgets = result.stored, result.stored["budgets"]
    small, full = sorted(map(int, stored["between"]["scratch"]))
    shown = [*probabilities(budgets, small), *_correlations(budgets, small, full)]
    return {
        "name": result.name,
        "picture": Markup(picture),
        "caption": "Utility above; probabilities that an adversary succeeds below, less noise to "
        "the right. Lines are theory, markers what an attack achieved, with 95 % intervals. Rung 1 "
        "is a guarantee of each fit alone, rung 5 of all stages; rungs 2 and 3 hold for "
        "adversaries as weak as assumed; rung 4 is a prediction. An image is read from a "
        f"correlation of {stored['correlation']:g} on; "
        f"{stored['targets']} patients were attacked, one crop each.",
        "sheets": [
            attack_sheet(
                result.folder,
                SHEET,
                label="Originals and what a server read of them, by budget",
                show_patients=show_patients,
            )
        ],
        "head": ["Budget", *(str(budget["name"]) for budget in budgets)],
        "rows": [
            ["ε", *(epsilon(float(budget["epsilon"])) for budget in budgets)],
            ["Noise multiplier", *(plain(budget["noise_multiplier"]) for budget in budgets)],
            [
                f"AUROC ({budgets[0]['patients']} patients)",
                *(f"{budget['auroc']['value']:.3f}" for budget in budgets),
            ],
            ["95 % interval", *map(_ends, budgets)],
            *([_title(key), *(_attack(find(one, key)) for one in budgets)] for key in shown),
        ],
        "text": (),
        "note": "Below AUROC: attack / what theory says / blind guess that saw nothing. Each ε: "
        f"{stored['conditions']}.{_end_to_end(budgets)}",
        "findings": list(stored["refuted"]),
    }


def _end_to_end(budgets: Sequence[Stored]) -> str:
    """What holds of all stages behind each fit; a table is about the fits alone."""
    return "".join(
        f" {budget['name']}, end to end: {budget['end_to_end']}"
        for budget in budgets
        if budget["end_to_end"]
    )


def _correlations(budgets: Sequence[Stored], small: int, full: int) -> list[Key]:
    metrics = {ncc_at(edge) for edge in (small, full)}
    keys = [key_of(cell) for budget in budgets for cell in budget["attacks"]]
    return sorted({key for key in keys if key[1] in (NO_PRIOR, PRIOR) and key[2] in metrics})


def _title(key: Key) -> str:
    return f"{key[0]}, {key[1]}: {key[2]}"


def _ends(budget: Stored) -> str:
    """Ends of the interval of AUROC, in words that a narrow column can break."""
    return " to ".join(f"{budget['auroc'][end]:.3f}" for end in ("low", "high"))


def _attack(cell: Stored | None) -> str:
    """Attack, theory and blind guess; three digits, since values may be as small as 1e-32."""
    if cell is None:
        return NONE
    values = (cell[name] for name in ("value", "bound", "blind"))
    return " / ".join(NONE if value is None else f"{value:.3f}" for value in values)


def fidelity(result: Result) -> dict[str, Any]:
    """What the page says about one comparison of synthetic crops with real ones.

    Args:
        result: A ``fidelity.json``.
    """
    stored = result.stored
    sources: Mapping[str, Any] = stored["sources"]
    every, taken = sources.values(), next(iter(sources.values()))["scores"]
    near = [
        [
            words,
            shown(taken[measure]["bound"]),
            *(shown(one["scores"][measure]["found"]) for one in every),
        ]
        for measure, words in NAMES.items()
        if measure in taken
    ]
    copies = ["yes" if one["copying"]["copies"] else "no" for one in (stored["real"], *every)]
    control = stored["controllability"]
    asked = [
        [
            f"{attribute}, {measured['measure']}",
            in_hundredths(measured["ceiling"]["found"]),
            *(
                in_hundredths(own["found"]) if (own := measured["sources"].get(name)) else NONE
                for name in sources
            ),
        ]
        for attribute, measured in control["attributes"].items()
    ]
    depth, half = stored["slices"], stored["crops_of_a_half"]
    seen = f" Of volumes of {depth} slices the middle ones." if depth else ""
    return {
        "name": result.name,
        "tables": [
            Table(
                label=f"Synthetic against real crops, {result.name}",
                head=("Measure", "Real, other patients", *sources),
                rows=[*near, ["copies training crops", *copies]],
                note=f"{sum(half.values())} crops on each side ({half['malignant']} malignant); "
                f"{stored['level']:.0%} intervals over patients and crops.{seen} "
                f"{stored['notice']}",
            ),
            Table(
                label=f"Asked against measured, {result.name}",
                head=("Attribute", "Phantoms, the ceiling", *sources),
                rows=asked,
                note=f"{control['words']}{seen} {NONE}: not asked for, or of all crops alike.",
            ),
        ],
    }


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
        "one, and of a blind guess that saw no update. At most: probability that the guarantee "
        f"leaves to naming a patient from a list. Each ε: unit {stored['unit']}, delta "
        f"{stored['delta']:g}, {stored['adjacency']}, {_accountants(stored['budgets'])}. Only the "
        "last column is a guarantee, of the attacked steps; the others hold for adversaries as "
        f"weak as described.{_end_to_end(stored['budgets'])}",
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
