# SPDX-License-Identifier: Apache-2.0
"""Procedural breast tissue: power-law background, glandular lobes, fibrous strands, skin edge.

Everything is attenuation, in units of the film's display range (:mod:`data_prep.phantom_film`), so
layers add as they do along an X-ray. Lengths are in pixels.
"""

import functools
import math

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft

FloatImage = NDArray[np.float32]

PADDING = 1.25  # a transform is periodic; a cut-out from a larger field is not
AIR = -0.5  # attenuation at which the film is black
SUPERSAMPLING = 2  # strands are drawn finer than they are shown
SUBPIXEL_BITS = 4  # fixed-point digits of OpenCV's drawing


def power_law_field(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    beta: float,
    stretch: float = 1.0,
    angle: float = 0.0,
    outer_scale: float = math.inf,
) -> FloatImage:
    """Gaussian field whose power falls as ``1 / f**beta``.

    Args:
        rng: Source of randomness.
        shape: ``(H, W)``.
        beta: Exponent of the power spectrum; mammograms have about 3.
        stretch: Ratio of the correlation lengths along and across ``angle``, ``>= 1``.
        angle: Direction of the longer correlation, in radians from the x axis.
        outer_scale: Wavelength in pixels beyond which power stays constant.

    Returns:
        Shape ``(H, W)``, mean 0 and standard deviation 1.

    Source: Burgess, Jacobson and Judy 2001, Medical Physics 28:419 (power-law mammograms).
    """
    padding = PADDING if outer_scale > min(shape) / 2 else 1.0
    height, width = (fft.next_fast_len(math.ceil(padding * n), real=True) for n in shape)
    fy, fx = _frequencies(height, width)
    along = fx * math.cos(angle) + fy * math.sin(angle)
    across = fy * math.cos(angle) - fx * math.sin(angle)
    squared = along**2 * stretch + across**2 / stretch + outer_scale**-2.0
    squared[0, 0] = np.inf  # no constant part
    amplitude = np.exp(np.float32(-beta / 4) * np.log(squared))
    noise = rng.standard_normal((*squared.shape, 2), dtype=np.float32).view(np.complex64)[..., 0]
    field = fft.irfft2(amplitude * noise, (height, width), overwrite_x=True)
    field = np.ascontiguousarray(field[: shape[0], : shape[1]], np.float32)
    field -= field.mean()
    field /= math.sqrt(np.vdot(field, field) / field.size)
    return field


def tissue(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    density: int,
    beta: float,
    contrast: float,
    direction: float,
    grain_size: float,
) -> FloatImage:
    """Attenuation of breast tissue around its own mean.

    Args:
        rng: Source of randomness.
        shape: ``(H, W)``.
        density: BI-RADS density category, 1 (fatty) to 4 (dense).
        beta: Exponent of the background's power spectrum.
        contrast: Standard deviation of the background.
        direction: Direction of ducts and ligaments, in radians from the x axis.
        grain_size: Pixels per 1/128 of a crop's edge; 1 in a crop of 128 px.

    Returns:
        Shape ``(H, W)``, centred on about 0.
    """
    field = functools.partial(power_law_field, rng, shape, outer_scale=160 * grain_size)
    background = field(beta=beta, stretch=rng.uniform(1.0, 1.6), angle=direction)
    lobes = field(beta=beta + 1.0, stretch=rng.uniform(1.2, 2.5), angle=direction)
    covered = (0.9, 0.3, -0.3, -0.9)[density - 1] + rng.normal(0, 0.3)
    glandular = logistic((lobes - covered) * rng.uniform(2.0, 5.0))
    # Thin sheets seen edge-on are bright lines: the zero lines of a smooth field.
    sheet = field(beta=4.4, stretch=rng.uniform(2.0, 6.0), angle=direction + rng.normal(0, 0.2))
    fibres = np.exp(-np.square(sheet * rng.uniform(6.0, 14.0)))
    count = rng.poisson(22 * shape[0] * shape[1] / (128 * grain_size) ** 2)
    strands = draw_strands(rng, shape, count=count, direction=direction, grain_size=grain_size)
    visible = 0.25 + logistic(2 * background)  # where fat leaves them free
    result = 0.6 * background + rng.uniform(1.0, 2.5) * (glandular - glandular.mean())
    result += visible * (rng.uniform(0.2, 0.8) * fibres + rng.uniform(0.7, 1.9) * strands)
    return np.asarray(contrast * result, np.float32)


