# SPDX-License-Identifier: Apache-2.0
"""The user's own table of lesions: one row per lesion in one image, in columns of any name.

Which column is which, and which word is malignant, is said by flags and never guessed. What is
wrong with a row costs the row; what is wrong with the table as a whole stops, before any image is
read. Columns that nobody asked for are not kept: they may say who somebody is.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType
from typing import TypeVar, get_args

from data_prep.cropping import Box
from data_prep.errors import ArchiveError, LabelError
from data_prep.files import find_files
from data_prep.identity import normalised
from data_prep.lesions import (
    LeftOut,
    LesionRow,
    LesionTable,
    Mask,
    Outline,
    Region,
    Slab,
    require_clear_patients,
)
from data_prep.manifest import ATTRIBUTES, COLUMNS, LabelSource, Laterality, Split, View
from data_prep.splits import check_patients
from data_prep.table_columns import BOX, ONE_AND_ZERO, OWN_NAMES, Columns, Labels
from data_prep.tables import Table, TableRow, read_table

T = TypeVar("T")
_SHOWN = 5  # names or values in a message
_FURTHEST = 1e6  # px; no image is larger
_PLAUSIBLE_MM = (0.01, 1.0)  # per pixel of a mammogram
_SIDES: Mapping[str, Laterality] = {"l": "L", "left": "L", "r": "R", "right": "R"}
_VIEWS: Mapping[str, View] = {
    "cc": "CC",
    "mlo": "MLO",
    **dict.fromkeys(
        ("other", "ml", "lm", "lmo", "sio", "fb", "xccl", "xccm", "xcc", "cv", "at", "iso"), "other"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where things are, and what they are called."""

    table: Table
    images: Path
    only: str | None
    masks: Path
    columns: Columns
    meanings: Mapping[str, bool | None] | None
    attributes: Mapping[str, str]
    label_source: LabelSource
    digits: int

    def text(self, row: TableRow, field: str) -> str:
        """The cell of a field; empty if the table has no such column."""
        name = getattr(self.columns, field)
        return row.cells.get(name, "") if name is not None else ""


def read_lesion_table(
    path: Path,
    images: Path,
    *,
    columns: Columns = OWN_NAMES,
    labels: Labels | None = ONE_AND_ZERO,
    attributes: Sequence[str] = (),
    masks: Path | None = None,
    label_source: LabelSource = "pathology",
    encoding: str | None = None,
    sheet: str | None = None,
) -> LesionTable:
    """Reads a table of lesions and looks up its files; opens none of them.

    Args:
        path: CSV or XLSX.
        images: Folder of the images, or the only one.
        columns: What the columns are called.
        labels: What the labels mean; none if they are not wanted, and then patients, splits and
            ids of images are not either. Patients are compared all the same if their column is
            among ``attributes``.
        attributes: Further columns to be kept with the crops.
        masks: Folder of the masks; that of the images if not given.
        label_source: Where the labels come from.
        encoding: As for :func:`read_table`.
        sheet: As for :func:`read_table`.

    Raises:
        ArchiveError: If the table or a folder is missing, the table contradicts itself, or a
            spreadsheet program may have changed its ids.
        LabelError: For a label without a meaning.
        LeakageError: For a patient in two splits.
        ManifestError: For patient ids that could be those of one patient or of two.
    """
    for flag, folder in (("images", images), ("masks", masks)):
        if folder is not None and not folder.exists():
            raise ArchiveError(f"--{flag} {folder}: does not exist. Give the folder of the files.")
    kept = _attribute_names(attributes)
    wanted = {getattr(columns, field.name) for field in fields(columns)} | set(kept)
    table = read_table(path, encoding=encoding, sheet=sheet, keep=lambda name: name in wanted)
    _require(table, columns, kept, labelled=labels is not None)
    root = images if images.is_dir() else images.parent
    source = _Source(
        table=table,
        images=root,
        only=None if images.is_dir() else images.name,
        masks=masks or root,
        columns=columns,
        meanings=None if labels is None else labels.meanings(),
        attributes=kept,
        label_source=label_source,
        digits=max(4, len(str(table.rows[-1].number))),
    )
    _require_known_labels(source)
    rows: list[LesionRow] = []
    left_out: list[LeftOut] = []
    numbers: Counter[str] = Counter()  # of lesions, by file
    for row in table.rows:
        found = _lesion_row(source, row, numbers)
        (rows if isinstance(found, LesionRow) else left_out).append(found)  # type: ignore[arg-type]
    table.require_ids([columns.lesion])
    if labels is not None or columns.patient in kept:
        table.require_ids([columns.patient, columns.image])
        require_clear_patients(_named_patients(source))
    check_patients([(r.patient_id, r.split, r.where) for r in rows if r.split is not None])
    rows = _with_image_ids(source, rows)
    rows, repeated = _without_repetitions(source, rows)
    notes = [*_notes(rows, source), *_dropped(table, path)]
    by_key = sorted([*left_out, *repeated], key=lambda one: one.key)
    return LesionTable(
        rows=tuple(rows),
        left_out=tuple(by_key),
        notes=tuple(notes),
        lesions_joined=columns.lesion in table.columns,
    )


