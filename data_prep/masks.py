# SPDX-License-Identifier: Apache-2.0
"""Where a lesion lies in a mammogram: the box of a box, an outline or a mask that was verified.

A mask is compared with the image (size), with itself (polarity), with the other files of its series
(uniqueness), with the crop that the archive supplies (position, mirror) and with the breast.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.cropping import Box, GreyRange, lesion_box, scale_box
from data_prep.dicom import Mammogram, read_series_file
from data_prep.errors import GeometryRejected, RecordRejected
from data_prep.images import read_image, read_mask_values
from data_prep.lesions import Mask, Outline, Region, Slab

ASPECT_TOLERANCE = 0.02  # published masks of another size differ by up to 0.4 % in aspect
LARGEST_SHARE = 0.5  # of the image; no lesion covers more, an inverted mask does
# Correlation with the image from which a supplied crop counts as found. The same pixels have 0.95
# and more, also after a change of sampling or grey scale; masses of two patients up to 0.8.
FOUND = 0.85
# The mask is elsewhere if the correlation at its own place is lower than the best one by this, or
# by half of what the best one lacks to 1: crops of another grey scale correlate less everywhere.
WORSE = 0.02
IN_AIR = 0.75  # share of a lesion's box that may be as dark as the air beside the breast
_CERTAIN = 0.999  # the crop's own pixels: nothing better can be found elsewhere
_TEMPLATE = 32  # px, shorter edge of the crop for the search in the whole image
_LARGEST_SEARCH = 2_000_000  # px of the reduced image, so that time is bounded
_CANDIDATES = 5
_COVERED = 0.8  # of the smaller one, along each axis: how much mask and crop must share


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """One picture that may be the mask."""

    path: Path
    inside: NDArray[np.bool_]


def locate(region: Region, mammogram: Mammogram, grey: GreyRange, *, where: str) -> Box:
    """Finds the box of a lesion, and verifies that it can be one.

    Args:
        region: Box, outline or mask, in pixels of the image as it is stored; of a volume, the box
            in the slice that the image is.
        mammogram: The image.
        grey: Its grey range.
        where: Start of every message.

    Returns:
        Box in pixels of ``mammogram.pixels``, inside the image.

    Raises:
        GeometryRejected: ``box_outside`` if a box or an outline is empty, has its centre outside
            the image or lies in the air beside the breast; ``too_small`` for an outline of less
            than three points; ``no_mask``, ``ambiguous`` or ``mask_mismatch`` for a mask.
        RecordRejected: If a file of the mask cannot be read.
    """
    stored = mammogram.stored_shape
    if isinstance(region, Slab):
        region = region.box
    if isinstance(region, Mask):
        mask, others = _mask(region, stored, where)
        box = _mask_box(mask, where)
        shape = (mask.shape[0], mask.shape[1])
        placed = _to_pixels(box, shape, mammogram)
        _check_supplied((*region.supplied_crop, *others), placed, shape, mammogram, where)
        _check_breast(placed, mammogram, grey, where, "mask_mismatch", "the ROI mask's lesion")
        return placed
    box = _outline_box(region, where) if isinstance(region, Outline) else region
    placed = _to_pixels(_clipped(box, stored, where), stored, mammogram)
    _check_breast(placed, mammogram, grey, where, "box_outside", "the lesion")
    return placed


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """What a region says of where its lesion lies, true or not.

    Attributes:
        box: In pixels of ``mammogram.pixels``, perhaps outside the image; none if it says nothing.
        mask: Of a mask: the pixels that it marks, in a shape of its own.
    """

    box: Box | None
    mask: NDArray[np.bool_] | None = None


def claim(region: Region, mammogram: Mammogram, *, where: str) -> Claim:
    """What a region says, unverified, to be shown beside the reason why it was refused.

    Args:
        region: As for :func:`locate`.
        mammogram: As for :func:`locate`.
        where: As for :func:`locate`.

    Raises:
        RecordRejected: If it cannot be read at all.
    """
    if isinstance(region, Slab):
        region = region.box
    if isinstance(region, Mask):
        for path in region.path:
            mask = _inside(read_mask_values(path, where=where), region.threshold)
            if mask is not None:
                shape = (mask.shape[0], mask.shape[1])
                return Claim(_to_pixels(lesion_box(mask), shape, mammogram), mask)
        return Claim(None)
    box = _outline_box(region, where) if isinstance(region, Outline) else region
    return Claim(_to_pixels(box, mammogram.stored_shape, mammogram))


def _outline_box(outline: Outline, where: str) -> Box:
    """Box of all pixels that hold a vertex."""
    if len(outline.points) < 3:
        raise GeometryRejected(
            "too_small",
            f"{where}: the outline has {len(outline.points)} points. Give at least 3, or a box.",
        )
    x, y = np.array(outline.points, np.float64).T
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or max(abs(x).max(), abs(y).max()) > 1e6:
        raise GeometryRejected(
            "box_outside", f"{where}: the outline has points that are no pixels. Correct it."
        )
    return Box(
        math.floor(x.min()), math.floor(y.min()), math.floor(x.max()) + 1, math.floor(y.max()) + 1
    )


def _clipped(box: Box, shape: tuple[int, int], where: str) -> Box:
    """The part of a box inside the image, if the box is one and its centre lies there."""
    height, width = shape
    inside = 0 <= box.x0 + box.x1 < 2 * width and 0 <= box.y0 + box.y1 < 2 * height
    if box.width <= 0 or box.height <= 0 or not inside:
        raise GeometryRejected(
            "box_outside",
            f"{where}: {box} is empty or has its centre outside the image of {width} x {height} "
            "px. Give pixels of the image as it is stored, x0 < x1 and y0 < y1.",
        )
    return Box(max(box.x0, 0), max(box.y0, 0), min(box.x1, width), min(box.y1, height))


def _to_pixels(box: Box, shape: tuple[int, int], mammogram: Mammogram) -> Box:
    height, width = mammogram.shape
    return scale_box(box, shape, (height, width))


def _mask(
    region: Mask, stored: tuple[int, int], where: str
) -> tuple[NDArray[np.bool_], tuple[Path, ...]]:
    """The mask among the files of a region, and the files that are none."""
    masks: list[_Found] = []
    others: list[Path] = []
    unreadable: RecordRejected | None = None
    for path in region.path:
        try:
            inside = _inside(
                read_mask_values(path, where=f"{where}, mask or crop"), region.threshold
            )
        except RecordRejected as error:  # a damaged crop is not needed, a damaged mask is
            unreadable = error
            continue
        if inside is None:
            others.append(path)
        else:
            masks.append(_Found(path, inside))
    if not masks:
        if unreadable is not None:
            raise unreadable
        found = "none of its files has two grey values" if region.path else "no DICOM file of it"
        raise GeometryRejected(
            "no_mask",
            f"{where}: ROI mask missing ({found}). Complete the download, or leave the row out.",
        )
    fitting = [found for found in masks if _fits(found.inside, stored)]
    if not fitting:
        high, wide = max((found.inside.shape for found in masks), key=math.prod)
        raise GeometryRejected(
            "mask_mismatch",
            f"{where}: ROI mask has {wide} x {high} px, the mammogram {stored[1]} x {stored[0]}: "
            "another size and aspect. Correct the mask, or leave the row out.",
        )
    chosen = _only(fitting, where)
    return chosen.inside, (*others, *(found.path for found in masks if found not in fitting))


def _inside(values: NDArray[np.float32], threshold: float | None) -> NDArray[np.bool_] | None:
    """Pixels of the lesion: the upper of exactly two values, or those above a threshold.

    Returns:
        None for a picture of other than two values, and for an empty mask.
    """
    if threshold is not None:
        above: NDArray[np.bool_] = values >= threshold
        return above if above.any() else None
    low, high = values.min(), values.max()
    upper: NDArray[np.bool_] = values == high
    is_mask = low != high and bool((upper | (values == low)).all())
    return upper if is_mask else None


def _fits(mask: NDArray[np.bool_], stored: tuple[int, int]) -> bool:
    """Whether a mask has about the size and the aspect of the image."""
    tall, wide = (mask.shape[axis] / stored[axis] for axis in (0, 1))
    return bool(0.5 <= tall <= 2 and abs(tall / wide - 1) <= ASPECT_TOLERANCE)


def _only(masks: Sequence[_Found], where: str) -> _Found:
    """The one mask, or the one that its DICOM description calls so; copies count once."""
    first = masks[0]
    different = [first, *(m for m in masks[1:] if not np.array_equal(m.inside, first.inside))]
    if len(different) > 1:
        described = [m for m in different if "mask" in _description(m.path)]
        if len(described) != 1:
            raise GeometryRejected(
                "ambiguous",
                f"{where}: {len(different)} different ROI masks stand in its series, and nothing "
                "says which one is meant. Remove the others, or leave the row out.",
            )
        return described[0]
    return first


def _description(path: Path) -> str:
    file = read_series_file(path)
    return "" if file is None else file.description


def _mask_box(mask: NDArray[np.bool_], where: str) -> Box:
    """Box of the lesion in its mask; refuses what looks inverted."""
    box = lesion_box(mask)
    height, width = mask.shape
    share = float(mask.mean())
    if share > LARGEST_SHARE or (box.width, box.height) == (width, height):
        raise GeometryRejected(
            "mask_mismatch",
            f"{where}: the lesion of the ROI mask covers {share:.0%} of the image or reaches all "
            "four edges, so the mask is inverted or of something else. Correct it, or leave the "
            "row out.",
        )
    return box


def _check_supplied(
    paths: Sequence[Path],
    box: Box,
    mask_shape: tuple[int, int],
    mammogram: Mammogram,
    where: str,
) -> None:
    """Refuses a mask whose lesion is not where a supplied crop was cut out.

    A crop that cannot be read or has one grey value only verifies nothing and is passed over. A
    crop that is nowhere in the mammogram belongs to another one.
    """
    image = mammogram.pixels
    for path in paths:
        try:
            crop = read_image(path, where=where, scanned_film=True).pixels
        except RecordRejected:
            continue
        crop = _resampled(crop, mammogram.stored_shape, image.shape)
        sizes = [crop]
        if mask_shape != mammogram.stored_shape:  # then crops have the sampling of the mask too
            sizes.append(_resampled(crop, mask_shape, mammogram.stored_shape))
        sizes = [c for c in sizes if _usable(c, image)]
        if not sizes:
            continue
        here = max(_best_at(image, c, box) for c in sizes)
        if here >= _CERTAIN:
            continue
        anywhere = max(here, *(_best_anywhere(image, c) for c in sizes))
        if here < FOUND or anywhere - here > max(WORSE, (1 - anywhere) / 2):
            raise GeometryRejected(
                "mask_mismatch",
                f"{where}: the supplied crop does not lie where the ROI mask says (correlation "
                f"{here:.2f} there, {anywhere:.2f} elsewhere). The mask is mirrored, shifted or of "
                "another image. Correct it, or leave the row out.",
            )


def _resampled(
    crop: NDArray[np.float32], from_shape: tuple[int, int], to_shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """A part of an image of one shape as a part of the same image in another shape."""
    if tuple(from_shape) == tuple(to_shape):
        return crop
    height, width = (
        max(1, round(crop.shape[axis] * to_shape[axis] / from_shape[axis])) for axis in (0, 1)
    )
    return np.asarray(cv2.resize(crop, (width, height), interpolation=cv2.INTER_AREA), np.float32)


def _usable(crop: NDArray[np.float32], image: NDArray[np.float32]) -> bool:
    fits = crop.shape[0] <= image.shape[0] and crop.shape[1] <= image.shape[1]
    return fits and min(crop.shape) >= 4 and float(crop.std()) > 1e-6


def _best_at(image: NDArray[np.float32], crop: NDArray[np.float32], box: Box) -> float:
    """Highest correlation of a crop with the image where both share most of the box."""
    starts = []
    for first, last, edge, size in (
        (box.y0, box.y1, crop.shape[0], image.shape[0]),
        (box.x0, box.x1, crop.shape[1], image.shape[1]),
    ):
        shared = math.floor(_COVERED * min(edge, last - first))
        lowest, highest = first + shared - edge, last - shared
        lowest, highest = max(lowest, 0), min(highest, size - edge)
        if highest < lowest:
            return -1.0
        starts.append((lowest, highest))
    (top, bottom), (left, right) = starts
    part = image[top : bottom + crop.shape[0], left : right + crop.shape[1]]
    # Large crops are compared at a reduced size, which bounds the time.
    factor = max(1, min(crop.shape) // 128)
    return _correlation(part, crop, factor)[1]


def _best_anywhere(image: NDArray[np.float32], crop: NDArray[np.float32]) -> float:
    """Highest correlation of a crop with any part of the image.

    A search at a reduced size finds a few places, which are then compared in full.
    """
    factor = max(1, min(crop.shape) // _TEMPLATE, math.ceil((image.size / _LARGEST_SEARCH) ** 0.5))
    if factor == 1:
        return _correlation(image, crop, 1)[1]
    factor = max(1, min(factor, min(crop.shape) // 4))
    scores = _scores(_reduced(image, factor), _reduced(crop, factor))
    best = -1.0
    height, width = crop.shape
    around = max(2, min(height, width) // (2 * factor))
    for _ in range(_CANDIDATES):
        y, x = np.unravel_index(int(np.argmax(scores)), scores.shape)
        top, left = max(0, (int(y) - 1) * factor), max(0, (int(x) - 1) * factor)
        part = image[top : top + height + 2 * factor, left : left + width + 2 * factor]
        best = max(best, _correlation(part, crop, max(1, min(crop.shape) // 256))[1])
        scores[max(0, y - around) : y + around + 1, max(0, x - around) : x + around + 1] = -1
    return best


def _correlation(
    image: NDArray[np.float32], crop: NDArray[np.float32], factor: int
) -> tuple[tuple[int, int], float]:
    """Place and height of the highest correlation; the height is computed again, exactly."""
    if factor > 1:
        image, crop = _reduced(image, factor), _reduced(crop, factor)
    if any(crop.shape[axis] > image.shape[axis] for axis in (0, 1)):
        return (0, 0), -1.0
    scores = _scores(image, crop)
    y, x = (int(at) for at in np.unravel_index(int(np.argmax(scores)), scores.shape))
    part = image[y : y + crop.shape[0], x : x + crop.shape[1]]
    return (y, x), _pearson(part, crop)


def _scores(image: NDArray[np.float32], crop: NDArray[np.float32]) -> NDArray[np.float32]:
    """Correlation at every place, its sign ignored: inverted film is the same film."""
    scores: NDArray[Any] = np.abs(cv2.matchTemplate(image, crop, cv2.TM_CCOEFF_NORMED))
    # OpenCV gives 1 or more for parts without any contrast.
    scores[~np.isfinite(scores) | (scores > 1.001)] = 0
    return np.asarray(scores, np.float32)


def _pearson(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Correlation of two pictures of one shape, its sign ignored; 0 without contrast."""
    left, right = (x.astype(np.float64) - x.mean(dtype=np.float64) for x in (a, b))
    scale = math.sqrt(float((left**2).sum()) * float((right**2).sum()))
    return abs(float((left * right).sum())) / scale if scale > 1e-12 else 0.0


def _reduced(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Area means, blurred first so that the phase of the grid hardly matters."""
    blurred = cv2.GaussianBlur(image, (0, 0), 0.6 * factor)
    size = (max(1, image.shape[1] // factor), max(1, image.shape[0] // factor))
    cropped = blurred[: size[1] * factor, : size[0] * factor]
    return np.asarray(cv2.resize(cropped, size, interpolation=cv2.INTER_AREA), np.float32)


def _check_breast(
    box: Box, mammogram: Mammogram, grey: GreyRange, where: str, reason: str, what: str
) -> None:
    """Refuses a lesion in the air beside the breast."""
    part = mammogram[max(box.y0, 0) : box.y1, max(box.x0, 0) : box.x1]
    if not part.size:
        return  # below one pixel: too small, which is said when it is cut
    if float((part <= grey.air).mean()) >= IN_AIR:
        raise GeometryRejected(
            reason,
            f"{where}: {what} lies in the background, not in the breast. Correct it, or leave the "
            "row out.",
        )
