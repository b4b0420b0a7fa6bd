# SPDX-License-Identifier: Apache-2.0
"""Results that stand beside evaluations below the reported folder: found, read and checked once."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammo_dp.report.errors import ReportError

LADDER, RECONSTRUCTION, BENCHMARK = "ladder.json", "reconstruction.json", "benchmark.json"
SCHEMA = 1  # of each of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A file of numbers and the folder that it explains.

    Attributes:
        folder: Where it stands.
        name: Folder relative to the reported one.
        stored: Content of the file.
    """

    folder: Path
    name: str
    stored: Mapping[str, Any]


def found(runs: Path, file: str) -> list[Result]:
    """All files of one name below a folder.

    Args:
        runs: Reported folder.
        file: ``LADDER``, ``RECONSTRUCTION`` or ``BENCHMARK``.

    Raises:
        ReportError: For a file that cannot be read, or of another schema.
    """
    results = []
    for path in sorted(runs.rglob(file)):
        try:
            stored = json.loads(path.read_text())
            if stored["schema"] != SCHEMA:
                raise ValueError(f"schema {stored['schema']}, known is {SCHEMA}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReportError(
                f"{path}: cannot be read ({error!r}). Run the command that wrote it again, into a "
                "new folder, or report a folder without it."
            ) from error
        name = path.parent.resolve().relative_to(runs.resolve()).as_posix()
        results.append(Result(folder=path.parent, name=name, stored=stored))
    return results


def paths(runs: Path) -> list[Path]:
    """Each such file, for the record of a report."""
    files = (LADDER, RECONSTRUCTION, BENCHMARK)
    return [result.folder / file for file in files for result in found(runs, file)]
