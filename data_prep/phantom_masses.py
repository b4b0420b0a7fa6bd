# SPDX-License-Identifier: Apache-2.0
"""Procedural masses after BI-RADS: an outline for the shape, an edge profile for the margin.

The words are those of the CBIS-DDSM tables. A mass is attenuation to add.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.phantom_lines import blurred
from data_prep.phantom_spicules import draw_spicules
from data_prep.phantom_texture import FloatImage, Layer, Texture, power_law_fields
from data_prep.phantom_tissue import column, logistic

ANGLES = 512  # samples of an outline
ORDERS = np.arange(2, 17)  # of the waves that bend it


@dataclass(frozen=True, slots=True, kw_only=True)
class Mass:
    """One mass. Lengths in edges of a crop, angles in radians from the x axis.

    Attributes:
        size: Longer edge of the bounding box.
        centre: ``(y, x)`` of the bounding box.
        contrast: Attenuation at the centre.
        elongation: Longer over shorter axis, ``>= 1``.
        tilt: Direction of the longer axis.
        orders: Lowest and highest order of the waves that bend the outline.
        waviness: Standard deviation of the outline's relative deviation.
        ripple: The same for small lobes of the orders 9 to 16.
        exponent: nu in the profile ``(1 - rho**2)**nu``; larger is softer.
        raggedness: Texture that displaces the edge, relative to the radius.
        grain: Relative texture of the attenuation.
        spicules: Their number.
        spicule_level: Their attenuation, relative to the mass.
        spicule_reach: Their mean length, in radii of the mass.
        obscured: Attenuation, relative to the mass, of tissue that hides a part of the margin.
        obscured_side: Where it lies, as an angle.
    """

    size: float
    centre: tuple[float, float]
    contrast: float
    elongation: float
    tilt: float
    orders: tuple[int, int]
    waviness: float
    ripple: float
    exponent: float
    raggedness: float
    grain: float
    spicules: int
    spicule_level: float
    spicule_reach: float
    obscured: float
    obscured_side: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a word looks: ranges of some attributes of :class:`Mass`."""

    elongation: tuple[float, float] = (1.0, 1.0)
    orders: tuple[int, int] = (3, 4)
    waviness: tuple[float, float] = (0.0, 0.0)
    ripple: tuple[float, float] = (0.0, 0.0)
    exponent: tuple[float, float] = (1.0, 1.0)
    raggedness: tuple[float, float] = (0.0, 0.0)
    spicules: tuple[float, float] = (0.0, 0.0)
    obscured: tuple[float, float] = (0.0, 0.0)


# Burgess' designer nodule (Burgess 2001) has the profile (1 - rho**2)**nu with nu about 1.5: sharp
# margins lie below, indistinct ones about it. Ranges are ours, after the words of the atlas.
SHAPES = {
    "ROUND": Look(elongation=(1.0, 1.2), waviness=(0.008, 0.02)),
    "OVAL": Look(elongation=(1.2, 1.8), waviness=(0.008, 0.025)),
    "LOBULATED": Look(elongation=(1.05, 1.5), orders=(2, 4), waviness=(0.05, 0.10)),
    "IRREGULAR": Look(elongation=(1.0, 1.7), orders=(2, 8), waviness=(0.07, 0.15)),
}
MARGINS = {
    "CIRCUMSCRIBED": Look(exponent=(0.35, 0.75), raggedness=(0.0, 0.05)),
    "OBSCURED": Look(exponent=(0.45, 1.0), raggedness=(0.02, 0.10), obscured=(0.6, 0.95)),
    "ILL_DEFINED": Look(exponent=(0.9, 1.8), raggedness=(0.08, 0.2), spicules=(0.0, 6.0)),
    "MICROLOBULATED": Look(exponent=(0.4, 0.9), raggedness=(0.02, 0.08), ripple=(0.02, 0.04)),
    "SPICULATED": Look(exponent=(0.8, 1.6), raggedness=(0.06, 0.18), spicules=(10.0, 36.0)),
}


