# SPDX-License-Identifier: Apache-2.0
"""CBIS-DDSM as downloaded from The Cancer Imaging Archive: scanned film, masses, pathology labels.

Folder names differ between downloads, so files are found by SeriesInstanceUID, the last folder of
the paths in the tables. Which file of a lesion is the mask is decided by its content. Source of
the quirks: Lee et al. 2017, Scientific Data 4:170177, and data_formats.md, section 2.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from data_prep.cropping import Box
from data_prep.dicom import Mammogram, SeriesFile, read_mammogram, read_series_file
from data_prep.errors import ArchiveError, DicomRejected, DuplicateConflict
from data_prep.files import find_files
from data_prep.lesions import Mask
from data_prep.masks import locate
from data_prep.readers.cbis_tables import TableRow, read_tables
from data_prep.readers.lesion import Lesion, Record


class CbisDdsm:
    """The mass part of a CBIS-DDSM download.

    Tables are checked whole on construction; images are read one at a time by :meth:`lesion`.

    Args:
        root: Folder that holds the tables ``mass_case_description_{train,test}_set.csv``, at most
            one level down, and the DICOM files anywhere below.
        watch: Wraps the list of files while it is indexed, for a progress bar.
        spacing_mm: Millimetres per pixel of headers that do not say so, or cannot be right.

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
        spacing_mm: float | None = None,
    ) -> None:
        self.root = root
        self._spacing_mm = spacing_mm
        rows = read_tables(root)
        self.records = tuple(row.record for row in rows)
        self._rows = {row.record.key: row for row in rows}
        self._files = self._index(watch)
        self._same: dict[tuple[str, str], list[Record]] = {}  # rows of one lesion in one image
        for record in self.records:
            self._same.setdefault((record.image_id, record.lesion_id), []).append(record)
        self._last: tuple[Path, Mammogram] | None = None

    def lesion(self, record: Record) -> Lesion:
        """Reads image and mask of one record.

        Raises:
            DicomRejected: If the mammogram or its mask cannot be used.
            GeometryRejected: ``no_mask`` or ``mask_mismatch``.
            DuplicateConflict: If another record names the same lesion in the same image: an
                earlier one, or any one with another label.
        """
        same = self._same[record.image_id, record.lesion_id]
        if len({other.malignant for other in same}) > 1:
            rows = ", ".join(other.key for other in same if other.key != record.key)
            raise DuplicateConflict(
                "conflict",
                f"{record.where}: names the same image and abnormality as {rows}, with another "
                "pathology. Correct the rows, or leave them out.",
            )
        if same[0].key != record.key:
            raise DuplicateConflict(
                "duplicate",
                f"{record.where}: names the same image and abnormality as {same[0].key}. Remove "
                "one row.",
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
            read = read_mammogram(
                path, where=where, allow_secondary_capture=True, spacing_mm=self._spacing_mm
            )
            self._last = (path, read)
        mammogram = self._last[1]
        return Lesion(mammogram, self._box(row, mammogram))

    def _box(self, row: TableRow, mammogram: Mammogram) -> Box:
        """Box of the lesion, from whichever file of its series is the mask."""
        places = dict.fromkeys((row.mask_series, row.crop_series))
        paths = tuple(file.path for series in places for file in self._files.get(series, []))
        return locate(Mask(path=paths), mammogram, where=row.record.where)

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
        found = find_files(self.root, suffixes={".dcm"})
        paths = [
            path
            for path in found.paths
            if not any(p.startswith("Calc-") for p in path.relative_to(self.root).parts)
        ]
        index: dict[str, list[SeriesFile]] = {}
        for path in watch(paths):
            # The classic layout names the folder after the series: enough to reject a file whose
            # header is damaged under its own row.
            file = read_series_file(path) or SeriesFile(path, path.parent.name, "", 0)
            if file.series in wanted:
                index.setdefault(file.series, []).append(file)
        if not index:
            held = (
                f"{len(paths)} DICOM files, none named in the tables" if paths else "no DICOM file"
            )
            raise ArchiveError(
                f"{self.root}: holds {held}. Give the folder into which CBIS-DDSM was downloaded, "
                "tables and images together."
            )
        return index
