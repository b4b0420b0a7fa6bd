# SPDX-License-Identifier: Apache-2.0
"""One job of a benchmark: command lines in one process, an outcome whatever happens.

A job is named by the hash of what it computes. Whether it is done is known from its run folders
alone, so it may run anywhere, be killed, and be run again.
"""

import fcntl
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from mammo_dp.runs import FILE_NAME, RunError, read_run

Command = Callable[[Sequence[str]], None]

MIX = "mix"  # the one line of a job that is no command of its own
MEASURED = "statistics.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Command lines that a worker runs one after the other.

    Attributes:
        key: Hash of the content; names the job.
        label: What it is, for people.
        lines: Command lines, one after the other.
        folders: Run folders that these lines fill.
        measured: Folders of evaluations whose statistics are computed at the end.
        needs: Jobs whose results it reads.
        after: Jobs that fill the cache of features that it reads; it can do without.
        log: File that takes all output.
    """

    key: str
    label: str
    lines: tuple[tuple[str, ...], ...]
    folders: tuple[Path, ...]
    measured: tuple[Path, ...] = ()
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    log: Path

    @property
    def is_done(self) -> bool:
        """Whether all its folders are finished and all statistics written."""
        return all(map(is_finished, self.folders)) and all(
            (folder / MEASURED).is_file() for folder in self.measured
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a job ended.

    Attributes:
        key: Of the job.
        error: Why it failed; empty if it is done.
        seconds: Wall-clock time.
        processor_seconds: Processor time of the worker's process.
    """

    key: str
    error: str = ""
    seconds: float = 0.0
    processor_seconds: float = 0.0


def execute(job: Job, command: Command, started: Callable[[str], None]) -> Outcome:
    """Runs a job; its errors are part of the outcome.

    Args:
        job: What to do.
        command: Runs one command line of ``mammo-dp`` and lets its errors pass.
        started: Is told the key when the work begins.
    """
    begun, used = time.monotonic(), time.process_time()
    started(job.key)
    error = ""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with (
        _alone(job.log.with_suffix(".lock")),
        job.log.open("a", buffering=1, encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        try:
            for line in job.lines:
                (_mix if line[0] == MIX else command)(line)
            for folder in job.measured:
                _measure(folder)
        except SystemExit:  # the parser has written why it refuses a flag
            error = _last_line(job.log)
        except Exception as caught:
            traceback.print_exc()
            error = f"{type(caught).__name__}: {caught}"
    return Outcome(
        key=job.key,
        error=error,
        seconds=time.monotonic() - begun,
        processor_seconds=time.process_time() - used,
    )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other process does the same job, such as one whose scheduler was lost."""
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        yield


def _last_line(log: Path) -> str:
    return (
        [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
        or ["refused"]
    )[-1]


# Imported where they run: the client and workers of other lines start without torch.


def _mix(line: Sequence[str]) -> None:
    from mammo_dp.benchmark.mixture import mix

    real, synthetic, per_class, out = line[1:]
    mix(real, synthetic, int(per_class), out)


def _measure(folder: Path) -> None:
    from mammo_dp.benchmark.measure import measure

    measure(folder)


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a finished run."""
    try:
        return (folder / FILE_NAME).is_file() and read_run(folder).is_finished
    except RunError:
        return False
