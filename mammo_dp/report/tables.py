# SPDX-License-Identifier: Apache-2.0
"""The tables of a report: cells, Markdown, on screen, and ``table.csv`` in full precision.

An epsilon never stands alone: unit and delta have columns, and the caption that each form carries
names adjacency, accountant and what is excluded.
"""

import csv
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from classifier.evaluate import HEADINGS, Estimate, Metrics
from classifier.stress import AS_THEY_ARE
from mammo_dp.privacy.accounting.account import fits_of
from mammo_dp.privacy.statement.guarantee import PrivacyStatement
from mammo_dp.report.collect import Row, estimate, models
from mammo_dp.report.diagnosis import Subgroup

NONE = "—"
MAIN = (
    "Run",
    "Starts from",
    "Training",
    "ε end to end",
    "ε of this stage only",
    "Unit",
    "δ",
    "Patients",
    "AUROC [95 %]",
    *(heading for name, heading in HEADINGS.items() if name != "auroc"),
)
RISK = (
    "Run",
    "Noise multiplier",
    "Sampling rate",
    "Steps",
    "Advantage, at most",
    "TPR at 1 % FPR, at most",
    "Named among all, at most",
)
ATTACKS = (
    "Run",
    "Attack",
    "Members, others",
    "AUC [95 %]",
    "AUC per crop",
    "Advantage [95 %]",
    "TPR at 1 % FPR [95 %]",
    "Exceeds a bound",
    "The adversary",
)
SUBGROUPS = (
    "Group",
    "Value",
    "Patients",
    "Crops",
    "Malignant",
    "AUROC [95 %]",
    "Brier",
    "Calibration slope [95 %]",
)
STRESS = (
    "Crops",
    "AUROC [95 %]",
    "Difference of AUROC [95 %]",
    "Brier [95 %]",
    "Difference of Brier [95 %]",
    "Calibration intercept [95 %]",
)
_SCREEN = (0, 3, 4, 5, 6, 7, 8)  # columns of MAIN that fit a terminal
_HEADING = 8  # characters of a line of a heading there


def main_cells(row: Row, on: str = "") -> tuple[str, ...]:
    """Utility and privacy of one row, in the order of ``MAIN``.

    Args:
        row: The evaluation.
        on: Crops that AUROC was measured on, if the cell shall say so.
    """
    numbers = [number(row.metrics[name].value) for name in HEADINGS if name != "auroc"]
    return (
        row.name,
        row.start,
        row.training,
        _per_cohort(row, end_to_end) or "0, no patient",
        epsilon(row.own.own_epsilon) if row.own else NONE,
        _per_cohort(row, lambda s: s.unit) or NONE,
        _per_cohort(row, lambda s: f"{s.delta:g}") or NONE,
        str(row.measured["patients"]),
        interval(row.metrics["auroc"]) + (f" on {on}" if on else ""),
        *numbers,
    )


