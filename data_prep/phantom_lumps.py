# SPDX-License-Identifier: Apache-2.0
"""Clustered lumpy background: Gaussian clusters of oriented blobs, a texture like dense gland."""

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtr

from data_prep.phantom_texture import Details, FloatImage, Layer, standardised

CLUSTERS = 48  # in the area of a crop
BLOBS = 20  # in a cluster, on average
SPREAD = 12 / 128  # standard deviation of a cluster, in edges of a crop
AXES = (5 / 128, 2 / 128)  # half axes of a blob
FALL, POWER = 2.1, 0.5  # of a blob: exp(-FALL * r**POWER / radius of its ellipse)
MARGIN = 0.15  # blobs outside the picture reach into it
DIRECTIONS = 8  # to which orientations are rounded
FADE = 0.8  # standard deviation, in coarse pixels, of the blur that goes with enlarging
TURN = 0.35  # standard deviation of an orientation about the common direction, in radians


def clustered_lumps(
    details: Sequence[Details],
    shape: tuple[int, int],
    *,
    edge: float,
    direction: Sequence[float],
) -> FloatImage:
    """Sums of blobs whose places form clusters.

    A blob is ``exp(-FALL * r**POWER / L)`` with the radius L of an ellipse in the direction of r.
    All blobs of a cluster share its orientation, so one convolution per orientation draws them, at
    half the resolution.

    Args:
        details: One per picture.
        shape: ``(H, W)``.
        edge: Pixels per edge of a crop.
        direction: Common direction, per picture, in radians from the x axis.

    Returns:
        Shape ``(N, H, W)``; each picture has mean 0 and standard deviation 1.

    Source: Bochud, Abbey and Eckstein 1999, Optics Express 4:33, for the construction. The numbers
    are ours, of the order of theirs; orientations are spread about a direction, theirs are uniform.
    """
    margin = math.ceil(MARGIN * edge / 2)
    coarse = tuple(fft.next_fast_len(n // 2 + 2 * margin, real=True) for n in shape)
    result = np.empty((len(details), *shape), np.float32)
    for i, source in enumerate(details):
        y, x, bins = _places(source, coarse, edge / 2, direction[i])
        cells = np.ravel_multi_index((bins, y, x), (DIRECTIONS, *coarse))
        points = np.bincount(cells, minlength=DIRECTIONS * coarse[0] * coarse[1])
        points = points.reshape(DIRECTIONS, *coarse)
        used = np.flatnonzero(points.any(axis=(1, 2))).tolist()
        spectra = fft.rfft2(points[used].astype(np.float32))
        for spectrum, turn in zip(spectra, used, strict=True):
            spectrum *= _blob(*coarse, edge / 2, turn)
        fine = _enlarged(spectra.sum(axis=0), coarse)
        result[i] = fine[2 * margin :, 2 * margin :][: shape[0], : shape[1]]
    return standardised(result)


def _places(
    source: Details, size: tuple[int, ...], edge: float, direction: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows, columns and rounded orientations of all blobs."""
    clusters = round(CLUSTERS * size[0] * size[1] / edge**2)
    most = 2 * BLOBS
    normals = source.normals(Layer.LOBES, clusters, 4 + 2 * most)
    # About Poisson, as in the source.
    count = np.clip(np.round(BLOBS + math.sqrt(BLOBS) * normals[:, 0]), 0, most)
    turn = np.round((direction + TURN * normals[:, 3]) * (DIRECTIONS / np.pi))
    there = np.arange(most) < count[:, None]
    where = ndtr(normals[:, None, 1:3]) * size
    where = where + SPREAD * edge * normals[:, 4:].reshape(clusters, most, 2)
    y, x = np.round(where[there]).astype(np.int64).T
    bins = np.broadcast_to(turn.astype(np.int64)[:, None], there.shape)[there]
    return y % size[0], x % size[1], bins % DIRECTIONS


def _enlarged(half: NDArray[np.complex64], size: tuple[int, ...]) -> FloatImage:
    """Twice as many pixels along both axes, from the half spectrum; interpolation by waves.

    Waves fade out towards the finest ones, as a sudden end would be seen in the spectrum.
    """
    height, width = size
    upper = (height + 1) // 2  # waves with fy >= 0
    fade = [
        np.exp(-2 * np.square(np.pi * FADE * f)).astype(np.float32)
        for f in (np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    ]
    half = half * fade[0] * fade[1]
    spectrum = np.zeros((2 * height, half.shape[1]), np.complex64)
    spectrum[:upper], spectrum[upper - height :] = half[:upper], half[upper:]
    return np.asarray(fft.irfft(fft.ifft(spectrum, axis=0), 2 * width, axis=1))


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
