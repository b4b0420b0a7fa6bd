# SPDX-License-Identifier: Apache-2.0
"""CBIS-DDSM as downloaded from The Cancer Imaging Archive: scanned film, masses, calcifications.

Folder names differ between downloads, so files are found by SeriesInstanceUID, the folder of the
files that the tables name. Source of the quirks: Lee et al. 2017, Scientific Data 4:170177, and the
four published tables.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from data_prep.archives.cells import (
    SIDES,
    Findings,
    chosen,
    contradicting_lesions,
    known,
    labelled,
    without_repeats,
)
from data_prep.dicom import SeriesFile, read_series_file
from data_prep.errors import ArchiveError, LeakageError
from data_prep.files import find_files
from data_prep.identity import normalised
from data_prep.lesions import ArchiveFacts, LeftOut, LesionRow, LesionTable, Mask
from data_prep.manifest import Laterality, View
from data_prep.splits import check_patients
from data_prep.tables import Table, TableRow, read_table

Part = Literal["train", "test"]
Kind = Literal["mass", "calc"]
OppositeSplits = Literal["leave_out", "train", "refuse"]
Watch = Callable[[Sequence[Path]], Iterable[Path]]

PHANTOM_MARK = "PHANTOM.txt"  # the phantom archive says what it is
CITATION = (
    "Lee et al. 2017, A curated mammography data set for use in computer-aided detection and "
    "diagnosis research, Scientific Data 4:170177; The Cancer Imaging Archive, "
    "doi 10.7937/K9/TCIA.2016.7O02S9CY"
)
FACTS = ArchiveFacts(
    name="cbis-ddsm",
    title="CBIS-DDSM",
    licence="CC BY 3.0",
    citation=CITATION,
    verified=(
        "names, headers and values of the four tables: 1,318 + 378 rows of masses of 691 + 201 "
        "patients, 1,546 + 326 rows of calcifications of 602 + 151 patients",
        "31 patients are in opposite official parts with their masses and their calcifications",
        "three masses carry both labels, in different views",
        "the folder of each file that the tables name is its SeriesInstanceUID; mask and cropped "
        "image share a series in either order, or the columns are swapped",
        "SeriesDescription says which file is the mask",
        "masks of another size than their mammogram exist",
    ),
    checked=(
        "columns, pathology, side and kind of abnormality in each row",
        "no patient is in two official parts with one kind of finding",
        "the files below the folder belong to the series that the tables name",
        "each mask: two values, size, and place of the supplied crop",
    ),
    scanned_film=True,
)
PHANTOM_FACTS = ArchiveFacts(
    name="phantom-archive",
    title="Phantom archive in the layout of CBIS-DDSM",
    licence="Apache-2.0",
    citation="mammo_dp; procedural, no patients",
    checked=FACTS.checked,
    scanned_film=True,
)

PATHOLOGY = {"MALIGNANT": True, "BENIGN": False, "BENIGN_WITHOUT_CALLBACK": False}
_KINDS: Mapping[Findings, tuple[Kind, ...]] = {
    "masses": ("mass",),
    "calcifications": ("calc",),
    "both": ("mass", "calc"),
}
_TYPES = {"mass": "MASS", "calc": "CALCIFICATION"}  # as in the column of the table
_COLUMNS = (
    "patient id",
    "left or right breast",
    "image view",
    "abnormality id",
    "pathology",
    "image file path",
    "cropped image file path",
    "roi mask file path",
)
_VIEWS: Mapping[str, View] = {"CC": "CC", "MLO": "MLO"}
_UID = re.compile(r"[0-9.]+")


@dataclass(frozen=True, slots=True)
class CbisRow:
    """One row of a table, before its files are looked up.

    Attributes:
        lesion: The row as it will be, without files.
        part: Official part.
        kind: Which of the tables it is from.
        image_series: SeriesInstanceUID of the mammogram: a key for look-ups, never written
            anywhere; empty where the table has no usable path.
        mask_series: As above, of the mask and of the cropped image, which may be swapped.
    """

    lesion: LesionRow
    part: Part
    kind: Kind
    image_series: str
    mask_series: tuple[str, ...]


def read(
    root: Path,
    *,
    findings: Findings = "masses",
    opposite_splits: OppositeSplits = "leave_out",
    watch: Watch = lambda paths: paths,
) -> LesionTable:
    """Reads a download of CBIS-DDSM, or a phantom archive in its layout.

    Args:
        root: Folder with the tables ``{mass,calc}_case_description_{train,test}_set.csv``, at most
            one level down, and the DICOM files anywhere below.
        findings: Which tables are read.
        opposite_splits: What happens to patients who are in opposite official parts with masses
            and with calcifications, if both are read: they are left out, all their rows become
            train, or the tables are refused.
        watch: Wraps the list of files while their headers are read, for a progress bar.

    Raises:
        ArchiveError: If a table, a column or every DICOM file is missing.
        LabelError: For a pathology outside the three known values.
        LeakageError: For a patient in both parts, with one kind of finding or if refused.
    """
    phantom = (root / PHANTOM_MARK).is_file()
    rows, left_out, notes = read_rows(root, findings=findings, opposite_splits=opposite_splits)
    if phantom:
        rows = [replace(row, lesion=replace(row.lesion, label_source="phantom")) for row in rows]
    index, skipped = _index(root, rows, findings, watch)
    return with_files(
        rows,
        lambda row: _image(index.get(row.image_series, [])),
        lambda row: _mask([file for uid in row.mask_series for file in index.get(uid, [])]),
        root=root,
        left_out=left_out,
        skipped=skipped,
        notes=notes,
        facts=PHANTOM_FACTS if phantom else FACTS,
    )


def read_rows(
    root: Path, *, findings: Findings, opposite_splits: OppositeSplits
) -> tuple[list[CbisRow], list[LeftOut], list[str]]:
    """Reads the tables, without files.

    Args:
        root: As for :func:`read`.
        findings: As for :func:`read`.
        opposite_splits: As for :func:`read`.

    Returns:
        Rows, those that are left out by the rule, and sentences about the tables.
    """
    rows = [
        row
        for kind in _KINDS[findings]
        for part, path in _tables(root, kind).items()
        for row in _read_table(path, kind, part)
    ]
    for kind in _KINDS[findings]:
        check_patients(
            (row.lesion.patient_id, row.part, row.lesion.where) for row in rows if row.kind == kind
        )
    rows, opposite, notes = _settled(root, rows, opposite_splits)
    repeated, settled = without_repeats([row.lesion for row in rows])
    stays = {lesion.key for lesion in repeated}
    if several := contradicting_lesions(repeated):
        notes.append(
            f"lesions that carry both labels, in different views: {several}; each crop has the "
            "label of its row"
        )
    return [row for row in rows if row.lesion.key in stays], [*opposite, *settled], notes


def with_files(
    rows: Sequence[CbisRow],
    image: Callable[[CbisRow], Path | None],
    mask: Callable[[CbisRow], Mask | None],
    *,
    root: Path,
    left_out: Sequence[LeftOut],
    skipped: Mapping[str, int],
    notes: Sequence[str],
    facts: ArchiveFacts,
) -> LesionTable:
    """Puts rows and files together.

    Args:
        rows: Rows of the tables.
        image: Finds the mammogram of a row.
        mask: Finds the mask of a row.
        root: Folder of the archive, for messages.
        left_out: Rows that are left out already.
        skipped: As in :class:`LesionTable`.
        notes: As in :class:`LesionTable`.
        facts: As in :class:`LesionTable`.
    """
    found: list[LesionRow] = []
    missing: list[LeftOut] = []
    for row in rows:
        lesion, path, region = row.lesion, image(row), mask(row)
        if path is None:
            missing.append(
                LeftOut(
                    lesion.key,
                    "no_image",
                    f"{lesion.where}: no readable file of its mammogram below {root}. "
                    "Complete the download.",
                )
            )
        elif region is None:
            missing.append(
                LeftOut(
                    lesion.key,
                    "no_mask",
                    f"{lesion.where}: ROI mask missing (no file of it below {root}). Complete the "
                    "download, or leave the row out.",
                )
            )
        else:
            found.append(replace(lesion, path=path, region=region))
    return LesionTable(
        rows=tuple(found),
        left_out=(*left_out, *missing),
        skipped=skipped,
        facts=facts,
        notes=tuple(notes),
    )


def _settled(
    root: Path, rows: list[CbisRow], rule: OppositeSplits
) -> tuple[list[CbisRow], list[LeftOut], list[str]]:
    """Applies the rule for patients who are in both official parts."""
    parts: dict[str, set[Part]] = defaultdict(set)
    for row in rows:
        parts[normalised(row.lesion.patient_id)].add(row.part)
    opposite = {patient for patient, found in parts.items() if len(found) > 1}
    concerned = [row for row in rows if normalised(row.lesion.patient_id) in opposite]
    if not concerned:
        return rows, [], []
    said = (
        "patients in opposite official parts with masses and with calcifications: "
        f"{len(opposite)}; their {len(concerned)} rows"
    )
    if rule == "refuse":
        raise LeakageError(
            f"{root}: {said} would put them into two parts. Give --opposite_splits leave_out or "
            "train, or read one kind of finding."
        )
    if rule == "train":
        moved = [
            replace(row, part="train", lesion=replace(row.lesion, split="train"))
            if normalised(row.lesion.patient_id) in opposite
            else row
            for row in rows
        ]
        return moved, [], [f"{said} are train (--opposite_splits train)"]
    left_out = [
        LeftOut(
            row.lesion.key,
            "opposite_splits",
            f"{row.lesion.where}: its patient is in the other official part with the other kind of "
            "finding. Give --opposite_splits train to train on all of them.",
        )
        for row in concerned
    ]
    stays = [row for row in rows if normalised(row.lesion.patient_id) not in opposite]
    return stays, left_out, [f"{said} are left out (--opposite_splits leave_out)"]


def _tables(root: Path, kind: Kind) -> dict[Part, Path]:
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of the CBIS-DDSM download.")
    found: dict[Part, Path] = {}
    for part in get_args(Part):
        name = f"{kind}_case_description_{part}_set.csv"
        if paths := [p for p in (root / name, *sorted(root.glob(f"*/{name}"))) if p.is_file()]:
            found[part] = paths[0]
    if not found:
        raise ArchiveError(
            f"{root}: holds no {kind}_case_description_train_set.csv (nor the test table). "
            "Put the tables of CBIS-DDSM beside the images."
        )
    return found


def _read_table(path: Path, kind: Kind, part: Part) -> list[CbisRow]:
    table = read_table(path).normalised(
        lambda name: re.sub(r"[\s_]+", " ", name).strip(' "').lower()
    )
    table.require(_COLUMNS, ids=("patient id", "abnormality id"))
    return [_row(table, row, kind, part) for row in table.rows]


def _row(table: Table, row: TableRow, kind: Kind, part: Part) -> CbisRow:
    where = table.where(row)
    cells = {name: cell.strip(' "\n') for name, cell in row.cells.items()}
    side = chosen(
        cells["left or right breast"],
        {"LEFT": "LEFT", "RIGHT": "RIGHT"},
        where=where,
        column="left or right breast",
    )
    if not cells["patient id"] or not cells["abnormality id"]:
        raise ArchiveError(f"{where}: patient_id or abnormality id is empty. Fill it in.")
    if cells.get("abnormality type", "").upper() not in ("", _TYPES[kind]):
        raise ArchiveError(
            f"{where}: abnormality type is not that of a table of {kind} cases. Give the tables "
            "as published."
        )
    view = cells["image view"].upper()
    laterality: Laterality = SIDES[side]
    prefix, word = ("", "") if kind == "mass" else ("calc_", "calc")
    return CbisRow(
        lesion=LesionRow(
            key=f"{prefix}{part}_{row.number:04d}",
            where=where,
            file=cells["image file path"],
            path=Path(),
            patient_id=cells["patient id"],
            image_id=f"{cells['patient id']}_{side}_{view or 'other'}",
            lesion_id=f"{laterality}{word}{cells['abnormality id']}",
            malignant=labelled(cells["pathology"], PATHOLOGY, where=where, column="pathology"),
            region=Mask(path=()),
            split=part,
            view=_VIEWS.get(view, "other"),
            laterality=laterality,
            attributes=MappingProxyType(
                known(
                    density=cells.get("breast density", ""),
                    shape=cells.get("mass shape", ""),
                    margin=cells.get("mass margins", ""),
                    subtlety=cells.get("subtlety", ""),
                    calc_type=cells.get("calc type", ""),
                    calc_distribution=cells.get("calc distribution", ""),
                )
            ),
        ),
        part=part,
        kind=kind,
        image_series=_series_uid(cells["image file path"]),
        mask_series=tuple(
            dict.fromkeys(
                uid
                for column in ("roi mask file path", "cropped image file path")
                if (uid := _series_uid(cells[column]))
            )
        ),
    )


def _series_uid(path: str) -> str:
    """The last folder of a path, whatever stands before it; empty if it is no identifier."""
    parts = path.replace("\\", "/").strip("/").split("/")
    uid = parts[-2].strip() if len(parts) > 1 else ""
    return uid if _UID.fullmatch(uid) else ""


def _index(
    root: Path, rows: Sequence[CbisRow], findings: Findings, watch: Watch
) -> tuple[Mapping[str, list[SeriesFile]], Counter[str]]:
    """Files of the wanted series, by series, and what was skipped, by reason."""
    wanted = {uid for row in rows for uid in (row.image_series, *row.mask_series) if uid}
    found = find_files(root, suffixes={".dcm"})
    skipped = Counter(found.skipped)
    other = {"masses": "Calc-", "calcifications": "Mass-"}.get(findings)
    paths = [
        path
        for path in found.paths
        if other is None or not any(p.startswith(other) for p in path.relative_to(root).parts)
    ]
    if ignored := len(found.paths) - len(paths):
        skipped["file of the other kind of finding"] += ignored
    index: dict[str, list[SeriesFile]] = {}
    for path in watch(paths):
        # The classic layout names the folder after the series: enough to reject a file whose
        # header is damaged under its own row.
        file = read_series_file(path) or SeriesFile(path, path.parent.name, "", 0)
        if file.series in wanted:
            index.setdefault(file.series, []).append(file)
        else:
            skipped["file that no row names"] += 1
    if not index:
        held = f"{len(paths)} DICOM files, none named in the tables" if paths else "no DICOM file"
        raise ArchiveError(
            f"{root}: holds {held}. Give the folder into which CBIS-DDSM was downloaded, "
            "tables and images together."
        )
    return index, skipped


def _image(files: Sequence[SeriesFile]) -> Path | None:
    return max(files, key=lambda file: file.pixels).path if files else None


def _mask(files: Sequence[SeriesFile]) -> Mask | None:
    """Mask and cropped image, in either order: their content decides which is which."""
    return Mask(path=tuple(file.path for file in files)) if files else None
