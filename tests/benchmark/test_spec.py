# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mammo_dp.benchmark.spec import Benchmark, BenchmarkError
from tests.benchmark.conftest import content

Write = Callable[..., Path]


def with_stage(**stage: Any) -> dict[str, Any]:
    return {"dp": {"private": {"fit": ["private.yaml"], "crops": "real", **stage}}}


def with_itself() -> dict[str, Any]:
    return {"body": {"fit": ["plain.yaml"], "crops": "phantoms", "seed": 0, "weights": "body"}}


def test_a_file_is_read_with_its_configurations_beside_it(write: Write) -> None:
    read = Benchmark.read(write())
    assert [regime.name for regime in read.regimes] == ["dp", "same", "start", "mixed", "plain"]
    assert read.regimes[0].private is not None
    assert read.regimes[0].private.fit[0].name == "private.yaml"
    assert read.regimes[0].none is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"reference": "dpp"}, "'dpp'"),
        ({"budgets": [-1]}, "-1"),
        ({"budgets": ["nine"]}, "nine"),
        ({"units": ["breast"]}, "breast"),
        ({"regimes": with_stage(fit=["absent.yaml"])}, "absent.yaml"),
        ({"regimes": with_stage(crops="elsewhere")}, "'elsewhere'"),
        ({"regimes": with_stage(weights="nobody")}, "'nobody'"),
        ({"regimes": with_stage(wights="body")}, "wights"),
        ({"crops": {"phantoms": "rm -r data"}}, "rm -r data"),
        ({"crops": {"phantoms": ""}}, "crops phantoms: ''"),
        ({"crops": {"phantoms": 3}}, "crops phantoms: 3"),
        ({"crops": {"both": "mix both synthetic --per_class 6"}}, "mix both synthetic"),
        ({"stages": with_itself()}, "no stage above is called 'body'"),
        ({"crops": {"both": "mix real nothing --per_class 6"}}, "mix real nothing"),
        ({"crops": {"both": "mix real synthetic"}}, "--per_class N"),
        ({"crops": {"both": "mix real synthetic --per_class few"}}, "--per_class few"),
        ({"stages": {"body": {"fit": ["plain.yaml"], "crops": "real"}}}, "seed"),
        ({"regimes": {"dp": {"privat": content()["stages"]["body"]}}}, "privat"),
    ],
)
def test_what_leads_nowhere_is_refused_and_named(
    write: Write, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(BenchmarkError, match=named):
        Benchmark.read(write(**changes))


def test_a_file_that_is_absent_or_no_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="is no benchmark"):
        Benchmark.read(tmp_path / "absent.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(BenchmarkError, match="is no benchmark"):
        Benchmark.read(tmp_path / "list.yaml")


def test_a_part_of_the_grid_is_chosen_by_name_and_unknown_names_are_refused(write: Write) -> None:
    read = Benchmark.read(write())
    part = read.part(regimes=["plain", "dp"], budgets=["6"], units=None, seeds=["1"])
    assert [regime.name for regime in part.regimes] == ["dp", "plain"]
    assert (part.budgets, part.seeds, part.units) == ((6,), (1,), ("patient", "crop"))
    with pytest.raises(BenchmarkError, match=r"best.*Choose among dp, same"):
        read.part(regimes=["best"])