def described(
    table: LesionTable, splits: Mapping[str, Split] | None = None, *, most: int = _SHOWN
) -> str:
    """What would be read, counted and left out, with the first reasons, as lines of text.

    Args:
        table: The table; no image needs to have been read.
        splits: Split of each patient, by normalised id.
        most: How many reasons are quoted.
    """
    rows, left = table.rows, table.left_out
    images = len({row.path for row in rows})
    lines = [
        f"rows: {len(rows) + len(left):,}, of which {len(rows):,} are used, of {images:,} images"
    ]
    lines.append(f"where lesions lie: {_listed(Counter(_KINDS[type(row.region)] for row in rows))}")
    labels = Counter(
        "malignant" if row.malignant else "benign" for row in rows if row.malignant is not None
    )
    if labels:
        sources = " and ".join(sorted({row.label_source for row in rows}))
        lines.append(f"labels from {sources}: {_listed(labels)}")
    if splits:
        how = "by the table" if all(row.split for row in rows) else "by a hash of the id"
        lines.append(f"patients, split {how}: {_listed(Counter(splits.values()))}")
    lines.append(f"left out: {_listed(Counter(one.reason for one in left))}")
    lines += [f"  {one.message}" for one in left[:most]]
    if len(left) > most:
        lines.append(f"  and {len(left) - most:,} more")
    if table.skipped:
        lines.append(f"skipped: {_listed(table.skipped)}")
    return "\n".join([*lines, *table.notes])


def described_files(table: LesionTable, images: Path) -> str:
    """One line about the files below a folder: how many a row names, and what the others are."""
    found = find_files(images)
    named = {row.path for row in table.rows} | {images / one.file for one in table.left_out}
    masks = {p for row in table.rows if isinstance(row.region, Mask) for p in row.region.path}
    counts = Counter(
        "named by a row" if path in named else "mask" if path in masks else "named by no row"
        for path in found.paths
    )
    return f"files below {images}: {_listed(counts + Counter(found.skipped))}"


_KINDS = {Box: "box", Outline: "outline", Mask: "mask", Slab: "box in a slice"}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items())) or "none"


def _attribute_names(attributes: Sequence[str]) -> dict[str, str]:
    """Names in ``crops.csv`` by column; letters in lower case, all but letters and digits ``_``.

    Raises:
        ArchiveError: For a name that ``crops.csv`` uses itself.
    """
    kept: dict[str, str] = {}
    for column in attributes:
        name = re.sub("[^a-z0-9]+", "_", column.lower()).strip("_")
        if not name[:1].isalpha() or name in COLUMNS or name in kept.values():
            raise ArchiveError(
                f"--attributes: {column!r} would become the column {name!r} of crops.csv, which is "
                "taken or no name. Rename it in the table; descriptors have flags of their own, "
                "such as --columns.density."
            )
        kept[column] = name
    return kept


