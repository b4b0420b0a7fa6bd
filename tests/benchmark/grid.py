# SPDX-License-Identifier: Apache-2.0
"""Scheduler and workers as a user starts them by hand, in processes that tests may kill."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def started_by_hand(*, workers: int) -> Iterator[tuple[str, int]]:
    """Address of a new scheduler, and the number of its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    address, page = f"tcp://127.0.0.1:{port}", ("--no-dashboard", "--dashboard-address", ":0")
    worker = ("worker", address, "--nthreads", "1", "--no-nanny", *page)
    lines = [("scheduler", "--host", "127.0.0.1", "--port", port, *page), *workers * [worker]]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dask", *line],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        )
        for line in lines
    ]
    try:
        yield address, processes[0].pid
    finally:
        for process in processes:
            process.kill()
            process.wait()
