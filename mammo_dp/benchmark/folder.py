# SPDX-License-Identifier: Apache-2.0
"""What a folder of results holds already, none of which another benchmark may replace.

``benchmark.json`` says what the folder is of: it names the set that each number was measured on and
the job of each cell, which is the hash of all that the cell was made of.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mammo_dp.benchmark.jobs import is_finished
from mammo_dp.benchmark.plan import Plan
from mammo_dp.benchmark.protocol import EvaluationSet
from mammo_dp.benchmark.spec import BenchmarkError

RESULT = "benchmark.json"
_SHOWN = 3  # differences in an error


def refuse_another(plan: Plan, evaluated: Sequence[EvaluationSet]) -> None:
    """Refuses a benchmark whose tables would lose what the folder holds.

    A file may gain regimes, budgets, units and seeds, and models may be measured on further sets.
    What has not finished may change.

    Args:
        plan: Of the whole file.
        evaluated: Sets that will be measured.

    Raises:
        BenchmarkError: Naming what differs.
    """
    if found := list(_differences(plan, evaluated, _held(plan.out))):
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise BenchmarkError(
            f"--out {plan.out}: holds another benchmark: {'; '.join(found[:_SHOWN])}{more}. Choose "
            "a new folder, or give the benchmark file, crops and files that it was begun with; "
            "nothing is overwritten."
        )


def with_earlier(evaluated: Sequence[EvaluationSet], out: Path) -> list[EvaluationSet]:
    """The sets of this call, and those that only earlier calls measured on.

    Args:
        evaluated: Sets of this call.
        out: Folder of the benchmark.
    """
    names = {one.name for one in evaluated}
    fields = ("name", "split", "sha256", "purpose")
    return [
        *evaluated,
        *(
            # Where its crops lie was not written down, and nothing is measured on them now.
            EvaluationSet(folder=Path(), **{name: one[name] for name in fields})
            for one in _held(out).get("sets", [])
            if one["name"] not in names
        ),
    ]


def _differences(
    plan: Plan, evaluated: Sequence[EvaluationSet], held: Mapping[str, Any]
) -> Iterator[str]:
    """In words, for a user who is to undo them."""
    if not held:
        return
    file = plan.benchmark.path
    if held["title"] != plan.benchmark.title:
        yield f"its title is {held['title']!r}, and {plan.benchmark.title!r} in {file}"
    measured = {one["name"]: (one["sha256"], one["split"]) for one in held["sets"]}
    for one in evaluated:
        if measured.get(one.name, key := (one.sha256, one.split)) != key:
            yield f"{one.name} was measured on other crops than those of {one.folder}"
    now = {(cell.regime, cell.budget, cell.unit, cell.seed): cell.key for cell in plan.cells}
    known = {regime.name for regime in plan.benchmark.regimes}
    for cell in held["cells"]:
        place = (cell["regime"], cell["budget"], cell["unit"], cell["seed"])
        if now.get(place) == cell["key"] or not is_finished(plan.run_folder(cell["key"])):
            continue
        regime, budget, unit, seed = place
        per = f"epsilon {budget:g} per {unit}" if unit else "no budget"
        name = f"regime {regime}, {per}, seed {seed}"
        if place in now:
            yield f"{name} was made of another configuration, other crops or other files"
        elif regime in known and regime in plan.skipped:
            yield f"{name} {plan.skipped[regime]}"
        else:
            yield f"{name} is not in {file}"


def _held(out: Path) -> dict[str, Any]:
    """What ``benchmark.json`` says of the folder; nothing in a new one.

    Raises:
        BenchmarkError: If it is damaged.
    """
    path = out / RESULT
    if not path.exists():
        return {}
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {name: stored[name] for name in ("title", "sets", "cells")}
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"{path}: cannot be read ({error!r}). It says what the folder is of: restore it, or "
            "choose a new folder."
        ) from error
