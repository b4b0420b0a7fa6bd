# SPDX-License-Identifier: Apache-2.0
"""Workers of a benchmark: a local cluster, or any scheduler that answers."""

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Client, LocalCluster, Worker, WorkerPlugin

from mammo_dp.benchmark.errors import BenchmarkError

_ANSWER_WITHIN_S = 20


class FixedThreads(WorkerPlugin):
    """Prepares each worker, those that join or restart later included.

    A cell's numbers depend on the number of threads that share its sums, so all workers have one.
    Imports are paid here, once per process.

    Args:
        threads: Threads of torch in each worker, > 0.
    """

    name = "mammo-dp-threads"

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def setup(self, worker: Worker) -> None:
        """Imports what cells run and fixes the number of threads."""
        importlib.import_module("mammo_dp.training_cli")
        importlib.import_module("torch").set_num_threads(self.threads)
        logging.getLogger("lightning.fabric").setLevel(logging.ERROR)  # a line for each seed


@contextmanager
def workers(scheduler: str | None, *, count: int) -> Iterator[Client]:
    """A client of running workers.

    Args:
        scheduler: Address, such as ``"tcp://host:8786"``; none starts a local cluster.
        count: Processes of a local cluster; 0 runs cells in this process, one after another.

    Raises:
        BenchmarkError: If the scheduler does not answer or has no worker.
    """
    for name in ("distributed", "distributed.client"):  # errors come back as outcomes
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler is None:
        # One cell per process: warnings, output and random state belong to a process.
        with (
            LocalCluster(
                n_workers=max(1, count),
                threads_per_worker=1,
                processes=count > 0,
                scheduler_kwargs={"dashboard": False},
                dashboard_address="127.0.0.1:0",  # its health page takes any free port
                memory_limit=0,  # cells are small; a nanny's guess must not kill one
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(scheduler, timeout=_ANSWER_WITHIN_S)
    except (OSError, ValueError) as error:
        raise BenchmarkError(
            f"--scheduler {scheduler}: does not answer within {_ANSWER_WITHIN_S} s ({error}). "
            "Start `dask scheduler` and `dask worker --nthreads 1` there, or leave the flag out "
            "for workers on this machine."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=_ANSWER_WITHIN_S)
        except TimeoutError as error:
            raise BenchmarkError(
                f"--scheduler {scheduler}: has no worker. Start `dask worker {scheduler} "
                "--nthreads 1` at least once."
            ) from error
        yield client


def prepare(client: Client, out: Path, threads: int) -> None:
    """Fixes the threads of all workers and checks that they can do what cells need.

    Raises:
        BenchmarkError: If a worker runs several cells at once or does not see the results folder.
    """
    client.register_plugin(FixedThreads(threads))
    known = client.scheduler_info(n_workers=-1)["workers"]
    if several := sorted(name for name, worker in known.items() if worker["nthreads"] != 1):
        raise BenchmarkError(
            f"workers {', '.join(several)}: run several cells in one process, whose output and "
            "random state they would share. Start workers with --nthreads 1."
        )
    seen = client.run(os.path.isdir, str(out))
    if blind := sorted(name for name, sees in seen.items() if not sees):
        raise BenchmarkError(
            f"workers {', '.join(blind)}: do not see {out}. Put --out and all crops on a file "
            "system that every worker shares, under the same path."
        )
