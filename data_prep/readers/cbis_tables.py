# SPDX-License-Identifier: Apache-2.0
"""The tables of CBIS-DDSM's masses: headers and cells normalised, labels from pathology only."""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from data_prep.errors import ArchiveError, LabelError
from data_prep.manifest import Laterality, View
from data_prep.readers.lesion import Record
from data_prep.splits import check_patients

Part = Literal["train", "test"]

PATHOLOGY = {"MALIGNANT": True, "BENIGN": False, "BENIGN_WITHOUT_CALLBACK": False}
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
class TableRow:
    """One row: the record, and the SeriesInstanceUIDs under which its files are found.

    The UIDs are keys for look-ups, never written anywhere; empty where the table has no usable
    path.
    """

    record: Record
    image_series: str
    crop_series: str
    mask_series: str


def read_tables(root: Path) -> tuple[TableRow, ...]:
    """Reads the training and the test table, or the one that is there.

    Args:
        root: Folder of ``mass_case_description_{train,test}_set.csv``, at most one level down.

    Raises:
        ArchiveError: If both tables, a column or a cell is missing.
        LabelError: For a pathology outside the three known values.
        LeakageError: For a patient in both tables.
    """
    rows = [row for part, path in _tables(root).items() for row in _read_table(path, part)]
    check_patients((r.record.patient_id, r.record.split, r.record.where) for r in rows)
    return tuple(rows)


def _tables(root: Path) -> dict[Part, Path]:
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of the CBIS-DDSM download.")
    found: dict[Part, Path] = {}
    for part in get_args(Part):
        name = f"mass_case_description_{part}_set.csv"
        if paths := [p for p in (root / name, *sorted(root.glob(f"*/{name}"))) if p.is_file()]:
            found[part] = paths[0]
    if not found:
        raise ArchiveError(
            f"{root}: holds no mass_case_description_train_set.csv (nor the test table). "
            "Put the tables of CBIS-DDSM beside the images."
        )
    return found


def _read_table(path: Path, part: Part) -> list[TableRow]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{path}: is not UTF-8 text. Download it again.") from error
    reader = csv.reader(text.splitlines(keepends=True))
    header = [_normalised(cell) for cell in next(reader, [])]
    if missing := sorted(_COLUMNS - set(header)):
        raise ArchiveError(f"{path}: columns {missing} are missing. Give the table as published.")
    rows: list[TableRow] = []
    for number, cells in enumerate(filter(any, reader), start=2):
        row = dict(zip(header, (cell.strip().strip('"').strip() for cell in cells), strict=False))
        where = f"{path.name}, row {number}"
        if len(cells) != len(header):
            raise ArchiveError(
                f"{where}: {len(cells)} cells for {len(header)} columns. Download it again."
            )
        record = _record(row, f"{part}_{number:04d}", where, part)
        rows.append(
            TableRow(
                record,
                image_series=_series_uid(row["image file path"]),
                crop_series=_series_uid(row["cropped image file path"]),
                mask_series=_series_uid(row["roi mask file path"]),
            )
        )
    return rows


def _record(row: Mapping[str, str], key: str, where: str, part: Part) -> Record:
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
    return parts[-2].strip() if len(parts) > 2 else ""
