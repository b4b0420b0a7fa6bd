# SPDX-License-Identifier: Apache-2.0
"""Small bright bodies: calcium in the breast, a lead marker on the skin, dust on the film."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from data_prep.phantom_texture import Details, FloatImage, Layer


def draw_calcifications(
    source: Details,
    shape: tuple[int, int],
    *,
    centre: tuple[float, float],
    half: float,
    count: int,
    radius: float,
) -> FloatImage:
    """A few specks of calcium about a mass.

    Args:
        source: Source of normals.
        shape: ``(H, W)``.
        centre: ``(y, x)`` of the mass, in pixels.
        half: Half the longer edge of the mass, in pixels.
        count: Number of specks.
        radius: Mean radius of a speck, in pixels.

    Returns:
        Shape ``(H, W)``, up to 1 on a coarse speck.
    """
    normals = source.normals(Layer.CALCIFICATIONS, count, 5)
    return draw_ellipses(
        shape,
        centres=np.array(centre) + 0.45 * half * normals[:, :2],
        axes=radius * np.exp(0.25 * normals[:, 2:4]),
        levels=0.55 + 0.45 * ndtr(normals[:, 4]),
    )


def add_film_artefact(
    film: FloatImage, artefact: str, source: Details, *, edge: float
) -> FloatImage:
    """Lays one thing on a film that is not breast.

    Args:
        film: Shape ``(H, W)``, values in ``[0, 1]``.
        artefact: ``"dust"``, up to four specks, or ``"marker"``, a lead ball on the skin.
        source: Source of its place and size.
        edge: Pixels per edge of a crop.

    Returns:
        A new image, values in ``[0, 1]``.
    """
    chance = ndtr(source.normals(Layer.ARTEFACT, 4, 6))
    if artefact == "marker":
        chance, axes = chance[:1], 2 + 1.5 * chance[:1, [2, 2]]
        levels = np.ones(1)
    else:
        chance = chance[: 1 + int(3 * chance[0, 5])]
        axes, levels = 0.3 + chance[:, 2:4], 0.25 + 0.6 * chance[:, 4]
    cover = draw_ellipses(
        film.shape, centres=chance[:, :2] * film.shape, axes=axes * edge / 128, levels=levels
    )
    return np.asarray(film + cover * (np.float32(0.97) - film), np.float32)


def draw_ellipses(
    shape: tuple[int, ...],
    *,
    centres: NDArray[np.floating],
    axes: NDArray[np.floating],
    levels: NDArray[np.floating],
) -> FloatImage:
    """Filled ellipses with an edge of one pixel; one smaller than a pixel is fainter.

    Args:
        shape: ``(H, W)``.
        centres: y and x, in pixels, shape ``(count, 2)``.
        axes: Half axes along y and x, in pixels, shape ``(count, 2)``.
        levels: Brightness, shape ``(count,)``; where ellipses meet, the brightest counts.
    """
    canvas = np.zeros(shape, np.float32)
    for centre, axis, level in zip(centres, axes, levels, strict=True):
        # Only where the ellipse is.
        window = [
            np.arange(max(0, math.floor(c - a - 1)), min(n, math.ceil(c + a + 1)))
            for c, a, n in zip(centre, axis, shape, strict=True)
        ]
        y, x = ((w + 0.5 - c) / a for w, c, a in zip(window, centre, axis, strict=True))
        cover = np.clip((1 - np.hypot(y[:, None], x)) * min(axis) + 0.5, 0, 1)
        here = np.ix_(*window)
        canvas[here] = np.maximum(canvas[here], level * cover)
    return canvas
