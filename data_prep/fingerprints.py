# SPDX-License-Identifier: Apache-2.0
"""Fingerprints: 256 bits by which a crop is recognised after it was saved in another way.

A fingerprint holds the signs of the 16 x 16 lowest frequencies of a crop's cosine transform. A sign
survives another size, bit depth, brightness, contrast and mild compression; mirroring flips the
signs of the odd frequencies of one axis, and inverted grey flips all, so both are undone by a known
pattern. Two crops are near copies if at most ``NEAR`` bits differ under one of these eight
patterns.

Measured on the 1,296 published mass crops of 680 patients of CBIS-DDSM (128 px, 8 bits). All
838,208 pairs of different patients: the nearest differ by 84 bits, the mean pair by 116 (standard
deviation 4.8); none is taken for a copy. Each of the crops is recognised after 8-bit grey values in
another range, linear rescaling, gamma 0.8 and 1.25, sizes from 64 to 256 px, JPEG of quality 50,
noise of 2 % of the grey range, a 3 x 3 blur, stretching by 3 %, a shift by 1 px, cropping by 2 px
on each side, mirroring of either axis and inverted grey: 47 bits at most. Recognised after cropping
by 3 px on each side: 99.3 %; after a shift by 2 px: 93.2 %; after rotation by 90 degrees: none. Two
crops with the same bright marker in the same place may be taken for copies: of all pairs with one
painted in, 0.1 % were.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

NEAR = 56  # bits of 256; different patients of the published crops: 84 and more
_EDGE = 16  # frequencies per axis
_BRIGHT = 1.5  # standard deviations beyond which grey is cut, so that no marker decides the signs
_ZERO = 1e-6  # share of a crop's contrast below which a coefficient is 0, not a sign of rounding
_AT_ONCE = 1024  # crops compared in one go: what fits near the processor


def fingerprint(pixels: NDArray[np.uint16]) -> str:
    """Signs of the lowest cosine coefficients, the mean left out.

    Args:
        pixels: Shape ``(size, size)``; of a volume, ``(slices, size, size)``, the mean of its
            slices is taken, which a shift along the depth leaves alone.

    Returns:
        64 hexadecimal digits, all 0 for a crop of one grey value; empty for crops below 16 px,
        which do not hold as many frequencies.
    """
    if pixels.shape[-1] < _EDGE:
        return ""
    waves = _waves(pixels.shape[-1])
    grey = pixels.astype(np.float32)
    if grey.ndim == 3:
        grey = grey.mean(axis=0)
    grey -= np.round(_mean(grey))  # exactly, so that a crop of one grey value becomes 0
    grey -= _mean(grey)
    bright = _BRIGHT * _length(grey) / math.sqrt(grey.size)
    grey.clip(-bright, bright, out=grey)
    grey -= _mean(grey)
    coefficients = waves @ grey @ waves.T
    coefficients[0, 0] = 0
    positive = coefficients > _ZERO * _length(grey)
    return np.packbits(positive).tobytes().hex()


def _mean(grey: NDArray[np.float32]) -> float:
    return float(np.add.reduce(grey, axis=None)) / grey.size  # its method takes twice the time


def _length(grey: NDArray[np.float32]) -> float:
    return math.sqrt(np.vdot(grey, grey))


def distance(one: str, other: str) -> int:
    """Number of bits in which two fingerprints differ, mirroring not undone; 256 for unknown."""
    return (int(one, 16) ^ int(other, 16)).bit_count() if one and other else 256


def near_copies(ones: Sequence[str], others: Sequence[str]) -> NDArray[np.int64]:
    """Pairs of crops that differ by at most ``NEAR`` bits, mirrored and inverted ones included.

    Args:
        ones: Fingerprints, all under one mask if they are masked.
        others: Fingerprints to compare them with, under the same mask. If they are the same
            object, each pair is looked at once, which takes half the time.

    Returns:
        Positions in ``ones`` and ``others``, shape ``(pairs, 2)``.
    """
    found = [np.empty((0, 2), np.int64)]
    for i in range(0, len(ones), _AT_ONCE):
        mine = _signs(ones[i : i + _AT_ONCE])
        for j in range(i if others is ones else 0, len(others), _AT_ONCE):
            pairs = _pairs(mine, _signs(others[j : j + _AT_ONCE])) + np.array([i, j])
            found.append(pairs)
            if others is ones and j > i:
                found.append(pairs[:, ::-1])
    return np.concatenate(found)


def _pairs(ones: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.int64]:
    """As :func:`near_copies`, for signs.

    The agreement of two crops is the sum of four parts: even and odd frequencies of either axis.
    Mirroring changes the signs of two parts, inversion of all four.
    """
    (ee, eo), (oe, oo) = [[ones[v, h] @ others[v, h].T for h in (0, 1)] for v in (0, 1)]
    agreement = np.maximum(abs(ee + eo) + abs(oe + oo), abs(ee - eo) + abs(oe - oo))
    return np.argwhere(agreement >= 256 - 2 * NEAR)


def _signs(fingerprints: Sequence[str]) -> NDArray[np.float32]:
    """Bits as -1 and 1, by parity of vertical and horizontal frequency.

    Returns:
        Shape ``(2, 2, n, 64)``.
    """
    packed = np.frombuffer(bytes.fromhex("".join(fingerprints)), np.uint8)
    bits = np.unpackbits(packed).reshape(-1, _EDGE // 2, 2, _EDGE // 2, 2)
    signs = bits.astype(np.float32) * 2 - 1
    return np.ascontiguousarray(signs.transpose(2, 4, 0, 1, 3)).reshape(2, 2, len(bits), -1)


@lru_cache(maxsize=16)
def _waves(size: int) -> NDArray[np.float32]:
    """Cosines of the lowest frequencies at the centres of pixels, shape ``(16, size)``."""
    centres = (np.arange(size) + 0.5) / size
    waves = np.cos(np.pi * np.arange(_EDGE)[:, None] * centres)
    return np.asarray(waves * np.sqrt(2 / size), np.float32)
