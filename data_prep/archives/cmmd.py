# SPDX-License-Identifier: Apache-2.0
"""CMMD, the Chinese Mammography Database, with the outlines of TOMPEI-CMMD.

CMMD itself says of each breast what the biopsy showed, and not where; the outlines, of MLO views
only, say where.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.archives.cells import (
    OTHER_FINDING,
    SIDES,
    Findings,
    chosen,
    labelled,
    without_repeats,
)
from data_prep.dicom import SeriesFile, read_series_file
from data_prep.errors import ArchiveError
from data_prep.files import find_files, without_names
from data_prep.lesions import ArchiveFacts, LeftOut, LesionRow, LesionTable, Outline
from data_prep.manifest import Laterality
from data_prep.tables import Table, TableRow, read_table

# Patients for whom side tags, outlines and table contradict one another: both sides are reversed,
# or the tags of the two MLO views are, or the cancer was found on the other side than the table
# has it. Compared by users of both archives.
SIDES_IN_DOUBT = frozenset(
    {
        *("D1-0252", "D1-0690", "D1-0711"),
        *("D1-0999", "D2-0224", "D2-0229", "D2-0642"),
        *("D2-0048", "D2-0132", "D2-0153", "D2-0212", "D2-0282", "D2-0458", "D2-0637"),
    }
)
FACTS = ArchiveFacts(
    name="cmmd",
    title="CMMD with the outlines of TOMPEI-CMMD",
    licence="CC BY 4.0, both CMMD and TOMPEI-CMMD",
    citation=(
        "Cui et al. 2021, The Chinese Mammography Database (CMMD): an online mammography database "
        "with biopsy confirmed types for machine diagnosis of breast, The Cancer Imaging Archive, "
        "doi 10.7937/tcia.eqde-4b16; Kashiwada et al. 2025, TOMPEI-CMMD dataset (version 1), The "
        "Cancer Imaging Archive, doi 10.7937/wezw-bh22"
    ),
    verified=(
        "columns of CMMD_clinicaldata_revision; a breast is a row, and its label is from a biopsy",
        "ImageLaterality and the view code of each DICOM file; folders say neither side nor view",
        "D1-0202 and D2-0284 are the same four images, D1-0808 and D1-1292 share one: with both of "
        "a pair, --across_patients merge is needed",
        "an annotation file for each MLO view with lesions, named such as "
        "D1-0001_MLO_L_AnnotationFile.json: a list of outlines with label and cgPoints (x, y), in "
        "pixels of the DICOM file; 1,385 files, 1,773 outlines",
        "labels mass, calc, dist, FA (fibroadenoma), FAD (focal asymmetric density) and lipoma, "
        "some with a blank behind them",
        f"the sides of {len(SIDES_IN_DOUBT)} patients are in doubt; they are left out",
    ),
    checked=(
        "classification and LeftRight in each row",
        "a folder of each file is named by its case",
        "the name of each annotation file; one image of its case, side and view",
        "the label of each outline; it lies within its image, on the breast",
    ),
)
_TABLE = re.compile(r"CMMD_clinicaldata_revision.*\.(csv|xlsx)", re.IGNORECASE)
_COLUMNS = ("ID1", "LeftRight", "classification")
_LABELS = {"MALIGNANT": True, "BENIGN": False}
_CASE = re.compile(r"D[12]-\d{4}", re.IGNORECASE)
_NAME = re.compile(
    r"(?P<case>D[12]-\d{4})_(?P<view>CC|MLO)_(?P<side>[LR])_AnnotationFile", re.IGNORECASE
)
_MAX_JSON = 64 * 1024 * 1024  # bytes; published ones have some kilobytes
# Distortions (DIST) and focal asymmetric densities (FAD) are neither masses nor calcifications.
_KINDS: Mapping[str, frozenset[Findings]] = {
    **dict.fromkeys(("MASS", "FA", "LIPOMA"), frozenset({"masses", "both"})),
    "CALC": frozenset({"calcifications", "both"}),
    **dict.fromkeys(("DIST", "FAD"), frozenset()),
}
_ALWAYS_BENIGN = frozenset({"FA", "LIPOMA"})
_BENIGN_IN_MALIGNANT = (
    "conflict",
    "a fibroadenoma or lipoma, which are benign, in a breast that is malignant. Left out by the "
    "rule of this archive.",
)
Watch = Callable[[Sequence[Path]], Iterable[Path]]


def read(
    root: Path,
    *,
    annotations: Path | None,
    findings: Findings = "masses",
    watch: Watch = lambda paths: paths,
) -> LesionTable:
    """Reads the lesions of CMMD that have an outline.

    Args:
        root: Folder of the table and of the cases, at any depth.
        annotations: Folder of the annotation files of TOMPEI-CMMD.
        findings: Outlines of masses, fibroadenomas and lipomas among them, of calcifications, or
            of both.
        watch: Wraps the list of files while their headers are read, for a progress bar.

    Raises:
        ArchiveError: If annotations, the table or every image is missing, or names and words are
            not as known.
        LabelError: For a classification other than Benign and Malignant.
    """
    if annotations is None:
        raise ArchiveError(
            f"{root}: CMMD says which breast has a lesion, not where. Give --annotations with the "
            "folder of TOMPEI-CMMD; without it no crop can be cut."
        )
    breasts = _breasts(_table(root))
    found = find_files(annotations, suffixes=None)
    skipped = Counter(found.skipped)
    named: list[tuple[Path, re.Match[str]]] = []
    for path in found.paths:
        if path.suffix.lower() != ".json":
            skipped["file beside the annotations"] += 1
        elif (match := _NAME.fullmatch(path.stem)) is None:
            raise ArchiveError(
                f"{without_names(path, annotations)} has not a name such as "
                "D1-0001_MLO_L_AnnotationFile.json, so its image is unknown. Give the folder as "
                "published."
            )
        else:
            named.append((path, match))
    if not named:
        raise ArchiveError(
            f"{annotations}: holds no file such as D1-0001_MLO_L_AnnotationFile.json. Give the "
            "folder of TOMPEI-CMMD, unpacked."
        )
    images = _images(root, {match["case"].upper() for _, match in named}, watch)
    rows: list[LesionRow] = []
    left_out: list[LeftOut] = []
    for place, (path, match) in enumerate(named, start=1):
        for one in _lesions(place, path, match, breasts, images, findings):
            if one is None:
                skipped[OTHER_FINDING] += 1
            elif isinstance(one, LeftOut):
                left_out.append(one)
            else:
                rows.append(one)
    stays, repeated = without_repeats(rows)
    return LesionTable(
        rows=tuple(stays), left_out=(*left_out, *repeated), skipped=skipped, facts=FACTS
    )


def _table(root: Path) -> Table:
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of CMMD.")
    tables = [
        path
        for path in find_files(root, suffixes={".csv", ".xlsx"}).paths
        if _TABLE.fullmatch(path.name)
    ]
    if not tables:
        raise ArchiveError(
            f"{root}: holds no CMMD_clinicaldata_revision.xlsx (nor .csv). Put it beside the cases."
        )
    table = read_table(tables[0])
    table.require(_COLUMNS, ids=("ID1",))
    return table


def _breasts(table: Table) -> Mapping[tuple[str, Laterality], list[tuple[bool, str]]]:
    """Label and place in the table of each row, by case and side."""
    breasts: dict[tuple[str, Laterality], list[tuple[bool, str]]] = defaultdict(list)
    for row in table.rows:
        case, side, found = _breast(table, row)
        breasts[case, side].append(found)
    return breasts


def _breast(table: Table, row: TableRow) -> tuple[str, Laterality, tuple[bool, str]]:
    where, cells = table.where(row), row.cells
    case = cells["ID1"].upper()
    if not _CASE.fullmatch(case):
        raise ArchiveError(f"{where}: ID1 is not of the form D1-0001. Give the table as published.")
    malignant = labelled(cells["classification"], _LABELS, where=where, column="classification")
    side = chosen(cells["LeftRight"], SIDES, where=where, column="LeftRight")
    return case, side, (malignant, where)


def _images(root: Path, cases: set[str], watch: Watch) -> Mapping[str, list[SeriesFile]]:
    """Headers of the images of the wanted cases."""
    found = find_files(root, suffixes={".dcm"})
    places: dict[Path, str] = {}
    for path in found.paths:
        names = [p for p in path.relative_to(root).parts[:-1] if _CASE.fullmatch(p)]
        if names and names[-1].upper() in cases:
            places[path] = names[-1].upper()
    if not places:
        raise ArchiveError(
            f"{root}: holds {len(found.paths)} DICOM files, none of them in a folder named by a "
            "case that has an annotation, such as D1-0001. Give the folder of CMMD as downloaded."
        )
    images: dict[str, list[SeriesFile]] = defaultdict(list)
    for path in watch(list(places)):
        if (file := read_series_file(path)) is not None:
            images[places[path]].append(file)
    return images


def _lesions(
    place: int,
    path: Path,
    match: re.Match[str],
    breasts: Mapping[tuple[str, Laterality], Sequence[tuple[bool, str]]],
    images: Mapping[str, Sequence[SeriesFile]],
    findings: Findings,
) -> list[LesionRow | LeftOut | None]:
    """The lesions of one annotation file; why one, or all, are left out; None for other kinds."""
    key, where = f"file_{place:05d}", f"annotations, file {place} in the order of names"
    try:
        outlines = _read_outlines(path)
    except Exception as error:  # whatever a damaged file makes the parser raise
        message = (
            f"{where}: is no list of outlines in JSON ({type(error).__name__}). Copy it again."
        )
        return [LeftOut(key, "unreadable", message)]
    wanted = []
    for number, outline in enumerate(outlines, start=1):
        kind = str(outline.get("label", "")).strip().upper()
        known = chosen(kind, _KINDS, where=f"{where}, outline {number}", column="label")
        if findings in known:
            wanted.append((number, outline, kind))
    others = [None] * (len(outlines) - len(wanted))
    if not wanted:
        return [*others]
    case, side = match["case"].upper(), SIDES[match["side"].upper()]
    labels = breasts.get((case, side), ())
    if (refused := _without_label(case, labels)) is not None:
        reason, message = refused
        return [*others, LeftOut(key, reason, f"{where}: {message}")]
    (malignant, said), *_ = labels
    where = f"{where} ({said})"
    view = match["view"].upper()
    fitting = [
        file for file in images.get(case, ()) if (file.laterality, file.view) == (side, view)
    ]
    if len(fitting) != 1:
        reason, what = ("no_image", "no") if not fitting else ("ambiguous", str(len(fitting)))
        message = (
            f"{where}: {what} DICOM file of its case has that side and view. Complete the "
            "download, or keep one file of the view."
        )
        return [*others, LeftOut(key, reason, message)]
    lesions: list[LesionRow | LeftOut] = []
    for number, outline, kind in wanted:
        one_key, one_where = f"{key}_{number:02d}", f"{where}, outline {number}"
        region = _BENIGN_IN_MALIGNANT if malignant and kind in _ALWAYS_BENIGN else _region(outline)
        if not isinstance(region, Outline):
            reason, message = region
            lesions.append(LeftOut(one_key, reason, f"{one_where}: {message}"))
            continue
        lesions.append(
            LesionRow(
                key=one_key,
                where=one_where,
                file=fitting[0].path.name,
                path=fitting[0].path,
                patient_id=case,
                image_id=f"{case}_{side}_{view}",
                lesion_id=f"{side}{number}",
                malignant=malignant,
                region=region,
                view=fitting[0].view,
                laterality=side,
            )
        )
    return [*others, *lesions]


def _without_label(case: str, labels: Sequence[tuple[bool, str]]) -> tuple[str, str] | None:
    """Reason code and sentence if the label of a breast is not certain."""
    if case in SIDES_IN_DOUBT:
        return (
            "conflict",
            "the sides of its patient are in doubt. Left out by the rule of this archive.",
        )
    if not labels:
        return "no_label", "the table of CMMD has no row for its breast, so it has no label."
    if len({malignant for malignant, _ in labels}) > 1:
        return (
            "conflict",
            "the table has both labels for its breast, and does not say which lesion is which. "
            "Left out by the rule of this archive.",
        )
    return None


def _region(outline: Mapping[str, Any]) -> Outline | tuple[str, str]:
    """An outline, or reason code and sentence if its points are none."""
    try:
        points = tuple((float(point["x"]), float(point["y"])) for point in outline["cgPoints"])
    except (KeyError, TypeError, ValueError, OverflowError):
        points = ((math.nan, math.nan),)
    if not all(math.isfinite(value) for point in points for value in point):
        return (
            "mask_mismatch",
            "cgPoints is no list of points with numbers x and y. Correct the file, or leave the "
            "outline out.",
        )
    if len(points) < 3:
        return (
            "too_small",
            f"has {len(points)} points; at least 3 are needed. It is a mark, no outline.",
        )
    return Outline(points)


def _read_outlines(path: Path) -> list[Mapping[str, Any]]:
    """Outlines of an annotation file."""
    with path.open("rb") as file:
        raw = file.read(_MAX_JSON + 1)
    if len(raw) > _MAX_JSON:
        raise ValueError("too large")
    outlines = json.loads(raw)
    if not isinstance(outlines, list) or not all(isinstance(one, dict) for one in outlines):
        raise ValueError("no list of dictionaries")
    return outlines
