# SPDX-License-Identifier: Apache-2.0
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client
from rich.console import Console

from data_prep import cluster
from data_prep.cluster import ClusterError, workers
from mammo_dp.benchmark.jobs import Job, Outcome
from mammo_dp.benchmark.schedule import prepare, run_jobs
from mammo_dp.benchmark.spec import BenchmarkError
from tests.benchmark.grid import started_by_hand
from tests.benchmark.lines import command, job

GRID = ("a", "b", "c")


def run(client: Client, jobs: list[Job]) -> dict[str, Outcome]:
    console = Console(file=sys.stderr, width=200)
    return run_jobs(client, jobs, command, title="test", console=console)


def numbers(out: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted(out.glob("*/number.txt"))}


@pytest.fixture
def here() -> Iterator[Client]:
    """Workers that are threads of this process."""
    with workers(None, count=0) as client:
        yield client


def test_a_failure_stays_with_its_job_and_those_that_need_it(here: Client, tmp_path: Path) -> None:
    jobs = [
        job(tmp_path, "bad", "fail"),
        job(tmp_path, "needy", needs=("bad",)),
        job(tmp_path, "later", after="bad"),
        job(tmp_path, "good"),
    ]
    outcomes = run(here, jobs)
    assert outcomes["bad"].error == "ValueError: the crops are too small"
    assert outcomes["needy"].error == "not run: it needs cell bad, which failed"
    assert not outcomes["later"].error
    assert sorted(numbers(tmp_path)) == ["good", "later"]
    assert "Traceback" in (tmp_path / "logs" / "bad.log").read_text()


def test_what_is_done_is_not_run_again(here: Client, tmp_path: Path) -> None:
    jobs = [job(tmp_path, name) for name in GRID]
    run(here, jobs)
    (tmp_path / "a" / "number.txt").write_text("kept")
    (tmp_path / "b" / "run.json").unlink()
    (tmp_path / "b" / "number.txt").unlink()
    outcomes = run(here, jobs)
    assert not any(outcome.error for outcome in outcomes.values())
    assert numbers(tmp_path)["a"] == "kept"
    assert (tmp_path / "b" / "number.txt").exists()


def test_what_needs_a_job_that_was_done_before_starts_at_once(here: Client, tmp_path: Path) -> None:
    run(here, [job(tmp_path, "model")])
    run(here, [job(tmp_path, "measured", needs=("model",))])
    assert sorted(numbers(tmp_path)) == ["measured", "model"]


@pytest.mark.slow
def test_killed_workers_and_schedulers_cost_only_what_ran(
    here: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_WITHIN_S", 90)  # a busy machine starts processes slowly
    far = tmp_path / "far"
    jobs = [
        job(far, "first"),
        job(far, "worker", "kill", after="first"),
        job(far, "last", after="worker"),
    ]
    with started_by_hand(workers=2) as (address, scheduler):
        lost = job(far, "scheduler", "kill", victim=scheduler, after="last")
        with workers(address, count=0) as client:
            client.wait_for_workers(2, timeout=90)
            with pytest.raises(BenchmarkError, match="scheduler was lost"):
                run(client, [*jobs, lost])
    assert {"first", "worker", "last"} <= set(numbers(far))
    (far / "first" / "number.txt").write_text("kept")
    with started_by_hand(workers=1) as (address, _), workers(address, count=0) as client:
        outcomes = run(client, [*jobs, lost])
    assert not any(outcome.error for outcome in outcomes.values())
    assert numbers(far)["first"] == "kept"
    run(here, [job(tmp_path / "near", name) for name in ("first", "worker", "last", "scheduler")])
    assert numbers(far) | {"first": ""} == numbers(tmp_path / "near") | {"first": ""}


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_WITHIN_S", 0.2)
    with (
        pytest.raises(ClusterError, match=r"tcp://127.0.0.1:9: does not answer"),
        workers("tcp://127.0.0.1:9", count=0),
    ):
        pass


def test_a_worker_that_does_not_see_the_results_is_named(here: Client, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="do not see"):
        prepare(here, tmp_path / "absent", threads=1)
