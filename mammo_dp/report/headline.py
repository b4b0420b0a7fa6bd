# SPDX-License-Identifier: Apache-2.0
"""The model that a page is about, and what a hurried reader must know of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mammo_dp.report.compare import Row, estimate, setting
from mammo_dp.report.errors import ReportError
from mammo_dp.report.tables import end_to_end, epsilon, interval, number


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A number with what must be read beside it.

    Attributes:
        name: What it is.
        value: The number, in a few characters.
        beside: What it holds for.
        open: Whether it says that something is not guaranteed.
    """

    name: str
    value: str
    beside: str
    open: bool = False


def choose(rows: Sequence[Row], release: str | None) -> Row:
    """The evaluation that the page is about.

    Args:
        rows: All evaluations.
        release: Name of the model; the guaranteed one with the largest AUROC if none, or the best
            of all where nothing is guaranteed.

    Raises:
        ReportError: If no model has that name.
    """
    if release is not None:
        named = [row for row in rows if row.name == release]
        if not named:
            known = ", ".join(dict.fromkeys(row.name for row in rows))
            raise ReportError(f"release is {release!r}, evaluated are: {known}. Name one of these.")
        return max(named, key=lambda row: row.split == "test")
    guaranteed = [row for row in rows if row.guarantee]
    return max(guaranteed or rows, key=lambda row: row.metrics["auroc"].value)


def featured(rows: Sequence[Row], chosen: Row) -> list[tuple[str, Row]]:
    """The chosen model, and the best of each kind that has no guarantee, on the same split.

    Returns:
        Words for a legend and evaluations, the chosen one first.
    """
    others = [row for row in rows if row is not chosen and row.split == chosen.split and row.own]
    kinds = {
        "no privacy": [row for row in others if not row.is_private],
        "no end-to-end guarantee": [
            row for row in others if row.is_private and math.isinf(row.epsilon)
        ],
    }
    shown = [(f"{chosen.name}, ε {epsilon(chosen.epsilon)} end to end", chosen)]
    for words, several in kinds.items():
        if several:
            best = max(several, key=lambda row: row.metrics["auroc"].value)
            shown.append((f"{best.name}, {words}", best))
    return shown


def facts(row: Row) -> list[Fact]:
    """Utility, guarantee and strongest attack of a model, for tiles."""
    auroc, measured = row.metrics["auroc"], row.measured
    found = [
        Fact(
            name="AUROC",
            value=number(auroc.value),
            beside=f"95 %: {number(auroc.low)} to {number(auroc.high)}. On {row.split}: "
            f"{measured['crops']} crops of {measured['patients']} patients, "
            f"{measured['malignant']} malignant.",
        )
    ]
    for statement in row.statements:
        infinite = math.isinf(statement.epsilon)
        found.append(
            Fact(
                name="ε end to end",
                value="∞" if infinite else end_to_end(statement),
                beside=f"{'No guarantee. ' if infinite else ''}{statement.stored['cohort_name']}: "
                f"{statement.conditions}.",
                open=infinite,
            )
        )
    if not row.statements:
        found.append(Fact(name="ε end to end", value="0", beside="No patient in the lineage."))
    found.append(_attack(row))
    return found


def lead(row: Row, rows: Sequence[Row], release: str | None) -> str:
    """What would be released, how well it works, what it guarantees, what was tried against it."""
    auroc, measured = interval(row.metrics["auroc"]), row.measured
    sentences = [
        f"What would be released: the final weights of {row.name}, {_model(row)}, started from "
        f"{row.start}. On {row.split} ({measured['crops']} crops of {measured['patients']} "
        f"patients) it ranks malignant masses above benign ones with AUROC {auroc}."
    ]
    for statement in row.statements:
        cohort = statement.stored["cohort_name"]
        if math.isinf(statement.epsilon):
            sentences.append(
                f"Patients of {cohort} have no guarantee: ε = infinity end to end "
                f"(unit {statement.unit}, δ = {statement.delta:g})."
            )
        else:
            sentences.append(
                f"For each {statement.unit} of {cohort}, ε = {end_to_end(statement)} end to end "
                f"({statement.conditions})."
            )
    sentences.append(_against(row))
    if release is None and len({other.name for other in rows}) > 1:
        sentences.append(
            "This model has the largest AUROC of those with a guarantee; that choice looked at "
            "patients, and no ε counts it."
            if row.guarantee
            else "No model here has a guarantee; this one has the largest AUROC."
        )
    return " ".join(sentences)


def _model(row: Row) -> str:
    name = str(setting(row.model.config.get("model") or {}, "class_path") or "a classifier")
    return name.rpartition(".")[2] + (f" on {row.backbone}" if row.backbone else "")


def _attack(row: Row) -> Fact:
    if row.strongest is None or row.attack is None:
        beside = "The bounds hold against any attack; none was tried on this model."
        return Fact(name="Strongest attack", value="none tried", beside=beside)
    advantage = estimate(row.strongest["advantage"])
    return Fact(
        name="Strongest attack: advantage",
        value=number(advantage.value),
        beside=f"95 %: {number(advantage.low)} to {number(advantage.high)}; allowed: "
        f"{number(row.strongest['advantage']['bound'])}. {row.attack['strongest']}, unit "
        f"{row.attack['unit']}.",
        open=bool(row.attack["exceeds_bound"]),
    )


def _against(row: Row) -> str:
    if row.strongest is None or row.attack is None:
        return "No attack was tried on it."
    found, unit = row.strongest["advantage"], row.attack["unit"]
    tried = len(row.attack["attacks"])
    which = (
        "The membership attack" if tried == 1 else f"The strongest of {tried} membership attacks"
    )
    verdict = (
        "at least one attack exceeds its bound, so the claimed guarantee does not hold"
        if row.attack["exceeds_bound"]
        else "no attack exceeds its bound"
    )
    return (
        f"{which}, {row.attack['strongest']}, gains an advantage of {interval(estimate(found))} "
        f"per {unit}, where the statement allows {number(found['bound'])}; {verdict}."
    )
