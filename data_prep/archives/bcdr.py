# SPDX-License-Identifier: Apache-2.0
"""BCDR, the Breast Cancer Digital Repository: film and digital mammograms with outlines.

Each subset is a folder with a table of outlines and its images. Lesions recur across subsets,
sometimes with another class; equal images are found by their pixels when the crops are together.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from data_prep.archives.cells import (
    OTHER_FINDING,
    Findings,
    chosen,
    density,
    labelled,
    number,
    without_repeats,
)
from data_prep.errors import ArchiveError
from data_prep.files import OTHER, find_files, without_names
from data_prep.lesions import ArchiveFacts, LeftOut, LesionRow, LesionTable, Outline
from data_prep.manifest import Laterality, View
from data_prep.tables import Table, TableRow, read_table

FACTS = ArchiveFacts(
    name="bcdr",
    title="BCDR",
    licence="on request from bcdr.eu; licence text not found",
    citation=(
        "Guevara Lopez et al. 2012, BCDR: a breast cancer digital repository, 15th International "
        "Conference on Experimental Mechanics"
    ),
    verified=(
        "columns of bcdr_<set>_outlines.csv; points separated by blanks, often with one in front",
        "classification Malign or Benign, with blanks around it; image_view 1 to 4",
        "the pixel spacing is not stated; density may be the text NaN",
    ),
    checked=(
        "classification, image_view and the marks of findings in each row",
        "as many x as y coordinates of each outline",
        "the table of each subset is read once, and its images lie below its folder",
        "an outline lies within its image, on the breast",
        "a patient number is one person in all subsets: assumed, so that nobody is in two parts",
    ),
    scanned_film=True,  # the sets F; the digital ones are not DICOM either
)
_TABLE = re.compile(r"bcdr_(?P<subset>\w+?)_outlines\.csv", re.IGNORECASE)
_COLUMNS = (
    "patient_id",
    "lesion_id",
    "segmentation_id",
    "image_view",
    "image_filename",
    "lw_x_points",
    "lw_y_points",
    "mammography_nodule",
    "mammography_calcification",
    "mammography_microcalcification",
    "density",
    "classification",
)
_LABELS = {"MALIGN": True, "BENIGN": False}
_VIEWS: Mapping[str, tuple[Laterality, View]] = {
    "1": ("R", "CC"),
    "2": ("L", "CC"),
    "3": ("R", "MLO"),
    "4": ("L", "MLO"),
}
_MARKS = {"0": False, "": False, "NAN": False, "1": True}
_IMAGES = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"}


def read(root: Path, *, findings: Findings = "masses") -> LesionTable:
    """Reads all subsets below a folder.

    Args:
        root: Folder of the subsets, or of one.
        findings: Masses are the rows whose ``mammography_nodule`` is set; calcifications those
            without it that have calcifications or microcalcifications.

    Raises:
        ArchiveError: If there is no table of outlines, or one is not as known.
        LabelError: For a classification other than Malign and Benign.
    """
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of the BCDR subsets.")
    tables = find_files(root, suffixes={".csv"})
    outlines = {path: match for path in tables.paths if (match := _TABLE.fullmatch(path.name))}
    if not outlines:
        raise ArchiveError(
            f"{root}: holds no bcdr_<set>_outlines.csv. Give the folder of the BCDR subsets, "
            "unpacked."
        )
    subsets: dict[str, Path] = {}
    rows: list[LesionRow] = []
    left_out: list[LeftOut] = []
    skipped = Counter({why: n for why, n in tables.skipped.items() if why != OTHER})
    for path, match in outlines.items():
        subset = match["subset"].upper()
        if (first := subsets.setdefault(subset, path)) != path:
            raise ArchiveError(
                f"{without_names(path, root)}: is a second table of subset {subset}, beside "
                f"{without_names(first, root)}. Keep one copy."
            )
        table = read_table(path)
        table.require(_COLUMNS, ids=("patient_id", "lesion_id", "segmentation_id"))
        images = _images(path.parent)
        for row in table.rows:
            read_one = _row(table, row, subset, findings, images)
            if read_one is None:
                skipped[OTHER_FINDING] += 1
            elif isinstance(read_one, LeftOut):
                left_out.append(read_one)
            else:
                rows.append(read_one)
    stays, repeated = without_repeats(rows)
    return LesionTable(
        rows=tuple(stays),
        left_out=(*left_out, *repeated),
        skipped=skipped,
        facts=FACTS,
    )


def _images(folder: Path) -> Mapping[str, Sequence[Path]]:
    """Images below the folder of a table, by lower-case name."""
    names: dict[str, list[Path]] = {}
    for path in find_files(folder, suffixes=_IMAGES).paths:
        names.setdefault(path.name.lower(), []).append(path)
    return names


def _row(
    table: Table,
    row: TableRow,
    subset: str,
    findings: Findings,
    images: Mapping[str, Sequence[Path]],
) -> LesionRow | LeftOut | None:
    """One row; or why it is left out; or None for another kind of finding."""
    where, cells = table.where(row), row.cells
    nodule, calcification, micro = (
        chosen(number(cells[column]), _MARKS, where=where, column=column)
        for column in (
            "mammography_nodule",
            "mammography_calcification",
            "mammography_microcalcification",
        )
    )
    calc = not nodule and (calcification or micro)
    if not {"masses": nodule, "calcifications": calc, "both": nodule or calc}[findings]:
        return None
    key = f"{subset}_{row.number:04d}"
    malignant = labelled(cells["classification"], _LABELS, where=where, column="classification")
    laterality, view = chosen(number(cells["image_view"]), _VIEWS, where=where, column="image_view")
    patient, lesion = number(cells["patient_id"]), number(cells["lesion_id"])
    if not patient or not lesion:
        raise ArchiveError(f"{where}: patient_id or lesion_id is empty. Fill it in.")
    path = _image(table.path.parent, cells["image_filename"], images)
    if path is None:
        return LeftOut(
            key,
            "no_image",
            f"{where}: image_filename is no image below the folder of the table, or several "
            "have its name. Unpack the subset again.",
        )
    points = _points(cells["lw_x_points"], cells["lw_y_points"])
    if points is None:
        return LeftOut(
            key,
            "mask_mismatch",
            f"{where}: lw_x_points and lw_y_points are not as many numbers. Correct the outline, "
            "or leave the row out.",
        )
    if len(points) < 3:
        return LeftOut(
            key,
            "too_small",
            f"{where}: the outline has {len(points)} points; at least 3 are needed. Correct it, or "
            "leave the row out.",
        )
    found = density(cells["density"])
    return LesionRow(
        key=key,
        where=where,
        file=cells["image_filename"],
        path=path,
        patient_id=patient,
        image_id=f"{subset}_{path.stem}",
        lesion_id=f"{lesion}_{number(cells['segmentation_id']) or '1'}",
        malignant=malignant,
        region=Outline(points),
        view=view,
        laterality=laterality,
        attributes=MappingProxyType({"density": found} if found else {}),
    )


def _image(folder: Path, name: str, images: Mapping[str, Sequence[Path]]) -> Path | None:
    """The image at the path of the table, or the only one of that name: copies are flattened."""
    parts = [part for part in name.replace("\\", "/").split("/") if part]
    if not parts or ".." in parts:
        return None
    same_name = images.get(parts[-1].lower(), ())
    wanted = folder.joinpath(*parts)
    if wanted in same_name:
        return wanted
    return same_name[0] if len(same_name) == 1 else None


def _points(x_cell: str, y_cell: str) -> tuple[tuple[float, float], ...] | None:
    """Vertices, the first one included, whether or not a blank stands before it."""
    xs, ys = x_cell.split(), y_cell.split()
    if len(xs) != len(ys):
        return None
    try:
        points = tuple((float(x), float(y)) for x, y in zip(xs, ys, strict=True))
    except ValueError:
        return None
    return points if all(math.isfinite(value) for point in points for value in point) else None
