# SPDX-License-Identifier: Apache-2.0
"""EMBED open data: screening mammograms with regions that radiologists circled, and pathology.

Its agreement forbids passing on data, derivatives, models, weights and embeddings: what was trained
on crops of this origin is refused by every export.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Literal

from data_prep.archives.cells import (
    OTHER_FINDING,
    SIDES,
    chosen,
    density,
    is_unknown,
    known,
    number,
    view_of,
)
from data_prep.cropping import Box
from data_prep.errors import ArchiveError, LabelError
from data_prep.lesions import ArchiveFacts, LeftOut, LesionRow, LesionTable
from data_prep.manifest import Laterality
from data_prep.tables import Table, TableRow, read_table

FACTS = ArchiveFacts(
    name="embed",  # exports refuse this origin, see mammo_dp/export/lineage.py
    title="EMBED open data",
    licence=(
        "EMBED data use agreement: neither data nor derivatives, models, weights or embeddings "
        "may be passed on"
    ),
    citation="Jeong et al. 2023, The EMory BrEast imaging Dataset, Radiology: AI 5(1)",
    verified=(
        "tables and their columns; <cohort>/<patient>/<study>/<file>.dcm",
        "path_severity 0 invasive, 1 non-invasive, 2 high-risk, 3 borderline, 4 benign, "
        "5 negative, 6 not breast cancer",
        "match_level has one number for each region of ROI_coords",
        "the side of regions is unreliable: users found some on the wrong side of the image",
    ),
    checked=(
        "path_severity, side and regions in each row that is read",
        "findings and images are joined by patient, exam and side",
        "each region lies on the breast, not on the background",
    ),
)
Findings = Literal["masses", "any"]
_CLINICAL = ("EMBED_OpenData_clinical.csv", "EMBED_OpenData_clinical_reduced.csv")
_METADATA = ("EMBED_OpenData_metadata.csv", "EMBED_OpenData_metadata_reduced.csv")
_CLINICAL_COLUMNS = (
    "empi_anon",
    "acc_anon",
    "numfind",
    "side",
    "tissueden",
    "massshape",
    "massmargin",
    "bside",
    "path_severity",
)
_METADATA_COLUMNS = (
    "empi_anon",
    "acc_anon",
    "anon_dicom_path",
    "finalimagetype",
    "imagelateralityfinal",
    "viewposition",
    "spot_mag",
    "num_roi",
    "roi_coords",
    "match_level",
)
_SEVERITY: Mapping[str, bool | None] = {
    "0": True,
    "1": True,
    "2": None,  # high-risk and borderline lesions are neither
    "3": None,
    "4": False,
    "5": False,
    "6": None,
}
_FINDING_SIDES: Mapping[str, str] = {"L": "L", "R": "R", "B": "LR", "": "LR"}
_NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class _Finding:
    """One finding of an exam: all rows of the clinical table with its number.

    Attributes:
        malignant: None if it has no pathology, or one that is neither.
        mass: Whether shape or margin of a mass is described.
        attributes: Descriptors.
    """

    malignant: bool | None
    mass: bool
    attributes: Mapping[str, str]


def read(root: Path, *, findings: Findings = "masses") -> LesionTable:
    """Reads the two-dimensional images of EMBED that have regions.

    A region takes the pathology of the findings on its side of the exam. It is left out where that
    is not certain: several regions with several findings, or findings that do not agree.

    Args:
        root: Folder of ``tables/`` and of the cohorts.
        findings: Regions of masses, or of any finding with pathology.

    Raises:
        ArchiveError: If a table or a column is missing, or a cell is not as known.
        LabelError: For a path_severity other than 0 to 6.
    """
    clinical = _read(root, _CLINICAL, _CLINICAL_COLUMNS)
    exams = _findings(clinical)
    metadata = _read(root, _METADATA, _METADATA_COLUMNS)
    rows: list[LesionRow] = []
    left_out: list[LeftOut] = []
    skipped: Counter[str] = Counter()
    for row in metadata.rows:
        cells = row.cells
        if cells["finalimagetype"].upper() != "2D":
            skipped["image that is not 2D"] += 1
        elif not is_unknown(cells["spot_mag"]):
            skipped["spot or magnification view"] += 1
        elif is_unknown(cells["num_roi"]):
            skipped["image without a region"] += 1
        else:
            read_rows, read_left_out, reason = _regions(root, metadata, row, exams, findings)
            rows += read_rows
            left_out += read_left_out
            if reason:
                skipped[reason] += 1
    return LesionTable(
        rows=tuple(rows),
        left_out=tuple(left_out),
        skipped=skipped,
        facts=FACTS,
        lesions_joined=False,
    )


def _read(root: Path, names: Sequence[str], columns: Sequence[str]) -> Table:
    places = [folder / name for name in names for folder in (root / "tables", root)]
    found = [path for path in places if path.is_file()]
    if not found:
        raise ArchiveError(f"{root}: holds no tables/{names[0]}. Give the folder of EMBED.")
    table = read_table(found[0], keep=lambda name: name.lower() in columns)
    table = table.normalised(str.lower)
    table.require(columns, ids=("empi_anon", "acc_anon", "numfind"))
    return table


def _findings(table: Table) -> Mapping[tuple[str, str, str], list[_Finding]]:
    """Findings by patient, exam and side."""
    groups: dict[tuple[str, str, str], dict[str, list[TableRow]]] = defaultdict(dict)
    for row in table.rows:
        cells, where = row.cells, table.where(row)
        if cells["tissueden"] and number(cells["tissueden"]) == "5":
            continue  # male
        exam = (number(cells["empi_anon"]), number(cells["acc_anon"]))
        for side in chosen(cells["side"], _FINDING_SIDES, where=where, column="side"):
            group = groups[(*exam, side)].setdefault(number(cells["numfind"]), [])
            group.append(row)
    return {
        key: [_finding(table, rows, key[2]) for rows in numbered.values()]
        for key, numbered in groups.items()
    }


def _finding(table: Table, rows: Sequence[TableRow], side: str) -> _Finding:
    """The worst pathology decides; a sample from the other breast says nothing of this one."""
    severities = []
    for row in rows:
        if not (cell := number(row.cells["path_severity"])) or cell.upper() == "NAN":
            continue
        if cell not in _SEVERITY:
            raise LabelError(
                f"{table.where(row)}: path_severity holds another value. Allowed: "
                f"{', '.join(_SEVERITY)}."
            )
        sampled = chosen(row.cells["bside"], _FINDING_SIDES, where=table.where(row), column="bside")
        if side in sampled:
            severities.append(cell)
    cells = rows[0].cells
    return _Finding(
        malignant=_SEVERITY[min(severities)] if severities else None,
        mass=not (is_unknown(cells["massshape"]) and is_unknown(cells["massmargin"])),
        attributes=known(
            density=density(cells["tissueden"]),
            shape=cells["massshape"],
            margin=cells["massmargin"],
        ),
    )


def _regions(
    root: Path,
    table: Table,
    row: TableRow,
    exams: Mapping[tuple[str, str, str], Sequence[_Finding]],
    findings: Findings,
) -> tuple[list[LesionRow], list[LeftOut], str]:
    """Regions of one image, or the one reason why it has none that can be used."""
    where, cells = table.where(row), row.cells
    patient, exam = number(cells["empi_anon"]), number(cells["acc_anon"])
    if not patient or not exam:
        raise ArchiveError(f"{where}: empi_anon or acc_anon is empty. Give the table as published.")
    side: Laterality = chosen(
        cells["imagelateralityfinal"], SIDES, where=where, column="ImageLateralityFinal"
    )
    boxes = _boxes(table, row)
    if not boxes:
        return [], [], "image whose regions are of another image (match_level)"
    own = exams.get((patient, exam, side), ())
    labels = {finding.malignant for finding in own}
    if not own or labels == {None}:
        return [], [], "image whose findings have no pathology, or one that is neither"
    if findings == "masses" and not any(finding.mass for finding in own):
        return [], [], OTHER_FINDING
    key = f"{row.number:06d}"
    if len(labels) > 1 or (len(boxes) > 1 and len(own) > 1):
        message = (
            f"{where}: {len(boxes)} regions and {len(own)} findings of that side, so which label "
            "belongs to which is not certain. Left out by the rule of this archive."
        )
        return [], [LeftOut(key, "ambiguous", message)], ""
    if findings == "masses" and not all(finding.mass for finding in own):
        message = (
            f"{where}: masses and other findings on that side, so what the region shows is not "
            "certain. Left out by the rule of this archive."
        )
        return [], [LeftOut(key, "ambiguous", message)], ""
    path = _path(root, cells["anon_dicom_path"])
    if path is None:
        message = f"{where}: no DICOM file of its image below {root}. Complete the download."
        return [], [LeftOut(key, "no_image", message)], ""
    return (
        [
            LesionRow(
                key=f"{key}_{place:02d}",
                where=f"{where}, region {place}",
                file=path.relative_to(root).as_posix(),
                path=path,
                patient_id=patient,
                image_id=f"image_{row.number:06d}",
                lesion_id=f"{row.number:06d}_{place}",  # nothing joins the views of a lesion
                malignant=own[0].malignant,
                region=box,
                view=view_of(cells["viewposition"]),
                laterality=side,
                attributes=MappingProxyType(dict(own[0].attributes) if len(own) == 1 else {}),
            )
            for place, box in boxes
        ],
        [],
        "",
    )


def _boxes(table: Table, row: TableRow) -> list[tuple[int, Box]]:
    """Boxes that were drawn on this very image, with their places in the list."""
    where, cells = table.where(row), row.cells
    values = [float(value) for value in _NUMBERS.findall(cells["roi_coords"])]
    levels = [int(float(value)) for value in _NUMBERS.findall(cells["match_level"])]
    if len(values) % 4 or len(values) // 4 != len(levels):
        raise ArchiveError(
            f"{where}: ROI_coords has {len(values)} numbers, match_level has {len(levels)}. There "
            "are four numbers for each region. Give the table as published."
        )
    boxes = []
    for place, level in enumerate(levels, start=1):
        y0, x0, y1, x1 = values[4 * place - 4 : 4 * place]
        if level == 1:
            box = Box(math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1))
            boxes.append((place, box))
    return boxes


def _path(root: Path, name: str) -> Path | None:
    """The file at the last four parts of the path in the table: cohort, patient, exam, file."""
    parts = PurePosixPath(name.replace("\\", "/")).parts[-4:]
    if len(parts) < 4 or ".." in parts:
        return None
    places = (root.joinpath(*parts), root.joinpath("images", *parts))
    return next((path for path in places if path.is_file()), None)
