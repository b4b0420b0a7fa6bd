# SPDX-License-Identifier: Apache-2.0
"""Processes that keep the memory of one array for the next.

By default each large block is given back and asked for again, page by page, which takes a fifth of
the processor time of phantoms, and as much as reading a mammogram.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc; bytes. Blocks of the size of an image stay with the process; one arena holds them all.
# It reads them when a process starts.
KEEPING = {
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_ARENA_MAX": "1",
}


@contextmanager
def kept_memory() -> Iterator[None]:
    """Processes that are started meanwhile keep memory."""
    before = dict(os.environ)
    os.environ.update(KEEPING)
    try:
        yield
    finally:
        for name in KEEPING:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]
