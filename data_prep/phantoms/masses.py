# SPDX-License-Identifier: Apache-2.0
"""Procedural masses after BI-RADS, their spicules and calcifications.

The shape of a mass sets its outline, the margin sets its edge profile; both are named as in the
CBIS-DDSM tables. All drawings are attenuations that are added to the tissue.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.phantoms.texture import (
    Details,
    FloatImage,
    Layer,
    exponential,
    logarithm,
    logistic,
    power_law_fields,
    uniform,
)
from data_prep.phantoms.tissue import FULL, SMOOTH, SUBPIXEL_BITS, add_layers, blurred

ANGLES = 512  # samples of an outline
ORDERS = np.arange(2, 17)  # of the waves that bend it
RIPPLES = 9  # lowest of those that make small lobes
SPICULE_STEPS = 8  # of a spicule
FORK = 4  # step at which a branch leaves
BRANCHING = 0.5  # probability that a spicule has a branch
_ANGLE = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
_COS, _SIN = np.cos(_ANGLE), np.sin(_ANGLE)
_WAVES = np.stack([np.cos(ORDERS[:, None] * _ANGLE), np.sin(ORDERS[:, None] * _ANGLE)])
_WAVES /= np.sqrt(ORDERS)[:, None]
_WAVES = _WAVES.reshape(-1, ANGLES)  # cosines, then sines


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
        spicules: Number of spicules.
        spicule_level: Attenuation of spicules, relative to the mass.
        spicule_reach: Mean length of spicules, in radii of the mass.
        obscured: Attenuation, relative to the mass, of tissue that hides a part of the margin.
        obscured_side: Angle of the side where that tissue lies.
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
    """Appearance of a descriptor: ranges of some attributes of :class:`Mass`."""

    elongation: tuple[float, float] = (1.0, 1.0)
    orders: tuple[int, int] = (3, 4)
    waviness: tuple[float, float] = (0.0, 0.0)
    ripple: tuple[float, float] = (0.0, 0.0)
    exponent: tuple[float, float] = (1.0, 1.0)
    raggedness: tuple[float, float] = (0.0, 0.0)
    spicules: tuple[float, float] = (0.0, 0.0)
    obscured: tuple[float, float] = (0.0, 0.0)


# Burgess' designer nodule (Burgess 2001) has the profile (1 - rho**2)**nu with nu about 1.5: sharp
# margins lie below, indistinct ones about it. The ranges are our reading of the atlas.
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


def draw_outlines(
    cases: Sequence[Mass], details: Sequence[Details]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draws outlines of masses: radii in units of half the longer edge of the bounding box.

    Returns:
        Radii about the origin, shape ``(N, ANGLES)``, from angle 0 counter-clockwise; middles of
        the bounding boxes, shape ``(N, 2)``, x and y.
    """

    def of(name: str) -> NDArray[np.float64]:
        return np.array([[getattr(case, name)] for case in cases], np.float64)

    tilt, axis = of("tilt"), np.sqrt(of("elongation"))
    along = (_COS * np.cos(tilt) + _SIN * np.sin(tilt)) / axis
    across = (_SIN * np.cos(tilt) - _COS * np.sin(tilt)) * axis
    normals = np.stack([source.normals(Layer.OUTLINE, 2, len(ORDERS)) for source in details])
    lowest, highest = np.array([case.orders for case in cases]).T[..., None]
    stretch = np.zeros_like(along)
    for band, size in (
        ((lowest <= ORDERS) & (highest >= ORDERS), of("waviness")),
        (ORDERS[None] >= RIPPLES, of("ripple")),
    ):
        wave = (normals * band[:, None]).reshape(len(cases), -1) @ _WAVES
        stretch += size * wave / wave.std(axis=1, keepdims=True)
    radius = np.exp(stretch) / np.hypot(along, across)
    x, y = radius * _COS, radius * _SIN
    middle = np.stack([(z.max(axis=1) + z.min(axis=1)) / 2 for z in (x, y)], axis=-1)
    half = np.maximum(np.ptp(x, axis=1), np.ptp(y, axis=1))[:, None] / 2
    return radius / half, middle / half


