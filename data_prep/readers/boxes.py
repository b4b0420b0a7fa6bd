# SPDX-License-Identifier: Apache-2.0
"""DICOM mammograms with a table of boxes: ``file,x0,y0,x1,y1``, and ``box`` where boxes have names.

Nothing but pixels, spacing and the user's own names of files and boxes is read.
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.cropping import Box, scale_box
from data_prep.dicom import Mammogram, read_mammogram
from data_prep.errors import ArchiveError, DicomRejected, GeometryRejected
from data_prep.files import find_files
from data_prep.readers.lesion import Lesion

COLUMNS = ("file", "x0", "y0", "x1", "y1")
NAME = "box"
SUFFIX = ".dcm"


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxRow:
    """One row of the table.

    Attributes:
        file: As the user wrote it: the DICOM file, below the folder of images.
        name: The user's name of the box, or its number within the file, from 1.
        where: Table and row, the start of every message.
        box: Half-open, in pixels of the image as it is stored.
    """

    file: str
    name: str
    where: str
    box: Box


def read_boxes(path: Path) -> tuple[BoxRow, ...]:
    """Reads and checks a table of boxes.

    Raises:
        ArchiveError: Naming the file, and the column or row that is wrong.
    """
    if not path.is_file():
        raise ArchiveError(f"{path}: is no file. Give a CSV with the columns {','.join(COLUMNS)}.")
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a mark first
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{path}: is not UTF-8 text. Save it as CSV in UTF-8.") from error
    reader = csv.DictReader(io.StringIO(text))
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise ArchiveError(
            f"{path}: columns {missing} are missing. Give {','.join(COLUMNS)}, boxes half-open "
            "in pixels of the image as it is stored."
        )
    rows: list[BoxRow] = []
    numbers: Counter[str] = Counter()
    seen: dict[tuple[str, str], str] = {}
    for number, line in enumerate(reader, start=2):
        where = f"{path.name}, row {number}"
        name = PurePosixPath(line["file"] or "")
        if not name.name or name.is_absolute() or ".." in name.parts:
            raise ArchiveError(f"{where}: file is no path below the folder of the images.")
        numbers[str(name)] += 1
        row = BoxRow(
            file=str(name),
            name=line.get(NAME) or str(numbers[str(name)]),
            where=where,
            box=_box(line, where),
        )
        if (first := seen.setdefault((row.file, row.name), where)) != where:
            raise ArchiveError(f"{where}: has the file and box of {first}. Name each box once.")
        rows.append(row)
    if not rows:
        raise ArchiveError(f"{path}: holds no box. Give a row for each lesion to be scored.")
    return tuple(rows)


class BoxedMammograms:
    """DICOM files below a folder, or one file, with a table of boxes.

    Args:
        root: The folder, or the file.
        table: The table of boxes.

    Raises:
        ArchiveError: If there is nothing to read, or the table is malformed.
    """

    def __init__(self, root: Path, table: Path) -> None:
        if not root.exists():
            raise ArchiveError(f"{root}: does not exist. Give a DICOM file, or a folder of them.")
        self.rows: Sequence[BoxRow] = read_boxes(table)
        self._folder = root if root.is_dir() else root.parent
        self._only = None if root.is_dir() else root.name
        self._last: tuple[str, Mammogram] | None = None

    @property
    def without_box(self) -> list[str]:
        """DICOM files (``*.dcm``) that no row names, as the table would write them."""
        if self._only is not None:
            return [] if any(row.file == self._only for row in self.rows) else [self._only]
        files = {
            path.relative_to(self._folder).as_posix()
            for path in find_files(self._folder, suffixes={SUFFIX}).paths
        }
        return sorted(files - {row.file for row in self.rows})

    def lesion(self, row: BoxRow) -> Lesion:
        """Reads the image of one row; rows of one image in a row read it once.

        Raises:
            DicomRejected: ``no_image`` for a file that is not there, or as ``read_mammogram``.
            GeometryRejected: ``box_outside`` for a box that is empty or leaves the image.
        """
        path = self._folder / row.file
        if not path.is_file() or self._only not in (None, row.file):
            raise DicomRejected(
                "no_image", f"{row.where}: file is not among the images. Correct the name."
            )
        if self._last is None or self._last[0] != row.file:
            self._last = None  # one mammogram in memory at a time
            read = read_mammogram(path, where=row.where, allow_secondary_capture=True)
            self._last = (row.file, read)
        mammogram, box = self._last[1], row.box
        height, width = mammogram.stored_shape
        if not (0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height):
            raise GeometryRejected(
                "box_outside",
                f"{row.where}: {box} is empty or leaves the image of {width} x {height} px. Give "
                "pixels of the image as it is stored, x0 < x1 and y0 < y1.",
            )
        shape = mammogram.pixels.shape
        return Lesion(mammogram, scale_box(box, (height, width), (shape[0], shape[1])))


def _box(line: dict[str, str], where: str) -> Box:
    try:
        return Box(*(int(line[name]) for name in COLUMNS[1:]))
    except (TypeError, ValueError):
        shown = ", ".join(f"{name}={line[name]!r}" for name in COLUMNS[1:])
        raise ArchiveError(f"{where}: {shown}. Give whole numbers of pixels.") from None
