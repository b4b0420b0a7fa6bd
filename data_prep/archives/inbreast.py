# SPDX-License-Identifier: Apache-2.0
"""INbreast: digital mammograms with outlines as property lists, and BI-RADS assessments.

There is no pathology in its files, so labels are assessments, and only if they are asked for.
"""

import math
import plistlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_prep.archives.cells import (
    OTHER_FINDING,
    SIDES,
    LabelRequest,
    birads_label,
    chosen,
    density,
    number,
    require_birads,
)
from data_prep.errors import ArchiveError
from data_prep.files import find_files, without_names
from data_prep.lesions import ArchiveFacts, LeftOut, LesionRow, LesionTable, Outline
from data_prep.manifest import View
from data_prep.tables import Table, TableRow, read_table

FACTS = ArchiveFacts(
    name="inbreast",
    title="INbreast",
    licence="on request; the official site is off, licence text not found",
    citation=(
        "Moreira et al. 2012, INbreast: toward a full-field digital mammographic database, "
        "Academic Radiology 19(2):236-248"
    ),
    verified=(
        "columns of INbreast.csv, of which short copies have eight; Bi-Rads 1 to 6 with 4a, 4b, 4c",
        "names {file}_{hash}_MG_{L|R}_{CC|ML}_ANON.dcm, where the hash is the patient",
        "property lists Images[0].ROIs[] with Name and Point_px as (x, y)",
        "no pathology; regions of fewer than three points occur",
    ),
    checked=(
        "the name of every DICOM file, and that none is there twice",
        "Bi-Rads, Laterality and File Name in each row that is read",
        "side of the table and side of the file name agree",
        "NumberOfPoints is the number of points",
        "an outline lies within its image, on the breast",
    ),
)
MASSES = {"MASS", "SPICULATED REGION", "ESPICULATED REGION"}
_COLUMNS = ("Laterality", "File Name", "ACR", "Bi-Rads")
_NAME = re.compile(
    r"(?P<file>\d+)_(?P<patient>[0-9a-f]+)_MG_(?P<side>[LR])_(?P<view>CC|ML|MLO)_ANON\.dcm",
    re.IGNORECASE,
)
_VIEWS: Mapping[str, View] = {"CC": "CC", "ML": "MLO", "MLO": "MLO"}  # the table says MLO for ML
_POINT = re.compile(r"\(\s*([-+.\deE]+)\s*,\s*([-+.\deE]+)\s*\)")
_TABLES = ("INbreast.csv", "INbreast.xlsx")
_MAX_XML = 64 * 1024 * 1024  # bytes; published ones have up to a few megabytes


@dataclass(frozen=True, slots=True)
class _Image:
    path: Path
    patient: str
    side: str
    view: View


def read(root: Path, *, label_source: LabelRequest = "pathology") -> LesionTable:
    """Reads the masses of INbreast.

    Args:
        root: Folder of ``INbreast.csv``, ``AllDICOMs`` and ``AllXML``, at any depth.
        label_source: Must be ``birads``: the data set has no other labels.

    Raises:
        ArchiveError: If a table, a column or every file is missing, or names are not as known.
        LabelError: For a Bi-Rads other than 1 to 6, or if pathology is asked for.
    """
    require_birads(FACTS, label_source)
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of INbreast.")
    found = find_files(root, suffixes={".dcm", ".xml"})
    skipped = Counter(found.skipped)
    images = _images([path for path in found.paths if path.suffix.lower() == ".dcm"], root)
    outlines = {path.stem: path for path in found.paths if path.suffix.lower() == ".xml"}
    table = _table(root)
    rows: list[LesionRow] = []
    left_out: list[LeftOut] = []
    seen: dict[str, str] = {}
    for row in table.rows:
        file = number(row.cells["File Name"])
        if not file.isdigit():
            skipped["row without a file name, such as a total"] += 1
            continue
        where = table.where(row)
        if (first := seen.setdefault(file, where)) != where:
            raise ArchiveError(f"{where}: has the File Name of {first}. Remove one row.")
        if file not in outlines:
            skipped["image without annotation"] += 1
            continue
        read_rows, read_left_out, others = _regions(table, row, images.get(file), outlines[file])
        rows += read_rows
        left_out += read_left_out
        skipped[OTHER_FINDING] += others
    if unknown := len(set(outlines) - set(seen)):
        skipped["annotation of a file that the table does not name"] = unknown
    return LesionTable(
        rows=tuple(rows),
        left_out=tuple(left_out),
        skipped=+skipped,
        facts=FACTS,
        lesions_joined=False,
    )


def _table(root: Path) -> Table:
    names = {name.lower() for name in _TABLES}
    tables = [
        path
        for path in find_files(root, suffixes={".csv", ".xlsx"}).paths
        if path.name.lower() in names
    ]
    if not tables:
        raise ArchiveError(
            f"{root}: holds no INbreast.csv. Put it beside the images; an .xls is saved as CSV "
            "first."
        )
    table = read_table(tables[0])
    table.require(_COLUMNS, ids=("File Name",))
    return table