def main_rows(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Cells of all rows, in the order of ``MAIN``; AUROC says on which crops where they differ."""
    sets = set_names(rows)
    return [
        main_cells(row, on if len(set(sets)) > 1 else "")
        for row, on in zip(rows, sets, strict=True)
    ]


def risk_cells(row: Row) -> tuple[str, ...]:
    """Noise of the private stage and bounds of one row, in the order of ``RISK``."""
    stage = next(iter(fits_of(row.own.own if row.own else None)), None)
    return (
        row.name,
        plain(stage.noise_multiplier if stage else None),
        plain(stage.sampling_rate if stage else None),
        str(stage.steps) if stage else NONE,
        _per_cohort(row, lambda s: number(s.advantage)) or NONE,
        _per_cohort(row, lambda s: number(s.tpr)) or NONE,
        _per_cohort(row, lambda s: number(s.reconstruction)) or NONE,
    )


def control(attack: Mapping[str, Any]) -> str:
    """Its area between the same groups on models that drew their members at random, if known."""
    value = attack.get("control")
    return "" if value is None else f" (control {number(value)})"


def attack_cells(row: Row) -> list[tuple[str, ...]]:
    """What each attack on one model achieved, in the order of ``ATTACKS``."""
    if row.attack is None:
        return []
    return [
        (
            row.name,
            name,
            f"{row.attack['members']}, {row.attack['nonmembers']}",
            interval(estimate(found["auc"])) + control(found),
            number(found["per_crop"]["auc"]),
            interval(estimate(found["advantage"])),
            interval(estimate(found["tpr_at_fpr"]["0.01"])),
            "yes" if found["exceeds_bound"] else "no",
            found["threat_model"],
        )
        for name, found in row.attack["attacks"].items()
    ]


def subgroup_cells(group: Subgroup, metrics: Metrics) -> tuple[str, ...]:
    """Utility in one subgroup, in the order of ``SUBGROUPS``."""
    return (
        group.attribute,
        group.value,
        *(str(count) for count in (group.patients, group.crops, group.malignant)),
        interval(metrics.auroc),
        number(metrics.brier.value),
        interval(metrics.calibration_slope),
    )


def stress_cells(one: Mapping[str, Any]) -> tuple[str, ...]:
    """A row of ``stress.json``, in the order of ``STRESS``."""
    measures, differences = (
        {name: interval(estimate(value)) for name, value in one[part].items()}
        for part in ("measures", "differences")
    )
    return (
        "as they are" if one["distortion"] == AS_THEY_ARE else one["distortion"],
        measures["auroc"],
        differences.get("auroc", NONE),
        measures["brier"],
        differences.get("brier", NONE),
        measures["calibration_intercept"],
    )


def conditions(rows: Sequence[Row]) -> str:
    """What must be read with each epsilon, attack and interval of the table."""
    statements = [statement for row in rows for statement in row.statements]
    measurements = list(zip(rows, set_names(rows), strict=True))
    measured = _joined(
        f"{on} ({row.measured['crops']} crops of {row.measured['patients']} patients)"
        for row, on in measurements
    )
    parts = [f"Measured on {measured}; malignant is positive; intervals are over patients."]
    for row, on in measurements:
        if seen := row.measured.get("seen"):
            parts.append(f"{row.name} on {on} is no measure of new patients: {seen}")
        if perhaps := row.measured.get("perhaps_seen"):
            parts.append(f"Nobody knows whether {row.name} saw patients of {on}: {perhaps}")
    if statements:
        parts.append(
            "“ε end to end” covers each stage that the model descends from and is the guarantee "
            "(∞: there is none); “ε of this stage only” is what the last training spent and is "
            "no guarantee by itself."
        )
    if finite := _joined(s.conditions for s in statements if s.accountant):
        parts.append(f"Each finite ε holds for {finite}.")
    if any(row.attack for row in rows):
        parts.append(
            "Attacks are measured, bounds are the most that any attack can reach; an ∞ has bound 1."
        )
    return " ".join(parts)


def caption(rows: Sequence[Row]) -> str:
    """Conditions, and in short what no epsilon of the table covers."""
    if not any(row.statements for row in rows):
        return conditions(rows)
    return f"{conditions(rows)} No ε covers: {_joined(_exclusions(rows))}."


def markdown(rows: Sequence[Row]) -> str:
    """All parts of the table with their caption, as Markdown."""

    def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
        shown = [head, ["---"] * len(head), *lines]
        return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in r) + " |" for r in shown)

    return "\n\n".join(
        (
            table(MAIN, main_rows(rows)),
            table(RISK, map(risk_cells, models(rows))),
            table(ATTACKS, [cells for row in models(rows) for cells in attack_cells(row)]),
            caption(rows) + "\n",
        )
    )


def print_table(rows: Sequence[Row], console: Console | None = None) -> None:
    """Prints utility and privacy on the screen, with the caption below.

    Unit and delta have columns where epsilons differ in them; else the caption names them once.
    """
    finite = {s.conditions for row in rows for s in row.statements if s.accountant}
    places = [at for at in _SCREEN if len(finite) > 1 or MAIN[at] not in ("Unit", "δ")]
    cells = main_rows(rows)
    table = Table(box=SIMPLE_HEAD, caption=Text(caption(rows)), caption_justify="left")
    for at in places:
        justify: Literal["left", "right"] = "right" if at else "left"
        whole = MAIN[at] in ("Run", "Unit", "AUROC [95 %]")
        head = MAIN[at] if whole else "\n".join(textwrap.wrap(MAIN[at], _HEADING))
        # folded where the screen is narrow: a number that is cut off is another number
        table.add_column(head, justify=justify, no_wrap=whole, overflow="fold")
    for shown in cells:
        table.add_row(*(Text(shown[at]) for at in places))
    (console or Console()).print(table)


def end_to_end(statement: PrivacyStatement) -> str:
    """Epsilon of the guarantee; where crops are protected, that of a patient beside it."""
    shown = epsilon(statement.epsilon)
    if statement.patient is None:
        return shown
    return f"{shown} per crop, {epsilon(statement.patient_epsilon)} per patient"


def epsilon(value: float) -> str:
    """Three digits, rounded up, since a guarantee must not shrink in print."""
    if math.isinf(value):
        return "∞"
    if value <= 0:
        return "0"
    digits = 2 - math.floor(math.log10(value))
    rounded = math.ceil(round(value * 10.0**digits, 6)) / 10.0**digits
    digits = 2 - math.floor(math.log10(rounded))  # .9996 became 1.00
    return f"{rounded:.{max(0, digits)}f}"


def number(value: float | None) -> str:
    """Three digits after the point, two of small numbers, a dash where there is no number."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def plain(value: float | None) -> str:
    """Three digits, or a dash where there is no number."""
    return NONE if value is None else f"{value:.3g}"


def interval(measured: Estimate) -> str:
    """Value and interval."""
    if math.isnan(measured.low):
        return number(measured.value)
    return f"{measured.value:.3f} [{measured.low:.3f}, {measured.high:.3f}]"


def in_short(exclusion: str) -> str:
    """What an exclusion is about; the CSV, the page and ``privacy.json`` have the whole text."""
    first = exclusion.partition(":")[0].partition(". ")[0].rstrip(".")
    return f"{first[:1].lower()}{first[1:]}"


def _per_cohort(row: Row, show: Callable[[PrivacyStatement], str]) -> str:
    """One value, or one for each cohort where they differ."""
    values = [show(statement) for statement in row.statements]
    if len(set(values)) <= 1:
        return values[0] if values else ""
    names = [statement.cohort.name for statement in row.statements]
    return "; ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))


def set_names(rows: Sequence[Row]) -> list[str]:
    """Crops that each row was measured on: the split, and its folder where rows differ in that."""
    read = [row.evaluation.inputs.get("data") for row in rows]
    folders = ["" if data is None else Path(data.path).name for data in read]
    alike = len(set(folders)) == 1
    return [r.split if alike else f"{f}/{r.split}" for r, f in zip(rows, folders, strict=True)]


def _exclusions(rows: Sequence[Row]) -> Iterable[str]:
    return (in_short(item) for row in rows for item in row.privacy["exclusions"])


def _joined(parts: Iterable[str]) -> str:
    """Distinct parts in order of first appearance."""
    return "; ".join(dict.fromkeys(part.rstrip(".") for part in parts))


def comma_separated(rows: Sequence[Row]) -> str:
    """The table in full precision; a model with several cohorts has a line for each of them."""
    lines = [line for row in rows for line in _lines(row)]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(k for line in lines for k in line)), restval=""
    )
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue().replace("\r\n", "\n")


