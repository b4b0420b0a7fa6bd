# SPDX-License-Identifier: Apache-2.0
"""From a lesion's box to a square crop: pure functions of arrays, the same on every call."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.errors import GeometryRejected

MARGIN_PX, MINIMUM_PX = 60, 128  # without a spacing; equal to 3 mm and 6.4 mm at 50 micron
SMALLEST_BOX = 4  # px; below it an outline is a speck
_OTSU_PIXELS = 400_000  # enough for a threshold and percentiles; full images have 12 million
_SATURATED = 0.998  # scanned film: white frame and labels
_AIR = 0.15  # of the way from air to Otsu's threshold


class GreyImage(Protocol):
    """An image of float32 of which parts are asked for: an array, or a mammogram."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""

    def __getitem__(self, part: tuple[slice, slice], /) -> NDArray[np.float32]:
        """Some rows and columns."""


@dataclass(frozen=True, slots=True)
class Box:
    """Bounding box, half-open, in pixels of its image: ``x0 <= x < x1``, ``y0 <= y < y1``."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        """Columns covered."""
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        """Rows covered."""
        return self.y1 - self.y0


@dataclass(frozen=True, slots=True)
class GreyRange:
    """How the breast of one image fills the grey scale; from that image alone.

    Attributes:
        low: Percentile 0.5 of the breast; becomes 0.
        high: Percentile 99.5 of the breast; becomes 65535.
        background: Median outside the breast, used for padding.
        air: Grey value up to which a pixel is air, well below that of tissue.
    """

    low: float
    high: float
    background: float
    air: float


def lesion_box(mask: NDArray[Any]) -> Box:
    """Finds the box of the largest connected part of a mask, its holes counted as filled.

    Args:
        mask: Shape ``(H, W)``; nonzero inside the lesion.

    Returns:
        The box. Ties go to the topmost part.

    Raises:
        GeometryRejected: ``no_mask`` for an empty mask.
    """
    contours, _ = cv2.findContours(
        (mask != 0).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    best: tuple[tuple[float, int, int], Box] | None = None
    for contour in contours:
        x, y, width, height = (int(value) for value in cv2.boundingRect(contour))
        # Pick's theorem: pixels of the filled part, from the area and points of its outline.
        pixels = cv2.contourArea(contour) + len(contour) / 2 + 1
        rank = (pixels, -y, -x)
        if best is None or rank > best[0]:
            best = rank, Box(x, y, x + width, y + height)
    if best is None:
        raise GeometryRejected("no_mask", "the mask is empty")
    return best[1]


def scale_box(box: Box, from_shape: tuple[int, int], to_shape: tuple[int, int]) -> Box:
    """Carries a box to another sampling of the same image, each axis by its own factor.

    Args:
        box: Box in an image of ``from_shape``.
        from_shape: Height and width.
        to_shape: Height and width.

    Returns:
        The smallest box of whole pixels that holds the scaled one.
    """
    # Exact whole numbers, so that equal shapes leave the box alone.
    (from_h, from_w), (to_h, to_w) = from_shape, to_shape
    return Box(
        box.x0 * to_w // from_w,
        box.y0 * to_h // from_h,
        -(-box.x1 * to_w // from_w),
        -(-box.y1 * to_h // from_h),
    )


def crop_side(
    box: Box,
    *,
    margin_mm: float = 3.0,
    minimum_mm: float = 6.4,
    mm_per_px: float | None = None,
) -> int:
    """Side of the window around a box, in pixels of its image.

    Args:
        box: Bounding box of the mass.
        margin_mm: Tissue kept on each side, in millimetres, ``>= 0``.
        minimum_mm: Smallest side, in millimetres, ``>= 0``.
        mm_per_px: Pixel spacing, ``> 0``. Without it the margin is 60 px per 3 mm and the minimum
            128 px per 6.4 mm, as for 50 micron.
    """
    margin = margin_mm / mm_per_px if mm_per_px else margin_mm * MARGIN_PX / 3.0
    minimum = minimum_mm / mm_per_px if mm_per_px else minimum_mm * MINIMUM_PX / 6.4
    return max(max(box.width, box.height) + 2 * round(margin), round(minimum), 1)


def crop_window(
    box: Box,
    *,
    margin_mm: float = 3.0,
    minimum_mm: float = 6.4,
    mm_per_px: float | None = None,
) -> Box:
    """The square around a box that is cut out, which may reach beyond the image.

    Args:
        box: Bounding box of the mass.
        margin_mm: As for :func:`crop_side`.
        minimum_mm: As for :func:`crop_side`.
        mm_per_px: As for :func:`crop_side`.
    """
    side = crop_side(box, margin_mm=margin_mm, minimum_mm=minimum_mm, mm_per_px=mm_per_px)
    left = (box.x0 + box.x1 - side) // 2
    top = (box.y0 + box.y1 - side) // 2
    return Box(left, top, left + side, top + side)


def crop_square(
    image: GreyImage,
    box: Box,
    *,
    margin_mm: float = 3.0,
    minimum_mm: float = 6.4,
    mm_per_px: float | None = None,
    size: int = 128,
    background: float = 0.0,
) -> NDArray[np.float32]:
    """Cuts a square centred on a mass and resizes it by area averaging.

    The side follows the longer edge of the box, so elongated masses stay whole. The window is
    never shifted: outside the image it holds the background value. A window smaller than ``size``
    is enlarged by linear interpolation.

    Args:
        image: Mammogram, shape ``(H, W)``.
        box: Bounding box of the mass, in pixels of ``image``; clipped to it.
        margin_mm: As for :func:`crop_side`.
        minimum_mm: As for :func:`crop_side`.
        mm_per_px: As for :func:`crop_side`.
        size: Edge of the result, in pixels, ``>= 1``.
        background: Value outside the image.

    Returns:
        Crop, shape ``(size, size)``, values as in ``image``.

    Raises:
        GeometryRejected: ``box_outside`` if the box does not meet the image, ``too_small`` if an
            edge has less than 4 px, ``mostly_padding`` if more than half lies outside the image.
    """
    height, width = image.shape
    inside = Box(max(box.x0, 0), max(box.y0, 0), min(box.x1, width), min(box.y1, height))
    if inside.width <= 0 or inside.height <= 0:
        raise GeometryRejected(
            "box_outside", f"the lesion's box {box} lies outside the image of {width} x {height} px"
        )
    if min(inside.width, inside.height) < SMALLEST_BOX:
        raise GeometryRejected(
            "too_small",
            f"the lesion has {inside.width} x {inside.height} px; at least {SMALLEST_BOX} are "
            "needed on each edge",
        )
    cut = crop_window(inside, margin_mm=margin_mm, minimum_mm=minimum_mm, mm_per_px=mm_per_px)
    left, top, side = cut.x0, cut.y0, cut.width
    x0, x1 = max(left, 0), min(left + side, width)
    y0, y1 = max(top, 0), min(top + side, height)
    if 2 * (x1 - x0) * (y1 - y0) < side * side:
        raise GeometryRejected(
            "mostly_padding", f"more than half of the window of {side} px lies outside the image"
        )
    window = np.full((side, side), background, np.float32)
    window[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    method = cv2.INTER_AREA if side >= size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(window, (size, size), interpolation=method), np.float32)


def grey_range(image: GreyImage) -> GreyRange:
    """Finds the grey range of the breast.

    The breast is the largest connected part above Otsu's threshold; a saturated frame that touches
    the border is left out first. Large images are sampled on a regular grid.

    Air is the dark end of what the threshold leaves out. A part of the way from there to the
    threshold still counts as air, so that noise does; fat, which may lie below the threshold in
    dense breasts, does not.

    Args:
        image: Mammogram, shape ``(H, W)``, values in ``[0, 1]``.

    Raises:
        GeometryRejected: ``blank`` for an image of one value only, or with values not finite.
    """
    step = max(1, round((image.shape[0] * image.shape[1] / _OTSU_PIXELS) ** 0.5))
    sample = np.ascontiguousarray(image[::step, ::step])
    usable = ~_touching_border(sample >= _SATURATED)
    values = sample[usable]
    if not values.size or not np.isfinite(values).all() or values.max() <= values.min():
        raise GeometryRejected("blank", "the image holds no tissue: one grey value only")
    threshold = _otsu(values)
    above = sample > threshold
    _, labels = cv2.connectedComponents((above & usable).astype(np.uint8))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0  # all that is no part
    breast = np.sort(sample[labels == np.argmax(sizes)])
    outside = np.sort(sample[usable & ~above])
    low, high = _quantile(breast, 0.005), _quantile(breast, 0.995)
    if high <= low:
        low, high = float(values.min()), float(values.max())
    dark = _quantile(outside, 0.05)
    return GreyRange(low, high, _quantile(outside, 0.5), dark + _AIR * (threshold - dark))


def _quantile(ordered: NDArray[np.float32], share: float) -> float:
    """Value below which a share of sorted values lies, as NumPy, which sorts ten times slower."""
    place = share * (len(ordered) - 1)
    low, high = (float(ordered[end(place)]) for end in (math.floor, math.ceil))
    return low + (place - math.floor(place)) * (high - low)


def _otsu(values: NDArray[np.float32]) -> float:
    """Otsu's threshold of more than one value, on 256 levels."""
    bottom, top = float(values.min()), float(values.max())
    levels = np.rint((values - bottom) * (255 / (top - bottom))).astype(np.uint8)
    level, _ = cv2.threshold(levels.reshape(-1, 1), 0, 255, cv2.THRESH_OTSU)
    return bottom + (float(level) + 0.5) * (top - bottom) / 255


def to_16_bit(crop: NDArray[np.float32], grey: GreyRange) -> NDArray[np.uint16]:
    """Maps the grey range of the breast to 16 bit, clipped.

    Args:
        crop: Values as in the mammogram.
        grey: Range of that mammogram.

    Returns:
        Same shape, values in ``[0, 65535]``.
    """
    scaled = (crop.astype(np.float64) - grey.low) / (grey.high - grey.low)
    return np.asarray(np.rint(scaled.clip(0, 1) * 65535), np.uint16)


def _touching_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Connected parts of a mask that reach the edge of the image."""
    if not mask.any():
        return mask
    _, labels = cv2.connectedComponents(mask.astype(np.uint8))
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    touching = np.unique(edge[edge > 0])
    return np.asarray(np.isin(labels, touching), np.bool_)
