# SPDX-License-Identifier: Apache-2.0
"""425 numbers about a mass crop: oriented gradients, rings around the centre, scales.

No generator is matched to them: a classifier on these numbers compares synthetic crops with real
ones. They were chosen, together with that classifier (:mod:`mammo_dp.fidelity.agreement`), by
cross-validation over the training patients of the published CBIS-DDSM crops, never by their
validation patients. Cells, rings and blurs are fractions of the crop, so crops of any size are
described by equally many numbers.
"""

import functools
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.errors import DataError

CELLS = 4  # along one edge
BINS = 9  # of the gradient's direction, over half a turn
RINGS = 16
BANDS = (1, 2, 4, 8, 16)  # widths of blur in pixels at an edge of 128
_REFERENCE_PX = 128
_BATCH = 64  # keeps the arrays in the cache of the processor

Floats = NDArray[np.float64]
Images = NDArray[np.float32]


def describe(images: Images) -> Floats:
    """Describes crops.

    Args:
        images: Shape ``(N, size, size)``, in ``[0, 1]``.

    Returns:
        Shape ``(N, 425)``.

    Raises:
        DataError: If the edge is no multiple of ``CELLS``.
    """
    if images.shape[-1] % CELLS:
        raise DataError(
            f"Crops of {images.shape[-1]} px cannot be described in {CELLS} x {CELLS} cells. "
            f"Prepare them at a multiple of {CELLS}."
        )
    parts = [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
    return np.concatenate([_describe(part) for part in parts])


def _describe(images: Images) -> Floats:
    blurred = [images.astype(np.float64), *(_blurred(images, width) for width in BANDS)]
    return np.concatenate(
        [_gradients(blurred[1]), *map(_rings, blurred[1:4]), _grey(images), _bands(blurred)], axis=1
    )


def _blurred(images: Images, width: float) -> Floats:
    scaled = width * images.shape[-1] / _REFERENCE_PX
    return np.stack([cv2.GaussianBlur(image, (0, 0), scaled) for image in images]).astype(float)


def _gradients(smooth: Floats) -> Floats:
    """Histograms of gradient directions in cells, each scaled to length 1, and of the whole crop.

    Source: Dalal and Triggs 2005 (histograms of oriented gradients), without overlapping blocks.
    """
    dy, dx = np.gradient(smooth, axis=(1, 2))
    strength = np.hypot(dy, dx)
    place = np.mod(np.arctan2(dy, dx), np.pi) / np.pi * BINS
    low, share = place.astype(int) % BINS, place % 1
    count, size = smooth.shape[:2]
    cell = np.arange(size) * CELLS // size
    start = np.arange(count)[:, None, None] * CELLS**2 + cell[:, None] * CELLS + cell
    bins = np.stack([start * BINS + low, start * BINS + (low + 1) % BINS])
    weights = np.stack([strength * (1 - share), strength * share])
    sums = np.bincount(bins.ravel(), weights.ravel(), count * CELLS**2 * BINS)
    cells = sums.reshape(count, CELLS**2, BINS) * (CELLS / size) ** 2
    lengths = np.sqrt((cells**2).sum(2, keepdims=True) + 2e-6)
    return np.concatenate([(cells / lengths).reshape(count, -1), cells.mean(1)], axis=1)


def _rings(smooth: Floats) -> Floats:
    """Grey, edges along and across the radius, and spread of grey, in rings around the centre."""
    size = smooth.shape[1]
    averages, outward_y, outward_x = _geometry(size)

    def mean(values: Floats) -> Floats:
        found: Floats = values.reshape(len(values), -1) @ averages
        return found

    dy, dx = np.gradient(smooth, axis=(1, 2))
    outward, around = dy * outward_y + dx * outward_x, dy * outward_x - dx * outward_y
    grey = smooth - smooth.mean((1, 2), keepdims=True)
    spread = np.sqrt(np.maximum(mean(grey**2) - mean(grey) ** 2, 0))
    return np.concatenate(
        [mean(grey), mean(np.abs(outward)), mean(np.abs(around)), mean(outward), spread], axis=1
    )


@functools.cache
def _geometry(size: int) -> tuple[Floats, Floats, Floats]:
    """Matrix that averages over rings, ``(size**2, RINGS)``, and the unit vector outwards."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(y, x)
    ring = (radius / (size / 2) * RINGS).astype(int).ravel()
    member = (ring[:, None] == np.arange(RINGS)).astype(float)
    return member / np.maximum(member.sum(0), 1), y / radius.clip(0.5), x / radius.clip(0.5)


def _grey(images: Images) -> Floats:
    """Mean, standard deviation and quantiles of grey."""
    flat = images.reshape(len(images), -1).astype(float)
    quantiles = np.quantile(flat, (0.05, 0.25, 0.5, 0.75, 0.95), axis=1)
    return np.stack([flat.mean(1), flat.std(1), *quantiles], axis=1)


def _bands(blurred: list[Floats]) -> Floats:
    """Strength, skewness and kurtosis of each band of detail, and its strength at the centre."""
    quarter = blurred[0].shape[1] // 4
    numbers = []
    for finer, coarser in pairwise(blurred):
        band = finer - coarser
        squared = band * band  # products, since NumPy's powers are many times slower
        spread = band.std((1, 2))
        middle = band[:, quarter:-quarter, quarter:-quarter].std((1, 2))
        numbers += [
            np.log(spread + 1e-4),
            np.abs(band).mean((1, 2)),
            (squared * band).mean((1, 2)) / (spread**3 + 1e-9),
            (squared * squared).mean((1, 2)) / (spread**4 + 1e-9),
            np.log(middle + 1e-4) - np.log(spread + 1e-4),
        ]
    return np.stack(numbers, axis=1)
