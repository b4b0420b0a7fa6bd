# SPDX-License-Identifier: Apache-2.0
"""Procedural masses after BI-RADS: an outline for the shape, an edge profile for the margin.

The words are those of the CBIS-DDSM tables. Lengths are in pixels; the mass is attenuation to add.
"""

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.phantom_tissue import (
    SUBPIXEL_BITS,
    SUPERSAMPLING,
    FloatImage,
    blurred,
    logistic,
    power_law_field,
    shrunk,
)

Shape = Literal["ROUND", "OVAL", "LOBULATED", "IRREGULAR"]
Margin = Literal["CIRCUMSCRIBED", "OBSCURED", "ILL_DEFINED", "MICROLOBULATED", "SPICULATED"]

ANGLES = 512  # samples of an outline


@dataclass(frozen=True, slots=True, kw_only=True)
class MassModel:
    """How one descriptor pair looks.

    Attributes:
        elongation: Range of longer over shorter axis, ``>= 1``.
        harmonics: Range of the orders that bend the outline, half-open.
        waviness: Standard deviation of the outline's relative deviation.
        ripple: The same for small lobes of the orders 9 to 16.
        exponent: Range of nu in the profile ``(1 - rho**2)**nu``; larger is softer.
        raggedness: Range of the texture that displaces the edge, relative to the radius.
        spicules: Range of their number, half-open.
    """

    elongation: tuple[float, float]
    harmonics: tuple[int, int]
    waviness: float
    ripple: float
    exponent: tuple[float, float]
    raggedness: tuple[float, float]
    spicules: tuple[int, int]


def mass_model(shape: str, margin: str) -> MassModel:
    """Looks up the appearance of a shape and a margin.

    The profile is Burgess' designer nodule with nu spread around its 1.5: sharp margins below,
    indistinct ones above. Ranges are ours, chosen after the definitions of the BI-RADS atlas.
    """
    elongation, harmonics, waviness = {
        "ROUND": ((1.0, 1.15), (3, 5), 0.012),
        "OVAL": ((1.25, 1.7), (3, 5), 0.015),
        "LOBULATED": ((1.05, 1.5), (2, 5), 0.09),
        "IRREGULAR": ((1.0, 1.6), (2, 9), 0.12),
    }[shape]
    exponent, raggedness, spicules = {
        "CIRCUMSCRIBED": ((0.35, 0.7), (0.0, 0.05), (0, 1)),
        "OBSCURED": ((0.45, 0.9), (0.02, 0.10), (0, 1)),
        "ILL_DEFINED": ((0.9, 1.7), (0.08, 0.18), (0, 6)),
        "MICROLOBULATED": ((0.4, 0.8), (0.02, 0.08), (0, 1)),
        "SPICULATED": ((0.8, 1.5), (0.06, 0.16), (14, 40)),
    }[margin]
    return MassModel(
        elongation=elongation,
        harmonics=harmonics,
        waviness=waviness,
        ripple=0.03 if margin == "MICROLOBULATED" else 0.0,
        exponent=exponent,
        raggedness=raggedness,
        spicules=spicules,
    )


def draw_outline(rng: np.random.Generator, model: MassModel) -> NDArray[np.float32]:
    """Radius of a mass by angle, in units of half the longer edge of its bounding box.

    Returns:
        Shape ``(ANGLES,)``, from angle 0 counter-clockwise; the bounding box is centred on 0.
    """
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    ratio, tilt = rng.uniform(*model.elongation), rng.uniform(0, np.pi)
    axis = math.sqrt(ratio)
    radius = 1 / np.hypot(np.cos(angle - tilt) / axis, np.sin(angle - tilt) * axis)
    for harmonics, waviness in ((model.harmonics, model.waviness), ((9, 17), model.ripple)):
        orders = np.arange(*harmonics)[:, None]
        size = rng.standard_normal(orders.shape) / orders**0.5
        phase = rng.uniform(0, 2 * np.pi, orders.shape)
        wave = (size * np.cos(orders * angle + phase)).sum(axis=0)
        radius *= np.exp(waviness * wave / wave.std())
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    x, y = x - (x.max() + x.min()) / 2, y - (y.max() + y.min()) / 2
    edge = max(float(x.max()), float(y.max()))
    around = np.mod(np.arctan2(y, x), 2 * np.pi)
    order = np.argsort(around)
    distance = np.hypot(x, y)[order] / edge
    return np.asarray(np.interp(angle, around[order], distance, period=2 * np.pi), np.float32)


