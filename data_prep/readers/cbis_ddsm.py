# SPDX-License-Identifier: Apache-2.0
"""CBIS-DDSM as downloaded from The Cancer Imaging Archive: scanned film, masses, pathology labels.

Folder names differ between downloads, so files are found by SeriesInstanceUID, the third component
of the paths in the tables. Which file of a lesion is the mask is decided by its content. Source of
the quirks: Lee et al. 2017, Scientific Data 4:170177, and data_formats.md, section 2.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.cropping import Box, lesion_box, scale_box
from data_prep.dicom import (
    Mammogram,
    SeriesFile,
    read_mammogram,
    read_series_file,
    read_stored,
)
from data_prep.errors import ArchiveError, DicomRejected, DuplicateConflict, GeometryRejected
from data_prep.readers.cbis_tables import TableRow, read_tables
from data_prep.readers.lesion import Lesion, Record

ASPECT_TOLERANCE = 0.02  # published masks of another size differ by up to 0.4 % in aspect


class CbisDdsm:
    """The mass part of a CBIS-DDSM download.

    Tables are checked whole on construction; images are read one at a time by :meth:`lesion`.

    Args:
        root: Folder that holds the tables ``mass_case_description_{train,test}_set.csv``, at most
            one level down, and the DICOM files anywhere below.
        watch: Wraps the list of files while it is indexed, for a progress bar.

    Raises:
        ArchiveError: If a table, a column or every DICOM file is missing.
        LabelError: For a pathology outside the three known values.
        LeakageError: For a patient in both tables.
    """

    def __init__(
        self,
        root: Path,
        *,
        watch: Callable[[list[Path]], Iterable[Path]] = lambda paths: paths,
    ) -> None:
        self.root = root
        rows = read_tables(root)
        self.records = tuple(row.record for row in rows)
        self._rows = {row.record.key: row for row in rows}
        self._files = self._index(watch)
        self._first: dict[tuple[str, str], str] = {}  # key of the first row of a lesion and image
        for record in self.records:
            self._first.setdefault((record.image_id, record.lesion_id), record.key)
        self._last: tuple[Path, Mammogram] | None = None

    def lesion(self, record: Record) -> Lesion:
        """Reads image and mask of one record.

        Raises:
            DicomRejected: If the mammogram or its mask cannot be used.
            GeometryRejected: ``no_mask`` or ``mask_mismatch``.
            DuplicateConflict: If an earlier record names the same lesion in the same image.
        """
        first = self._first[record.image_id, record.lesion_id]
        if first != record.key:
            raise DuplicateConflict(
                "duplicate",
                f"{record.where}: names the same image and abnormality as {first}. Remove one row.",
            )
        row = self._rows[record.key]
        files = self._files.get(row.image_series, [])
        if not files:
            raise DicomRejected(
                "no_image",
                f"{record.where}: no readable DICOM file of its mammogram below {self.root}. "
                "Complete the download.",
            )
        path = max(files, key=lambda file: file.pixels).path
        if self._last is None or self._last[0] != path:
            self._last = None  # one mammogram in memory at a time
            where = f"{record.where}, mammogram"
            self._last = (path, read_mammogram(path, where=where, allow_secondary_capture=True))
        mammogram = self._last[1]
        return Lesion(mammogram, self._box(row, mammogram))

    def _box(self, row: TableRow, mammogram: Mammogram) -> Box:
        """Box of the lesion, from whichever file of its series is the mask."""
        where = row.record.where
        places = dict.fromkeys((row.mask_series, row.crop_series))
        files = [file for series in places for file in self._files.get(series, [])]
        masks: list[tuple[tuple[int, bool], NDArray[np.bool_]]] = []
        for file in files:
            stored = read_stored(
                file.path, where=f"{where}, mask or crop", allow_secondary_capture=True
            )
            mask = _as_mask(stored)
            if mask is not None:
                masks.append(((mask.size, "mask" in file.description), mask))
        if not masks:
            found = "none of its files has two grey values" if files else "no DICOM file of it"
            raise GeometryRejected(
                "no_mask",
                f"{where}: ROI mask missing ({found}). Complete the download, or leave the "
                "row out.",
            )
        mask = max(masks, key=lambda item: item[0])[1]
        box = lesion_box(mask)
        (high, wide), (rows, columns) = mask.shape, mammogram.stored_shape
        stretch = (high / rows) / (wide / columns)
        if not 0.5 <= high / rows <= 2 or abs(stretch - 1) > ASPECT_TOLERANCE:
            raise GeometryRejected(
                "mask_mismatch",
                f"{where}: ROI mask has {wide} x {high} px, the mammogram "
                f"{columns} x {rows}: another size and aspect. Correct the mask, or leave the "
                "row out.",
            )
        shape = mammogram.pixels.shape
        return scale_box(box, (high, wide), (shape[0], shape[1]))

    def _index(
        self, watch: Callable[[list[Path]], Iterable[Path]]
    ) -> Mapping[str, list[SeriesFile]]:
        """Files of the wanted series, by series."""
        wanted = {
            series
            for row in self._rows.values()
            for series in (row.image_series, row.crop_series, row.mask_series)
            if series
        }
        paths = sorted(
            path
            for path in self.root.rglob("*.dcm")
            if not any(p.startswith("Calc-") for p in path.relative_to(self.root).parts)
        )
        index: dict[str, list[SeriesFile]] = {}
        for path in watch(paths):
            # The classic layout names the folder after the series: enough to reject a file whose
            # header is damaged under its own row.
            file = read_series_file(path) or SeriesFile(path, path.parent.name, "", 0)
            if file.series in wanted:
                index.setdefault(file.series, []).append(file)
        if not index:
            found = (
                f"{len(paths)} DICOM files, none named in the tables" if paths else "no DICOM file"
            )
            raise ArchiveError(
                f"{self.root}: holds {found}. Give the folder into which CBIS-DDSM was downloaded, "
                "tables and images together."
            )
        return index


def _as_mask(stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """The upper of exactly two values, or none for a picture."""
    low, high = stored.min(), stored.max()
    upper: NDArray[np.bool_] = stored == high
    is_mask = low != high and bool((upper | (stored == low)).all())
    return upper if is_mask else None
