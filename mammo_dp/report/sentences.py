# SPDX-License-Identifier: Apache-2.0
"""Sentences of a report: the model that it is about, what is guaranteed, what attacks achieved."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mammo_dp.privacy.accounting.account import fits_of
from mammo_dp.privacy.statement.guarantee import COVERS, PrivacyStatement
from mammo_dp.report.collect import ReportError, Row, estimate, models, setting
from mammo_dp.report.tables import end_to_end, epsilon, interval, number, plain, set_names


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
            of all where nothing is guaranteed, on the patients on whom most of them were measured.

    Raises:
        ReportError: If no model has that name.
    """
    if release is not None:
        named = [row for row in rows if row.name == release]
        if not named:
            known = ", ".join(dict.fromkeys(row.name for row in rows))
            raise ReportError(f"release is {release!r}, evaluated are: {known}. Name one of these.")
        return max(named, key=lambda row: row.split == "test")
    compared = [row for row in rows if row.guarantee] or rows
    sets = Counter(on for _, on in dict.fromkeys((row.name, row.measured_on) for row in compared))
    most = max(sets, key=lambda on: sets[on])
    return _best([row for row in compared if row.measured_on == most])


def featured(rows: Sequence[Row], chosen: Row) -> list[tuple[str, Row]]:
    """The chosen model, and the best of each kind without a guarantee, on the same patients.

    Returns:
        Words for a legend and evaluations, the chosen one first.
    """
    on = chosen.measured_on
    others = [row for row in rows if row is not chosen and row.measured_on == on and row.own]
    kinds = {
        "no privacy": [row for row in others if not row.is_private],
        "no end-to-end guarantee": [
            row for row in others if row.is_private and math.isinf(row.epsilon)
        ],
    }
    shown = [(f"{chosen.name}, ε {epsilon(chosen.epsilon)} end to end", chosen)]
    for words, several in kinds.items():
        if several:
            best = _best(several)
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
        infinite = math.isinf(statement.patient_epsilon)
        found.append(
            Fact(
                name="ε end to end",
                value=end_to_end(statement),
                beside=f"{'No guarantee. ' if infinite else ''}{statement.cohort.name}: "
                f"{statement.conditions}.",
                open=infinite,
            )
        )
    if not row.statements:
        found.append(Fact(name="ε end to end", value="0", beside=str(row.privacy["summary"])))
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
    if seen := measured.get("seen"):
        sentences.append(f"That is no measure of new patients: {seen}")
    for statement in row.statements:
        cohort = statement.cohort.name
        if math.isinf(statement.patient_epsilon):
            none = math.isinf(statement.epsilon)
            sentences.append(
                f"Patients of {cohort} have no guarantee: "
                f"ε = {'infinity' if none else end_to_end(statement)} end to end "
                f"(unit {statement.unit}, δ = {statement.delta:g})."
            )
        else:
            sentences.append(
                f"For each {statement.unit} of {cohort}, ε = {end_to_end(statement)} end to end "
                f"({statement.conditions})."
            )
    sentences.append(_against(row))
    if release is None and len({other.name for other in rows}) > 1:
        sentences.append(_why(row, rows))
    return " ".join(sentences)


def _why(row: Row, rows: Sequence[Row]) -> str:
    """Why the page is about this model, where no release was named."""
    compared = [other for other in rows if other.guarantee or not row.guarantee]
    same = {other.name for other in compared if other.measured_on == row.measured_on}
    elsewhere = {other.name for other in compared} - same
    if elsewhere and len(same) == 1:
        which = "No other model with a guarantee" if row.guarantee else "No other model"
        none = "" if row.guarantee else "No model here has a guarantee. "
        return (
            f"{none}{which} was measured on the same patients, so none is called the best; "
            "`--release NAME` says which one this page is about."
        )
    on = " that were measured on the same patients" if elsewhere else ""
    if row.guarantee:
        return (
            f"This model has the largest AUROC of those with a guarantee{on}; that choice looked "
            "at patients, and no ε counts it."
        )
    of = f" of those{on}" if on else ""
    return f"No model here has a guarantee; this one has the largest AUROC{of}."


def _best(rows: Sequence[Row]) -> Row:
    """The largest AUROC on the same patients, of models whose training saw none of them, if any."""
    return max(rows, key=lambda row: (not row.measured.get("seen"), row.metrics["auroc"].value))


