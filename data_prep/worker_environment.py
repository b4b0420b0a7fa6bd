# SPDX-License-Identifier: Apache-2.0
"""What processes that are started for work are given: one thread each, and memory that they keep.

Libraries of linear algebra start a thread for each core in each process, and their threads wait for
one another: two processes on two cores draw less than half as many phantoms. And by default each
large block of memory is given back and asked for again, page by page, which takes a fifth of the
processor time of phantoms, and as much as reading a mammogram.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Read when a process starts; those of memory by glibc, in bytes. Blocks of the size of an image
# stay with the process; one arena holds them all.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_ARENA_MAX": "1",
}


@contextmanager
def worker_environment() -> Iterator[None]:
    """Processes that are started meanwhile are workers."""
    before = dict(os.environ)
    os.environ.update(WORKER_ENVIRONMENT)
    try:
        yield
    finally:
        for name in WORKER_ENVIRONMENT:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
