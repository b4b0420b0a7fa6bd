# SPDX-License-Identifier: Apache-2.0
"""Progress of long work. Imports little, since processes that are started for work import it."""

import itertools
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

EVERY_S = 5.0  # between lines in a file
RECENT = 6  # lines that tell how fast work is

T = TypeVar("T")


class ProgressLines:
    """Lines on the error stream, whenever some seconds have passed, with the time left.

    The time left follows the last ``RECENT`` lines: the first items of much work take longest, and
    a machine may become slower.

    Args:
        what: Name of the work.
        every: Seconds between lines, > 0.
    """

    def __init__(self, what: str, *, every: float) -> None:
        self.what, self.every = what, every
        self.told = time.monotonic()
        self.marks: deque[tuple[float, int]] = deque(maxlen=RECENT)

    def tell(self, done: int, total: int, items: str = "") -> None:
        """Prints a line if it is time for one.

        Args:
            done: Items that are done.
            total: Of all.
            items: What they are, for people.
        """
        now = time.monotonic()
        if not self.marks:
            self.marks.append((now, done))
        if now - self.told < self.every:
            return
        self.told = now
        line = f"{self.what}: {done} of {total}" + (f" {items}" if items else "")
        since, before = self.marks[0]
        if done > before:
            line += f", {(now - since) * (total - done) / (done - before):.0f} s left"
        self.marks.append((now, done))
        print(line, file=sys.stderr, flush=True)


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
    """A line now and then; none for what is done before."""
    lines = ProgressLines(what, every=EVERY_S)
    for done, item in zip(itertools.count(0, each), items):
        lines.tell(done, total)
        yield item
