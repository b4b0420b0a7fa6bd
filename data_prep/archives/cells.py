# SPDX-License-Identifier: Apache-2.0
"""Cells of published tables: labels, sides, views, numbers, and rows that stand there twice."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from data_prep.errors import ArchiveError, LabelError
from data_prep.lesions import (
    ArchiveFacts,
    LeftOut,
    LesionRow,
    require_clear_patients,
)
from data_prep.manifest import Laterality, View

Findings = Literal["masses", "calcifications", "both"]
LabelRequest = Literal["pathology", "birads"]

T = TypeVar("T")

SIDES: Mapping[str, Laterality] = {"L": "L", "LEFT": "L", "R": "R", "RIGHT": "R"}
DENSITIES = {"A": "1", "B": "2", "C": "3", "D": "4", "1": "1", "2": "2", "3": "3", "4": "4"}
OTHER_FINDING = "another kind of finding"  # than asked for: a reason why something is skipped
UNKNOWN = frozenset({"", "0", "N/A", "NA", "NAN", "NONE"})
_BIRADS = {
    **dict.fromkeys(("1", "2", "3"), False),
    **dict.fromkeys(("4", "4A", "4B", "4C", "5", "6"), True),
}


def chosen(cell: str, allowed: Mapping[str, T], *, where: str, column: str) -> T:
    """What a cell of few known values stands for, whatever its case.

    Args:
        cell: The cell.
        allowed: Meaning by value, in upper case.
        where: Table and row.
        column: Name of the column.

    Raises:
        ArchiveError: For any other value.
    """
    if (value := cell.strip().upper()) not in allowed:
        raise ArchiveError(f"{where}: {column} {_unknown(cell)}. Known: {', '.join(allowed)}.")
    return allowed[value]


def labelled(cell: str, allowed: Mapping[str, T], *, where: str, column: str) -> T:
    """Like :func:`chosen`, for the label; a word for unknown stands for None.

    >>> words = {"M": True, "B": False, "U": None}
    >>> [labelled(cell, words, where="row 2", column="label") for cell in ("m", "U")]
    [True, None]

    Raises:
        LabelError: For any other value.
    """
    if (value := cell.strip().upper()) not in allowed:
        raise LabelError(f"{where}: {column} {_unknown(cell)}. Allowed: {', '.join(allowed)}.")
    return allowed[value]


def _unknown(cell: str) -> str:
    """What is wrong with a cell, not shown: of a row that has moved, it may be a patient's name."""
    return "holds another value" if cell.strip() else "is empty"


def birads_label(cell: str, *, where: str, column: str) -> bool:
    """Malignant or not by an assessment: 1 to 3 is benign, 4 (4a, 4b, 4c) to 6 is malignant.

    >>> birads_label("BI-RADS 4", where="row 2", column="b"), birads_label("3", where="", column="")
    (True, False)

    Raises:
        LabelError: For any other value, such as 0, an assessment that is not complete.
    """
    value = re.sub(r"(?i)^\s*bi-?rads?[\s_:-]*", "", cell)
    return labelled(number(value), _BIRADS, where=where, column=column)


def require_birads(facts: ArchiveFacts, label_source: LabelRequest) -> None:
    """Refuses an archive that has assessments only, unless they were asked for.

    Raises:
        LabelError: If pathology was asked for.
    """
    if label_source != "birads":
        raise LabelError(
            f"{facts.title}: has no pathology, only BI-RADS assessments of radiologists. Ask for "
            "them with --label_source birads; such labels are not mixed with pathology."
        )


def require_boxes(boxes: Path | None, says: str) -> Path:
    """The table of boxes of an archive that has none.

    Args:
        boxes: What the user gave.
        says: What the archive says instead, a sentence.

    Raises:
        ArchiveError: If there is no table.
    """
    if boxes is None:
        raise ArchiveError(
            f"{says} Give --boxes with a table of the columns file,x0,y0,x1,y1, in pixels of the "
            "image as it is stored; without it no crop can be cut."
        )
    return boxes


def number(cell: str) -> str:
    """A number without the decimals that spreadsheets add; any other text as it is.

    >>> number(" 12.0 "), number("4a"), number("0.5")
    ('12', '4a', '0.5')
    """
    cell = cell.strip()
    # Tables have millions of cells, and most hold no point.
    return re.sub(r"^(-?\d+)\.0*$", r"\1", cell) if "." in cell else cell


def is_unknown(cell: str) -> bool:
    """Whether a cell says nothing."""
    return number(cell).upper() in UNKNOWN


def known(**cells: str) -> dict[str, str]:
    """Attributes without those that say nothing."""
    return {name: value.strip() for name, value in cells.items() if not is_unknown(value)}


def density(cell: str) -> str:
    """Density as 1 to 4, from ``2``, ``2.0``, ``B`` or ``DENSITY B``; empty if unknown."""
    return DENSITIES.get(number(cell).upper().removeprefix("DENSITY").strip(), "")


def view_of(cell: str) -> View | None:
    """View in the words of the manifest; None for an empty cell."""
    value = cell.strip().upper()
    return "CC" if value == "CC" else "MLO" if value == "MLO" else "other" if value else None


def without_repeats(rows: Sequence[LesionRow]) -> tuple[list[LesionRow], list[LeftOut]]:
    """Rows that name the same lesion in the same image as another one become none.

    If the labels agree, the first row stays; if they contradict, none does.

    Returns:
        The rows that stay, in order, and the others.

    Raises:
        ArchiveError: If rows of two patients name one image.
        ManifestError: For ids that could be one patient's or two.
    """
    require_clear_patients([(row.image_id, row.patient_id, row.where) for row in rows])
    groups: dict[tuple[str, str], list[LesionRow]] = defaultdict(list)
    for row in rows:
        groups[row.image_id, row.lesion_id].append(row)
    left_out: dict[str, LeftOut] = {}
    for first, *others in groups.values():
        if len({row.malignant for row in (first, *others)}) > 1:
            for row in (first, *others):
                other = first if row is not first else others[0]
                left_out[row.key] = LeftOut(
                    row.key,
                    "conflict",
                    f"{row.where}: names the same image and lesion as {other.key}, with another "
                    "label somewhere. Correct the table, or remove the wrong row.",
                )
            continue
        for row in others:
            left_out[row.key] = LeftOut(
                row.key,
                "duplicate",
                f"{row.where}: names the same image and lesion as {first.key}. Remove one row.",
            )
    stays = [row for row in rows if row.key not in left_out]
    return stays, [left_out[row.key] for row in rows if row.key in left_out]


def contradicting_lesions(rows: Iterable[LesionRow]) -> int:
    """Number of lesions that carry both labels, in different images."""
    labels: dict[tuple[str, str], set[bool | None]] = defaultdict(set)
    for row in rows:
        labels[row.patient_id, row.lesion_id].add(row.malignant)
    return sum(len(found) > 1 for found in labels.values())
