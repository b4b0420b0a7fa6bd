# SPDX-License-Identifier: Apache-2.0
"""``benchmark.json`` and ``benchmark.csv``: every number in full, for programs."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mammo_dp.benchmark.jobs import Outcome
from mammo_dp.benchmark.plan import Plan
from mammo_dp.benchmark.protocol import EvaluationSet, Opening
from mammo_dp.benchmark.published import Published
from mammo_dp.benchmark.results import LEVEL, Difference, Row
from mammo_dp.runs import file_sha256, versions

SCHEMA = 1


def as_json(
    plan: Plan,
    rows: Sequence[Row],
    differences: Sequence[Difference],
    *,
    evaluated: Mapping[EvaluationSet, str],
    book: Sequence[Opening],
    published: Sequence[Published],
    outcomes: Mapping[str, Outcome],
    failures: Mapping[str, str],
) -> str:
    """The whole result; null stands for what is no number, ``"infinity"`` for no guarantee.

    Args:
        plan: Jobs and cells.
        rows: All rows, of all sets.
        differences: All comparisons.
        evaluated: What a reader must know of each set.
        book: Looks at test sets.
        published: Numbers of others.
        outcomes: How each job ended; what was done by an earlier call took no time.
        failures: Error by label of the job.
    """
    content = {
        "schema": SCHEMA,
        "title": plan.benchmark.title,
        "config_sha256": file_sha256(plan.benchmark.path),
        "level": LEVEL,
        "sets": [
            {"name": s.name, "split": s.split, "sha256": s.sha256, "purpose": s.purpose, "said": t}
            for s, t in evaluated.items()
        ],
        "regimes": {regime.name: regime.title for regime in plan.benchmark.regimes},
        "reference": plan.benchmark.reference,
        "rows": [_row(row) for row in rows],
        "differences": [asdict(difference) for difference in differences],
        "published": [asdict(series) for series in published],
        "openings": [asdict(look) for look in book],
        "cells": [
            {**asdict(cell), "folder": plan.run_folder(cell.key).relative_to(plan.out).as_posix()}
            for cell in plan.cells
        ],
        "failures": dict(failures),
        "skipped": plan.skipped,
        "processor_seconds_of_this_call": sum(one.processor_seconds for one in outcomes.values()),
        "versions": versions(),
    }
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def comma_separated(rows: Iterable[Row]) -> str:
    """One line per regime, budget, unit, set and statistic."""
    lines = []
    for row in rows:
        cost = asdict(row.cost) if row.cost else {}
        cost.pop("because", None)
        shared = {
            "set": row.evaluated,
            "regime": row.regime,
            "budget": row.budget,
            "budget_unit": row.unit,
            "seeds": len(row.seeds),
            "seeds_missing": len(row.missing),
        } | {f"end_to_end_{name}": _plain(value) for name, value in cost.items()}
        for name, estimate in row.metrics.items() or {"": None}.items():
            measured: dict[str, object] = {"statistic": name}
            if estimate is not None:
                patients, crops, malignant = row.counts[name]
                measured |= {key: _plain(value) for key, value in asdict(estimate).items()} | {
                    "seed_deviation": _plain(row.spread[name]),
                    "patients": patients,
                    "crops": crops,
                    "malignant": malignant,
                }
            lines.append(shared | measured)
    text = io.StringIO()
    names = list(dict.fromkeys(name for line in lines for name in line))
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _row(row: Row) -> dict[str, Any]:
    """A row without its resamples."""
    return {
        "set": row.evaluated,
        "regime": row.regime,
        "budget": row.budget,
        "unit": row.unit or None,
        "seeds": row.seeds,
        "missing": row.missing,
        "metrics": {
            name: {
                **asdict(estimate),
                "seed_deviation": row.spread[name],
                **dict(zip(("patients", "crops", "malignant"), row.counts[name], strict=True)),
            }
            for name, estimate in row.metrics.items()
        },
        "auroc_by_seed": {seed: float(values[0]) for seed, values in row.by_seed.items()},
        "end_to_end": asdict(row.cost) if row.cost else None,
        "settings": dict(row.settings),
    }


def _plain(value: object) -> object:
    return "infinity" if value == math.inf else "" if value != value else value


def _finite(value: Any) -> Any:  # noqa: ANN401  plain values
    """The same values without NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "infinity" if value == math.inf else None
    return value