def _by_patients(rows: Sequence[Row]) -> list[list[Row]]:
    """Evaluations that can be compared, together."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault(row.measured_on, []).append(row)
    return list(found.values())


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


def summary(rows: Sequence[Row]) -> list[str]:
    """What a hurried reader should know, most important first."""
    sentences = []
    names = dict(zip((row.measured_on for row in rows), set_names(rows), strict=True))
    guaranteed = [(row, row.guarantee) for row in rows if row.guarantee]
    ascending = sorted(guaranteed, key=lambda pair: pair[1].patient_epsilon)
    # As printed: what was calibrated to one target differs a little.
    levels: dict[str, list[Row]] = {}
    for row, stated in ascending:
        levels.setdefault(end_to_end(stated), []).append(row)
    for level, at_level in levels.items():
        for row in map(_best, _by_patients(at_level)):
            assert row.guarantee
            sentences.append(
                f"At ε = {level} end to end (unit {row.guarantee.unit}, δ = "
                f"{row.guarantee.delta:g}) the best model, started from {row.start}, reaches AUROC "
                f"{interval(row.metrics['auroc'])} on {names[row.measured_on]}."
            )
    open_rows = [row for row in rows if row.own and not row.is_private]
    sentences += [
        f"Trained without privacy, the best model reaches AUROC "
        f"{interval(best.metrics['auroc'])} on {names[best.measured_on]}."
        for best in map(_best, _by_patients(open_rows))
    ]
    voided = [row for row in models(rows) if row.is_private and math.isinf(row.epsilon)]
    if voided:
        because = dict.fromkeys(
            one.because
            for row in voided
            for statement in row.statements
            for one in statement.guarantees
            if math.isinf(one.epsilon)
        )
        sentences.append(
            f"{_count(len(voided), 'model was', 'models were')} trained privately, but the "
            f"end-to-end epsilon of a patient is infinity. {' '.join(because)}"
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


def in_words(statement: PrivacyStatement, *, own: bool) -> list[str]:
    """One statement about one cohort, as sentences.

    Args:
        statement: What ``privacy.json`` says.
        own: Whether the model itself was trained on this cohort.
    """
    who = _whose(statement)
    if math.isinf(statement.epsilon):
        sentences = [
            who,
            f"ε = infinity end to end (unit {statement.unit}, δ = {statement.delta:g}): these "
            f"patients have no guarantee. {statement.because}",
        ]
    else:
        sentences = [
            who,
            f"ε = {end_to_end(statement)} end to end ({statement.conditions}). {statement.because}",
            f"Whoever asks whether a given {statement.unit} took part gains an advantage of at "
            f"most {number(statement.advantage)}; at 1 % false alarms at most "
            f"{number(statement.tpr)} of those who took part are found; one is named among all "
            f"{statement.guarantee.units} with probability at most "
            f"{number(statement.reconstruction)}.",
        ]
    stage = next(iter(fits_of(statement.own)), None)
    if own and stage is not None and not _is_alone(statement):
        sentences.append(
            f"The last training alone spent ε = {epsilon(statement.own_epsilon)} "
            f"(unit {statement.unit}, δ = {statement.delta:g}) with noise multiplier "
            f"{plain(stage.noise_multiplier)}, sampling rate "
            f"{plain(stage.sampling_rate)} and {stage.steps} steps; by itself that is "
            "no guarantee."
        )
    sentences.append(f"Covers: {COVERS}")
    return sentences


def _is_alone(statement: PrivacyStatement) -> bool:
    """Whether the last training is all that touched the cohort."""
    return math.isfinite(statement.epsilon) and len(statement.composed) == 1


def _whose(statement: PrivacyStatement) -> str:
    name, units = statement.cohort.name, statement.guarantee.units
    if units is None:
        return f"{name}, number of {statement.unit}s unknown."
    if statement.unit == "crop":
        return f"{name}: {units} crops, each a unit of its own."
    return f"{name}: {units} patients, each with all crops."


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
        f"Audit by {audit['canaries']} white-box canaries in a repetition of the fit: "
        f"ε ≥ {best['epsilon']:.3g} (ceiling {best['ceiling']:.3g}, this stage claims "
        f"{epsilon(stage['epsilon'])} per {stage['unit']}, δ {stage['delta']:g}, "
        f"{stage['adjacency']}, {stage['accountant']}). A bound below the claim does not prove it."
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _shown(cell: dict[str, float]) -> str:
    return f"{cell['value']:.2f} [{cell['low']:.2f}, {cell['high']:.2f}]"
