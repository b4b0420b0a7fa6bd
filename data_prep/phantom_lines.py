# SPDX-License-Identifier: Apache-2.0
"""Long bent lines: ducts, ligaments, vessels."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from data_prep.phantom_texture import Details, FloatImage, Layer

SUBPIXEL_BITS = 4  # fixed-point digits of OpenCV's drawing
FULL = 127  # brightest line in an 8-bit drawing; two that cross fit in, too
_STEPS = 12  # of a path


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """How a kind of line looks. Lengths in edges of a crop, angles in radians.

    Attributes:
        turn: Standard deviation of the heading about the common direction.
        bend: Standard deviation of half the turn from end to end.
        wander: Standard deviation of the turn at each of 12 steps.
        length: Range.
        width: Range.
    """

    turn: float
    bend: float
    wander: float
    length: tuple[float, float]
    width: tuple[float, float]


def draw_lines(
    details: Sequence[Details],
    layer: Layer,
    shape: tuple[int, int],
    *,
    edge: float,
    look: Lines,
    per_area: Sequence[float],
    direction: Sequence[float],
) -> FloatImage:
    """Draws lines at random places.

    Args:
        details: One per picture.
        layer: Which of their normals.
        shape: ``(H, W)``.
        edge: Pixels per edge of a crop.
        look: Kind of line.
        per_area: Lines in the area of a crop, per picture.
        direction: Common direction, per picture, in radians from the x axis.

    Returns:
        Shape ``(N, H, W)``, 0 where no line runs, up to about 1 on a single one, 2 where two cross.
    """
    counts = [round(wanted * shape[0] * shape[1] / edge**2) for wanted in per_area]
    drawn = [
        source.normals(layer, count, 7 + _STEPS)
        for source, count in zip(details, counts, strict=True)
    ]
    normals = np.concatenate(drawn)
    chance = ndtr(normals[:, :6])
    path = _paths(normals, chance[:, 0], look, np.repeat(direction, counts)) * edge
    path += chance[:, None, 4:6] * (shape[1], shape[0])
    width = look.width[0] * (look.width[1] / look.width[0]) ** chance[:, 2]
    level = (0.25 + 0.75 * chance[:, 3]) * np.sqrt(look.width[0] / width)
    # A line thinner than a pixel is drawn one pixel wide, and fainter.
    level *= np.minimum(edge * width, 1)
    result = np.zeros((len(details), *shape), np.float32)
    ends = np.cumsum(counts)
    for i, (end, count) in enumerate(zip(ends, counts, strict=True)):
        if count:
            here = slice(end - count, end)
            result[i] = polylines(path[here], edge * width[here], level[here], shape)
    return result


def _paths(
    normals: FloatImage,
    length: NDArray[np.float64],
    look: Lines,
    direction: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Paths ``(count, steps, 2)`` through 0 at their middle, in edges of a crop.

    Args:
        normals: Shape ``(count, 7 + steps)``.
        length: Within the range of the look, as a share.
        look: Kind of line.
        direction: Of each line, before it turns.
    """
    low, high = look.length
    step = (low + (high - low) * length) / _STEPS
    bend = look.bend * normals[:, 6:7] * np.linspace(-1, 1, _STEPS)
    wander = np.cumsum(look.wander * normals[:, 7:], axis=1)
    turn = direction[:, None] + look.turn * normals[:, 1:2] + bend + wander
    walk = np.stack([np.cos(turn), np.sin(turn)], axis=-1) * step[:, None, None]
    path = np.cumsum(walk, axis=1)
    return np.asarray(path - path[:, _STEPS // 2, None], np.float64)


def polylines(
    paths: NDArray[np.float64],
    widths: NDArray[np.float64],
    levels: NDArray[np.float64],
    shape: tuple[int, int],
) -> FloatImage:
    """Draws paths into two layers that add up, so that lines that cross are brighter there.

    Args:
        paths: ``(count, steps, 2)`` of x and y, in pixels.
        widths: In pixels.
        levels: Brightness, up to 1.
        shape: ``(H, W)`` of the result, values in ``[0, 2]``.
    """
    layers = np.zeros((2, *shape), np.uint8)
    points = np.round((paths - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
    thick = np.maximum(np.round(widths), 1).astype(int).tolist()
    for i, level in enumerate((FULL * levels).tolist()):
        cv2.polylines(
            layers[i % 2], [points[i]], False, level, thick[i], cv2.LINE_AA, SUBPIXEL_BITS
        )
    return added(layers)


def added(layers: NDArray[np.uint8]) -> FloatImage:
    """Sum of two 8-bit drawings, shape ``(2, H, W)``, each from 0 to ``FULL``."""
    return np.asarray(cv2.add(*layers) * np.float32(1 / FULL), np.float32)


def blurred(image: FloatImage, sigma: float) -> FloatImage:
    """Gaussian blur with a standard deviation in pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