def _lines(row: Row) -> list[dict[str, object]]:
    shared: dict[str, object] = {
        "run": row.name,
        "starts_from": row.start,
        "training": row.training,
        "split": row.split,
        "seen_in_training": int(bool(row.measured.get("seen"))),
    }
    for name, measured in row.metrics.items():
        shared |= _spread(name, measured)
    if row.attack:
        shared |= {"attack_unit": row.attack["unit"], "strongest_attack": row.attack["strongest"]}
        for name, found in row.attack["attacks"].items():
            shared |= _spread(f"{name}_auc", estimate(found["auc"]))
            shared |= _spread(f"{name}_advantage", estimate(found["advantage"]))
            for fpr, rate in found["tpr_at_fpr"].items():
                shared |= _spread(f"{name}_tpr_at_fpr_{fpr}", estimate(rate))
        shared["attack_exceeds_bound"] = int(row.attack["exceeds_bound"])
    if row.audit:
        best = row.audit["best"]
        shared |= {
            "audited_epsilon_at_least": best["epsilon"],
            "audited_epsilon_ceiling": best["ceiling"],
        }
    return [shared | _statement_line(statement, row) for statement in row.statements] or [shared]


def _statement_line(statement: PrivacyStatement, row: Row) -> dict[str, object]:
    own = statement is row.own
    fit = next(iter(fits_of(statement.own)), None) if own else None
    return {
        "cohort": statement.cohort.tag,
        "cohort_name": statement.cohort.name,
        "epsilon_end_to_end": _full(statement.epsilon),
        "epsilon_end_to_end_per_patient": _full(statement.patient_epsilon),
        "epsilon_of_this_stage_only": _full(statement.own_epsilon) if own else "",
        "delta": repr(statement.delta),
        "unit": statement.unit,
        "units": statement.guarantee.units,
        "crops_per_patient": statement.crops_per_patient,
        "adjacency": statement.adjacency,
        "accountant": statement.accountant,
        **{
            name: getattr(fit, name, None) if own else ""
            for name in ("noise_multiplier", "sampling_rate", "steps")
        },
        "advantage_bound": statement.advantage,
        "tpr_at_fpr_0.01_bound": statement.tpr,
        "reconstruction_bound": statement.reconstruction,
        "because": statement.because,
        "excludes": "; ".join(row.privacy["exclusions"]),
    }


def _spread(name: str, measured: Estimate) -> dict[str, object]:
    ends = {f"{name}_low": measured.low, f"{name}_high": measured.high}
    return {name: measured.value} | {k: "" if math.isnan(v) else v for k, v in ends.items()}


def _full(value: float) -> str:
    return "infinity" if math.isinf(value) else repr(value)