def draw_outline(mass: Mass, texture: Texture) -> FloatImage:
    """Radius of a mass by angle, in units of half the longer edge of its bounding box.

    Returns:
        Shape ``(ANGLES,)``, from angle 0 counter-clockwise; the bounding box is centred on 0.
    """
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    axis = math.sqrt(mass.elongation)
    radius = 1 / np.hypot(np.cos(angle - mass.tilt) / axis, np.sin(angle - mass.tilt) * axis)
    normals = texture.normals(Layer.OUTLINE, len(ORDERS), 2).astype(np.float64)
    normals /= np.sqrt(ORDERS)[:, None]
    for (lowest, highest), waviness in ((mass.orders, mass.waviness), ((9, 16), mass.ripple)):
        here = (lowest <= ORDERS) & (highest >= ORDERS)
        turn = ORDERS[here, None] * angle
        wave = normals[here, 0] @ np.cos(turn) + normals[here, 1] @ np.sin(turn)
        radius *= np.exp(waviness * wave / wave.std())
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    x, y = x - (x.max() + x.min()) / 2, y - (y.max() + y.min()) / 2
    half = max(float(x.max()), float(y.max()))
    around = np.mod(np.arctan2(y, x), 2 * np.pi)
    order = np.argsort(around)
    distance = np.hypot(x, y)[order] / half
    return np.asarray(np.interp(angle, around[order], distance, period=2 * np.pi), np.float32)


def draw_masses(
    cases: Sequence[Mass], textures: Sequence[Texture], shape: tuple[int, int], *, edge: float
) -> tuple[FloatImage, NDArray[np.bool_]]:
    """Attenuation of masses, and the outlines an annotator would draw.

    Args:
        cases: One per picture.
        textures: One per picture.
        shape: ``(H, W)``.
        edge: Pixels per edge of a crop.

    Returns:
        Attenuation and masks, both of shape ``(N, H, W)``.
    """
    outlines = [draw_outline(case, texture) for case, texture in zip(cases, textures, strict=True)]
    half = column(cases, "size") * np.float32(edge / 2)
    centre = np.array([case.centre for case in cases], np.float32) * np.float32(edge)
    y, x = np.ogrid[: shape[0], : shape[1]]
    full = (len(cases), *shape)
    dy = np.broadcast_to((y + np.float32(0.5)) - centre[:, 0, None, None], full)
    dx = np.broadcast_to((x + np.float32(0.5)) - centre[:, 1, None, None], full)
    flat = (len(cases) * shape[0], shape[1])
    distance, angle = (
        polar.reshape(full) for polar in cv2.cartToPolar(dx.reshape(flat), dy.reshape(flat))
    )
    which = (angle * (ANGLES / (2 * np.pi))).astype(np.int32) % ANGLES
    which += ANGLES * np.arange(len(cases), dtype=np.int32)[:, None, None]
    rho = distance / (half * np.concatenate(outlines)[which])
    inner = power_law_fields(
        textures, Layer.MASS, shape, beta=3.0, outer_scale=0.5 * edge, finest=None
    )
    ragged = rho * (1 + column(cases, "raggedness") * inner)
    inside = np.clip(1 - np.square(ragged), 1e-9, 1)
    body = np.exp(column(cases, "exponent") * np.log(inside))
    body *= 1 + column(cases, "grain") * inner
    for i, case in enumerate(cases):
        if case.spicules:
            body[i] += case.spicule_level * draw_spicules(
                textures[i],
                shape,
                base=float(half[i, 0, 0]) * outlines[i],
                centre=(float(centre[i, 0]), float(centre[i, 1])),
                count=case.spicules,
                reach=case.spicule_reach,
            )
        if case.obscured:
            side = dx[i] * math.cos(case.obscured_side) + dy[i] * math.sin(case.obscured_side)
            veil = _veil(side / half[i], rho[i], inner[i], 0.12 * float(half[i, 0, 0]))
            body[i] = np.maximum(body[i], case.obscured * veil)
    return column(cases, "contrast") * body, rho < 1


def _veil(side: FloatImage, rho: FloatImage, inner: FloatImage, blur: float) -> FloatImage:
    """Tissue beside a mass, of its density: beyond 0.4 radii on one side, up to 1.3 radii.

    Args:
        side: Position along the direction of the tissue, in radii.
        rho: Distance from the centre, in radii.
        inner: Texture.
        blur: How smooth its edge is, in pixels.
    """
    lobe = logistic(5 * (side - 0.4 + 0.5 * blurred(inner, blur))) * logistic(5 * (1.3 - rho))
    return lobe * (1 + 0.15 * inner)
