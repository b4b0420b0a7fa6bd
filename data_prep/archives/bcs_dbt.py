# SPDX-License-Identifier: Apache-2.0
"""BCS-DBT, Breast Cancer Screening - Digital Breast Tomosynthesis: volumes with boxes in a slice.

A box lies in one slice of a volume; so many slices as are asked for are cut around it.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from data_prep.archives.cbis_ddsm import PHANTOM_MARK
from data_prep.archives.cells import SIDES, chosen, known, labelled, number, without_repeats
from data_prep.cropping import Box
from data_prep.errors import ArchiveError
from data_prep.files import find_files, without_names
from data_prep.lesions import ArchiveFacts, LeftOut, LesionRow, LesionTable, Slab
from data_prep.manifest import DEEPEST, Split, View
from data_prep.splits import check_patients
from data_prep.tables import Table, TableRow, read_table

FACTS = ArchiveFacts(
    name="bcs-dbt",
    title="Breast Cancer Screening - Digital Breast Tomosynthesis (BCS-DBT)",
    licence="CC BY-NC 4.0: for purposes that are not commercial, with credit",
    citation=(
        "Buda et al. 2021, A data set and deep learning algorithm for the detection of masses and "
        "architectural distortions in digital breast tomosynthesis images, JAMA Network Open "
        "4(8):e2119100; The Cancer Imaging Archive, doi 10.7937/e4wt-cd02"
    ),
    verified=(
        "columns of the tables of boxes (PatientID, StudyUID, View, Subject, Slice, X, Y, Width, "
        "Height, Class, AD, VolumeSlices) and of file paths (descriptive_path, classic_path), "
        "joined by patient, study and view",
        "tables of the parts train, validation and test, of several versions; views such as lcc "
        "and rmlo; classes benign and cancer",
        "Slice counts from 0, and some files are to be turned by half before boxes fit, told by "
        "the edge at which the breast lies, since laterality in the header is wrong in places: as "
        "the authors' own code reads them",
        "the window stands in the shared functional groups",
    ),
    checked=(
        "one table of boxes and one of file paths for each part that is there",
        "class, view and numbers of each row that is read; Slice below VolumeSlices",
        "one DICOM file in the folder of a path; it is Breast Tomosynthesis Image Storage",
        "VolumeSlices is the number of slices of the file; the box lies on the breast",
        "nobody is in two parts",
    ),
)
PHANTOM_FACTS = replace(
    FACTS,
    name="phantom-archive",
    title="Phantom archive in the layout of BCS-DBT",
    licence="Apache-2.0",
    citation="mammo_dp; procedural, no patients",
    verified=(),
)
KEY = ("PatientID", "StudyUID", "View")
BOX = ("Slice", "X", "Y", "Width", "Height")
_CLASSES = {"CANCER": True, "BENIGN": False}
_PARTS: Mapping[str, Split] = {"train": "train", "validation": "val", "test": "test"}
_TABLE = re.compile(r"BCS-DBT-(boxes|file-paths)-(train|validation|test)\b.*\.csv", re.IGNORECASE)
_VIEW = re.compile(r"([LR])(.+)")
_FARTHEST = 1e5  # px


def read(root: Path, *, depth: int = 16) -> LesionTable:
    """Reads the boxes of BCS-DBT, or of a phantom archive in its layout.

    Args:
        root: Folder of the tables and of the volumes, at any depth.
        depth: Slices to be cut around a box, from 2 to 512.

    Raises:
        ArchiveError: If a table, a column or every file is missing, or a cell is not as known.
        LabelError: For a class other than benign and cancer.
        LeakageError: For a patient in two parts.
    """
    if not 2 <= depth <= DEEPEST:
        raise ArchiveError(f"--depth is {depth}. Give 2 to {DEEPEST} slices.")
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of BCS-DBT.")
    tables = _tables(root)
    found = find_files(root, suffixes={".dcm"})
    if not found.paths:
        raise ArchiveError(f"{root}: holds no DICOM file. Give the folder of BCS-DBT.")
    folders: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for file in found.paths:
        folders[file.relative_to(root).parts[-4:-1]].append(file)
    rows: list[LesionRow] = []
    left_out: list[LeftOut] = []
    for part, (boxes, paths) in tables.items():
        places = {
            tuple(row.cells[name] for name in KEY): row.cells for row in read_paths(paths).rows
        }
        boxes.require((*KEY, *BOX, "Class"), ids=KEY)
        for row in boxes.rows:
            one = _row(boxes, row, part, places, folders, depth)
            (left_out if isinstance(one, LeftOut) else rows).append(one)  # type: ignore[arg-type]
    check_patients((row.patient_id, row.split or "train", row.where) for row in rows)
    stays, repeated = without_repeats(rows)
    return LesionTable(
        rows=tuple(stays),
        left_out=(*left_out, *repeated),
        skipped=Counter(found.skipped),
        facts=PHANTOM_FACTS if (root / PHANTOM_MARK).is_file() else FACTS,
        lesions_joined=False,
    )


def read_paths(path: Path) -> Table:
    """The table of file paths."""
    table = read_table(path)
    table.require((*KEY, "classic_path"), ids=KEY)
    return table


def _tables(root: Path) -> Mapping[Split, tuple[Table, Path]]:
    """Boxes and file paths of each part that is there."""
    found: dict[tuple[str, str], Path] = {}
    for path in find_files(root, suffixes={".csv"}).paths:
        if (match := _TABLE.fullmatch(path.name)) is None:
            continue
        kind, part = match[1].lower(), match[2].lower()
        if (kind, part) in found:
            raise ArchiveError(
                f"{without_names(path, root)}: one of two tables of {kind} of {part}, beside "
                f"{without_names(found[kind, part], root)}. Keep the newer one."
            )
        found[kind, part] = path
    tables: dict[Split, tuple[Table, Path]] = {}
    for name, part in _PARTS.items():
        boxes, paths = (found.get((kind, name)) for kind in ("boxes", "file-paths"))
        if boxes is not None and paths is None:
            raise ArchiveError(
                f"{boxes.name}: there is no BCS-DBT-file-paths-{name}.csv, so nothing says which "
                "file a box is about. Put it beside the boxes."
            )
        if boxes is not None and paths is not None:
            tables[part] = (read_table(boxes), paths)
    if not tables:
        raise ArchiveError(
            f"{root}: holds no BCS-DBT-boxes-train.csv, nor one of validation or test. Put the "
            "tables beside the volumes."
        )
    return tables


def _row(
    table: Table,
    row: TableRow,
    part: Split,
    places: Mapping[tuple[str, ...], Mapping[str, str]],
    folders: Mapping[tuple[str, ...], list[Path]],
    depth: int,
) -> LesionRow | LeftOut:
    where, cells, key = table.where(row), row.cells, f"{part}_{row.number:05d}"
    if not (cells["PatientID"] and cells["StudyUID"]):
        raise ArchiveError(f"{where}: PatientID or StudyUID is empty. Fill it in.")
    if (match := _VIEW.fullmatch(cells["View"].upper())) is None:
        raise ArchiveError(f"{where}: View is no side and view. Known are lcc, rmlo and so on.")
    side = chosen(match[1], SIDES, where=where, column="View")
    malignant = labelled(cells["Class"], _CLASSES, where=where, column="Class")
    place, x, y, width, height = (_number(table, row, name) for name in BOX)
    slices = None
    if "VolumeSlices" in table.columns and cells["VolumeSlices"]:
        slices = _number(table, row, "VolumeSlices")
        if not 0 <= place < slices:
            raise ArchiveError(
                f"{where}: Slice is {place}, and VolumeSlices {slices}. Slices count from 0; give "
                "the table as published."
            )
    known_paths = places.get(tuple(cells[name] for name in KEY))
    if known_paths is None:
        return LeftOut(
            key, "no_image", f"{where}: the table of file paths has no row for it. Complete it."
        )
    files = _files(known_paths, folders)
    if len(files) != 1:
        reason, what = ("ambiguous", "several files") if files else ("no_image", "no DICOM file")
        return LeftOut(
            key,
            reason,
            f"{where}: {what} in the folder of its path. Complete the download, or keep one.",
        )
    return LesionRow(
        key=key,
        where=where,
        file=files[0].name,
        path=files[0],
        patient_id=cells["PatientID"],
        image_id="_".join(cells[name] for name in KEY),
        lesion_id="_".join(str(part) for part in (cells["View"], place, x, y, width, height)),
        malignant=malignant,
        region=Slab(
            box=Box(x, y, x + width, y + height), slice=place, depth=depth, side=side, slices=slices
        ),
        split=part,
        view=_view(match[2]),
        laterality=side,
        attributes=MappingProxyType(known(architectural_distortion=cells.get("AD", ""))),
    )


def _view(word: str) -> View:
    name = word.rstrip("0123456789")
    return "CC" if name == "CC" else "MLO" if name == "MLO" else "other"


def _files(paths: Mapping[str, str], folders: Mapping[tuple[str, ...], list[Path]]) -> list[Path]:
    """Files in the folder of either path: patient, study and series, whatever they are called."""
    for column in ("classic_path", "descriptive_path"):
        parts = PurePosixPath(paths.get(column, "").replace("\\", "/")).parts
        for end in (-1, len(parts)):  # of a file, or of its folder
            if len(parts) > 2 and (files := folders.get(tuple(parts[:end][-3:]))):
                return files
    return []


def _number(table: Table, row: TableRow, column: str) -> int:
    try:
        value = float(number(row.cells[column]))
    except ValueError:
        value = math.nan
    if not abs(value) < _FARTHEST or value != round(value):
        raise ArchiveError(f"{table.where(row)}: {column} is no whole number. Correct it.")
    return int(value)
