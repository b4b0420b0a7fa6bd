# SPDX-License-Identifier: Apache-2.0
"""Workers that start at once."""

import multiprocessing
from collections.abc import Iterator
from multiprocessing import forkserver

import dask
import pytest


@pytest.fixture
def forked_workers() -> Iterator[None]:
    """Workers of dask are forked from a process that has imported what they need.

    New ones import it for seconds each; one test of cutting starts such, as users do.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():  # Windows
        yield
        return
    multiprocessing.set_forkserver_preload(["distributed", "data_prep.cut_lesions"])
    forkserver.ensure_running()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield
