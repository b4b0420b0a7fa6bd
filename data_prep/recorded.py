# SPDX-License-Identifier: Apache-2.0
"""Reads files whose hash a run has recorded: what is loaded is what was hashed.

A command hashes its inputs first, and a statement speaks of these hashes. A file that somebody
exchanges before it is loaded, and puts back afterwards, would be named by neither. So whoever loads
an input reads its bytes once, here, and they are compared with what was recorded.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

from data_prep.errors import DataError

_recorded: ContextVar[Mapping[Path, str]] = ContextVar("recorded", default=MappingProxyType({}))


@contextmanager
def as_recorded(hashes: Mapping[Path, str]) -> Iterator[None]:
    """Has files refused that are not what was recorded.

    Args:
        hashes: SHA-256 by file, beside those of contexts around this one.
    """
    named = {path.resolve(): sha256 for path, sha256 in hashes.items()}
    token = _recorded.set({**_recorded.get(), **named})
    try:
        yield
    finally:
        _recorded.reset(token)


def read_recorded(path: Path) -> bytes:
    """Content of a file, that which was recorded if its hash was; to be loaded from memory.

    Raises:
        DataError: If the file was exchanged after it was recorded.
        OSError: If it cannot be read.
    """
    content = path.read_bytes()
    recorded = _recorded.get().get(path.resolve())
    if recorded is not None and (there := hashlib.sha256(content).hexdigest()) != recorded:
        raise DataError(
            f"{path}: is not the file that was recorded: sha256 {recorded} is recorded, {there} "
            "was read. Somebody exchanged it, and a statement would speak of the other file. "
            "Restore it, and repeat the command."
        )
    return content