def draw_mass(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    model: MassModel,
    outline: NDArray[np.float32],
    centre: tuple[float, float],
    longer_edge: float,
    obscured: bool,
) -> tuple[FloatImage, NDArray[np.bool_]]:
    """Attenuation of a mass, and the outline an annotator would draw.

    Args:
        rng: Source of randomness.
        shape: ``(H, W)``.
        model: Appearance of the margin.
        outline: Result of :func:`draw_outline`.
        centre: ``(y, x)`` of the bounding box, in pixels.
        longer_edge: Longer edge of the bounding box, in pixels.
        obscured: Whether tissue of the same density hides a part of the margin.

    Returns:
        Attenuation, shape ``(H, W)``, about 1 at the centre and 0 outside; mask of that shape.
    """
    half = longer_edge / 2
    y, x = np.ogrid[: shape[0], : shape[1]]
    dy = np.broadcast_to((y - centre[0]).astype(np.float32), shape)
    dx = np.broadcast_to((x - centre[1]).astype(np.float32), shape)
    distance, angle = cv2.cartToPolar(np.ascontiguousarray(dx), np.ascontiguousarray(dy))
    radius = half * outline[(angle * (ANGLES / (2 * np.pi))).astype(np.int32) % ANGLES]
    rho = np.asarray(distance / radius, np.float32)
    mask = rho < 1
    texture = power_law_field(rng, shape, beta=3.0, outer_scale=longer_edge)
    ragged = rho * (1 + rng.uniform(*model.raggedness) * texture)
    body = np.clip(1 - np.square(ragged), 0, 1) ** rng.uniform(*model.exponent)
    body *= 1 + rng.uniform(0.05, 0.2) * texture
    count = int(rng.integers(*model.spicules))
    if count:
        reach = draw_spicules(rng, shape, outline=outline, centre=centre, half=half, count=count)
        body += rng.uniform(0.3, 0.65) * reach
    if obscured:
        side = rng.uniform(0, 2 * np.pi)
        towards = np.asarray((dx * math.cos(side) + dy * math.sin(side)) / half, np.float32)
        smooth = blurred(texture, 0.12 * half)
        lobe = logistic(5 * (towards - 0.4 + 0.5 * smooth)) * logistic(5 * (1.3 - rho))
        body = np.maximum(body, rng.uniform(0.6, 0.9) * lobe * (1 + 0.15 * texture))
    return np.asarray(body, np.float32), mask


def draw_spicules(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    outline: NDArray[np.float32],
    centre: tuple[float, float],
    half: float,
    count: int,
) -> FloatImage:
    """Thin, nearly straight wedges that radiate from a mass.

    Args:
        rng: Source of randomness.
        shape: ``(H, W)``.
        outline: Radius by angle, in units of ``half``.
        centre: ``(y, x)``, in pixels.
        half: Half the longer edge of the mass, in pixels.
        count: Number of spicules.

    Returns:
        Shape ``(H, W)``, values in ``[0, 2]``.
    """
    layers = np.zeros((2, SUPERSAMPLING * shape[0], SUPERSAMPLING * shape[1]), np.uint8)
    angle = rng.uniform(0, 2 * np.pi, count)
    base = half * outline[(angle * (ANGLES / (2 * np.pi))).astype(np.int64) % ANGLES]
    along = np.linspace(0, 1, 8)[None, :]
    length = base * rng.gamma(3.0, 0.35, count)
    distance = 0.5 * base[:, None] + (0.5 * base + length)[:, None] * along
    bend = angle[:, None] + rng.normal(0, 0.25, (count, 1)) + rng.normal(0, 0.2, (count, 1)) * along
    spine = np.stack([distance * np.cos(bend), distance * np.sin(bend)], axis=-1)
    spine += np.array([centre[1], centre[0]]) + rng.normal(0, 0.12 * half, (count, 1, 2))
    width = np.maximum(0.04 * half * rng.uniform(0.5, 1.6, (count, 1)) * (1.1 - along), 0.3)
    normal = np.stack([-np.sin(bend), np.cos(bend)], axis=-1) * width[..., None]
    outlines = np.concatenate([spine + normal, (spine - normal)[:, ::-1]], axis=1)
    points = np.round(outlines * SUPERSAMPLING * 2**SUBPIXEL_BITS).astype(np.int32)
    levels = rng.uniform(60, 255, count)
    for i in range(count):
        cv2.fillPoly(
            layers[i % 2],
            [points[i]],
            color=float(levels[i]),
            lineType=cv2.LINE_AA,
            shift=SUBPIXEL_BITS,
        )
    return blurred(shrunk(layers[0], shape) + shrunk(layers[1], shape), 0.5 + 0.012 * half)


def draw_calcifications(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    centre: tuple[float, float],
    half: float,
    grain_size: float,
) -> FloatImage:
    """A few specks of calcium: one or two coarse and round, or a loose cluster of fine ones.

    Returns:
        Shape ``(H, W)``, up to about 1 on a coarse speck.
    """
    canvas = np.zeros((4 * shape[0], 4 * shape[1]), np.uint8)
    coarse = rng.random() < 0.4
    count = int(rng.integers(1, 3) if coarse else rng.integers(3, 12))
    where = np.array(centre) + rng.normal(0, 0.45 * half, (count, 2))
    radii = grain_size * rng.uniform(*((1.2, 2.4) if coarse else (0.3, 0.7)), count)
    for (y, x), radius in zip(where, radii, strict=True):
        at = (round(4 * x * 16), round(4 * y * 16))
        level = float(rng.uniform(140, 255))
        cv2.circle(canvas, at, round(4 * radius * 16), level, -1, cv2.LINE_AA, SUBPIXEL_BITS)
    return shrunk(canvas, shape)