def _images(paths: Sequence[Path], root: Path) -> Mapping[str, _Image]:
    """Images by file number."""
    images: dict[str, _Image] = {}
    for path in paths:
        name = _NAME.fullmatch(path.name)
        if name is None:
            raise ArchiveError(
                f"{without_names(path, root)} has not the name "
                "{file}_{hash}_MG_{L|R}_{CC|ML}_ANON.dcm, so its "
                "patient is unknown. Give the files under their published names."
            )
        if name["file"] in images:
            raise ArchiveError(
                f"{without_names(path, root)} is there twice, by its number. Keep one copy."
            )
        images[name["file"]] = _Image(
            path, name["patient"].lower(), name["side"].upper(), _VIEWS[name["view"].upper()]
        )
    if not images:
        raise ArchiveError(f"{root}: holds no DICOM file. Give the folder of INbreast.")
    return images


def _regions(
    table: Table, row: TableRow, image: _Image | None, xml: Path
) -> tuple[list[LesionRow], list[LeftOut], int]:
    """Masses of one image, those left out, and the number of other regions."""
    where, cells = table.where(row), row.cells
    key = f"{row.number:04d}"
    try:
        regions = _read_regions(xml)
    except Exception as error:  # whatever a damaged file makes the parser raise
        message = (
            f"{where}: its XML is no property list with regions ({type(error).__name__}). "
            "Copy it again."
        )
        return [], [LeftOut(key, "unreadable", message)], 0
    masses = [
        (place, region)
        for place, region in enumerate(regions, start=1)
        if str(region.get("Name", "")).strip().upper() in MASSES
    ]
    others = len(regions) - len(masses)
    rows: list[LesionRow] = []
    left_out: list[LeftOut] = []
    for place, region in masses:
        mass_key, mass_where = f"{key}_{place:02d}", f"{where}, region {place}"
        if image is None:
            message = f"{mass_where}: no DICOM file of its image. Complete the download."
            left_out.append(LeftOut(mass_key, "no_image", message))
            continue
        laterality = chosen(cells["Laterality"], SIDES, where=where, column="Laterality")
        if laterality != image.side:
            raise ArchiveError(
                f"{where}: Laterality is {laterality}, the name of its DICOM file says "
                f"{image.side}. Find out which is right before anything is cut."
            )
        malignant = birads_label(cells["Bi-Rads"], where=where, column="Bi-Rads")
        try:
            points = _points(region)
        except ValueError as error:
            left_out.append(
                LeftOut(
                    mass_key,
                    "mask_mismatch",
                    f"{mass_where}: {error}. Correct the XML, or leave the region out.",
                )
            )
            continue
        if len(points) < 3:
            left_out.append(
                LeftOut(
                    mass_key,
                    "too_small",
                    f"{mass_where}: has {len(points)} points; at least 3 are needed. "
                    "It is a mark, no outline.",
                )
            )
            continue
        found = density(cells["ACR"])
        rows.append(
            LesionRow(
                key=mass_key,
                where=mass_where,
                file=image.path.name,
                path=image.path,
                patient_id=image.patient,
                image_id=number(cells["File Name"]),
                lesion_id=f"{number(cells['File Name'])}_{place}",  # none joins two views
                malignant=malignant,
                region=Outline(points),
                label_source="birads",
                view=image.view,
                laterality=laterality,
                attributes=MappingProxyType({"density": found} if found else {}),
            )
        )
    return rows, left_out, others


def _read_regions(path: Path) -> list[Mapping[str, Any]]:
    """Regions of the first image of a property list.

    plistlib refuses XML that declares entities, so a small file cannot unfold to a large one.
    """
    with path.open("rb") as file:
        raw = file.read(_MAX_XML + 1)
    if len(raw) > _MAX_XML:
        raise ValueError("too large")
    regions = plistlib.loads(raw, fmt=plistlib.FMT_XML)["Images"][0]["ROIs"]
    if not all(isinstance(region, Mapping) for region in regions):
        raise ValueError("regions are no dictionaries")
    return list(regions)


def _points(region: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    """Vertices of a region.

    Raises:
        ValueError: Saying what is wrong.
    """
    cells = region.get("Point_px", [])
    if not isinstance(cells, list):
        raise ValueError("Point_px is no list")
    matches = [_POINT.fullmatch(str(cell).strip()) for cell in cells]
    try:
        points = tuple((float(m[1]), float(m[2])) for m in matches if m is not None)
    except ValueError:
        points = ()
    if len(points) != len(cells) or not all(math.isfinite(v) for p in points for v in p):
        raise ValueError("a point is not of the form (x, y)")
    if region.get("NumberOfPoints", len(points)) != len(points):
        raise ValueError("NumberOfPoints is not the number of its points")
    return points
