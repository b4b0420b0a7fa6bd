# SPDX-License-Identifier: Apache-2.0
"""Sentences of a report: what was reached, what is guaranteed, what an attacker did."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mammo_dp.report.compare import Row, models
from mammo_dp.report.statement import Statement
from mammo_dp.report.tables import end_to_end, epsilon, interval, number, plain


def summary(rows: Sequence[Row]) -> list[str]:
    """What a hurried reader should know, most important first."""
    sentences = []
    guaranteed = [(row, row.guarantee) for row in rows if row.guarantee]
    ascending = sorted(guaranteed, key=lambda pair: pair[1].epsilon)
    # As printed: what was calibrated to one target differs a little.
    for level in dict.fromkeys(end_to_end(stated) for _, stated in ascending):
        row, stated = max(
            ((row, stated) for row, stated in guaranteed if end_to_end(stated) == level),
            key=lambda pair: pair[0].metrics["auroc"].value,
        )
        sentences.append(
            f"At ε = {end_to_end(stated)} end to end (unit {stated.unit}, δ = {stated.delta:g}) "
            f"the best model, started from {row.start}, reaches AUROC "
            f"{interval(row.metrics['auroc'])} on {row.split}."
        )
    open_rows = [row for row in rows if row.own and not row.is_private]
    if open_rows:
        best = max(open_rows, key=lambda row: row.metrics["auroc"].value)
        sentences.append(
            f"Trained without privacy, the best model reaches AUROC "
            f"{interval(best.metrics['auroc'])} on {best.split}."
        )
    voided = [row for row in models(rows) if row.is_private and math.isinf(row.epsilon)]
    if voided:
        because = dict.fromkeys(
            str(s.stored["because"])
            for row in voided
            for s in row.statements
            if math.isinf(s.epsilon)
        )
        sentences.append(
            f"{_count(len(voided), 'model was', 'models were')} trained privately but descend"
            f"{'s' if len(voided) == 1 else ''} from a stage without privacy: the end-to-end "
            f"epsilon is infinity. {' '.join(because)}"
        )
    attacked = [row for row in models(rows) if row.attack]
    if attacked and not findings(rows):
        sentences.append(
            f"No membership attack exceeded a bound on {_count(len(attacked), 'model', 'models')}"
            "; that weak attacks fail is no proof of safety, the bounds are."
        )
    return sentences


def findings(rows: Sequence[Row]) -> list[str]:
    """What must stop a release; empty if nothing does."""
    stop = "Do not release; the claimed guarantee does not hold."
    found = []
    rows = models(rows)
    if broken := [row.name for row in rows if row.attack and row.attack["exceeds_bound"]]:
        found.append(
            f"Finding: a membership attack on {', '.join(broken)} exceeds the bound of the privacy "
            f"statement. {stop}"
        )
    if refuted := [row.name for row in rows if row.audit and row.audit["refutes"]]:
        found.append(f"Finding: the audit of {', '.join(refuted)} refutes its epsilon. {stop}")
    return found


def in_words(statement: Statement, *, own: bool) -> list[str]:
    """One statement about one cohort, as sentences.

    Args:
        statement: What ``privacy.json`` says.
        own: Whether the model itself was trained on this cohort.
    """
    stored = statement.stored
    who = _whose(statement)
    if math.isinf(statement.epsilon):
        sentences = [
            who,
            f"ε = infinity end to end (unit {statement.unit}, δ = {statement.delta:g}): these "
            f"patients have no guarantee. {stored['because']}",
        ]
    else:
        sentences = [
            who,
            f"ε = {end_to_end(statement)} end to end ({statement.conditions}). {stored['because']}",
            f"Whoever asks whether a given {statement.unit} took part gains an advantage of at "
            f"most {number(statement.advantage)}; at 1 % false alarms at most "
            f"{number(statement.tpr)} of those who took part are found; one is named among all "
            f"{stored['units']} with probability at most {number(statement.reconstruction)}.",
        ]
    if own and math.isfinite(statement.stage_epsilon) and not _is_alone(statement):
        sentences.append(
            f"The last training alone spent ε = {epsilon(statement.stage_epsilon)} "
            f"(unit {statement.unit}, δ = {statement.delta:g}) with noise multiplier "
            f"{plain(stored['noise_multiplier'])}, sampling rate "
            f"{plain(stored['sampling_rate'])} and {stored['steps']} steps; by itself that is "
            "no guarantee."
        )
    if stored.get("covers"):
        sentences.append(f"Covers: {stored['covers']}")
    return sentences


def _is_alone(statement: Statement) -> bool:
    """Whether the last training is all that touched the cohort."""
    return math.isfinite(statement.epsilon) and len(statement.stored["mechanisms"]) == 1


def _whose(statement: Statement) -> str:
    stored = statement.stored
    if stored["units"] is None:
        return f"{stored['cohort_name']}, number of {statement.unit}s unknown."
    if statement.unit == "crop":
        return f"{stored['cohort_name']}: {stored['units']} crops, each a unit of its own."
    return f"{stored['cohort_name']}: {stored['units']} patients, each with all crops."


def threat_models(rows: Sequence[Row]) -> list[dict[str, str]]:
    """What each kind of attack sees, controls and knows: name, threat model, score."""
    found = {
        name: {"name": name, "threat_model": attack["threat_model"], "score": attack["score"]}
        for row in rows
        if row.attack
        for name, attack in row.attack["attacks"].items()
    }
    return list(found.values())


def attacker(row: Row) -> list[str]:
    """What attackers achieved on one model; empty if it was neither attacked nor audited."""
    audit = [] if row.audit is None else [_audited(row.audit)]
    if row.attack is None or row.strongest is None:
        return audit
    found, blind = row.attack, row.attack["blind"]
    return [
        f"{_count(len(found['attacks']), 'attack was', 'attacks were')} tried on "
        f"{found['members']} members and {found['nonmembers']} others (unit {found['unit']}). "
        f"Strongest: {found['strongest']}, AUC {_shown(row.strongest['auc'])}; blind guesses "
        f"through the same code: random {_shown(blind['random']['auc'])}, label only "
        f"{_shown(blind['label-only']['auc'])}.",
        *audit,
    ]


def _audited(audit: Mapping[str, Any]) -> str:
    """The largest epsilon that canaries refute, with its ceiling and the claim."""
    stage = audit["stage"]
    best = audit["best"]
    return (
        f"Audit by {audit['canaries']} white-box canaries in a fit with the same noise: "
        f"ε ≥ {best['epsilon']:.3g} (ceiling {best['ceiling']:.3g}, this stage claims "
        f"{epsilon(stage['epsilon'])} per {stage['unit']}, δ {stage['delta']:g}, "
        f"{stage['adjacency']}, {stage['accountant']}). A bound below the claim does not prove it."
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _shown(cell: dict[str, float]) -> str:
    return f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"
