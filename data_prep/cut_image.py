# SPDX-License-Identifier: Apache-2.0
"""One image, or volume, and its lesions: what a worker is told, and what it makes of them.

Whatever an image does to its reader, it costs its own lesions only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.crop_image import save_crop_image
from data_prep.cutting import Cutting, cut_box, range_of
from data_prep.dicom import Format, SpacingSource
from data_prep.dicom_volumes import Volume, is_turned, open_volume, turned
from data_prep.errors import GeometryRejected, RecordRejected
from data_prep.fingerprints import fingerprint
from data_prep.images import read_image
from data_prep.lesions import Region, Slab
from data_prep.manifest import Laterality, View
from data_prep.masks import locate


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionOrder:
    """What a worker needs to know of one lesion; nothing about the patient.

    Attributes:
        where: Start of every message.
        region: Where it lies.
        file: Image file of the crop, below the folder of crops.
    """

    where: str
    region: Region
    file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOrder:
    """What a worker needs to know of one image.

    Attributes:
        path: The file.
        spacing_mm: Millimetres per pixel as the table says, for files that do not.
        scanned_film: Whether secondary capture is accepted.
        lesions: In the order of the table.
    """

    path: Path
    spacing_mm: float | None
    scanned_film: bool
    lesions: tuple[LesionOrder, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CutOut:
    """A crop in memory.

    Attributes:
        pixels: Shape ``(size, size)``, or ``(depth, size, size)``, values in ``[0, 65535]``.
        spacing_mm: Millimetres per pixel of the crop; none where the image does not say.
        view: According to the header.
        laterality: According to the header.
        format: Of the image.
        image_mm: Millimetres per pixel of the image, if known.
        spacing_source: Where that comes from.
        centre_slice: Of a volume, position of the slice with the box, from 0.
        slice_mm: Of a volume, millimetres from slice to slice, if known.
    """

    pixels: NDArray[np.uint16]
    spacing_mm: float | None
    view: View | None
    laterality: Laterality | None
    format: Format
    image_mm: float | None
    spacing_source: SpacingSource
    centre_slice: int | None = None
    slice_mm: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What became of one lesion: the facts of its crop, or a reason and a message.

    Attributes:
        sha256: As in :class:`Crop`.
        fingerprint: As in :class:`Crop`.
        spacing_mm: As in :class:`CutOut`.
        view: As in :class:`CutOut`.
        laterality: As in :class:`CutOut`.
        format: As in :class:`CutOut`; none if there is no crop.
        image_mm: As in :class:`CutOut`.
        spacing_source: As in :class:`CutOut`.
        centre_slice: As in :class:`CutOut`.
        slice_mm: As in :class:`CutOut`.
        reason: Code; empty for a crop.
        message: Sentence; empty for a crop.
    """

    sha256: str = ""
    fingerprint: str = ""
    spacing_mm: float | None = None
    view: View | None = None
    laterality: Laterality | None = None
    format: Format | None = None
    image_mm: float | None = None
    spacing_source: SpacingSource = "none"
    centre_slice: int | None = None
    slice_mm: float | None = None
    reason: str = ""
    message: str = ""


def crops_of(order: ImageOrder, cutting: Cutting) -> Iterator[CutOut | RecordRejected]:
    """Reads one image and cuts its lesions, one after another.

    Whatever an image does to its reader, it costs its own lesions only.

    Args:
        order: The image and its lesions.
        cutting: How to cut.

    Yields:
        A crop, or why there is none, for each lesion.
    """
    if any(isinstance(lesion.region, Slab) for lesion in order.lesions):
        yield from _slabs_of(order, cutting)
        return
    first = order.lesions[0].where
    try:
        mammogram = read_image(
            order.path,
            where=first,
            scanned_film=order.scanned_film,
            spacing_mm=order.spacing_mm or cutting.spacing_mm,
        )
        grey = range_of(mammogram, first)
    except Exception as error:
        rejected = _rejected(error, first, "image")
        for lesion in order.lesions:
            message = lesion.where + str(rejected).removeprefix(first)
            yield RecordRejected(rejected.reason, message)
        return
    for lesion in order.lesions:
        try:
            box = locate(lesion.region, mammogram, grey, where=lesion.where)
            pixels, mm = cut_box(mammogram, box, cutting, grey, where=lesion.where)
        except Exception as error:
            yield _rejected(error, lesion.where, "mask or outline")
            continue
        yield CutOut(
            pixels=pixels,
            spacing_mm=mm,
            view=mammogram.view,
            laterality=mammogram.laterality,
            format=mammogram.format,
            image_mm=mammogram.spacing_mm,
            spacing_source=mammogram.spacing_source,
        )


