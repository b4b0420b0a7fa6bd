# SPDX-License-Identifier: Apache-2.0
"""CMMD, the Chinese Mammography Database, with the masks of TOMPEI-CMMD.

CMMD itself says of each breast what the biopsy showed, and not where; the masks, of MLO views only,
say where.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from data_prep.archives.cells import SIDES, Findings, chosen, labelled, number, without_repeats
from data_prep.dicom import SeriesFile, read_series_file
from data_prep.errors import ArchiveError
from data_prep.files import find_files
from data_prep.lesions import ArchiveFacts, LeftOut, LesionRow, LesionTable, Mask
from data_prep.manifest import Laterality
from data_prep.tables import Table, TableRow, read_table

FACTS = ArchiveFacts(
    name="cmmd",
    title="CMMD with the masks of TOMPEI-CMMD",
    licence="CMMD: CC BY 4.0, stated by third parties; TOMPEI-CMMD: licence not found",
    citation=(
        "Cui et al. 2021, The Chinese Mammography Database (CMMD), The Cancer Imaging Archive, "
        "doi 10.7937/tcia.eqde-4b16; what TOMPEI-CMMD asks to be cited was not found"
    ),
    verified=(
        "columns of CMMD_clinicaldata_revision; a breast is a row, and its label is from a biopsy",
        "ImageLaterality and the view code of each DICOM file; folders say neither side nor view",
        "D1-0202 and D2-0284 are the same four images, D1-0808 and D1-1292 share one: with both of "
        "a pair, --across_patients merge is needed",
        "masks are of MLO views, with names such as D1-0001_MLO_L_1",
    ),
    checked=(
        "classification, abnormality and LeftRight in each row",
        "a folder of each file is named by its case",
        "the name of each mask; one image of its case, side and view",
        "each mask: two values, size, and place on the breast",
    ),
)
_TABLE = re.compile(r"CMMD_clinicaldata_revision.*\.(csv|xlsx)", re.IGNORECASE)
_COLUMNS = ("ID1", "LeftRight", "abnormality", "classification")
_LABELS = {"MALIGNANT": True, "BENIGN": False}
_CASE = re.compile(r"D[12]-\d{4}", re.IGNORECASE)
_MASK = re.compile(
    r"(?P<case>D[12]-\d{4})_(?P<view>CC|MLO)_(?P<side>[LR])_(?P<lesion>\d+)", re.IGNORECASE
)
_MASK_SUFFIXES = frozenset({".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg", ".dcm"})
_KINDS: Mapping[str, frozenset[Findings]] = {
    "MASS": frozenset({"masses", "both"}),
    "CALCIFICATION": frozenset({"calcifications", "both"}),
    "BOTH": frozenset({"both"}),  # which of the two a mask shows is not said
}
Watch = Callable[[Sequence[Path]], Iterable[Path]]


def read(
    root: Path,
    *,
    masks: Path | None,
    findings: Findings = "masses",
    watch: Watch = lambda paths: paths,
) -> LesionTable:
    """Reads the lesions of CMMD that have a mask.

    Args:
        root: Folder of the table and of the cases, at any depth.
        masks: Folder of the masks of TOMPEI-CMMD.
        findings: Breasts with masses only, with calcifications only, or all.
        watch: Wraps the list of files while their headers are read, for a progress bar.

    Raises:
        ArchiveError: If masks, the table or every image is missing, or names are not as known.
        LabelError: For a classification other than Benign and Malignant.
    """
    if masks is None:
        raise ArchiveError(
            f"{root}: CMMD says which breast has a lesion, not where. Give --masks with the folder "
            "of the masks of TOMPEI-CMMD; without them no crop can be cut."
        )
    breasts = _breasts(_table(root))
    found = find_files(masks, suffixes=None)
    skipped = Counter(found.skipped)
    named: list[tuple[Path, re.Match[str]]] = []
    for path in found.paths:
        if path.suffix.lower() not in _MASK_SUFFIXES:
            skipped["file beside the masks"] += 1
        elif (match := _MASK.fullmatch(path.stem)) is None:
            raise ArchiveError(
                f"{path.parent}: a file has not a name such as D1-0001_MLO_L_1, so its image is "
                "unknown. Give a folder that holds masks only."
            )
        else:
            named.append((path, match))
    if not named:
        raise ArchiveError(f"{masks}: holds no mask. Give the folder of the TOMPEI-CMMD masks.")
    images = _images(root, {match["case"].upper() for _, match in named}, watch)
    rows: list[LesionRow] = []
    left_out: list[LeftOut] = []
    for place, (path, match) in enumerate(named, start=1):
        one = _row(place, path, match, breasts, images, findings)
        if one is None:
            skipped["another kind of finding"] += 1
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
    table.require(_COLUMNS)
    return table


def _breasts(table: Table) -> Mapping[tuple[str, Laterality], list[tuple[bool, str, str]]]:
    """Label, kind of finding and place in the table of each row, by case and side."""
    breasts: dict[tuple[str, Laterality], list[tuple[bool, str, str]]] = defaultdict(list)
    for row in table.rows:
        case, side, found = _breast(table, row)
        breasts[case, side].append(found)
    return breasts


def _breast(table: Table, row: TableRow) -> tuple[str, Laterality, tuple[bool, str, str]]:
    where, cells = table.where(row), row.cells
    case = cells["ID1"].upper()
    if not _CASE.fullmatch(case):
        raise ArchiveError(f"{where}: ID1 is not of the form D1-0001. Give the table as published.")
    chosen(cells["abnormality"], _KINDS, where=where, column="abnormality")
    malignant = labelled(cells["classification"], _LABELS, where=where, column="classification")
    side = chosen(cells["LeftRight"], SIDES, where=where, column="LeftRight")
    return case, side, (malignant, cells["abnormality"].upper(), where)


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
            "case that has a mask, such as D1-0001. Give the folder of CMMD as downloaded."
        )
    images: dict[str, list[SeriesFile]] = defaultdict(list)
    for path in watch(list(places)):
        if (file := read_series_file(path)) is not None:
            images[places[path]].append(file)
    return images


def _row(
    place: int,
    path: Path,
    match: re.Match[str],
    breasts: Mapping[tuple[str, Laterality], Sequence[tuple[bool, str, str]]],
    images: Mapping[str, Sequence[SeriesFile]],
    findings: Findings,
) -> LesionRow | LeftOut | None:
    """The lesion of one mask; or why it is left out; or None for another kind of finding."""
    case, side = match["case"].upper(), SIDES[match["side"].upper()]
    view = match["view"].upper()
    key, where = f"mask_{place:05d}", f"masks, file {place} in the order of names"
    rows = breasts.get((case, side), ())
    if not rows:
        return LeftOut(
            key,
            "no_label",
            f"{where}: the table of CMMD has no row for its breast, so it has no label.",
        )
    if not any(findings in _KINDS[kind] for _, kind, _ in rows):
        return None
    where = f"{where} ({rows[0][2]})"
    if len({malignant for malignant, _, _ in rows}) > 1:
        return LeftOut(
            key,
            "conflict",
            f"{where}: the table has both labels for its breast, and does not say which lesion is "
            "which. Left out by the rule of this archive.",
        )
    fitting = [
        file for file in images.get(case, ()) if (file.laterality, file.view) == (side, view)
    ]
    if len(fitting) != 1:
        reason, what = ("no_image", "no") if not fitting else ("ambiguous", str(len(fitting)))
        return LeftOut(
            key,
            reason,
            f"{where}: {what} DICOM file of its case has that side and view. Complete the "
            "download, or keep one file of the view.",
        )
    return LesionRow(
        key=key,
        where=where,
        file=fitting[0].path.name,
        path=fitting[0].path,
        patient_id=case,
        image_id=f"{case}_{side}_{view}",
        lesion_id=f"{side}{number(match['lesion'])}",
        malignant=rows[0][0],
        region=Mask(path=(path,)),
        view=fitting[0].view,
        laterality=side,
        attributes=MappingProxyType({}),
    )