def _require(table: Table, columns: Columns, kept: Iterable[str], *, labelled: bool) -> None:
    """Refuses a table that lacks what it needs or what was named."""
    needed = ["file", *(("patient", "malignant") if labelled else ())]
    named = [
        field.name
        for field in fields(columns)
        if getattr(columns, field.name) not in (field.default, None)
    ]
    asked = [(getattr(columns, f), f"--columns.{f}") for f in dict.fromkeys([*needed, *named])]
    asked += [(name, "--attributes") for name in kept]
    missing = [one for one in asked if one[0] not in table.columns]
    there = [f for f in (*BOX, "mask", "outline") if getattr(columns, f) in table.columns]
    box = [field for field in BOX if field in there]
    others = ""
    if not missing and (not there or (box and len(box) < len(BOX))):
        missing = [(getattr(columns, f) or f, f"--columns.{f}") for f in BOX if f not in there]
        others = "" if there else ", or one of mask and outline"
    if missing:
        shown = ", ".join(f"{name} ({flag})" for name, flag in missing)
        instead = table.instead_of([name for name, _ in missing])
        raise ArchiveError(
            f"{table.path}: has no column {shown}{others}. {instead} See that this row is the "
            "header, and say with the flag in brackets how the table calls the column."
        )


def _require_known_labels(source: _Source) -> None:
    """Raises LabelError naming rows whose label has no meaning.

    The words are not shown: where another column was named by mistake, they are patients' names.
    """
    if source.meanings is None:
        return
    strange: dict[str, TableRow] = {}
    for row in source.table.rows:
        word = source.text(row, "malignant")
        if word and word not in source.meanings:
            strange.setdefault(word, row)
    if not strange:
        return
    first, *others = strange.values()
    also = ", ".join(str(row.number) for row in others[: _SHOWN - 1])
    raise LabelError(
        f"{source.table.where(first)}{' and ' * bool(also)}{also}: column "
        f"{source.columns.malignant} holds {len(strange)} words without a meaning. Known are "
        f"{', '.join(source.meanings)}. See whether it is the column of labels, and say what its "
        "words "
        'mean: --labels.malignant "M,1", --labels.benign "B,0", and --labels.unknown for rows to '
        "be left out."
    )


def _named_patients(source: _Source) -> list[tuple[PurePosixPath | None, str, str]]:
    """File, patient and place of each row that names a patient, those to be left out, too.

    What a row says about a patient must not depend on what else is wrong with it.
    """
    named = []
    for row in source.table.rows:
        file = source.text(row, "file").replace("\\", "/")
        if normalised(patient := source.text(row, "patient")):
            named.append((PurePosixPath(file) if file else None, patient, source.table.where(row)))
    return named


def _lesion_row(source: _Source, row: TableRow, numbers: Counter[str]) -> LesionRow | LeftOut:
    """One row; what is wrong with it alone leaves it out."""
    where, key = source.table.where(row), f"row_{row.number:0{source.digits}d}"
    name = source.text(row, "file").replace("\\", "/")
    numbers[name] += 1
    lesion = source.text(row, "lesion") or str(numbers[name])

    def out(reason: str, problem: str) -> LeftOut:
        return LeftOut(key, reason, f"{where}: {problem}", file=name, lesion_id=lesion)

    path = _below(source.images, source.text(row, "file"))
    if isinstance(path, str) or source.only not in (None, name):
        what = path if isinstance(path, str) else "is not the image that was given"
        return out("no_image", f"its file {what}. Correct the path below --images.")
    malignant, patient, split = None, "", None
    if source.meanings is not None:
        patient = source.text(row, "patient")
        if not normalised(patient):
            return out("no_patient", "names no patient. Fill in the cell, or leave the row out.")
        malignant = source.meanings.get(source.text(row, "malignant"))
        if malignant is None:
            return out("no_label", "has no label. Fill in the cell, or leave the row out.")
        split = _split(source, row)
        if split is None and source.columns.split in source.table.columns:
            return out("no_split", "names no split, and others do. Fill in the cell.")
    region = _region(source, row)
    if isinstance(region, LeftOut):
        return out(region.reason, region.message)
    spacing = None
    if text := source.text(row, "spacing_mm"):
        spacing = _number(text)
        if spacing is None or not _PLAUSIBLE_MM[0] <= spacing <= _PLAUSIBLE_MM[1]:
            low, high = _PLAUSIBLE_MM
            return out("spacing", f"spacing_mm is not between {low} and {high} mm. Correct it.")
    descriptors = {field: source.text(row, field) for field in ATTRIBUTES}
    descriptors |= {new: row.cells[column] for column, new in source.attributes.items()}
    return LesionRow(
        key=key,
        where=where,
        file=name,
        path=path,
        patient_id=patient,
        image_id=source.text(row, "image"),
        lesion_id=lesion,
        malignant=malignant,
        region=region,
        split=split,
        label_source=source.label_source,
        view=_word(source, row, "view", _VIEWS),
        laterality=_word(source, row, "laterality", _SIDES),
        spacing_mm=spacing,
        attributes=MappingProxyType({n: value for n, value in descriptors.items() if value}),
    )


