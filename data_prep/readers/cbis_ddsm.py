# SPDX-License-Identifier: Apache-2.0
"""CBIS-DDSM as downloaded from The Cancer Imaging Archive: scanned film, masses, pathology labels.

Folder names differ between downloads, so files are found by SeriesInstanceUID, the third component
of the paths in the tables. Which file of a lesion is the mask is decided by its content. Source of
the quirks: Lee et al. 2017, Scientific Data 4:170177, and data_formats.md, section 2.
"""

import csv
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

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
from data_prep.errors import (
    ArchiveError,
    DicomRejected,
    DuplicateConflict,
    GeometryRejected,
    LabelError,
)
from data_prep.manifest import Laterality, View
from data_prep.readers.lesion import Lesion, Record
from data_prep.splits import check_patients

PATHOLOGY = {"MALIGNANT": True, "BENIGN": False, "BENIGN_WITHOUT_CALLBACK": False}
ASPECT_TOLERANCE = 0.02  # published masks of another size differ by up to 0.4 % in aspect
_COLUMNS = {
    "patient id",
    "left or right breast",
    "image view",
    "abnormality id",
    "pathology",
    "image file path",
    "cropped image file path",
    "roi mask file path",
}
_ATTRIBUTES = {
    "density": "breast density",
    "shape": "mass shape",
    "margin": "mass margins",
    "subtlety": "subtlety",
}
_UNKNOWN = {"", "0", "N/A", "NAN"}
_SIDES: dict[str, Laterality] = {"LEFT": "L", "RIGHT": "R"}
_VIEWS: dict[str, View] = {"CC": "CC", "MLO": "MLO"}


@dataclass(frozen=True, slots=True)
class _Series:
    """SeriesInstanceUIDs of one row; empty where the table has no usable path."""

    image: str
    crop: str
    mask: str


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
        self._series: dict[str, _Series] = {}
        records: list[Record] = []
        for part, path in _tables(root).items():
            records += self._read_table(path, part)
        check_patients((r.patient_id, r.split, r.where) for r in records)
        self.records = tuple(records)
        self._files = self._index(watch)
        self._seen: dict[tuple[str, str], str] = {}
        self._last: tuple[Path, Mammogram] | None = None

    def lesion(self, record: Record) -> Lesion:
        """Reads image and mask of one record.

        Raises:
            DicomRejected: If the mammogram or its mask cannot be used.
            GeometryRejected: ``no_mask`` or ``mask_mismatch``.
            DuplicateConflict: If an earlier record names the same lesion in the same image.
        """
        first = self._seen.setdefault((record.image_id, record.lesion_id), record.key)
        if first != record.key:
            raise DuplicateConflict(
                "duplicate",
                f"{record.where}: names the same image and abnormality as {first}. Remove one row.",
            )
        series = self._series[record.key]
        files = self._files.get(series.image, [])
        if not files:
            raise DicomRejected(
                "no_image",
                f"{record.where}: no DICOM file of its mammogram below {self.root}. "
                "Complete the download.",
            )
        path = max(files, key=lambda file: file.pixels).path
        if self._last is None or self._last[0] != path:
            self._last = None  # one mammogram in memory at a time
            where = f"{record.where}, mammogram"
            self._last = (path, read_mammogram(path, where=where, allow_secondary_capture=True))
        mammogram = self._last[1]
        return Lesion(mammogram, self._box(record, series, mammogram))

    def _box(self, record: Record, series: _Series, mammogram: Mammogram) -> Box:
        """Box of the lesion, from whichever file of its series is the mask."""
        files = [f for uid in {series.mask: 0, series.crop: 0} for f in self._files.get(uid, [])]
        masks: list[tuple[tuple[int, bool], NDArray[np.bool_]]] = []
        for file in files:
            where = f"{record.where}, mask or crop"
            mask = _as_mask(read_stored(file.path, where=where, allow_secondary_capture=True))
            if mask is not None:
                masks.append(((mask.size, "mask" in file.description), mask))
        if not masks:
            found = "none of its files has two grey values" if files else "no DICOM file of it"
            raise GeometryRejected(
                "no_mask",
                f"{record.where}: ROI mask missing ({found}). Complete the download, or leave the "
                "row out.",
            )
        mask = max(masks, key=lambda item: item[0])[1]
        box = lesion_box(mask)
        (high, wide), (rows, columns) = mask.shape, mammogram.stored_shape
        stretch = (high / rows) / (wide / columns)
        if not 0.5 <= high / rows <= 2 or abs(stretch - 1) > ASPECT_TOLERANCE:
            raise GeometryRejected(
                "mask_mismatch",
                f"{record.where}: ROI mask has {wide} x {high} px, the mammogram "
                f"{columns} x {rows}: another size and aspect. Correct the mask, or leave the "
                "row out.",
            )
        shape = mammogram.pixels.shape
        return scale_box(box, (high, wide), (shape[0], shape[1]))

    def _read_table(self, path: Path, part: Literal["train", "test"]) -> list[Record]:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ArchiveError(f"{path}: is not UTF-8 text. Download it again.") from error
        reader = csv.reader(text.splitlines(keepends=True))
        header = [_normalised(cell) for cell in next(reader, [])]
        if missing := sorted(_COLUMNS - set(header)):
            raise ArchiveError(
                f"{path}: columns {missing} are missing. Give the table as published."
            )
        records = []
        for number, cells in enumerate(filter(any, reader), start=2):
            row = dict(
                zip(header, (cell.strip().strip('"').strip() for cell in cells), strict=False)
            )
            where = f"{path.name}, row {number}"
            if len(cells) != len(header):
                raise ArchiveError(
                    f"{where}: {len(cells)} cells for {len(header)} columns. Download it again."
                )
            record = _record(row, f"{part}_{number:04d}", where, part)
            self._series[record.key] = _Series(
                _series_uid(row["image file path"]),
                _series_uid(row["cropped image file path"]),
                _series_uid(row["roi mask file path"]),
            )
            records.append(record)
        return records

    def _index(
        self, watch: Callable[[list[Path]], Iterable[Path]]
    ) -> Mapping[str, list[SeriesFile]]:
        """Files of the wanted series, by series."""
        wanted = {uid for s in self._series.values() for uid in (s.image, s.crop, s.mask) if uid}
        paths = sorted(
            path
            for path in self.root.rglob("*.dcm")
            if not path.relative_to(self.root).parts[0].startswith("Calc-")
        )
        index: dict[str, list[SeriesFile]] = {}
        for path in watch(paths):
            file = read_series_file(path)
            if file is not None and file.series in wanted:
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


