# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.benchmark.plan import Plan
from mammo_dp.benchmark.protocol import EvaluationSet
from mammo_dp.benchmark.spec import Benchmark
from tests.benchmark.conftest import content

Write = Callable[..., Path]


@pytest.fixture
def planned(cohort: CropsManifest, tmp_path: Path) -> Callable[[Path], Plan]:
    return lambda path: Plan.of(
        Benchmark.read(path), out=tmp_path / "out", given={"real": cohort.folder}
    )


def keys(plan: Plan, regime: str) -> list[str]:
    return [cell.key for cell in plan.cells if cell.regime == regime]


def test_cells_of_equal_content_share_one_job(write: Write, planned: Callable[..., Plan]) -> None:
    plan = planned(write())
    assert keys(plan, "dp") == keys(plan, "same")
    assert len(set(keys(plan, "dp"))) == 4  # two units, two seeds
    assert len(plan.cells) == 3 * 4 + 2
    assert len(plan.jobs) == 2 * 4 + 2 + 2  # phantoms and their body come once


def test_without_a_budget_there_is_no_unit(write: Write, planned: Callable[..., Plan]) -> None:
    plan = planned(write())
    assert [(c.unit, c.seed) for c in plan.cells if c.budget == "none"] == [(None, 0), (None, 1)]


def test_a_regime_without_its_crops_is_skipped_and_says_why(
    write: Write, planned: Callable[..., Plan]
) -> None:
    plan = planned(write())
    assert plan.skipped == {"mixed": "needs synthetic crops, and --synthetic was not given"}
    assert not keys(plan, "mixed")


def test_a_frozen_configuration_that_was_changed_is_written_again(
    write: Write, planned: Callable[..., Plan]
) -> None:
    plan = planned(write())
    plan.freeze()
    before = {path: path.read_text() for path in plan.frozen}
    next(iter(before)).write_text("model: {}\n")
    plan.freeze()
    assert {path: path.read_text() for path in plan.frozen} == before


def test_content_names_a_job_and_comments_do_not(
    write: Write, planned: Callable[..., Plan]
) -> None:
    path = write()
    before = planned(path)
    config = path.with_name("private.yaml")
    config.write_text("# a remark\n" + config.read_text())
    assert keys(planned(path), "dp") == keys(before, "dp")
    config.write_text(config.read_text().replace("max_steps: 2", "max_steps: 3"))
    after = planned(path)
    assert not set(keys(after, "dp")) & set(keys(before, "dp"))
    assert keys(after, "plain") == keys(before, "plain")


def test_another_file_under_the_same_name_is_another_cell(
    write: Write, planned: Callable[..., Plan], tmp_path: Path
) -> None:
    start = tmp_path / "start.ckpt"
    settings = {"model.init_args.weights": str(start)}
    stage = {"fit": ["private.yaml"], "crops": "real", "set": settings}
    path = write(regimes={"dp": {"private": stage}, "plain": content()["regimes"]["plain"]})
    start.write_text("one")
    before = planned(path)
    assert keys(planned(path), "dp") == keys(before, "dp")
    start.write_text("two")
    after = planned(path)
    assert not set(keys(after, "dp")) & set(keys(before, "dp"))
    assert keys(after, "plain") == keys(before, "plain")
    assert planned(path).jobs.keys() == after.jobs.keys()

    config = path.with_name("private.yaml")
    config.write_text(config.read_text().replace("image_size", f"weights: {start}\n    image_size"))
    named = planned(path)
    start.write_text("one")
    assert not set(keys(planned(path), "dp")) & set(keys(named, "dp"))


def test_other_files_that_prepare_reads_make_other_crops(
    write: Write, planned: Callable[..., Plan], tmp_path: Path
) -> None:
    root, table = tmp_path / "archive", tmp_path / "table.csv"
    root.mkdir()
    table.write_text("one")
    line = f"prepare table --root={root} --table {table} --size 32"
    path = write(crops={"phantoms": line, "both": "mix real synthetic --per_class 6"})
    found = [planned(path)]
    (root / "image.png").write_text("image")
    found.append(planned(path))
    table.write_text("two")
    found.append(planned(path))
    assert planned(path).jobs.keys() == found[-1].jobs.keys()
    assert len({keys(plan, "start")[0] for plan in found}) == 3


def test_what_the_benchmark_writes_itself_names_no_cell(
    write: Write, planned: Callable[..., Plan], tmp_path: Path
) -> None:
    result = tmp_path / "out" / "jobs" / "body" / "last.ckpt"
    logs = tmp_path / "logs"
    settings = {"model.init_args.weights": str(result), "trainer.logger.save_dir": str(logs)}
    stage = {"fit": ["private.yaml"], "crops": "real", "set": settings | {"long": 5000 * "x"}}
    path = write(regimes={"dp": {"private": stage}})
    before = planned(path)
    result.parent.mkdir(parents=True)
    result.write_text("weights")
    logs.mkdir()
    assert planned(path).jobs.keys() == before.jobs.keys()


def test_a_changed_stage_renames_what_starts_from_it(
    write: Write, planned: Callable[..., Plan]
) -> None:
    before, stage = planned(write()), {"fit": ["plain.yaml"], "crops": "phantoms", "seed": 1}
    after = planned(write(stages={"body": stage}))
    assert keys(after, "dp") == keys(before, "dp")
    assert not set(keys(after, "start")) & set(keys(before, "start"))


def test_another_set_of_the_same_name_is_measured_elsewhere(
    write: Write, planned: Callable[..., Plan], tmp_path: Path
) -> None:
    plan = planned(write())
    key = plan.cells[0].key
    one, other = (
        EvaluationSet(name="x", folder=tmp_path, split="test", sha256=sha256, purpose="test")
        for sha256 in (64 * "a", 64 * "b")
    )
    assert plan.evaluation(key, one) != plan.evaluation(key, other)
    assert plan.measuring(key, one).log != plan.measuring(key, other).log


def test_settings_reach_the_fit_as_yaml_has_them(
    write: Write, planned: Callable[..., Plan]
) -> None:
    stage = {"fit": ["plain.yaml"], "crops": "real", "set": {"a": None, "b": True, "c": "x"}}
    plan = planned(write(regimes={"dp": {"none": stage}}))
    line = next(iter(plan.jobs.values())).lines[0]
    words = [line[line.index(flag) + 1] for flag in ("--a", "--b", "--c")]
    assert words == ["null", "true", "x"]


def test_jobs_come_after_what_they_need_and_one_fills_the_features_of_all(
    write: Write, planned: Callable[..., Plan]
) -> None:
    plan = planned(write())
    order = list(plan.jobs)
    for job in plan.jobs.values():
        assert all(order.index(key) < order.index(job.key) for key in (*job.needs, *job.after))
    seeded = [plan.jobs[key] for key in keys(plan, "dp")]  # a random body for each seed
    assert [len(job.after) for job in seeded] == [0, 1, 1, 2]
    assert all(seeded[0].key in job.after for job in seeded[1:])  # who reads these crops first
    started = [plan.jobs[key] for key in keys(plan, "start")]
    assert [set(job.after) for job in started] == [
        {seeded[0].key},
        *[{seeded[0].key, started[0].key}] * 3,
    ]
