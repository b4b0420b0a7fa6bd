# SPDX-License-Identifier: Apache-2.0
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client
from rich.console import Console

from mammo_dp.benchmark import cluster
from mammo_dp.benchmark.cluster import prepare, workers
from mammo_dp.benchmark.errors import BenchmarkError
from mammo_dp.benchmark.jobs import Job, Outcome
from mammo_dp.benchmark.schedule import run_jobs
from tests.benchmark.lines import command, job

ROOT = Path(__file__).resolve().parents[2]
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


def grid(*words: str) -> None:
    """Runs the grid with a client of its own, as a user would."""
    line = [sys.executable, "-m", "tests.benchmark.grid", *words]
    subprocess.run(line, cwd=ROOT, check=True, timeout=180, stdout=subprocess.DEVNULL)


def test_a_killed_worker_costs_only_the_job_that_it_ran(tmp_path: Path) -> None:
    grid(str(tmp_path))
    assert sorted(numbers(tmp_path)) == ["first", "killed", "last"]


def test_a_scheduler_started_by_hand_gives_the_same_numbers(here: Client, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address, page = f"tcp://127.0.0.1:{port}", ["--no-dashboard", "--dashboard-address", ":0"]
    one = ["worker", address, "--nthreads", "1", "--no-nanny", *page]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        for words in (["scheduler", "--host", "127.0.0.1", "--port", port, *page], one, one)
    ]
    try:
        grid(str(tmp_path / "far"), address)
    finally:
        for process in started:
            process.kill()
            process.wait()
    run(here, [job(tmp_path / "near", name) for name in ("first", "killed", "last")])
    assert numbers(tmp_path / "far") == numbers(tmp_path / "near")


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_WITHIN_S", 0.2)
    with (
        pytest.raises(BenchmarkError, match=r"tcp://127.0.0.1:9: does not answer"),
        workers("tcp://127.0.0.1:9", count=0),
    ):
        pass


def test_a_worker_that_does_not_see_the_results_is_named(here: Client, tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match="do not see"):
        prepare(here, tmp_path / "absent", threads=1)