def _tables(root: Path) -> dict[Literal["train", "test"], Path]:
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of the CBIS-DDSM download.")
    found: dict[Literal["train", "test"], Path] = {}
    parts: tuple[Literal["train", "test"], ...] = ("train", "test")
    for part in parts:
        name = f"mass_case_description_{part}_set.csv"
        if paths := [p for p in (root / name, *sorted(root.glob(f"*/{name}"))) if p.is_file()]:
            found[part] = paths[0]
    if not found:
        raise ArchiveError(
            f"{root}: holds no mass_case_description_train_set.csv (nor the test table). "
            "Put the tables of CBIS-DDSM beside the images."
        )
    return found


def _record(row: Mapping[str, str], key: str, where: str, part: Literal["train", "test"]) -> Record:
    pathology, side, view = (
        row[name].upper() for name in ("pathology", "left or right breast", "image view")
    )
    if pathology not in PATHOLOGY:
        raise LabelError(
            f"{where}: pathology is {row['pathology']!r}. Allowed: {', '.join(PATHOLOGY)}."
        )
    if side not in _SIDES:
        raise ArchiveError(f"{where}: left or right breast is {side!r}. Allowed: LEFT, RIGHT.")
    if not row["patient id"] or not row["abnormality id"]:
        raise ArchiveError(f"{where}: patient_id or abnormality id is empty. Fill it in.")
    given = {name: row.get(column, "") for name, column in _ATTRIBUTES.items()}
    return Record(
        key=key,
        where=where,
        patient_id=row["patient id"],
        image_id=f"{row['patient id']}_{side}_{view or 'other'}",
        lesion_id=f"{_SIDES[side]}{row['abnormality id']}",
        malignant=PATHOLOGY[pathology],
        split=part,
        view=_VIEWS.get(view, "other"),
        laterality=_SIDES[side],
        attributes=MappingProxyType(
            {name: value for name, value in given.items() if value.upper() not in _UNKNOWN}
        ),
    )


def _normalised(cell: str) -> str:
    return re.sub(r"[\s_]+", " ", cell).strip().lower()


def _series_uid(path: str) -> str:
    parts = path.replace("\\", "/").strip("/").split("/")
    return parts[2].strip() if len(parts) > 2 else ""


def _as_mask(stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """The upper of exactly two values, or none for a picture."""
    low, high = stored.min(), stored.max()
    upper: NDArray[np.bool_] = stored == high
    is_mask = low != high and bool((upper | (stored == low)).all())
    return upper if is_mask else None
