# SPDX-License-Identifier: Apache-2.0
"""Workers of dask: processes on this machine, or those of any scheduler."""

import importlib
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

import dask
from distributed import Client, LocalCluster, Worker, WorkerPlugin

from data_prep.errors import DataError
from data_prep.worker_environment import WORKER_ENVIRONMENT

_ANSWER_WITHIN_S = 20
# By default each worker looks at its own stack a hundred times a second, and wakes up fifty times
# to see how late it is. A task in Python waits for either: an image took an eighth longer.
QUIET = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "1s"}


class ClusterError(DataError):
    """A scheduler or its workers cannot be used as asked; the message says what to start."""


def usable_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def workers(
    scheduler: str | None,
    *,
    count: int,
    deaths_allowed: int | None = None,
    keep_memory: bool = False,
) -> Iterator[Client]:
    """A client of running workers.

    Args:
        scheduler: Address, such as ``"tcp://host:8786"``; none starts a local cluster.
        count: Processes of a local cluster; 0 runs tasks in this process, one after another.
        deaths_allowed: How many workers of a local cluster a task may take down before it counts
            as failed; none for dask's own number.
        keep_memory: Whether processes of a local cluster keep the memory of one task for the next.
            Dask has each block given back, and getting 16 MB again and again takes as much
            processor time as reading an image.

    Raises:
        ClusterError: If the scheduler does not answer or has no worker.
    """
    for name in ("distributed", "distributed.client"):  # errors come back as outcomes
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler is None:
        own = dict[str, object](QUIET)
        if deaths_allowed is not None:
            own["distributed.scheduler.allowed-failures"] = deaths_allowed
        if keep_memory:
            given = WORKER_ENVIRONMENT.items()
            own |= {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in given}
        # One task per process: warnings, output and random state belong to a process.
        with ExitStack() as stack:
            with _interrupts_wait():
                stack.enter_context(dask.config.set(own))
                cluster = stack.enter_context(
                    LocalCluster(
                        n_workers=max(1, count),
                        threads_per_worker=1,
                        processes=count > 0,
                        scheduler_kwargs={"dashboard": False},
                        dashboard_address="127.0.0.1:0",  # its health page takes any free port
                        memory_limit=0,  # a nanny's guess must not kill a worker
                        silence_logs=logging.CRITICAL,
                    )
                )
                client = stack.enter_context(Client(cluster))
            yield client
        return
    try:
        client = Client(scheduler, timeout=_ANSWER_WITHIN_S)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"--scheduler {scheduler}: does not answer within {_ANSWER_WITHIN_S} s ({error}). "
            "Start `dask scheduler` and `dask worker --nthreads 1` there, or leave the flag out "
            "for workers on this machine."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_ANSWER_WITHIN_S)
        except TimeoutError as error:
            raise ClusterError(
                f"--scheduler {scheduler}: has no worker. Start `dask worker {scheduler} "
                "--nthreads 1` at least once."
            ) from error
        yield client


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Ctrl-C waits until the end of the block.

    Threads that start in it, and processes that these start, now or later, never get it: a key
    reaches all processes of a terminal, and it is for this one to stop its workers.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # started by the first worker, it would let Ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def prepare(client: Client, plugin: WorkerPlugin, folders: Mapping[str, Path]) -> None:
    """Prepares all workers, those that join later included, and checks what they can do.

    Args:
        client: Of running workers.
        plugin: Sets a worker up.
        folders: Folders that every worker must see under the same path, by what messages call
            them.

    Raises:
        ClusterError: If a worker runs several tasks at once or does not see a folder.
    """
    client.register_plugin(plugin)
    known = client.scheduler_info(n_workers=-1)["workers"]
    if several := sorted(name for name, worker in known.items() if worker["nthreads"] != 1):
        raise ClusterError(
            f"workers {', '.join(several)}: run several tasks in one process, whose output and "
            "random state they would share. Start workers with --nthreads 1."
        )
    for name, folder in folders.items():
        seen = client.run(os.path.isdir, str(folder))
        if blind := sorted(worker for worker, sees in seen.items() if not sees):
            raise ClusterError(
                f"workers {', '.join(blind)}: do not see {name}. Put all that is read and "
                "written on a file system that every worker shares, under the same path."
            )


class FixedThreads(WorkerPlugin):
    """Prepares each worker, those that join or restart later included.

    Numbers may depend on how many threads share a sum, so all workers have one number. Imports are
    paid here, once per process.

    Args:
        threads: Threads of each library in each worker, > 0.
        modules: What tasks import.
    """

    name = "mammo-dp-threads"

    def __init__(self, threads: int, modules: Sequence[str]) -> None:
        self.threads = threads
        self.modules = tuple(modules)

    def setup(self, worker: Worker) -> None:
        """Imports what tasks run and fixes the number of threads."""
        imported = [importlib.import_module(name) for name in self.modules]
        for module in imported:
            if module.__name__ == "torch":
                module.set_num_threads(self.threads)
            elif module.__name__ == "cv2":
                module.setNumThreads(self.threads)
        logging.getLogger("lightning.fabric").setLevel(logging.ERROR)  # a line for each seed
