# SPDX-License-Identifier: Apache-2.0
"""``table.csv``: every number of the comparison in full precision, a line per model and cohort."""

import csv
import io
import math
from collections.abc import Sequence

from classifier.evaluate import Estimate
from mammo_dp.report.compare import Row, estimate
from mammo_dp.report.statement import Statement


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


def _statement_line(statement: Statement, row: Row) -> dict[str, object]:
    stored = statement.stored
    own = statement is row.own
    return {
        "cohort": stored["cohort"],
        "cohort_name": stored["cohort_name"],
        "epsilon_end_to_end": _full(statement.epsilon),
        "epsilon_end_to_end_per_patient": _full(
            statement.epsilon if statement.patient_epsilon is None else statement.patient_epsilon
        ),
        "epsilon_of_this_stage_only": _full(statement.stage_epsilon) if own else "",
        "delta": repr(statement.delta),
        "unit": statement.unit,
        "units": stored["units"],
        "crops_per_patient": stored["crops_per_patient"],
        "adjacency": stored["adjacency"],
        "accountant": statement.accountant,
        "noise_multiplier": stored["noise_multiplier"] if own else "",
        "sampling_rate": stored["sampling_rate"] if own else "",
        "steps": stored["steps"] if own else "",
        "advantage_bound": statement.advantage,
        "tpr_at_fpr_0.01_bound": statement.tpr,
        "reconstruction_bound": statement.reconstruction,
        "because": stored["because"],
        "excludes": "; ".join(row.privacy["exclusions"]),
    }


def _spread(name: str, measured: Estimate) -> dict[str, object]:
    ends = {f"{name}_low": measured.low, f"{name}_high": measured.high}
    return {name: measured.value} | {k: "" if math.isnan(v) else v for k, v in ends.items()}


def _full(value: float) -> str:
    return "infinity" if math.isinf(value) else repr(value)
