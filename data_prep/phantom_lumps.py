# SPDX-License-Identifier: Apache-2.0
"""Clustered lumpy background: Gaussian clusters of oriented blobs, a texture like dense gland."""

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtr

from data_prep.phantom_texture import FloatImage, Layer, Texture, standardised

CLUSTERS = 48  # in the area of a crop
BLOBS = 20  # in a cluster, on average
SPREAD = 12 / 128  # standard deviation of a cluster, in edges of a crop
AXES = (5 / 128, 2 / 128)  # half axes of a blob
FALL, POWER = 2.1, 0.5  # of a blob: exp(-FALL * r**POWER / radius of its ellipse)
MARGIN = 0.15  # blobs outside the picture reach into it
DIRECTIONS = 16  # to which orientations are rounded
TURN = 0.6  # standard deviation of an orientation about the common direction, in radians


def clustered_lumps(
    textures: Sequence[Texture],
    shape: tuple[int, int],
    *,
    edge: float,
    direction: Sequence[float],
) -> FloatImage:
    """Sums of blobs whose places form clusters.

    A blob is ``exp(-FALL * r**POWER / L)`` with the radius L of an ellipse in the direction of r.
    All blobs of a cluster share its orientation, so one convolution per orientation draws them.

    Args:
        textures: One per picture.
        shape: ``(H, W)``.
        edge: Pixels per edge of a crop.
        direction: Common direction, per picture, in radians from the x axis.

    Returns:
        Shape ``(N, H, W)``; each picture has mean 0 and standard deviation 1.

    Source: Bochud, Abbey and Eckstein 1999, Optics Express 4:33, for the construction. The numbers
    are ours, of the order of theirs; orientations are spread about a direction, theirs are uniform.
    """
    margin = math.ceil(MARGIN * edge)
    height, width = (fft.next_fast_len(n + 2 * margin, real=True) for n in shape)
    result = np.empty((len(textures), *shape), np.float32)
    for i, texture in enumerate(textures):
        y, x, bins = _places(texture, (height, width), edge, direction[i])
        spectrum = np.zeros((height, width // 2 + 1), np.complex64)
        for turn in np.unique(bins):
            here = bins == turn
            points = np.zeros((height, width), np.float32)
            np.add.at(points, (y[here], x[here]), 1)
            spectrum += fft.rfft2(points) * _blob(height, width, edge, int(turn))
        whole = fft.irfft2(spectrum, (height, width), overwrite_x=True)
        result[i] = whole[margin : margin + shape[0], margin : margin + shape[1]]
    return standardised(result)


def _places(
    texture: Texture, size: tuple[int, int], edge: float, direction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows, columns and rounded orientations of all blobs."""
    clusters = round(CLUSTERS * size[0] * size[1] / edge**2)
    most = 2 * BLOBS
    normals = texture.normals(Layer.LOBES, clusters, 4 + 2 * most)
    # About Poisson, as in the source.
    count = np.clip(np.round(BLOBS + math.sqrt(BLOBS) * normals[:, 0]), 0, most)
    centre = ndtr(normals[:, 1:3]) * size
    turn = np.round((direction + TURN * normals[:, 3]) * (DIRECTIONS / np.pi))
    where = centre[:, None] + SPREAD * edge * normals[:, 4:].reshape(clusters, most, 2)
    there = np.arange(most) < count[:, None]
    y, x = (np.mod(np.round(where[..., axis][there]), size[axis]) for axis in (0, 1))
    bins = np.mod(np.broadcast_to(turn[:, None], there.shape)[there], DIRECTIONS)
    return y.astype(np.int64), x.astype(np.int64), bins.astype(np.int64)


@functools.lru_cache(maxsize=4 * DIRECTIONS)
def _blob(height: int, width: int, edge: float, turn: int) -> NDArray[np.complex64]:
    """Transform of a blob around the origin; ``turn`` is its orientation in steps."""
    y = np.fft.fftfreq(height, 1 / height)[:, None] / edge
    x = np.fft.fftfreq(width, 1 / width)[None, :] / edge
    angle = np.arctan2(y, x) - np.pi * turn / DIRECTIONS
    reach = 1 / np.hypot(np.cos(angle) / AXES[0], np.sin(angle) / AXES[1])
    # The source measures r and L in pixels of its own, 1/128 of an edge here.
    blob = np.exp(-FALL * (128 * np.hypot(y, x)) ** POWER / (128 * reach))
    return np.asarray(fft.rfft2(blob), np.complex64)
