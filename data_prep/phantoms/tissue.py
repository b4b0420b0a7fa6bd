# SPDX-License-Identifier: Apache-2.0
"""Breast tissue: power-law background, glandular lobes or clustered lumps, sheets, ducts, vessels.

All values are attenuations, in units of the film's range (:mod:`data_prep.phantoms.film`), so
layers add up as they do along an X-ray. ``edge`` is the number of pixels along one edge of a crop.
"""

import functools
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
    column,
    decay,
    fast_length,
    logistic,
    power_law_fields,
    real_rows,
    standardised,
    uniform,
)

OUTER_SCALE = 1.25  # longest wave of tissue, in edges of a crop
FINE = 64  # waves along an axis beyond which film grain hides the background
SMOOTH = 32  # waves along an axis beyond which lobes and sheets have no detail

# Lines.
SUBPIXEL_BITS = 4  # fixed-point digits of OpenCV's drawing
FULL = 127  # brightest line in an 8-bit drawing; the sum of two still fits
LINE_STEPS = 12  # of a path

# Clustered lumps.
CLUSTERS = 48  # in the area of a crop
BLOBS = 20  # in a cluster, on average
CLUSTER_SPREAD = 12 / 128  # standard deviation of a cluster, in edges of a crop
BLOB_AXES = (5 / 128, 2 / 128)  # half axes of a blob
# A blob is exp(-BLOB_FALL * r**BLOB_POWER / radius of its ellipse).
BLOB_FALL, BLOB_POWER = 2.1, 0.5
LUMP_MARGIN = 0.15  # blobs outside the picture reach into it
LUMP_DIRECTIONS = 8  # to which orientations are rounded
LUMP_FADE = 0.8  # standard deviation, in coarse pixels, of the blur when enlarging
LUMP_TURN = 0.35  # standard deviation of an orientation about the common direction, in radians


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Appearance of a kind of line. Lengths in edges of a crop, angles in radians.

    Attributes:
        turn: Standard deviation of the heading about the common direction.
        bend: Standard deviation of half the turn from end to end.
        wander: Standard deviation of the turn at each of 12 steps.
        length: Range.
        width: Range.
    """

    turn: float
    bend: float
    wander: float
    length: tuple[float, float]
    width: tuple[float, float]


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
        slant: Difference of attenuation across the crop, because the breast gets thicker.
        slant_side: Angle of the side where it is thickest.
        contrast: Standard deviation of the attenuation, roughly.
        beta: Exponent of the background's power spectrum.
        stretch: Ratio of its correlation lengths along and across ``direction``.
        direction: Direction of ducts and ligaments.
        lumpy: Whether glands are clustered lumps.
        lobe_stretch: As ``stretch``, of the glandular lobes.
        covered: Share of glandular tissue, as a normal quantile; 0 is half of the crop.
        sharpness: Steepness of the edges of lobes.
        gland: Attenuation of glandular tissue above that of the background.
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


def tissue(
    cases: Sequence[Tissue], details: Sequence[Details], shape: tuple[int, int], *, edge: float
) -> FloatImage:
    """Draws the attenuation of breast tissue.

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
    glands = _glands(cases, details, shape, edge, finest)
    y, x = (np.linspace(-0.5, 0.5, n, dtype=np.float32) for n in shape)
    # One picture after the other, since all layers of one fit into the processor's cache.
    for i, case in enumerate(cases):
        sheet, strand, ground, scale = sheets[i], strands[i], background[i], case.contrast
        sheet *= np.float32(case.sheet_fineness)
        decay(np.square(sheet, out=sheet))
        cv2.addWeighted(sheet, case.sheet_strength, strand, case.strand_strength, 0, strand)
        share = logistic(2 * ground)
        share += np.float32(0.25)
        strand *= share  # fainter in fatty tissue
        gland = scale * case.gland
        level = case.level - gland * cv2.mean(glands[i])[0]
        cv2.addWeighted(ground, 0.6 * scale, strand, scale, level, ground)
        cv2.scaleAdd(glands[i], gland, ground, ground)
        cv2.scaleAdd(vessels[i], scale * case.vessel_strength, ground, ground)
        ground += x * np.float32(case.slant * math.cos(case.slant_side))
        ground += y[:, None] * np.float32(case.slant * math.sin(case.slant_side))
    return background


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
) -> dict[int, FloatImage]:
    """Draws glandular tissue, from 0 to 1: lobes with an edge, or clustered lumps."""
    lobes, lumps = (
        [i for i, case in enumerate(cases) if case.lumpy is lumpy] for lumpy in (False, True)
    )
    drawn: dict[int, FloatImage] = {}
    if lobes:
        chosen = [cases[i] for i in lobes]
        fields = power_law_fields(
            [details[i] for i in lobes],
            Layer.LOBES,
            shape,
            beta=column(chosen, "beta") + 1,
            stretch=column(chosen, "lobe_stretch"),
            angle=column(chosen, "direction"),
            outer_scale=OUTER_SCALE * edge,
            finest=finest,
        )
        drawn |= zip(lobes, fields, strict=True)
    if lumps:
        fields = clustered_lumps(
            [details[i] for i in lumps],
            shape,
            edge=edge,
            direction=[cases[i].direction for i in lumps],
        )
        drawn |= zip(lumps, fields, strict=True)
    for i, case in enumerate(cases):
        drawn[i] += np.float32(case.covered)
        if not case.lumpy:
            drawn[i] *= np.float32(case.sharpness)
        logistic(drawn[i])
    return drawn


