# SPDX-License-Identifier: Apache-2.0
"""24 numbers about a crop: the public space in which patients vote for their nearest candidate.

For crops with a mass in the middle. No number is fitted: constants were chosen on phantoms, so the
space itself costs no privacy. Turning or mirroring a crop changes nothing, as it changes nothing
about a mass; with the few candidates that a few hundred patients can tell apart, votes then follow
brightness, contrast, size and margin, not an accidental likeness of the tissue around.

Independent of the other descriptors on purpose: it is part of the mechanism of ``evolve``.
"""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_avg_pool2d

Floats = NDArray[np.float32]

RASTER = 64  # edge in pixels at which crops are described, whatever their size
RINGS = 9  # eight around the middle, of equal width, and the corners
# Two phantoms then differ by about 1 in each of tone, profile and direction.
_TONE, _PROFILE, _DIRECTION = 2.3, 1.7, 0.9
_GREY, _OCTAVE = 0.15, 0.5  # spread of mean grey, and of log contrast, between phantoms
_FAINTEST = 1e-3  # contrast that counts as none; 16-bit grey is far finer
_FLATTEST = 1e-2  # spread of grey below which a profile is not amplified further


def describe(images: Floats) -> Floats:
    """Describes crops; Euclidean distance between descriptions is how unlike they are.

    Args:
        images: Shape ``(N, size, size)``, values in ``[0, 1]``.

    Returns:
        Shape ``(N, 24)``: mean grey and contrast in five octaves; mean grey of nine rings in units
        of the crop's spread; and per ring the log ratio of gradients along the radius (round,
        sharp margins) to those across it (spicules). Each row is, to the last bit, that of the
        crop alone: with another rounding for each batch, one patient would move others' votes.
    """
    return np.stack([_described(_pooled(image, RASTER)) for image in images])


def _described(raster: Floats) -> Floats:
    """Description of one crop, shape ``(24,)``."""
    blocks = (
        _tone(raster) / _TONE,
        _profile(raster) / _PROFILE,
        _direction(raster) / _DIRECTION,
    )
    return np.concatenate(blocks).astype(np.float32)


def nearest(descriptions: Floats, candidates: Floats) -> NDArray[np.int64]:
    """Position of the nearest candidate.

    Args:
        descriptions: Shape ``(N, d)``.
        candidates: Shape ``(K, d)``, K > 0.

    Returns:
        Shape ``(N,)``, in ``[0, K)``; the first of equals.
    """
    found = [np.square(candidates - one).sum(axis=1).argmin() for one in descriptions]
    return np.array(found, dtype=np.int64)


def _pooled(image: Floats, edge: int) -> Floats:
    """Mean grey of ``edge * edge`` equal parts."""
    pooled: Floats = adaptive_avg_pool2d(torch.from_numpy(image)[None], edge)[0].numpy()
    return pooled


def _tone(raster: Floats) -> Floats:
    """Mean grey, and log contrast from the finest octave to the coarsest, shape ``(6,)``."""
    parts = [raster.mean() / _GREY]
    while (edge := len(raster)) > 2:
        coarser = _pooled(raster, edge // 2)
        detail = raster - coarser.repeat(2, axis=0).repeat(2, axis=1)
        contrast = np.sqrt(np.square(detail).mean())
        parts.append(np.log(contrast + _FAINTEST) / _OCTAVE)
        raster = coarser
    return np.array(parts)


def _profile(raster: Floats) -> Floats:
    """Mean grey of each ring, centred, in units of the crop's spread, shape ``(RINGS,)``."""
    means = _rings() @ raster.ravel()
    centred: Floats = (means - means.mean()) / max(raster.std(), _FLATTEST)
    return centred


def _direction(raster: Floats) -> Floats:
    """Log of root-mean-square gradients along over across the radius, shape ``(RINGS,)``."""
    down, right = np.gradient(raster)
    y, x = _from_middle()
    radius = np.maximum(np.hypot(y, x), 1)
    along, across = (down * y + right * x) / radius, (right * y - down * x) / radius
    logs = [
        np.log(np.sqrt(_rings() @ np.square(part).ravel()) + _FAINTEST) for part in (along, across)
    ]
    return logs[0] - logs[1]


@cache
def _from_middle() -> tuple[Floats, Floats]:
    """Offsets of each pixel from the middle, shape ``(RASTER, RASTER)`` each, in pixels."""
    y, x = np.indices((RASTER, RASTER), dtype=np.float32) - (RASTER - 1) / 2
    return y, x


@cache
def _rings() -> Floats:
    """Weights that average over each ring, shape ``(RINGS, RASTER * RASTER)``."""
    radius = np.hypot(*_from_middle()).ravel()
    ring = np.minimum(radius / (RASTER / 2) * (RINGS - 1), RINGS - 1).astype(int)
    inside = (ring == np.arange(RINGS)[:, None]).astype(np.float32)
    weights: Floats = inside / inside.sum(axis=1, keepdims=True)
    return weights
