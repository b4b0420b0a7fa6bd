# SPDX-License-Identifier: Apache-2.0
"""Who vouches for what an interrupted process left in a folder.

A command that takes up again what lies in an unfinished folder relies on whoever wrote it. Where a
privacy statement will speak of the result, that must be the same command, so a holder of a key
marks each line; where none will, nobody vouches and nothing is marked.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Vouch = Callable[[Mapping[str, Any]], str]
_vouch: ContextVar[Vouch | None] = ContextVar("vouch", default=None)


@contextmanager
def vouched_by(vouch: Vouch) -> Iterator[None]:
    """Has lines marked, and only marked ones relied on.

    Args:
        vouch: Maps plain values to a mark that nobody else can make.
    """
    token = _vouch.set(vouch)
    try:
        yield
    finally:
        _vouch.reset(token)


def voucher() -> Vouch | None:
    """Who vouches in this context; none if nobody does."""
    return _vouch.get()
