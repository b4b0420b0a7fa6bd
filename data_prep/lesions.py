# SPDX-License-Identifier: Apache-2.0
"""The lesion table: one row per lesion in one image, the form into which every archive is brought.

A reader of an archive turns its tables into a :class:`LesionTable`; a hospital writes such a table
itself. One cutter (:mod:`data_prep.cut_lesions`) makes crops of it, whatever it came from.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from data_prep.cropping import Box
from data_prep.errors import ArchiveError
from data_prep.identity import normalised, require_told_apart
from data_prep.manifest import LabelSource, Laterality, Split, View


@dataclass(frozen=True, slots=True)
class Outline:
    """A closed polygon around a lesion.

    Attributes:
        points: Vertices ``(x, y)`` in pixels of the image as it is stored, at least three.
    """

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mask:
    """A picture that is nonzero inside the lesion.

    Attributes:
        path: The file, or several of which one is the mask and another may be the crop that the
            archive supplies; their content decides which is which.
        supplied_crop: Crops that the archive cut out itself and that show where the lesion lies;
            a mask that does not agree with them is a ``mask_mismatch``. Empty if there are none.
        threshold: Grey value, in ``[0, 1]`` of the stored range, from which a pixel belongs to the
            lesion. None asks for a picture of exactly two values; lossy copies need one.
    """

    path: tuple[Path, ...]
    supplied_crop: tuple[Path, ...] = ()
    threshold: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slab:
    """A box in one slice of a volume, and how many slices are cut around it.

    Attributes:
        box: In pixels of the slice, turned by half if ``side`` asks for it.
        slice: Of the box, from 0.
        depth: Number of slices to be cut, > 1.
        side: Breast that the box was drawn on: the chest wall is left for ``L`` and right for
            ``R``, and a file that has it on the other edge is turned by half before it is cut.
            None leaves files as they are.
        slices: Of the whole volume, as the table says; none if it does not.
    """

    box: Box
    slice: int
    depth: int
    side: Laterality | None = None
    slices: int | None = None


Region = Box | Outline | Mask | Slab


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionRow:
    """One lesion in one image.

    Attributes:
        key: Our own name of the row, such as ``train_0012``: part and number. It names files.
        where: Table and row, the start of every message; it holds no identifier of a person.
        file: The image as the table names it.
        path: The image on disk; several readable candidates never stand here.
        patient_id: As the data set writes it.
        image_id: Image; with ``lesion_id`` and the origin it identifies the crop.
        lesion_id: Lesion within the patient.
        malignant: Malignant is 1; none if the row has no label, which only ``predict`` accepts.
        region: Where the lesion lies, in pixels of the image as it is stored.
        split: Part that the data set itself assigns; none if it assigns none.
        label_source: Where the label comes from.
        view: As the table says; none leaves it to the header.
        laterality: As the table says; none leaves it to the header.
        spacing_mm: Millimetres per pixel as the table says, > 0; none leaves it to the header.
        attributes: Further columns of the table, such as density, shape, margin, subtlety; absent
            means unknown.
    """

    key: str
    where: str
    file: str
    path: Path
    patient_id: str
    image_id: str
    lesion_id: str
    malignant: bool | None
    region: Region
    split: Split | None = None
    label_source: LabelSource = "pathology"
    view: View | None = None
    laterality: Laterality | None = None
    spacing_mm: float | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row of a table that becomes no crop, known before any pixel is read.

    Attributes:
        key: As in :class:`LesionRow`.
        reason: Code for ``rejected.csv``, of those in use if one fits: ``no_image``,
            ``unreadable`` or ``ambiguous`` (several would do) for its file; ``no_label`` if its
            label is unknown, ``duplicate`` or ``conflict`` (labels contradict) for its lesion;
            ``no_box``, ``no_mask``, ``mask_mismatch``, ``box_outside`` or ``too_small`` for where
            it lies. Any other word is counted and shown alike.
        message: Sentence with row, cause and remedy.
        file: As in :class:`LesionRow`, for ``predict``.
        lesion_id: As in :class:`LesionRow`, for ``predict``.
    """

    key: str
    reason: str
    message: str
    file: str = ""
    lesion_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFacts:
    """What is known of an archive; it goes to the data card.

    Attributes:
        name: Origin in ``crops.csv``, such as ``"cbis-ddsm"``.
        title: As its authors call it.
        licence: Terms, or that their text was not found.
        citation: What to cite.
        verified: Facts about its layout that were seen in published material.
        checked: Facts that the reader checks on first contact; it stops where one fails.
        scanned_film: Whether images are scanned film, so that secondary capture is accepted.
    """

    name: str
    title: str
    licence: str
    citation: str
    verified: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()
    scanned_film: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionTable:
    """What is to be cut, and what is known not to become a crop.

    Attributes:
        rows: Lesions, in the order of the table.
        left_out: Rows that are rejected already, or left out by a rule of the archive.
        skipped: Files and rows that are no part of what was asked for, by reason and number, such
            as ``{"helper file": 12, "another kind of finding": 40}``.
        facts: Of the archive; none for a table of the user's own.
        notes: Sentences about the whole table that are printed and go to the data card, such as
            how many lesions carry two labels.
        lesions_joined: Whether ``lesion_id`` joins the images of one lesion; otherwise a lesion in
            two views counts twice.
    """

    rows: tuple[LesionRow, ...]
    left_out: tuple[LeftOut, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=Counter)
    facts: ArchiveFacts | None = None
    notes: tuple[str, ...] = ()
    lesions_joined: bool = True


def require_clear_patients(named: Sequence[tuple[object, str, str]]) -> None:
    """Refuses ids that could be one patient's or two, and images that rows of two patients name.

    Whatever was done about such rows, taking one out as a copy of the other, or both as a
    contradiction, the crops of one patient would depend on the other. So this comes before rows are
    compared with each other, and is about all rows.

    Args:
        named: Image, by path or id, none if the row names none; patient id, of one data set; and
            where it stands, which the message shows.

    Raises:
        ArchiveError: Naming two rows that name one image under two patients.
        ManifestError: Naming two rows with such ids.
    """
    require_told_apart(("data", patient_id, where) for _, patient_id, where in named)
    first: dict[object, tuple[str, str]] = {}
    for image, patient_id, where in named:
        if image is None:
            continue
        known, place = first.setdefault(image, (normalised(patient_id), where))
        if known != normalised(patient_id):
            raise ArchiveError(
                f"{place} and {where}: one file of two patients. The crops of one would depend on "
                "the other, which no privacy statement covers. Correct the table."
            )
