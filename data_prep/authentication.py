# SPDX-License-Identifier: Apache-2.0
"""Who authenticates what an interrupted process left in a folder.

A command that takes up again what lies in an unfinished folder relies on whoever wrote it. Where a
privacy statement will speak of the result, that must be the same command, so each line gets a
message authentication code under a key. Where none will, no line gets one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Authenticate = Callable[[Mapping[str, Any]], str]
_authenticate: ContextVar[Authenticate | None] = ContextVar("authenticate", default=None)


@contextmanager
def authenticated_by(authenticate: Authenticate) -> Iterator[None]:
    """Has lines written with a code, and only lines with the right one relied on.

    Args:
        authenticate: Maps plain values to a code that only holders of the key can compute.
    """
    token = _authenticate.set(authenticate)
    try:
        yield
    finally:
        _authenticate.reset(token)


def authenticator() -> Authenticate | None:
    """What computes codes in this context; none if lines get none."""
    return _authenticate.get()
