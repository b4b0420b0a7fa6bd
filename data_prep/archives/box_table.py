# SPDX-License-Identifier: Apache-2.0
"""Boxes that somebody drew on the images of an archive that has none: a table beside it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.cropping import Box
from data_prep.errors import ArchiveError
from data_prep.tables import read_table

COLUMNS = ("file", "x0", "y0", "x1", "y1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxRow:
    """One row.

    Attributes:
        key: Our own name of the row.
        where: Table and row, the start of every message.
        file: The image, as a path below the archive or its end.
        box: In pixels of the image as it is stored; decimals are rounded outwards.
        lesion: Name of the lesion within its image, or its number there, from 1.
        cells: All cells by column.
    """

    key: str
    where: str
    file: PurePosixPath
    box: Box
    lesion: str
    cells: Mapping[str, str]


def read_box_table(path: Path | None, *, without: str) -> list[BoxRow]:
    """Reads the columns ``file, x0, y0, x1, y1`` and, where it is there, ``lesion``.

    Args:
        path: The table, CSV or XLSX; None if the user gave none.
        without: Sentence about the archive that says why it cannot do without.

    Raises:
        ArchiveError: If there is no table, or one that cannot be read, naming the row.
    """
    if path is None:
        raise ArchiveError(
            f"{without} Give --boxes with a table of the columns {','.join(COLUMNS)}: boxes in "
            "pixels of the image as it is stored."
        )
    table = read_table(path)
    table.require(COLUMNS)
    rows: list[BoxRow] = []
    numbers: dict[str, int] = {}
    for row in table.rows:
        where = table.where(row)
        file = PurePosixPath(row.cells["file"].replace("\\", "/"))
        if not file.name or file.is_absolute() or ".." in file.parts:
            raise ArchiveError(f"{where}: file is no path below the folder of the images.")
        corners = []
        for name in COLUMNS[1:]:
            try:
                corners.append(float(row.cells[name]))
            except ValueError:
                corners.append(math.nan)
        if not all(math.isfinite(corner) for corner in corners):
            raise ArchiveError(f"{where}: x0, y0, x1 or y1 is no number. Give pixels.")
        x0, y0, x1, y1 = corners
        place = numbers[str(file)] = numbers.get(str(file), 0) + 1
        rows.append(
            BoxRow(
                key=f"box_{row.number:05d}",
                where=where,
                file=file,
                box=Box(math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)),
                lesion=row.cells.get("lesion", "") or str(place),
                cells=row.cells,
            )
        )
    return rows
