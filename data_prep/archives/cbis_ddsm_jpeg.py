# SPDX-License-Identifier: Apache-2.0
"""The copy of CBIS-DDSM in JPEG on Kaggle (awsaf49/cbis-ddsm-breast-cancer-image-dataset).

The tables are those of CBIS-DDSM. ``dicom_info.csv`` says which file is a mask: the content cannot,
since lossy masks have more than two values.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.archives.cbis_ddsm import (
    CITATION,
    CbisRow,
    OppositeSplits,
    read_rows,
    with_files,
)
from data_prep.archives.cells import Findings
from data_prep.errors import ArchiveError
from data_prep.files import find_files
from data_prep.lesions import ArchiveFacts, LesionTable, Mask
from data_prep.tables import read_table

FACTS = ArchiveFacts(
    name="cbis-ddsm",  # the same patients, and so the same account, as in the DICOM files
    title="CBIS-DDSM, copy in JPEG",
    licence="CC BY 3.0 (of CBIS-DDSM)",
    citation=CITATION,
    verified=(
        "tables of CBIS-DDSM in csv/, files in jpeg/<SeriesInstanceUID>/",
        "columns image_path and SeriesDescription of csv/dicom_info.csv; some hundred files are "
        "not described, and the series in the tables and their size say what they are",
        "grey has 8 bits and is lossy; the pixel spacing is not stated",
    ),
    checked=(
        "everything that is checked in the tables of CBIS-DDSM",
        "SeriesDescription has the three known values or none, and the files exist",
    ),
    scanned_film=True,
)
MASK_THRESHOLD = 0.5  # 128 of 255
_INFO = "dicom_info.csv"
_COLUMNS = ("image_path", "SeriesDescription")
_NOT_SAID = ""  # the role of a file without description
_ROLES = {
    "": _NOT_SAID,
    "full mammogram images": "image",
    "cropped images": "crop",
    "roi mask images": "mask",
}


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    role: str


def read(
    root: Path,
    *,
    findings: Findings = "masses",
    opposite_splits: OppositeSplits = "leave_out",
) -> LesionTable:
    """Reads the JPEG copy.

    Args:
        root: Folder with ``csv/`` and ``jpeg/``.
        findings: Which tables are read.
        opposite_splits: As for :func:`data_prep.archives.cbis_ddsm.read`.

    Raises:
        ArchiveError: If a table, a column or every JPEG file is missing.
        LabelError: For a pathology outside the three known values.
        LeakageError: For a patient in both parts, with one kind of finding or if refused.
    """
    rows, left_out, notes = read_rows(root, findings=findings, opposite_splits=opposite_splits)
    found = find_files(root, suffixes={".jpg", ".jpeg"})
    roles = _roles(root)
    series: dict[str, list[_File]] = defaultdict(list)
    for path in found.paths:
        if (role := roles.get((path.parent.name, path.name))) is not None:
            series[path.parent.name].append(_File(path, role))
    if not series:
        raise ArchiveError(
            f"{root}: holds {len(found.paths)} JPEG files, none named in {_INFO}. Give the folder "
            "that holds csv/ and jpeg/."
        )
    skipped = dict(found.skipped)
    if unnamed := len(found.paths) - sum(len(files) for files in series.values()):
        skipped[f"file that {_INFO} does not name"] = unnamed
    return with_files(
        rows,
        lambda row: _image(row, series),
        lambda row: _mask(row, series),
        root=root,
        left_out=left_out,
        skipped=skipped,
        notes=notes,
        facts=FACTS,
    )


def _roles(root: Path) -> Mapping[tuple[str, str], str]:
    """What each file shows, by folder and name."""
    tables = [p for p in (root / _INFO, *sorted(root.glob(f"*/{_INFO}"))) if p.is_file()]
    if not tables:
        raise ArchiveError(
            f"{root}: holds no {_INFO}, which says which files are masks. Complete the download."
        )
    table = read_table(tables[0], keep=lambda name: name in _COLUMNS)
    table.require(_COLUMNS)
    roles = {}
    for row in table.rows:
        path = PurePosixPath(row.cells["image_path"].replace("\\", "/"))
        description = row.cells["SeriesDescription"]
        if (role := _ROLES.get(description.lower())) is None:
            raise ArchiveError(
                f"{table.where(row)}: SeriesDescription holds another value. Known: "
                f"{', '.join(filter(None, _ROLES))}. Give the table as published."
            )
        roles[path.parent.name, path.name] = role
    return roles


def _image(row: CbisRow, series: Mapping[str, Sequence[_File]]) -> Path | None:
    paths = _of_role("image", series.get(row.image_series, ()))
    return paths[0] if len(paths) == 1 else None


def _mask(row: CbisRow, series: Mapping[str, Sequence[_File]]) -> Mask | None:
    files = [file for uid in row.mask_series for file in series.get(uid, ())]
    masks = _of_role("mask", files)
    crops = tuple(file.path for file in files if file.role == "crop")
    return Mask(path=masks, supplied_crop=crops, threshold=MASK_THRESHOLD) if masks else None


def _of_role(role: str, files: Sequence[_File]) -> tuple[Path, ...]:
    """The files that are described so; if there are none, those that are not described."""
    found = tuple(file.path for file in files if file.role == role)
    return found or tuple(file.path for file in files if file.role == _NOT_SAID)