def place_outlines(
    cases: Sequence[Mass], details: Sequence[Details], *, edge: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outlines in pixels, and the points that their radii start from.

    Args:
        cases: One per picture.
        details: One per picture.
        edge: Pixels per edge of a crop.

    Returns:
        Radii by angle, shape ``(N, ANGLES)``; points x and y, shape ``(N, 2)``.
    """
    half = np.array([case.size for case in cases])[:, None] * edge / 2
    outlines, middles = draw_outlines(cases, details)
    # The origin of an outline is not exactly the middle of its bounding box.
    origin = edge * np.array([case.centre[::-1] for case in cases]) - half * middles
    return outlines * half, origin


def relative_distance(
    outline: NDArray[np.float64], x: FloatImage, y: FloatImage, *, out: FloatImage
) -> None:
    """Distance from the origin of an outline, over its radius there: 1 on the outline.

    Args:
        outline: Radii by angle, in pixels, shape ``(ANGLES,)``.
        x: Columns, in pixels from the origin, shape ``(W,)``.
        y: Rows, in pixels from the origin, shape ``(H,)``.
        out: Overwritten, shape ``(H, W)``.
    """
    dx, dy = np.empty((2, *out.shape), np.float32)
    dx[:], dy[:] = x, y[:, None]
    distance, angle = cv2.cartToPolar(dx, dy)
    angle *= ANGLES / (2 * np.pi)
    # Rounding can make a full turn of an angle just below it: that is angle 0.
    reciprocal = (1 / np.append(outline, outline[:1])).astype(np.float32)
    np.multiply(distance, reciprocal.take(angle.astype(np.intp), mode="clip"), out=out)


def draw_masses(
    cases: Sequence[Mass], details: Sequence[Details], shape: tuple[int, int], *, edge: float
) -> tuple[FloatImage, NDArray[np.bool_]]:
    """Draws the attenuation of masses, and the masks that an annotator would draw.

    Args:
        cases: One per picture.
        details: One per picture.
        shape: ``(H, W)``.
        edge: Pixels per edge of a crop.

    Returns:
        Attenuation and masks, both of shape ``(N, H, W)``.
    """
    outlines, origin = place_outlines(cases, details, edge=edge)
    half = np.array([case.size for case in cases]) * edge / 2
    x, y = (
        (np.arange(n) + 0.5 - origin[:, axis, None]).astype(np.float32)
        for axis, n in enumerate(shape[::-1])
    )
    textures = power_law_fields(
        details,
        Layer.MASS,
        shape,
        beta=3.6,
        outer_scale=0.5 * edge,
        finest=math.ceil(SMOOTH * max(shape) / edge),
    )
    result = draw_spicules(
        details,
        shape,
        base=outlines,
        origin=origin,
        count=[case.spicules for case in cases],
        reach=[case.spicule_reach for case in cases],
    )
    masks = np.empty(result.shape, np.bool_)
    rho = np.empty(shape, np.float32)
    # One picture after the other, since all layers of one fit into the processor's cache.
    for i, (case, inner) in enumerate(zip(cases, textures, strict=True)):
        relative_distance(outlines[i], x[i], y[i], out=rho)
        np.less(rho, 1, out=masks[i])
        body = inner * np.float32(case.raggedness)
        body += 1
        body *= rho
        np.subtract(1, np.square(body, out=body), out=body)
        np.maximum(body, np.float32(1e-9), out=body)  # outside, where the logarithm has no value
        logarithm(body)
        body *= np.float32(case.exponent)
        exponential(body)
        grain = inner * np.float32(case.grain)
        grain += 1
        body *= grain
        cv2.scaleAdd(result[i], case.spicule_level, body, body)
        if case.obscured:
            side = x[i] * math.cos(case.obscured_side)
            side = side + y[i][:, None] * math.sin(case.obscured_side)
            veil = hiding_tissue((side / half[i]).astype(np.float32), rho, inner, 0.12 * half[i])
            np.maximum(body, case.obscured * veil, out=body)
        np.multiply(body, np.float32(case.contrast), out=result[i])
    return result, masks


def hiding_tissue(side: FloatImage, rho: FloatImage, inner: FloatImage, blur: float) -> FloatImage:
    """Draws tissue that hides one side of a mass, from 0.4 to 1.3 radii.

    Args:
        side: Position along the direction of the tissue, in radii.
        rho: Distance from the centre, in radii.
        inner: Texture.
        blur: Standard deviation of the blur of its edge, in pixels.
    """
    lobe = logistic(5 * (side - 0.4 + 0.5 * blurred(inner, blur))) * logistic(5 * (1.3 - rho))
    return lobe * (1 + 0.15 * inner)


def draw_spicules(
    details: Sequence[Details],
    shape: tuple[int, int],
    *,
    base: NDArray[np.float64],
    origin: NDArray[np.float64],
    count: Sequence[int],
    reach: Sequence[float],
) -> FloatImage:
    """Draws spicules: thin wedges that radiate from masses, bend a little and fork.

    Args:
        details: One per picture.
        shape: ``(H, W)``.
        base: Radii of the masses by angle, in pixels, shape ``(N, angles)``.
        origin: Points that the radii start from, x and y in pixels, shape ``(N, 2)``.
        count: Numbers of spicules.
        reach: Mean lengths, in radii.

    Returns:
        Shape ``(N, H, W)``, values in ``[0, 2]``.

    Source: segments that branch and taper after de Sisternes 2015, doi 10.1118/1.4905232; here in
    the plane, with one generation of branches and our own numbers.
    """
    result = np.zeros((len(details), *shape), np.float32)
    if not sum(count):
        return result
    drawn = [
        source.normals(Layer.SPICULES, number, 12)
        for source, number in zip(details, count, strict=True)
    ]
    normals, case = np.concatenate(drawn), np.repeat(np.arange(len(count)), count)
    share = uniform(normals)
    half = base.max(axis=1)
    spine, twig = spicule_spines(
        normals, share, base=base[case], half=half[case], reach=np.array(reach)[case]
    )
    width = 0.03 * half[case] * (0.4 + 1.1 * share[:, 6])
    level = 0.25 + 0.75 * share[:, 7]
    forked = share[:, 8] < BRANCHING
    outlines = [
        np.round((wedges + origin[case, None] - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
        for wedges in (spicule_wedges(spine, width), spicule_wedges(twig, 0.6 * width))
    ]
    for image, end, number in zip(result, np.cumsum(count), count, strict=True):
        if not number:
            continue
        here = slice(end - number, end)
        both = forked[here]
        polygons = [*outlines[0][here], *outlines[1][here][both]]
        levels = FULL * np.concatenate([level[here], 0.8 * level[here][both]])
        layers = np.zeros((2, *shape), np.uint8)
        for i, (polygon, brightness) in enumerate(zip(polygons, levels.tolist(), strict=True)):
            cv2.fillPoly(layers[i % 2], [polygon], brightness, cv2.LINE_AA, SUBPIXEL_BITS)
        add_layers(layers, image)
    return result


def spicule_spines(
    normals: FloatImage,
    share: FloatImage,
    *,
    base: NDArray[np.float64],
    half: NDArray[np.float64],
    reach: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Computes centre lines of spicules and of their branches, each ``(count, steps, 2)``."""
    angle = 2 * np.pi * share[:, 0]
    toward = (share[:, 0] * base.shape[1]).astype(np.int64) % base.shape[1]
    start = base[np.arange(len(base)), toward]
    length = reach * start * np.exp(0.6 * normals[:, 1] - 0.18)  # lognormal, mean 1
    along = np.linspace(0, 1, SPICULE_STEPS)
    distance = 0.5 * start[:, None] + (0.5 * start + length)[:, None] * along
    bend = (angle + 0.25 * normals[:, 2])[:, None] + 0.2 * normals[:, 3:4] * along
    spine = np.stack([distance * np.cos(bend), distance * np.sin(bend)], axis=-1)
    spine += 0.12 * half[:, None, None] * normals[:, None, 4:6]
    step = spine[:, FORK + 1] - spine[:, FORK]
    turn = np.where(normals[:, 9] < 0, -1, 1) * (0.3 + 0.4 * share[:, 10])
    heading = np.arctan2(step[:, 1], step[:, 0]) + turn
    twig = np.stack([np.cos(heading), np.sin(heading)], axis=-1)[:, None] * along[:, None]
    twig *= ((0.3 + 0.3 * share[:, 11]) * length)[:, None, None]
    return spine, spine[:, FORK, None] + twig


def spicule_wedges(spine: NDArray[np.float64], width: NDArray[np.float64]) -> NDArray[np.float64]:
    """Computes outlines ``(count, 2 * steps, 2)`` of wedges, at least half a pixel wide."""
    ahead = np.gradient(spine, axis=1)
    normal = np.stack([-ahead[..., 1], ahead[..., 0]], axis=-1)
    normal /= np.maximum(np.hypot(normal[..., :1], normal[..., 1:]), 1e-6)
    taper = np.maximum(width[:, None] * np.linspace(1.1, 0.1, spine.shape[1]), 0.25)
    side = normal * taper[..., None]
    return np.concatenate([spine + side, (spine - side)[:, ::-1]], axis=1)


def draw_calcifications(
    source: Details,
    shape: tuple[int, int],
    *,
    centre: tuple[float, float],
    half: float,
    count: int,
    radius: float,
) -> FloatImage:
    """Draws a few calcifications near a mass.

    Args:
        source: Random numbers.
        shape: ``(H, W)``.
        centre: ``(y, x)`` of the mass, in pixels.
        half: Half the longer edge of the mass, in pixels.
        count: Number of calcifications.
        radius: Their mean radius, in pixels.

    Returns:
        Shape ``(H, W)``, up to 1 on a coarse calcification.
    """
    normals = source.normals(Layer.CALCIFICATIONS, count, 5)
    return draw_ellipses(
        shape,
        centres=np.array(centre) + 0.45 * half * normals[:, :2],
        axes=radius * np.exp(0.25 * normals[:, 2:4]),
        levels=0.55 + 0.45 * uniform(normals[:, 4]),
    )


def draw_ellipses(
    shape: tuple[int, ...],
    *,
    centres: NDArray[np.floating],
    axes: NDArray[np.floating],
    levels: NDArray[np.floating],
) -> FloatImage:
    """Draws filled ellipses with an edge one pixel wide; those smaller than a pixel are fainter.

    Args:
        shape: ``(H, W)``.
        centres: y and x, in pixels, shape ``(count, 2)``.
        axes: Half axes along y and x, in pixels, shape ``(count, 2)``.
        levels: Brightness, shape ``(count,)``; where ellipses overlap, the brightest counts.
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