def draw_strands(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    count: int,
    direction: float,
    grain_size: float,
) -> FloatImage:
    """Ligaments, ducts and vessels: long, gently bent lines along a common direction.

    Returns:
        Shape ``(H, W)``, 0 where no strand runs, up to about 1 on a single strand.
    """
    layers = np.zeros((2, SUPERSAMPLING * shape[0], SUPERSAMPLING * shape[1]), np.uint8)
    steps = 14
    length = 128 * grain_size * rng.uniform(0.5, 2.0, count)
    heading = direction + rng.normal(0, 0.4, count) + np.pi * rng.integers(0, 2, count)
    bend = np.cumsum(rng.normal(0, 0.09, (count, steps)), axis=1)
    turn = heading[:, None] + rng.normal(0, 0.5, (count, 1)) * np.linspace(-1, 1, steps) + bend
    walk = np.stack([np.cos(turn), np.sin(turn)], axis=-1) * (length / steps)[:, None, None]
    path = np.cumsum(walk, axis=1)
    start = rng.uniform(-0.1, 1.1, (count, 1, 2)) * (shape[1], shape[0])
    path = path - path[:, steps // 2, None] + start
    points = np.round(path * SUPERSAMPLING * 2**SUBPIXEL_BITS).astype(np.int32)
    widths = rng.geometric(0.6, count).clip(1, 4) * grain_size + 1
    levels = rng.uniform(60, 255, count)
    for i in range(count):
        cv2.polylines(
            layers[i % 2],
            [points[i]],
            isClosed=False,
            color=float(levels[i] / math.sqrt(widths[i] - 1)),
            thickness=round(float(widths[i])),
            lineType=cv2.LINE_AA,
            shift=SUBPIXEL_BITS,
        )
    return blurred(shrunk(layers[0], shape) + shrunk(layers[1], shape), 0.5 + 0.3 * grain_size)


def breast_thickness(inside: FloatImage, rim: float) -> FloatImage:
    """Relative thickness of the compressed breast near its skin line.

    Args:
        inside: Distance to the skin line, in pixels, negative in air.
        rim: Width of the rounded rim, in pixels.

    Returns:
        1 in the compressed part, falling along a half circle to 0 at the skin line and in air.
    """
    depth = np.clip(inside / rim, 0, 1)
    return np.asarray(np.sqrt(depth * (2 - depth)), np.float32)


def behind_skin(attenuation: FloatImage, inside: FloatImage, rim: float) -> FloatImage:
    """Lets tissue thin out towards the skin line, adds the skin, and leaves air outside.

    Args:
        attenuation: Shape ``(H, W)``.
        inside: Distance to the skin line, in pixels, negative in air.
        rim: Width of the rounded rim, in pixels.
    """
    thickness = breast_thickness(inside, rim)
    skin = 0.08 * np.exp(-np.square((inside - 0.04 * rim) / (0.03 * rim)))
    return np.asarray(AIR + (attenuation - AIR) * thickness + skin, np.float32)


def shrunk(canvas: NDArray[np.uint8], shape: tuple[int, int]) -> FloatImage:
    """Area average of a finer 8-bit drawing, shape ``shape``, values in ``[0, 1]``."""
    small = cv2.resize(canvas, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


def blurred(image: FloatImage, sigma: float) -> FloatImage:
    """Gaussian blur with a standard deviation in pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def logistic(value: FloatImage) -> FloatImage:
    """Smooth step from 0 to 1."""
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * value), np.float32)


@functools.lru_cache(maxsize=8)
def _frequencies(height: int, width: int) -> tuple[FloatImage, FloatImage]:
    """Cycles per pixel of a real transform: a column of y and a row of x frequencies."""
    fy = np.fft.fftfreq(height).astype(np.float32)[:, None]
    return fy, np.fft.rfftfreq(width).astype(np.float32)[None, :]
