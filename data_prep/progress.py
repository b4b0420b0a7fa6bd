# SPDX-License-Identifier: Apache-2.0
"""Progress of long work. Imports little, since processes that are started for work import it."""

import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

EVERY_S = 5.0  # between lines in a file

T = TypeVar("T")


def watched(items: Iterable[T], what: str, *, total: int | None = None) -> Iterable[T]:
    """Shows progress on the error stream: a bar, or a line every few seconds in a file.

    A range in steps is work done several pieces at a time; lines then count the pieces.

    Args:
        items: What is worked on.
        what: Name of the work.
        total: Number of items, for those that do not know it themselves.
    """
    from rich.console import Console  # here: workers do without
    from rich.progress import track

    total = len(items) if isinstance(items, Sized) and total is None else total or 0
    console = Console(stderr=True)
    if console.is_terminal:
        return track(items, description=what, console=console, total=total)
    each = 1
    if isinstance(items, range):
        total, each = items.stop - items.start, items.step
    return _told(items, what, total, each)


def _told(items: Iterable[T], what: str, total: int, each: int) -> Iterator[T]:
    """A line whenever ``EVERY_S`` have passed; none for what is done before."""
    begun = told = time.monotonic()
    for done, item in zip(itertools.count(0, each), items):
        now = time.monotonic()
        if now - told >= EVERY_S:
            told, left = now, (now - begun) * (total - done) / done if done else 0.0
            line = f"{what}: {done} of {total}" + (f", {left:.0f} s left" if done else "")
            print(line, file=sys.stderr, flush=True)
        yield item
