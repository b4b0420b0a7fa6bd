# SPDX-License-Identifier: Apache-2.0
"""Breast tissue: power-law background, glandular lobes or clustered lumps, sheets, ducts, vessels.

Everything is attenuation, in units of the film's range (:mod:`data_prep.phantom_film`), so layers
add as they do along an X-ray. ``edge`` is the number of pixels that show one edge of a crop.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.phantom_lines import Lines, draw_lines
from data_prep.phantom_lumps import clustered_lumps
from data_prep.phantom_texture import Details, FloatImage, Layer, exponential, power_law_fields

OUTER_SCALE = 1.25  # longest wave of tissue, in edges of a crop
FINE = 64  # waves along an axis beyond which the background drowns in grain
SMOOTH = 32  # waves along an axis beyond which lobes and sheets have nothing to show
# Ducts and ligaments are thin, gently bent and nearly along a common direction; vessels are wider,
# winding, and less bound to it.
LINES = {
    "strands": (
        Layer.STRANDS,
        Lines(turn=0.4, bend=0.3, wander=0.1, length=(0.5, 2.0), width=(0.006, 0.028)),
    ),
    "vessels": (
        Layer.VESSELS,
        Lines(turn=1.2, bend=0.5, wander=0.2, length=(1.0, 3.0), width=(0.018, 0.04)),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tissue:
    """Tissue of one phantom. Lengths in edges of a crop, angles in radians from the x axis.

    Attributes:
        level: Mean attenuation.
        slant: Difference of attenuation across the crop, where the breast gets thicker.
        slant_side: Where it is thickest, as an angle.
        contrast: Standard deviation of the attenuation, roughly.
        beta: Exponent of the background's power spectrum.
        stretch: Ratio of its correlation lengths along and across ``direction``.
        direction: Direction of ducts and ligaments.
        lumpy: Whether glands are clustered lumps.
        lobe_stretch: As ``stretch``, of the glandular lobes.
        covered: Share of gland, as a normal quantile; 0 is half of the crop.
        sharpness: Steepness of the edges of lobes.
        gland: Attenuation of gland over that of the background.
        sheet_turn: Angle between sheets of connective tissue and ``direction``.
        sheet_stretch: As ``stretch``, of the sheets.
        sheet_fineness: Inverse width of a sheet seen edge-on.
        sheet_strength: Its attenuation.
        strands: Ducts and ligaments that start in the area of a crop.
        strand_strength: Their attenuation.
        vessels: Vessels that start in the area of a crop.
        vessel_strength: Their attenuation.
    """

    level: float
    slant: float
    slant_side: float
    contrast: float
    beta: float
    stretch: float
    direction: float
    lumpy: bool
    lobe_stretch: float
    covered: float
    sharpness: float
    gland: float
    sheet_turn: float
    sheet_stretch: float
    sheet_fineness: float
    sheet_strength: float
    strands: float
    strand_strength: float
    vessels: float
    vessel_strength: float


def column(cases: Sequence[object], name: str) -> FloatImage:
    """One attribute of all cases, shape ``(N, 1, 1)``."""
    return np.array([getattr(case, name) for case in cases], np.float32)[:, None, None]


def tissue(
    cases: Sequence[Tissue], details: Sequence[Details], shape: tuple[int, int], *, edge: float
) -> FloatImage:
    """Attenuation of breast tissue.

    Args:
        cases: One per picture.
        details: One per picture.
        shape: ``(H, W)``.
        edge: Pixels per edge of a crop.

    Returns:
        Shape ``(N, H, W)``.
    """
    direction = column(cases, "direction")
    longest = OUTER_SCALE * edge
    finest = math.ceil(SMOOTH * max(shape) / edge)
    background = power_law_fields(
        details,
        Layer.BACKGROUND,
        shape,
        beta=column(cases, "beta"),
        stretch=column(cases, "stretch"),
        angle=direction,
        outer_scale=longest,
        finest=math.ceil(FINE * max(shape) / edge),
    )
    # Thin sheets seen edge-on are bright lines: the zero lines of a smooth field.
    sheets = power_law_fields(
        details,
        Layer.SHEETS,
        shape,
        beta=4.4,
        stretch=column(cases, "sheet_stretch"),
        angle=direction + column(cases, "sheet_turn"),
        outer_scale=longest,
        finest=finest,
    )
    strands, vessels = (
        _lines(cases, details, shape, edge, kind) for kind in ("strands", "vessels")
    )
    # In place: at this size of arrays, memory takes most of the time.
    sheets *= column(cases, "sheet_fineness")
    np.square(sheets, out=sheets)
    exponential(np.negative(sheets, out=sheets))
    sheets *= column(cases, "sheet_strength")
    strands *= column(cases, "strand_strength")
    strands += sheets
    strands *= 0.25 + logistic(2 * background)  # where fat leaves them free
    glands = _glands(cases, details, shape, edge, finest)
    glands *= column(cases, "gland")
    vessels *= column(cases, "vessel_strength")
    result = background
    result *= np.float32(0.6)
    for layer in (strands, glands, vessels):
        result += layer
    result *= column(cases, "contrast")
    side = column(cases, "slant_side")
    y, x = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in shape)
    across = x * np.cos(side) + y[:, None] * np.sin(side)
    result += column(cases, "level") + column(cases, "slant") * across
    return result


def _lines(
    cases: Sequence[Tissue],
    details: Sequence[Details],
    shape: tuple[int, int],
    edge: float,
    kind: str,
) -> FloatImage:
    layer, look = LINES[kind]
    return draw_lines(
        details,
        layer,
        shape,
        edge=edge,
        look=look,
        per_area=[getattr(case, kind) for case in cases],
        direction=[case.direction for case in cases],
    )


def _glands(
    cases: Sequence[Tissue],
    details: Sequence[Details],
    shape: tuple[int, int],
    edge: float,
    finest: int,
) -> FloatImage:
    """Glandular tissue around its mean: lobes with an edge, or clustered lumps."""
    result = np.empty((len(cases), *shape), np.float32)
    lobes, lumps = (
        [i for i, case in enumerate(cases) if case.lumpy is lumpy] for lumpy in (False, True)
    )
    if lobes:
        chosen = [cases[i] for i in lobes]
        field = power_law_fields(
            [details[i] for i in lobes],
            Layer.LOBES,
            shape,
            beta=column(chosen, "beta") + 1,
            stretch=column(chosen, "lobe_stretch"),
            angle=column(chosen, "direction"),
            outer_scale=OUTER_SCALE * edge,
            finest=finest,
        )
        field += column(chosen, "covered")
        result[lobes] = logistic(field * column(chosen, "sharpness"))
    if lumps:
        chosen = [cases[i] for i in lumps]
        field = clustered_lumps(
            [details[i] for i in lumps],
            shape,
            edge=edge,
            direction=[case.direction for case in chosen],
        )
        result[lumps] = logistic(field + column(chosen, "covered"))
    result -= result.mean(axis=(1, 2), keepdims=True)
    return result


def logistic(value: FloatImage) -> FloatImage:
    """Smooth step from 0 to 1."""
    result: FloatImage = np.negative(value)
    exponential(result)  # beyond single precision it is infinite, and the result is 0
    result += 1
    np.reciprocal(result, out=result)
    return result