def _below(folder: Path, text: str) -> Path | str:
    """The file at a path below a folder, written with either slash; or what is wrong with it."""
    if not text:
        return "is not named"
    windows, posix = PureWindowsPath(text), PurePosixPath(text)
    if windows.anchor or posix.is_absolute() or ".." in windows.parts:
        return "is no path below the folder"
    # A backslash may be part of a name, so both readings are looked up.
    found = {str(p): p for p in (folder / text, folder / text.replace("\\", "/")) if p.is_file()}
    if len(found) == 1:
        return next(iter(found.values()))
    return "could be two files, since a name holds a backslash" if found else "is not there"


def _region(source: _Source, row: TableRow) -> Region | LeftOut:
    """Where the lesion lies: the mask, else the outline, else the box."""
    if text := source.text(row, "mask"):
        path = _below(source.masks, text)
        if isinstance(path, str):
            problem = f"its mask {path}. Correct the path below the folder of masks."
            return LeftOut("", "no_mask", problem)
        return Mask(path=(path,))
    if text := source.text(row, "outline"):
        numbers = [_number(word) for word in re.sub(r"[\[\](),;]", " ", text).split()]
        points = tuple(zip(numbers[::2], numbers[1::2], strict=False))
        if len(numbers) % 2 or len(points) < 3 or None in numbers:
            problem = "its outline is not x y x y ... of three points at least. Write it again."
            return LeftOut("", "mask_mismatch", problem)
        return Outline(points=points)  # type: ignore[arg-type]  # None was refused above
    texts = [source.text(row, field) for field in BOX]
    edges = [_number(text) for text in texts]
    if None in edges:
        known = [field for field in BOX if getattr(source.columns, field) in row.cells]
        empty = not any(texts)
        problem = "says not where the lesion lies" if empty else f"{', '.join(known)}: no numbers"
        return LeftOut("", "no_box", f"{problem}. Fill in the cells, in pixels.")
    x0, y0, x1, y1 = (float(edge or 0) for edge in edges)
    if not (x0 < x1 and y0 < y1):
        problem = "its box is empty. Give x0 < x1 and y0 < y1, in pixels of the stored image."
        return LeftOut("", "box_outside", problem)
    return Box(math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1))


def _number(text: str) -> float | None:
    """A finite number of usual size, with a decimal point or comma."""
    if "," in text and "." not in text:
        text = text.replace(",", ".")
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return value if abs(value) <= _FURTHEST else None


def _split(source: _Source, row: TableRow) -> Split | None:
    """The split; none without a column, and for an empty cell.

    Raises:
        ArchiveError: For another word.
    """
    text = source.text(row, "split").lower()
    if not text:
        return None
    if text not in get_args(Split):
        raise ArchiveError(
            f"{source.table.where(row)}: column {source.columns.split} holds another word than "
            f"{', '.join(get_args(Split))}. Correct it, or --columns.split null splits by patient."
        )
    return text  # type: ignore[return-value]  # checked


