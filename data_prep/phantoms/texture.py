# SPDX-License-Identifier: Apache-2.0
"""Random numbers by seed and layer, and Gaussian fields with a power-law spectrum made from them.

Everything random in a picture is a smooth function of standard normal values. A mixture of two sets
of them, with weights whose squares sum to 1, is standard normal again. Phantoms can therefore be
varied gradually, and a variation follows the same distribution as a new draw.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray  # no SciPy: it takes as long to import as 100 crops

FloatImage = NDArray[np.float32]

MOST_SEEDS = 4  # a texture that was varied more often loses the part with the smallest weight
SMALLEST = 1e-35  # denormal numbers, below 1.2e-38, make arithmetic ten times slower
FARTHEST, PLACES = 8, 64  # standard deviations of a table of the normal distribution, places in one
MOST_BY_PRODUCT = 96  # columns up to which a product of matrices is faster than a transform
PADDING = 1.25  # a transform is periodic; a cut-out from a larger field is not


class Layer(IntEnum):
    """Parts of a picture. Each has its own random numbers, so changing one leaves the others."""

    BACKGROUND = 0
    LOBES = 1
    SHEETS = 2
    STRANDS = 3
    VESSELS = 4
    OUTLINE = 5
    MASS = 6
    SPICULES = 7
    CALCIFICATIONS = 8
    GRAIN = 9
    ARTEFACT = 10
    BREAST = 11
    SWEEP = 12
    HEIGHTS = 13
    HIDING = 14


@dataclass(frozen=True, slots=True)
class Texture:
    """Seeds from which all details of a picture are drawn.

    Attributes:
        seeds: Seeds of the parts that are added up.
        weights: Weights of the parts; their squares sum to 1.
    """

    seeds: tuple[int, ...]
    weights: tuple[float, ...] = (1.0,)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Texture":
        """Draws a new texture."""
        return cls((int(rng.integers(2**63)),))

    def varied(self, rng: np.random.Generator, degree: float) -> "Texture":
        """Mixes in a new texture: ``sqrt(1 - degree**2) * self + degree * new``.

        Args:
            rng: Source of randomness.
            degree: 0 would leave the texture unchanged, 1 replaces it.
        """
        kept = math.sqrt(1 - degree**2)
        parts = [(kept * w, s) for s, w in zip(self.seeds, self.weights, strict=True) if kept]
        parts.append((degree, int(rng.integers(2**63))))
        if len(parts) > MOST_SEEDS:
            parts.remove(min(parts))
        norm = math.sqrt(sum(weight**2 for weight, _ in parts))
        return Texture(tuple(s for _, s in parts), tuple(w / norm for w, _ in parts))


class Details:
    """Draws the random numbers of a texture; each call gives the same ones.

    One generator per seed is used for all layers, each at its own position in the sequence; a
    generator per layer would take a tenth of the time of a picture. Not safe to share between
    threads.
    """

    def __init__(self, texture: Texture) -> None:
        self._weights = texture.weights
        sources = [np.random.PCG64(seed) for seed in texture.seeds]
        self._generators = [
            (source, source.state, np.random.Generator(source)) for source in sources
        ]

    def normals(self, layer: Layer, *shape: int) -> FloatImage:
        """Draws standard normal values of one layer; a longer draw starts with the shorter one.

        Args:
            layer: Part of the picture.
            shape: Shape of the result.
        """
        return self.mixed([rng.standard_normal(shape, np.float32) for rng in self._at(layer)])

    def raw(self, layer: Layer, count: int) -> list[NDArray[np.uint64]]:
        """Draws ``count`` random 64-bit words of one layer, for each part of the texture."""
        return [rng.bit_generator.random_raw(count) for rng in self._at(layer)]

    def _at(self, layer: Layer) -> Iterator[np.random.Generator]:
        for source, start, generator in self._generators:
            source.state = start
            source.advance(layer << 64)
            yield generator

    def mixed(self, parts: Sequence[FloatImage]) -> FloatImage:
        """Weighted sum of standard normals, one array for each part of the texture."""
        mixed = parts[0]
        if len(parts) > 1:
            mixed = mixed * np.float32(self._weights[0])
        for weight, part in zip(self._weights[1:], parts[1:], strict=True):
            mixed += np.float32(weight) * part
        return mixed


def noise(details: Sequence[Details], layer: Layer, count: int) -> FloatImage:
    """Draws nearly normal values, five times as fast as :meth:`Details.normals`.

    Each is the sum of two random bytes, with mean 0, standard deviation 1 and magnitude at most
    2.45. Sums of many of them, as in a field or a blurred image, are normal in good approximation.

    Args:
        details: One per picture.
        layer: Part of the picture.
        count: Values per picture; a longer draw starts with the shorter one.

    Returns:
        Shape ``(N, count)``.
    """
    parts = [source.raw(layer, (count + 3) // 4) for source in details]
    words = np.concatenate([part for several in parts for part in several])
    pairs = words.astype("<u8", copy=False).view("<u2").reshape(-1, 4 * len(parts[0][0]))[:, :count]
    total = pairs >> 8
    pairs &= 255
    total += pairs
    # Two bytes have mean 255 and variance (256**2 - 1) / 6.
    total -= 255
    values = total.view(np.int16).astype(np.float32)
    values *= np.float32(math.sqrt(6 / (256**2 - 1)))
    if len(values) == len(details):
        return values
    of_picture = iter(values)
    mixed = [
        source.mixed([next(of_picture) for _ in several])
        for source, several in zip(details, parts, strict=True)
    ]
    return np.stack(mixed)


def power_law_fields(
    details: Sequence[Details],
    layer: Layer,
    shape: tuple[int, int],
    *,
    beta: ArrayLike,
    stretch: ArrayLike = 1.0,
    angle: ArrayLike = 0.0,
    outer_scale: float = math.inf,
    finest: int | None = None,
) -> FloatImage:
    """Draws Gaussian fields whose power spectrum falls as ``1 / f**beta``.

    The coarse structure of a field depends on its texture alone; a larger size adds detail.

    Args:
        details: One per field.
        layer: Layer whose random numbers are used.
        shape: ``(H, W)``.
        beta: Exponents of the power spectra; mammograms have 1.5 to 3.5, on average 2.8.
        stretch: Ratios of the correlation lengths along and across ``angle``, ``>= 1``.
        angle: Directions of the longer correlation, in radians from the x axis.
        outer_scale: Wavelength in pixels beyond which power stays constant.
        finest: Highest number of waves along an axis; limited by the pixels alone if not given.

    Returns:
        Shape ``(N, H, W)``; each field has mean 0 and standard deviation 1.

    Source: Burgess, Jacobson and Judy 2001, Medical Physics 28:419 (power-law mammograms); range
    and mean of the exponent from Burgess and Judy 2003, SPIE 5034.
    """
    padding = PADDING if outer_scale > min(shape) / 2 else 1.0
    height, width = (fast_length(math.ceil(padding * n)) for n in shape)
    waves = _waves(height, width, finest)
    beta, stretch, angle = (
        np.asarray(value, np.float32).reshape(-1, 1) for value in (beta, stretch, angle)
    )
    along, across = np.cos(angle), np.sin(angle)
    form = np.concatenate(
        np.broadcast_arrays(
            along**2 * stretch + across**2 / stretch,
            across**2 * stretch + along**2 / stretch,
            2 * along * across * (stretch - 1 / stretch),
            np.float32(outer_scale**-2.0),
        ),
        axis=1,
    )
    # One picture after the other: sums are then the same, however many there are.
    amplitude = logarithm((form[:, None] @ waves.products)[:, 0])
    amplitude *= -beta / 4
    exponential(amplitude)
    count = amplitude.shape[1]
    normals = noise(details, layer, 2 * count).view(np.complex64)
    listed = np.zeros((len(details), count + 1), np.complex64)  # the last for waves left out
    np.multiply(amplitude, normals, out=listed[:, :count])
    spectrum = listed.take(waves.where, axis=1, mode="clip").reshape(len(details), height, -1)
    # A wave is in the half spectrum once and counts twice, but those with no frequency in x are
    # there twice and count once.
    spectrum[:, :, 0] *= np.float32(math.sqrt(2))
    # One axis after the other: the second transform leaves out what is cut off.
    np.fft.ifft(spectrum, axis=1, out=spectrum)  # in single precision, as all that follows
    return standardised(real_rows(spectrum[:, : shape[0]], width, shape[1]))


def real_rows(half: NDArray[np.complex64], width: int, pixels: int) -> FloatImage:
    """Transforms rows back from their half spectra.

    Args:
        half: The lowest waves, all others are 0, shape ``(..., columns)``.
        width: Pixels of a row.
        pixels: How many of them are wanted.

    Returns:
        Shape ``(..., pixels)``, contiguous.
    """
    columns = half.shape[-1]
    if columns > MOST_BY_PRODUCT:
        return np.ascontiguousarray(np.fft.irfft(half, width, axis=-1)[..., :pixels])
    return np.asarray(half.view(np.float32) @ _cosines(columns, width, pixels))


@functools.lru_cache(maxsize=64)
def fast_length(least: int) -> int:
    """Smallest length of a fast transform: with no prime factor above 5.

    >>> fast_length(160), fast_length(161), fast_length(7)
    (160, 162, 8)
    """
    rest = least
    for factor in (2, 3, 5):
        while rest % factor == 0:
            rest //= factor
    return least if rest == 1 else fast_length(least + 1)


@functools.lru_cache(maxsize=16)
def _cosines(columns: int, width: int, pixels: int) -> FloatImage:
    """Computes the matrix of a real transform from the lowest columns of a half spectrum.

    Returns:
        Shape ``(2 * columns, pixels)``: a row for the real part of each column and one for its
        imaginary part; the first ``pixels`` of ``width``.
    """
    k = np.arange(columns)[:, None]
    angle = 2 * np.pi / width * (k * np.arange(pixels) % width)
    # Each column stands for itself and its conjugate, but for the first and the last possible one.
    share = np.where((k == 0) | (2 * k == width), 1, 2) / width
    rows = np.stack([share * np.cos(angle), -share * np.sin(angle)], axis=1)
    return rows.reshape(2 * columns, pixels).astype(np.float32)


def standardised(fields: FloatImage) -> FloatImage:
    """Shifts and scales each field to mean 0 and standard deviation 1, in place.

    Args:
        fields: Shape ``(N, H, W)``, contiguous.
    """
    flat = fields.reshape(len(fields), -1)
    flat -= flat.mean(axis=1, keepdims=True)
    flat *= np.sqrt(flat.shape[1] / np.vecdot(flat, flat))[:, None]
    return fields


def exponential(values: FloatImage) -> FloatImage:
    """Takes the exponential of a contiguous array in place and returns the array.

    As exact as NumPy's, which takes four times as long on processors without AVX-512. For values
    above -80; others see :func:`decay`.
    """
    assert values.flags.c_contiguous  # else a copy would be changed
    flat = values.reshape(-1, values.shape[-1])
    cv2.exp(flat, flat)
    return values


def decay(values: FloatImage) -> FloatImage:
    """As :func:`exponential`, of the negative values; results below ``SMALLEST`` are set to it."""
    assert values.flags.c_contiguous
    flat = values.reshape(-1, values.shape[-1])
    cv2.threshold(flat, -math.log(SMALLEST), 0, cv2.THRESH_TRUNC, flat)
    return exponential(np.negative(values, out=values))


def logarithm(values: FloatImage) -> FloatImage:
    """Takes the natural logarithm of positive values in place, as :func:`exponential`."""
    assert values.flags.c_contiguous
    flat = values.reshape(-1, values.shape[-1])
    cv2.log(flat, flat)
    return values


@dataclass(frozen=True, slots=True)
class _Waves:
    """Waves of a real transform from coarse to fine, without the constant.

    Attributes:
        products: Frequencies in x squared, in y squared, both multiplied, and 1, in cycles per
            pixel, shape ``(4, waves)``.
        where: For each place of the flat half spectrum, up to column ``finest``, the index of its
            wave, or the number of waves where there is none.
    """

    products: FloatImage
    where: NDArray[np.int64]


@functools.lru_cache(maxsize=16)
def _waves(height: int, width: int, finest: int | None) -> _Waves:
    columns = width // 2 + 1 if finest is None else min(width // 2, finest) + 1
    rows = np.fft.fftfreq(height, 1 / height).astype(np.int64)
    ky, kx = np.meshgrid(rows, np.arange(columns), indexing="ij")
    ring = np.maximum(np.abs(ky), kx).ravel()
    order = np.lexsort((ky.ravel(), kx.ravel(), ring))[1:]
    if finest is not None:
        order = order[ring[order] <= finest]
    fy = np.asarray(ky.ravel()[order] / height, np.float32)
    fx = np.asarray(kx.ravel()[order] / width, np.float32)
    where = np.full(ring.shape, len(order), np.int64)
    where[order] = np.arange(len(order))
    return _Waves(np.stack([fx**2, fy**2, fx * fy, np.ones_like(fx)]), where)


def uniform(normals: FloatImage) -> FloatImage:
    """Makes uniform values of standard normal ones: the probability that another is smaller.

    A Taylor series of the normal distribution about the nearest of a thousand places, as exact as
    single precision.
    """
    places, probability, density = _normal_table()
    values = np.clip(normals, -FARTHEST, FARTHEST).astype(np.float64)
    at = np.rint((values + FARTHEST) * PLACES).astype(np.int64)
    z = places[at]
    d = values - z
    series = d * (1 + d * (-z / 2 + d * ((z * z - 1) / 6 - d * z * (z * z - 3) / 24)))
    return (probability[at] + density[at] * series).astype(np.float32)


@functools.cache
def _normal_table() -> tuple[NDArray[np.float64], ...]:
    """Places about zero, probabilities up to them, and the density there."""
    places = np.arange(-FARTHEST * PLACES, FARTHEST * PLACES + 1) / PLACES
    probability = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in places.tolist()])
    return places, probability, np.exp(-(places**2) / 2) / math.sqrt(2 * math.pi)


def logistic(values: FloatImage) -> FloatImage:
    """Takes the logistic function, a smooth step from 0 to 1, in place and returns the array."""
    decay(values)
    values += 1  # infinite beyond single precision, so that the result is 0
    return np.reciprocal(values, out=values)


def column(cases: Sequence[object], name: str) -> FloatImage:
    """Collects one attribute of all cases; shape ``(N, 1, 1)``."""
    return np.array([getattr(case, name) for case in cases], np.float32)[:, None, None]
