# SPDX-License-Identifier: Apache-2.0
"""What is to be scored: crops of a prepared folder, of plain PNG files, or cut out of mammograms.

Each keeps the user's own name, the file and the box; nothing of a DICOM header goes along.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.crop_set import read_grey
from data_prep.cut_image import CutOut, ImageOrder, LesionOrder, crops_of
from data_prep.cutting import Cutting
from data_prep.errors import ArchiveError, ManifestError, RecordRejected
from data_prep.files import find_files
from data_prep.lesions import LeftOut, LesionRow, LesionTable, Mask
from data_prep.manifest import FILE_NAME, CropsManifest
from data_prep.progress import watched

_IMAGES = ("", ".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff")
WHOLE = "1"  # the box of a crop: there is one


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """One lesion that the user asks about.

    Attributes:
        file: The user's name of the file.
        box: The user's name of the box within the file.
        pixels: Crop, shape ``(size, size)``, values in ``[0, 65535]``; or why there is none.
    """

    file: str
    box: str
    pixels: NDArray[np.uint16] | RecordRejected


@dataclass(frozen=True, slots=True)
class PreparedCrops:
    """The crops of a manifest, all splits.

    Attributes:
        manifest: Table and folder.
        smallest: Least edge, in pixels.
    """

    manifest: CropsManifest
    smallest: int

    def files(self) -> list[Path]:
        """All files that scores depend on."""
        folder = self.manifest.folder
        return [folder / FILE_NAME, *(folder / crop.file for crop in self.manifest.crops)]

    def __iter__(self) -> Iterator[Candidate]:
        """In order of rows."""
        for row in watched(range(len(self.manifest.crops)), "Scoring crops"):
            name = self.manifest.crops[row].file
            pixels: NDArray[np.uint16] | RecordRejected
            try:
                where = f"{FILE_NAME}, row {row + 2}"
                pixels = _large_enough(self.manifest.image(row), where, self.smallest)
            except RecordRejected as error:
                pixels = error
            except ManifestError as error:
                pixels = RecordRejected("unreadable", str(error))
            yield Candidate(file=name, box=WHOLE, pixels=pixels)


@dataclass(frozen=True, slots=True)
class PlainCrops:
    """PNG files below a folder, each of them a crop.

    Attributes:
        folder: The folder.
        smallest: Least edge, in pixels.
    """

    folder: Path
    smallest: int

    def files(self) -> list[Path]:
        """All files that scores depend on, in order of names.

        Raises:
            ArchiveError: If there is no PNG file.
        """
        paths = find_files(self.folder, suffixes={".png"}).paths
        if not paths:
            raise ArchiveError(
                f"{self.folder}: holds no crops.csv and no PNG file. Give a prepared folder, or a "
                "folder of square grey PNG crops; mammograms go to --images with --table."
            )
        return list(paths)

    def __iter__(self) -> Iterator[Candidate]:
        """In order of names.

        Raises:
            ArchiveError: If there is no PNG file.
        """
        for number, path in enumerate(watched(self.files(), "Scoring crops"), start=1):
            name = path.relative_to(self.folder).as_posix()
            where = f"file {number} in the order of names"  # a name may be a patient's
            pixels: NDArray[np.uint16] | RecordRejected
            try:
                pixels = _large_enough(read_grey(path, where, deep=True), where, self.smallest)
            except RecordRejected as error:
                pixels = error
            yield Candidate(file=name, box=WHOLE, pixels=pixels)


@dataclass(frozen=True, slots=True)
class TableOfLesions:
    """The lesions of a table, cut out of their mammograms.

    Attributes:
        table: Lesions; labels are not needed.
        images: Folder of the mammograms, or the only one.
        cutting: How to cut.
    """

    table: LesionTable
    images: Path
    cutting: Cutting

    def files(self) -> list[Path]:
        """All files that scores depend on, beside the table; images without a row are not read."""
        return sorted({row.path for row in self.table.rows} | self._masks())

    def __iter__(self) -> Iterator[Candidate]:
        """In order of the table; then the images that no row names.

        Margins have one unit: that of the first mammogram.
        """
        rows: list[LesionRow | LeftOut] = [*self.table.rows, *self.table.left_out]
        rows.sort(key=lambda row: row.key)
        first: tuple[bool, str] | None = None
        for row, one in zip(watched(rows, "Cutting and scoring"), self._cut(rows), strict=True):
            pixels: NDArray[np.uint16] | RecordRejected
            if isinstance(one, RecordRejected):
                pixels = one
            else:
                assert isinstance(row, LesionRow)
                unit = first = first or (one.spacing_mm is not None, row.where)
                same = unit[0] == (one.spacing_mm is not None)
                pixels = one.pixels if same else _odd_unit(row.where, unit[1])
            yield Candidate(file=row.file, box=row.lesion_id, pixels=pixels)
        for name in self._without_row(rows):
            missing = "An image has no row in the table. Add one, or leave the file out."
            yield Candidate(file=name, box="", pixels=RecordRejected("no_box", missing))

    def _cut(self, rows: Sequence[LesionRow | LeftOut]) -> Iterator[CutOut | RecordRejected]:
        """One answer per row; rows of one image in a row read it once."""
        for _, group in groupby(rows, lambda row: getattr(row, "path", row.key)):
            lesions = []
            for row in group:
                if isinstance(row, LesionRow):
                    lesions.append(row)
                else:
                    yield RecordRejected(row.reason, row.message)
            if not lesions:
                continue
            order = ImageOrder(
                path=lesions[0].path,
                spacing_mm=lesions[0].spacing_mm,
                scanned_film=True,
                lesions=tuple(LesionOrder(where=r.where, region=r.region) for r in lesions),
            )
            yield from crops_of(order, self.cutting)

    def _without_row(self, rows: Sequence[LesionRow | LeftOut]) -> list[str]:
        """Images that no row names, as the table would write them."""
        named = {row.file for row in rows}
        if not self.images.is_dir():
            return [] if self.images.name in named else [self.images.name]
        masks = self._masks()
        found = find_files(self.images, suffixes=_IMAGES).paths
        names = {path.relative_to(self.images).as_posix() for path in found if path not in masks}
        return sorted(names - named)

    def _masks(self) -> set[Path]:
        regions = (row.region for row in self.table.rows)
        return {path for one in regions if isinstance(one, Mask) for path in one.path}


def _odd_unit(where: str, first: str) -> RecordRejected:
    return RecordRejected(
        "spacing",
        f"{where} and {first}: only one of the mammograms states its pixel spacing, so margins "
        "would have two units. Give --spacing_mm.",
    )


def _large_enough(pixels: NDArray[np.uint16], where: str, smallest: int) -> NDArray[np.uint16]:
    """The same pixels.

    Raises:
        RecordRejected: ``too_small`` for a crop that would have to be enlarged further than those
            of training.
    """
    if pixels.shape[0] < smallest:
        raise RecordRejected(
            "too_small",
            f"{where}: {pixels.shape[0]} x {pixels.shape[1]} px. The model takes crops of at least "
            f"{smallest}; cut at a finer sampling.",
        )
    return pixels
