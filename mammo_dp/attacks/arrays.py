# SPDX-License-Identifier: Apache-2.0
"""Named arrays on disk: the saved signals of attacks, so that they can be scored again."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mammo_dp.attacks import AttackError
from mammo_dp.runs import write_bytes_atomically

Arrays = Mapping[str, NDArray[Any]]


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Writes named arrays in one move."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # numpy's stub takes a flag here
    write_bytes_atomically(path, content.getvalue())


def read_arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Reads named arrays; no code in the file is run.

    Args:
        path: File that :func:`write_arrays` wrote.
        names: Arrays that it must hold.

    Raises:
        AttackError: If it cannot be read, or an array is missing.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = {name: stored[name] for name in stored.files}
    except (OSError, EOFError, ValueError, BadZipFile) as error:
        raise AttackError(
            f"{path}: holds no signals ({error}). Remove it; the attack runs again and writes it."
        ) from error
    if missing := [name for name in names if name not in found]:
        raise AttackError(
            f"{path}: holds no signals of this attack ({', '.join(missing)} missing). Remove it; "
            "the attack runs again and writes it."
        )
    return found
