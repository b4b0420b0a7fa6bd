# SPDX-License-Identifier: Apache-2.0
"""Jobs on workers of a local cluster or any scheduler: in order, whatever fails."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from distributed import Client, Future, as_completed, get_worker
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data_prep import cluster
from data_prep.cluster import FixedThreads
from data_prep.progress import EVERY_S
from mammo_dp.benchmark.jobs import Command, Job, Outcome, execute
from mammo_dp.benchmark.spec import BenchmarkError

_IMPORTED = ("mammo_dp.training_cli", "torch")


def prepare(client: Client, out: Path, threads: int) -> None:
    """Fixes the threads of all workers and checks that they can do what cells need.

    Raises:
        ClusterError: If a worker runs several cells at once or does not see the results folder.
    """
    cluster.prepare(client, FixedThreads(threads, _IMPORTED), {str(out): out})


_TOPIC = "mammo-dp-benchmark"


def run_jobs(
    client: Client, jobs: Iterable[Job], command: Command, *, title: str, console: Console
) -> dict[str, Outcome]:
    """Runs all jobs that are not done.

    A job is handed out when those that it needs are done and those that it comes after have ended.
    A worker that dies costs the job that it ran, which starts again elsewhere.

    Args:
        client: Of running workers.
        jobs: Jobs. What they need stands among them or is done.
        command: Runs one command line of ``mammo-dp``.
        title: Heading of the progress bar.
        console: Where progress is shown.

    Returns:
        Outcome of each job by key; those that were done before took no time.

    Raises:
        BenchmarkError: If the scheduler is lost.
    """
    board = _Board(jobs={job.key: job for job in jobs})
    for job in board.jobs.values():
        if job.is_done:
            board.outcomes[job.key] = Outcome(key=job.key)
    waiting = {key: job for key, job in board.jobs.items() if key not in board.outcomes}
    if not waiting:
        return board.outcomes
    work = partial(_work, command=command)
    ended = as_completed([], loop=client.loop)
    with _bar(console) as bar:
        board.show(bar, title)
        client.subscribe_topic(_TOPIC, lambda event: board.began(event[1]))
        try:
            while waiting or board.futures:
                for job in [job for job in waiting.values() if board.may_start(job)]:
                    del waiting[job.key]
                    if lost := [key for key in job.needs if board.has_failed(key)]:
                        what = ", ".join(board.jobs[key].label for key in lost)
                        error = f"not run: it needs {what}, which failed"
                        board.end(Outcome(key=job.key, error=error))
                        continue
                    future = client.submit(work, job, key=f"{job.key}-{time.time_ns()}", pure=False)
                    board.futures[future] = job.key
                    ended.add(future)
                if board.futures:
                    board.end(_outcome(board.futures, next(ended)))
        except Exception as error:
            if client.status == "running" and not isinstance(error, ConnectionError):
                raise
            raise BenchmarkError(
                f"the scheduler was lost ({type(error).__name__}). Start it and its workers, and "
                "run the same command: only the cells that were running start again."
            ) from error
        finally:
            if client.status == "running":
                client.unsubscribe_topic(_TOPIC)
    return board.outcomes


def _work(job: Job, command: Command) -> Outcome:
    """On a worker: tells the client that the job has begun, and does it."""
    return execute(job, command, partial(get_worker().log_event, _TOPIC))


def _outcome(futures: dict[Future[Outcome], str], future: Future[Outcome]) -> Outcome:
    """How a job ended on its worker.

    Raises:
        ConnectionError: If nobody knows, since the scheduler that had it is gone.
    """
    key = futures.pop(future)
    if future.status == "finished":
        found: Outcome = future.result()
        return found
    if future.status != "error":  # "cancelled" or "lost"
        raise ConnectionError(f"{key}: {future.status}")
    error = future.exception()
    return Outcome(key=key, error=f"{type(error).__name__}: {error}")


@dataclass(slots=True)
class _Board:
    """What is done, running and failed."""

    jobs: Mapping[str, Job]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    futures: dict[Future[Outcome], str] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    started: float = field(default_factory=time.monotonic)
    told: float = 0.0
    before: int = 0
    bar: Progress | None = None

    def may_start(self, job: Job) -> bool:
        before = self.jobs.keys() & {*job.needs, *job.after}
        return before <= self.outcomes.keys()

    def has_failed(self, key: str) -> bool:
        return key in self.outcomes and bool(self.outcomes[key].error)

    def show(self, bar: Progress, title: str) -> None:
        self.bar, self.before = bar, len(self.outcomes)
        bar.add_task(title, total=len(self.jobs), completed=self.before, state="")

    def began(self, key: str) -> None:
        self.running.add(key)
        self._refresh()

    def end(self, outcome: Outcome) -> None:
        self.outcomes[outcome.key] = outcome
        self.running.discard(outcome.key)
        if outcome.error and self.bar is not None:
            label, first = self.jobs[outcome.key].label, outcome.error.splitlines()[0]
            self.bar.console.print(
                f"failed: {label}: {first}", style="red", markup=False, soft_wrap=True
            )
        self._refresh()

    def _refresh(self) -> None:
        if self.bar is None:
            return
        ended = len(self.outcomes)
        failed = sum(bool(outcome.error) for outcome in self.outcomes.values())
        parts = [f"{len(self.running)} running", f"{failed} failed"]
        if (fresh := ended - self.before) and ended < len(self.jobs):
            left = (time.monotonic() - self.started) / fresh * (len(self.jobs) - ended)
            parts.append(f"about {left / 60:.0f} min left" if left > 90 else f"{left:.0f} s left")
        state = ", ".join(parts)
        self.bar.update(self.bar.task_ids[0], completed=ended, state=state)
        if not self.bar.console.is_terminal and (
            time.monotonic() - self.told >= EVERY_S or ended == len(self.jobs)
        ):
            self.told = time.monotonic()
            line = f"{self.bar.tasks[0].description}: {ended} of {len(self.jobs)}, {state}"
            self.bar.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[state]}"),
        console=console,
        disable=not console.is_terminal,  # a file gets lines, see _Board
    )
