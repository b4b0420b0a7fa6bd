# SPDX-License-Identifier: Apache-2.0
"""Long bent lines, drawn finer than they are shown: ducts, ligaments, vessels."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from data_prep.phantom_texture import FloatImage, Layer, Texture

SUPERSAMPLING = 2  # lines are drawn finer than they are shown
SUBPIXEL_BITS = 4  # fixed-point digits of OpenCV's drawing
_STEPS = 14  # of a path


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """How a kind of line looks. Lengths in edges of a crop, angles in radians.

    Attributes:
        turn: Standard deviation of the heading about the common direction.
        bend: Standard deviation of half the turn from end to end.
        wander: Standard deviation of the turn at each of 14 steps.
        length: Range.
        width: Range.
    """

    turn: float
    bend: float
    wander: float
    length: tuple[float, float]
    width: tuple[float, float]


def draw_lines(
    textures: Sequence[Texture],
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
        textures: One per picture.
        layer: Which of their normals.
        shape: ``(H, W)``.
        edge: Pixels per edge of a crop.
        look: Kind of line.
        per_area: Lines in the area of a crop, per picture.
        direction: Common direction, per picture, in radians from the x axis.

    Returns:
        Shape ``(N, H, W)``, 0 where no line runs, up to about 1 on a single one, 2 where two cross.
    """
    result = np.zeros((len(textures), *shape), np.float32)
    for i, texture in enumerate(textures):
        count = round(per_area[i] * shape[0] * shape[1] / edge**2)
        if not count:
            continue
        normals = texture.normals(layer, count, 7 + _STEPS)
        path = _paths(normals, look, direction[i]) * edge
        path += ndtr(normals[:, None, 4:6]) * (shape[1], shape[0])
        width = np.exp(np.interp(ndtr(normals[:, 2]), (0, 1), np.log(look.width)))
        # Their share of a pixel's area makes lines thinner than a pixel faint instead of wide.
        wide = np.maximum(SUPERSAMPLING * edge * width, 1)
        level = (0.25 + 0.75 * ndtr(normals[:, 3])) * np.sqrt(look.width[0] / width)
        level *= SUPERSAMPLING * edge * width / wide
        canvas = polylines(path, wide, level, shape)
        result[i] = blurred(canvas, edge * (0.002 + 0.15 * look.width[0]))
    return result


def _paths(normals: FloatImage, look: Lines, direction: float) -> NDArray[np.float64]:
    """Paths ``(count, steps, 2)`` through 0 at their middle, in edges of a crop."""
    low, high = look.length
    length = low + (high - low) * ndtr(normals[:, 0])
    heading = direction + look.turn * normals[:, 1:2]
    bend = look.bend * normals[:, 6:7] * np.linspace(-1, 1, _STEPS)
    turn = heading + bend + np.cumsum(look.wander * normals[:, 7:], axis=1)
    walk = np.stack([np.cos(turn), np.sin(turn)], axis=-1) * (length / _STEPS)[:, None, None]
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
        widths: In pixels of the finer canvas.
        levels: Brightness, up to 1.
        shape: ``(H, W)`` of the result.
    """
    fine = (2, SUPERSAMPLING * shape[0], SUPERSAMPLING * shape[1])
    layers = np.zeros(fine, np.uint8)
    points = np.round(paths * SUPERSAMPLING * 2**SUBPIXEL_BITS).astype(np.int32)
    for i in range(len(points)):
        cv2.polylines(
            layers[i % 2],
            [points[i]],
            isClosed=False,
            color=255 * float(levels[i]),
            thickness=round(float(widths[i])),
            lineType=cv2.LINE_AA,
            shift=SUBPIXEL_BITS,
        )
    return shrunk(layers[0], shape) + shrunk(layers[1], shape)


def shrunk(canvas: NDArray[np.uint8], shape: tuple[int, int]) -> FloatImage:
    """Area average of a finer 8-bit drawing, shape ``shape``, values in ``[0, 1]``."""
    small = cv2.resize(canvas, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


def blurred(image: FloatImage, sigma: float) -> FloatImage:
    """Gaussian blur with a standard deviation in pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)
