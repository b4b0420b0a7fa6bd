# SPDX-License-Identifier: Apache-2.0
"""`benchmark` on a page: one table per set, differences to the reference, numbers of others."""

from collections.abc import Iterator, Mapping
from typing import Any

from classifier.evaluate import Estimate
from mammo_dp.report.beside import Result
from mammo_dp.report.compare import estimate
from mammo_dp.report.tables import NONE, epsilon, interval, number

_MAIN = (
    "Regime",
    "Budget ε",
    "Unit",
    "Seeds",
    "AUROC [95 %]",
    "± seeds",
    "Brier",
    "Calibration slope",
    "ε end to end",
    "ε of a patient",
    "δ",
    "Advantage, bound",
    "TPR at 1 % FPR, bound",
)
_NOBODY = "0, no patient"
_DIFFERENCE = ("Regime", "minus", "Budget ε", "Unit", "AUROC [95 %]", "Unlike")
_PUBLISHED = ("Regime", "ε", "Unit", "AUROC", "Data", "Guarantee", "Source")


def benchmark(result: Result) -> dict[str, Any]:
    """What the page says about one benchmark.

    Args:
        result: A ``benchmark.json``.
    """
    stored = result.stored
    missing = [f"Failed: {name}. {error}" for name, error in stored["failures"].items()]
    for name, reason in stored["skipped"].items():
        missing.append(f"Skipped: {stored['regimes'][name]}, {reason}.")
    return {"title": stored["title"], "missing": missing, "tables": list(_tables(stored))}


def _tables(stored: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    titles = stored["regimes"]
    for evaluated in stored["sets"]:
        name = evaluated["name"]
        rows = [row for row in stored["rows"] if row["set"] == name]
        yield {
            "label": f"Benchmark on {name}",
            "head": _MAIN,
            "rows": [_main(row, titles) for row in rows],
            "text": (),
            "note": f"On {name}. {evaluated['said']} {_conditions(rows)}",
        }
        compared = [
            _difference(one, titles, stored["reference"])
            for one in stored["differences"]
            if one["evaluated"] == name and stored["reference"] in (one["regime"], one["other"])
        ]
        if compared:
            yield {
                "label": f"Differences on {name}",
                "head": _DIFFERENCE,
                "rows": compared,
                "text": (2,),
                "note": f"On {name}: same patients, same seeds. An interval that holds 0 says that "
                "these patients do not tell the two apart. “Unlike” names settings that differ.",
            }
    if stored["published"]:
        yield {
            "label": "Published numbers",
            "head": _PUBLISHED,
            "rows": [
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
            "text": (5, 6, 7),
            "note": "Published by others and not measured here: other bodies, patients and units; "
            "a point of reference, not a comparison.",
        }


def _main(row: Mapping[str, Any], titles: Mapping[str, str]) -> tuple[str, ...]:
    cost, metrics = row["end_to_end"], row["metrics"]
    total = len(row["seeds"]) + len(row["missing"])
    seeds = f"{len(row['seeds'])} of {total}" if row["missing"] else str(total)
    head = (titles[row["regime"]], _budget(row["budget"]), row["unit"] or NONE, seeds)
    if cost is None or "auroc" not in metrics:
        return (*head, "failed", *[NONE] * (len(_MAIN) - len(head) - 1))
    return (
        *head,
        interval(estimate(metrics["auroc"])),
        number(metrics["auroc"]["seed_deviation"]),
        *(number(estimate(metrics.get(n, {})).value) for n in ("brier", "calibration_slope")),
        f"{epsilon(float(cost['epsilon']))} per {cost['unit']}" if cost["unit"] else _NOBODY,
        epsilon(float(cost["epsilon_patient"])),
        f"{cost['delta']:g}" if cost["unit"] else NONE,
        number(cost["advantage"]),
        number(cost["tpr"]),
    )


def _difference(
    one: Mapping[str, Any], titles: Mapping[str, str], reference: str
) -> tuple[str, ...]:
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
        interval(auroc),
        ", ".join(one["unlike"]) or NONE,
    )


def _conditions(rows: list[Mapping[str, Any]]) -> str:
    costs = [row["end_to_end"] for row in rows if row["end_to_end"]]
    said = dict.fromkeys(
        f"{cost['adjacency']}, {cost['accountant']}, delta {cost['delta']:g}"
        for cost in costs
        if cost["accountant"]
    )
    finite = f" Each finite ε: {'; '.join(said)}." if said else ""
    return (
        "Means over seeds; intervals resample patients. “± seeds” is the standard deviation over "
        "seeds of the last stage: a stage that cells share has one. “Budget ε” is what the last "
        "stage was given; “ε end to end” covers every stage of the lineage (∞: no guarantee); “ε "
        f"of a patient” is for the one with the most crops.{finite}"
    )


def _budget(budget: object) -> str:
    return f"{budget:g}" if isinstance(budget, float | int) else str(budget)