def draw_lines(
    details: Sequence[Details],
    layer: Layer,
    shape: tuple[int, int],
    *,
    edge: float,
    look: Lines,
    per_area: Sequence[float],
    direction: Sequence[float],
) -> FloatImage:
    """Draws lines at random positions.

    Args:
        details: One per picture.
        layer: Layer whose random numbers are used.
        shape: ``(H, W)``.
        edge: Pixels per edge of a crop.
        look: Appearance of the lines.
        per_area: Lines in the area of a crop, per picture.
        direction: Common direction, per picture, in radians from the x axis.

    Returns:
        Shape ``(N, H, W)``; 0 outside lines, up to about 1 on a line and 2 where two lines cross.
    """
    counts = [round(wanted * shape[0] * shape[1] / edge**2) for wanted in per_area]
    result = np.zeros((len(details), *shape), np.float32)
    if not sum(counts):
        return result
    drawn = [
        source.normals(layer, count, 7 + LINE_STEPS)
        for source, count in zip(details, counts, strict=True)
        if count
    ]
    normals = np.concatenate(drawn)
    share = uniform(normals[:, :6])
    path = line_paths(normals, share[:, 0], look, np.repeat(direction, counts)) * edge
    path += share[:, None, 4:6] * (shape[1], shape[0])
    width = look.width[0] * (look.width[1] / look.width[0]) ** share[:, 2]
    level = (0.25 + 0.75 * share[:, 3]) * np.sqrt(look.width[0] / width)
    # A line thinner than a pixel is drawn one pixel wide, and fainter.
    level *= np.minimum(edge * width, 1)
    thick = np.maximum(np.round(edge * width), 1).astype(int)
    points = np.round((path - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
    first, last = seen_steps(points, thick, shape)
    lines = zip(
        points, first.tolist(), last.tolist(), thick.tolist(), (FULL * level).tolist(), strict=True
    )
    for picture, count in zip(result, counts, strict=True):
        if not count:
            continue
        # Two layers that are added, so that crossing lines are brighter.
        layers = np.zeros((2, *shape), np.uint8)
        for i in range(count):
            path, begin, end, line_width, brightness = next(lines)
            if begin <= end:
                cv2.polylines(
                    layers[i % 2],
                    [path[begin : end + 2]],
                    False,
                    brightness,
                    line_width,
                    cv2.LINE_AA,
                    SUBPIXEL_BITS,
                )
        add_layers(layers, picture)
    return result


def seen_steps(
    points: NDArray[np.int32], thick: NDArray[np.int64], shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Finds the steps of paths that may touch a picture; drawing the others is half of the time.

    Args:
        points: ``(count, steps, 2)`` of x and y, in units of OpenCV's drawing.
        thick: Widths in pixels, shape ``(count,)``.
        shape: ``(H, W)``.

    Returns:
        First and last step to draw, shape ``(count,)`` each; step ``i`` leads from point ``i`` to
        the next. For a path that is nowhere near the last is before the first.
    """
    reach = ((thick[:, None, None] + 2) << SUBPIXEL_BITS).astype(np.int32)
    limits = np.array([shape[1], shape[0]], np.int32) << SUBPIXEL_BITS
    below, above = points < -reach, points > limits + reach
    # A step is outside if both of its ends are beyond the same side.
    outside = (below[:, :-1] & below[:, 1:]) | (above[:, :-1] & above[:, 1:])
    seen = ~(outside[..., 0] | outside[..., 1])
    last = seen.shape[1] - 1 - seen[:, ::-1].argmax(axis=1)
    return seen.argmax(axis=1), np.where(seen.any(axis=1), last, -1)


def line_paths(
    normals: FloatImage,
    length: NDArray[np.floating],
    look: Lines,
    direction: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Computes paths ``(count, steps, 2)`` with their middle at 0, in edges of a crop.

    Args:
        normals: Shape ``(count, 7 + steps)``.
        length: Position in the range of lengths, from 0 to 1.
        look: Appearance of the lines.
        direction: Direction of each line before it turns.
    """
    low, high = look.length
    step = (low + (high - low) * length) / LINE_STEPS
    bend = look.bend * normals[:, 6:7] * np.linspace(-1, 1, LINE_STEPS)
    wander = np.cumsum(look.wander * normals[:, 7:], axis=1)
    turn = direction[:, None] + look.turn * normals[:, 1:2] + bend + wander
    moves = np.stack([np.cos(turn), np.sin(turn)], axis=-1) * step[:, None, None]
    path = np.cumsum(moves, axis=1)
    return np.asarray(path - path[:, LINE_STEPS // 2, None], np.float64)


def add_layers(layers: NDArray[np.uint8], image: FloatImage) -> None:
    """Writes the sum of two 8-bit drawings, shape ``(2, H, W)``, where ``FULL`` becomes 1."""
    cv2.addWeighted(layers[0], 1 / FULL, layers[1], 1 / FULL, 0, image, cv2.CV_32F)


def blurred(image: FloatImage, sigma: float) -> FloatImage:
    """Blurs an image with a Gaussian; ``sigma`` is its standard deviation, in pixels."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.float32)


def clustered_lumps(
    details: Sequence[Details],
    shape: tuple[int, int],
    *,
    edge: float,
    direction: Sequence[float],
) -> FloatImage:
    """Draws sums of blobs whose positions form clusters.

    A blob is ``exp(-BLOB_FALL * r**BLOB_POWER / L)`` with the radius L of an ellipse in the
    direction of r. All blobs of a cluster share its orientation, so one convolution per orientation
    draws them, at half the resolution.

    Args:
        details: One per picture.
        shape: ``(H, W)``.
        edge: Pixels per edge of a crop.
        direction: Common direction, per picture, in radians from the x axis.

    Returns:
        Shape ``(N, H, W)``; each picture has mean 0 and standard deviation 1.

    Source: Bochud, Abbey and Eckstein 1999, Optics Express 4:33, for the construction. Our
    numbers are of the same order as theirs; our orientations are spread about a direction, theirs
    are uniform.
    """
    margin = math.ceil(LUMP_MARGIN * edge / 2)
    coarse = tuple(fast_length(n // 2 + 2 * margin) for n in shape)
    result = np.empty((len(details), *shape), np.float32)
    for i, source in enumerate(details):
        cells, turns = _places(source, coarse, edge / 2, direction[i])
        points = np.bincount(cells, minlength=len(turns) * coarse[0] * coarse[1])
        # The transform of rows as a product of matrices: half the time of NumPy's.
        rows = points.astype(np.float32).reshape(-1, coarse[1]) @ _rows_to_waves(coarse[1])
        spectra = rows.view(np.complex64).reshape(len(turns), coarse[0], -1)
        np.fft.fft(spectra, axis=1, out=spectra)  # type: ignore[arg-type]  # single precision
        for spectrum, turn in zip(spectra, turns, strict=True):
            spectrum *= _faded_blob(*coarse, edge / 2, turn)
        result[i] = _enlarged(spectra.sum(axis=0), coarse, 2 * margin, shape)
    return standardised(result)


def _places(
    source: Details, size: tuple[int, ...], edge: float, direction: float
) -> tuple[NDArray[np.int64], list[int]]:
    """Draws the positions and rounded orientations of all blobs.

    Returns:
        Positions in the flat array ``(orientations, *size)``; the orientations, in steps.
    """
    height, width = size
    clusters = round(CLUSTERS * height * width / edge**2)
    most = 2 * BLOBS
    normals = source.normals(Layer.LOBES, clusters, 4 + 2 * most)
    # About Poisson, as in the source.
    count = np.clip(np.round(BLOBS + math.sqrt(BLOBS) * normals[:, 0]), 0, most)
    turn = np.round((direction + LUMP_TURN * normals[:, 3]) * (LUMP_DIRECTIONS / np.pi))
    there = np.arange(most) < count[:, None]
    where = uniform(normals[:, None, 1:3]) * size
    where = where + CLUSTER_SPREAD * edge * normals[:, 4:].reshape(clusters, most, 2)
    at = np.rint(where, out=where).astype(np.int32)
    cells = (np.arange(height) * width).take(at[..., 0], mode="wrap")
    cells += np.arange(width).take(at[..., 1], mode="wrap")
    turns, which = np.unique(turn.astype(np.int64) % LUMP_DIRECTIONS, return_inverse=True)
    cells += which[:, None] * (height * width)
    return cells[there], turns.tolist()


def _enlarged(
    half: NDArray[np.complex64], size: tuple[int, ...], first: int, shape: tuple[int, int]
) -> FloatImage:
    """Interpolates an image to twice its size, from its half spectrum.

    Args:
        half: Half spectrum of the image.
        size: Height and width of the image.
        first: Row and column of the larger image from which on it is wanted.
        shape: Rows and columns that are wanted.
    """
    height, width = size
    upper = (height + 1) // 2  # waves with fy >= 0
    spectrum = np.zeros((2 * height, half.shape[1]), np.complex64)
    spectrum[:upper], spectrum[upper - height :] = half[:upper], half[upper:]
    np.fft.ifft(spectrum, axis=0, out=spectrum)  # type: ignore[arg-type]  # single precision
    return real_rows(spectrum[first:][: shape[0]], 2 * width, first + shape[1])[:, first:]


@functools.lru_cache(maxsize=4)
def _rows_to_waves(width: int) -> FloatImage:
    """Matrix that transforms rows to their half spectra: real and imaginary parts in turn."""
    waves = np.fft.rfft(np.eye(width)).astype(np.complex64)
    return waves.view(np.float32)


@functools.lru_cache(maxsize=4 * LUMP_DIRECTIONS)
def _faded_blob(height: int, width: int, edge: float, turn: int) -> NDArray[np.complex64]:
    """As :func:`_blob`; the finest waves fade out, as a sudden end would show when enlarged."""
    down, across = (
        np.exp(-2 * np.square(np.pi * LUMP_FADE * f)).astype(np.float32)
        for f in (np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    )
    return np.asarray(_blob(height, width, edge, turn) * down * across, np.complex64)


def _blob(height: int, width: int, edge: float, turn: int) -> NDArray[np.complex64]:
    """Computes the transform of a blob at the origin; ``turn`` is its orientation in steps."""
    y = np.fft.fftfreq(height, 1 / height)[:, None] / edge
    x = np.fft.fftfreq(width, 1 / width)[None, :] / edge
    angle = np.arctan2(y, x) - np.pi * turn / LUMP_DIRECTIONS
    reach = 1 / np.hypot(np.cos(angle) / BLOB_AXES[0], np.sin(angle) / BLOB_AXES[1])
    # The source measures r and L in its own pixels, which are 1/128 of an edge here.
    blob = np.exp(-BLOB_FALL * (128 * np.hypot(y, x)) ** BLOB_POWER / (128 * reach))
    return np.asarray(np.fft.rfft2(blob), np.complex64)
