# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.benchmark.folder import RESULT, refuse_another, with_earlier
from mammo_dp.benchmark.plan import Cell, Plan
from mammo_dp.benchmark.protocol import EvaluationSet
from mammo_dp.benchmark.spec import Benchmark, BenchmarkError
from mammo_dp.runs import close_run, open_run, write_text_atomically
from tests.benchmark.conftest import content

Write = Callable[..., Path]
VAL = EvaluationSet(name="val", folder=Path("a"), split="val", sha256="a" * 64, purpose="research")
TEST = replace(VAL, name="test", split="test", purpose="test")


@pytest.fixture
def planned(cohort: CropsManifest, tmp_path: Path) -> Callable[..., Plan]:
    def plan(path: Path, crops: Path = cohort.folder, **more: Path) -> Plan:
        return Plan.of(Benchmark.read(path), out=tmp_path / "out", given={"real": crops, **more})

    return plan


def finish(plan: Plan, cells: Sequence[Cell], sets: Sequence[EvaluationSet] = (VAL,)) -> None:
    """Results of a plan of which some cells are finished."""
    for key in {cell.key for cell in cells}:
        close_run(open_run(plan.run_folder(key), command="fit", config={}, inputs={}))
    stored = {
        "title": plan.benchmark.title,
        "sets": [{**asdict(one), "folder": None} for one in sets],
        "cells": [asdict(cell) for cell in plan.cells],
    }
    write_text_atomically(plan.out / RESULT, json.dumps(stored))


def test_the_same_benchmark_and_one_with_more_of_everything_are_welcome(
    write: Write, planned: Callable[..., Plan], cohort: CropsManifest
) -> None:
    plan = planned(write())
    refuse_another(plan, [VAL])  # a new folder
    finish(plan, plan.cells)
    refuse_another(planned(write()), [VAL])
    more = content()["regimes"] | {"again": content()["regimes"]["dp"]}
    grown = write(regimes=more, seeds=[0, 1, 2], budgets=[6, 12, "none"])
    refuse_another(planned(grown, synthetic=cohort.folder), [VAL, TEST])
    with pytest.raises(BenchmarkError, match="holds another benchmark"):  # what is held counts
        refuse_another(planned(write(seeds=[2])), [VAL])


def test_what_would_lose_finished_cells_is_refused_and_named(
    write: Write,
    planned: Callable[..., Plan],
    cohort: CropsManifest,
    make_cohort: Callable[..., CropsManifest],
) -> None:
    plan = planned(write(), synthetic=cohort.folder)
    finish(plan, plan.cells)
    regimes = content()["regimes"]
    other = regimes | {"plain": {"none": {"fit": ["plain.yaml"], "crops": "phantoms"}}}
    fewer = {name: regime for name, regime in regimes.items() if name != "plain"}
    elsewhere = make_cohort("elsewhere", seed=5).folder
    for found, named in (
        (planned(write(title="Second"), synthetic=cohort.folder), "'Test', and 'Second' in"),
        (planned(write(regimes=fewer), synthetic=cohort.folder), "plain, no budget, seed 0 is not"),
        (planned(write(regimes=other), synthetic=cohort.folder), "plain, no budget, seed 0 was ma"),
        (planned(write(seeds=[0]), synthetic=cohort.folder), "epsilon 6 per patient, seed 1 is no"),
        (planned(write(), crops=elsewhere, synthetic=cohort.folder), "other crops or other files"),
        (planned(write()), "mixed, epsilon 6 per patient, seed 0 needs synthetic crops, and --syn"),
    ):
        with pytest.raises(BenchmarkError, match=named) as caught:
            refuse_another(found, [VAL])
        assert "Choose a new folder" in str(caught.value)


def test_a_set_of_other_crops_under_the_same_name_is_refused(
    write: Write, planned: Callable[..., Plan]
) -> None:
    plan = planned(write())
    finish(plan, [])
    with pytest.raises(BenchmarkError, match="val was measured on other crops than those of b"):
        refuse_another(plan, [replace(VAL, folder=Path("b"), sha256="b" * 64)])


def test_what_has_not_finished_may_change(write: Write, planned: Callable[..., Plan]) -> None:
    plan = planned(write())
    finish(plan, [cell for cell in plan.cells if cell.regime == "dp"])
    kept = {name: content()["regimes"][name] for name in ("dp", "same")}
    refuse_another(planned(write(regimes=kept)), [VAL])
    with pytest.raises(BenchmarkError, match="seed 1 is not in"):  # what has, may not
        refuse_another(planned(write(regimes=kept, seeds=[0])), [VAL])


def test_sets_of_earlier_calls_stay_in_the_tables(
    write: Write, planned: Callable[..., Plan]
) -> None:
    plan = planned(write())
    assert with_earlier([VAL], plan.out) == [VAL]
    finish(plan, plan.cells, [VAL, TEST])
    shown = with_earlier([VAL], plan.out)
    assert shown[0] == VAL
    key = plan.cells[0].key
    assert [plan.evaluation(key, one) for one in shown] == [
        plan.evaluation(key, one) for one in (VAL, TEST)
    ]
    assert shown[1].purpose == "test"


@pytest.mark.parametrize("text", ["{", "[]", '{"title": "Test"}'])
def test_a_folder_whose_result_is_damaged_is_refused(
    write: Write, planned: Callable[..., Plan], text: str
) -> None:
    plan = planned(write())
    plan.out.mkdir()
    (plan.out / RESULT).write_text(text)
    with pytest.raises(BenchmarkError, match=r"benchmark\.json: cannot be read.*restore it"):
        refuse_another(plan, [VAL])
