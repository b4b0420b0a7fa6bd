# SPDX-License-Identifier: Apache-2.0
"""What is to be scored: crops of a prepared folder, of plain PNG files, or cut out of mammograms.

Each keeps the user's own name, the file and the box; nothing of a DICOM header goes along.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.crop_set import read_grey, watched
from data_prep.cutting import Cutter, Cutting
from data_prep.errors import ArchiveError, ManifestError, RecordRejected
from data_prep.manifest import CropsManifest
from data_prep.readers.boxes import BoxedMammograms

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

    def __iter__(self) -> Iterator[Candidate]:
        """In order of rows."""
        for row in watched(range(len(self.manifest.crops)), "Scoring crops"):
            name = self.manifest.crops[row].file
            pixels: NDArray[np.uint16] | RecordRejected
            try:
                pixels = _large_enough(self.manifest.image(row), name, self.smallest)
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

    def __iter__(self) -> Iterator[Candidate]:
        """In order of names.

        Raises:
            ArchiveError: If there is no PNG file.
        """
        paths = sorted(self.folder.rglob("*.png"))
        if not paths:
            raise ArchiveError(
                f"{self.folder}: holds no crops.csv and no PNG file. Give a prepared folder, or a "
                "folder of square grey PNG crops; mammograms go to --dicom with --boxes."
            )
        for path in watched(paths, "Scoring crops"):
            name = path.relative_to(self.folder).as_posix()
            pixels: NDArray[np.uint16] | RecordRejected
            try:
                pixels = _large_enough(read_grey(path, name, deep=True), name, self.smallest)
            except RecordRejected as error:
                pixels = error
            yield Candidate(file=name, box=WHOLE, pixels=pixels)


@dataclass(frozen=True, slots=True)
class CutOut:
    """The boxes of a table, cut out of their mammograms.

    Attributes:
        mammograms: Images and boxes.
        cutting: How to cut.
    """

    mammograms: BoxedMammograms
    cutting: Cutting

    def __iter__(self) -> Iterator[Candidate]:
        """In order of the table; then the images that no row names.

        Raises:
            ArchiveError: If only some of the mammograms state their pixel spacing.
        """
        cutter = Cutter(self.cutting)
        for row in watched(self.mammograms.rows, "Cutting and scoring"):
            pixels: NDArray[np.uint16] | RecordRejected
            try:
                pixels, _ = cutter.cut(self.mammograms.lesion(row), row.where)
            except RecordRejected as error:
                pixels = error
            yield Candidate(file=row.file, box=row.name, pixels=pixels)
        for name in self.mammograms.without_box:
            missing = f"{name}: the table has no box of it. Add a row, or leave the file out."
            yield Candidate(file=name, box="", pixels=RecordRejected("no_box", missing))


def _large_enough(pixels: NDArray[np.uint16], name: str, smallest: int) -> NDArray[np.uint16]:
    """The same pixels.

    Raises:
        RecordRejected: ``too_small`` for a crop that would have to be enlarged further than those
            of training.
    """
    if pixels.shape[0] < smallest:
        raise RecordRejected(
            "too_small",
            f"{name}: {pixels.shape[0]} x {pixels.shape[1]} px. The model takes crops of at least "
            f"{smallest}; cut at a finer sampling.",
        )
    return pixels