def _slabs_of(order: ImageOrder, cutting: Cutting) -> Iterator[CutOut | RecordRejected]:
    """Cuts the lesions of a volume; memory is that of one slice and of the crops."""
    for lesion in order.lesions:
        try:
            if not isinstance(lesion.region, Slab):
                raise GeometryRejected(
                    "ambiguous", f"{lesion.where}: names no slice of a volume. Give one."
                )
            with open_volume(order.path, where=lesion.where) as volume:
                yield _cut_slab(volume, lesion.region, order, cutting, lesion.where)
        except Exception as error:
            yield _rejected(error, lesion.where, "volume")


def _cut_slab(
    volume: Volume, slab: Slab, order: ImageOrder, cutting: Cutting, where: str
) -> CutOut:
    """Cuts the slices around a box, all by the same window and grey range.

    The window is centred on the slice of the box, and moved where it would leave the volume.

    Raises:
        RecordRejected: If the lesion cannot be cut out.
    """
    if not 0 <= slab.slice < volume.slices or slab.slices not in (None, volume.slices):
        said = "" if slab.slices is None else f" of {slab.slices}"
        raise GeometryRejected(
            "slice_outside",
            f"{where}: names slice {slab.slice}{said} (counted from 0), but the volume has "
            f"{volume.slices}. Correct the table, or give the volume it is about.",
        )
    if volume.slices < slab.depth:
        raise GeometryRejected(
            "too_few_slices",
            f"{where}: the volume has {volume.slices} slices, and {slab.depth} are to be cut. "
            "Give a smaller --depth, or leave the row out.",
        )
    spacing = order.spacing_mm or cutting.spacing_mm
    middle = volume.slice(slab.slice, spacing_mm=spacing)
    turn = slab.side is not None and is_turned(middle, slab.side)
    middle = turned(middle) if turn else middle
    grey = range_of(middle, where)
    box = locate(slab, middle, grey, where=where)
    first = min(max(slab.slice - slab.depth // 2, 0), volume.slices - slab.depth)
    crops, mm = [], None
    for number in range(first, first + slab.depth):
        shown = middle if number == slab.slice else volume.slice(number, spacing_mm=spacing)
        if turn and shown is not middle:
            shown = turned(shown)
        crop, mm = cut_box(shown, box, cutting, grey, where=where)
        crops.append(crop)
    return CutOut(
        pixels=np.stack(crops),
        spacing_mm=mm,
        view=middle.view,
        laterality=middle.laterality,
        format=middle.format,
        image_mm=middle.spacing_mm,
        spacing_source=middle.spacing_source,
        centre_slice=slab.slice - first,
        slice_mm=volume.slice_mm,
    )


def cut_image(order: ImageOrder, cutting: Cutting, out: Path) -> list[Cut]:
    """Reads one image, cuts its lesions and writes the crops.

    Args:
        order: The image and its lesions.
        cutting: How to cut.
        out: Folder of crops.

    Returns:
        One answer per lesion.

    Raises:
        OSError: If a crop cannot be written.
    """
    cuts = []
    for lesion, one in zip(order.lesions, crops_of(order, cutting), strict=True):
        if isinstance(one, RecordRejected):
            cuts.append(Cut(reason=one.reason, message=str(one)))
            continue
        try:
            digest = save_crop_image(out / lesion.file, one.pixels)
        except OSError as error:  # a full disk does not say which file it hit
            raise OSError(error.errno, error.strerror, str(out / lesion.file)) from error
        cuts.append(
            Cut(
                sha256=digest,
                fingerprint=fingerprint(one.pixels),
                spacing_mm=one.spacing_mm,
                view=one.view,
                laterality=one.laterality,
                format=one.format,
                image_mm=one.image_mm,
                spacing_source=one.spacing_source,
                centre_slice=one.centre_slice,
                slice_mm=one.slice_mm,
            )
        )
    return cuts


def _rejected(error: Exception, where: str, what: str) -> RecordRejected:
    """The error as a rejection; what is none already is the file's fault all the same."""
    if isinstance(error, RecordRejected):
        return error
    return RecordRejected(
        "unreadable",
        f"{where}: its {what} cannot be read ({type(error).__name__}). Copy the file again, or "
        "leave the row out.",
    )