def _word(source: _Source, row: TableRow, field: str, known: Mapping[str, T]) -> T | None:
    """The meaning of a cell.

    Raises:
        ArchiveError: For another word.
    """
    text = source.text(row, field).lower()
    if text and text not in known:
        raise ArchiveError(
            f"{source.table.where(row)}: column {getattr(source.columns, field)} holds another "
            f"word than {', '.join(known)}. Correct it, or --columns.{field} null leaves the "
            "column out."
        )
    return known.get(text)


def _with_image_ids(source: _Source, rows: Sequence[LesionRow]) -> list[LesionRow]:
    """Rows whose images all have an id: the user's, or the key of the row that names it first.

    Raises:
        ArchiveError: If one id names two images, or one image has two spacings.
    """
    names: dict[Path, str] = {}
    files: dict[str, LesionRow] = {}
    spacings: dict[Path, LesionRow] = {}
    found = []
    for row in rows:
        name = row.image_id or names.setdefault(row.path, row.key)
        if (first := files.setdefault(name, row)).path != row.path:
            raise ArchiveError(
                f"{first.where} and {row.where}: one id in column {source.columns.image} for two "
                "files. Give each image its own, or --columns.image null leaves the column out."
            )
        if (first := spacings.setdefault(row.path, row)).spacing_mm != row.spacing_mm:
            raise ArchiveError(
                f"{first.where} and {row.where}: one file with two spacings. Correct the table."
            )
        found.append(replace(row, image_id=name))
    return found


def _without_repetitions(
    source: _Source, rows: Sequence[LesionRow]
) -> tuple[list[LesionRow], list[LeftOut]]:
    """Takes out rows that repeat a lesion of an image; all of them if their labels differ."""
    groups: dict[tuple[object, ...], list[LesionRow]] = {}
    first: dict[tuple[Path, object], tuple[object, ...]] = {}
    named = source.columns.lesion in source.table.columns
    for row in rows:
        same: list[tuple[Path, object]] = [(row.path, row.lesion_id)] if named else []
        if source.meanings is not None:  # a box may be scored twice, but not become two crops
            same.append((row.path, row.region))
        known = next((first[one] for one in same if one in first), (row.key,))
        for one in same:
            first.setdefault(one, known)
        groups.setdefault(known, []).append(row)
    stay, out = [], []
    for group in groups.values():
        stays = group[0]
        if len({row.malignant for row in group}) > 1:
            where = ", ".join(row.where for row in group)
            problem = f"one lesion of one image with both labels ({where}). Correct the table."
            out += [_left_out(row, "conflict", problem) for row in group]
            continue
        stay.append(stays)
        problem = f"names the same lesion of the same image as {stays.where}. Remove one row."
        out += [_left_out(row, "duplicate", problem) for row in group[1:]]
    return stay, out


def _left_out(row: LesionRow, reason: str, problem: str) -> LeftOut:
    message = f"{row.where}: {problem}"
    return LeftOut(row.key, reason, message, file=row.file, lesion_id=row.lesion_id)


def _notes(rows: Sequence[LesionRow], source: _Source) -> list[str]:
    """What the table says twice, and differently."""
    if source.columns.lesion not in source.table.columns or source.meanings is None:
        return []
    labels: dict[tuple[str, str], set[bool | None]] = {}
    for row in rows:
        labels.setdefault((normalised(row.patient_id), row.lesion_id), set()).add(row.malignant)
    both = sum(len(found) > 1 for found in labels.values())
    return [f"lesions with both labels, in different images: {both:,}"] if both else []


def _dropped(table: Table, path: Path) -> list[str]:
    if not table.dropped:
        return []
    shown = ", ".join(map(str, table.dropped[:20])) + (", ..." if len(table.dropped) > 20 else "")
    return [
        f"columns of {path.name} that are not kept: {len(table.dropped)} (by their places: {shown})"
        ". --attributes keeps those that it names; what they hold about people would go to "
        "crops.csv."
    ]
