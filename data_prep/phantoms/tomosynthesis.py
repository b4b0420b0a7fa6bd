# SPDX-License-Identifier: Apache-2.0
"""Phantoms in depth: tissue and masses as volumes, and the slices that tomosynthesis makes of them.

A volume of attenuation is projected along several directions, and the projections are shifted and
added, which brings one height after another into focus. What lies at other heights stays visible as
ghosts, one for each projection. The sum of the volume along its depth is the mammogram of the same
phantom.

Millimetres: an edge of a crop is ``EDGE_MM`` wide, and a slice ``SLICE_MM`` thick. Rays are
parallel, and the tube moves along the rows' axis (y), as it moves along the chest wall.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.special import ndtr

from data_prep.phantoms.case import PhantomCase
from data_prep.phantoms.film import LATITUDE, add_surroundings
from data_prep.phantoms.masses import (
    BRANCHING,
    Mass,
    draw_ellipses,
    hiding_tissue,
    place_outlines,
    relative_distance,
    spicule_spines,
    spicule_wedges,
)
from data_prep.phantoms.texture import (
    PADDING,
    Details,
    FloatImage,
    Layer,
    decay,
    exponential,
    logarithm,
    logistic,
    noise,
)
from data_prep.phantoms.tissue import (
    FINE,
    FULL,
    LINE_STEPS,
    LINES,
    OUTER_SCALE,
    SMOOTH,
    SUBPIXEL_BITS,
    Lines,
    Tissue,
    add_layers,
    line_paths,
)

EDGE_MM = 12.8  # a crop of 128 px has 0.1 mm per pixel
SLICE_MM = 1.0
BEYOND = 8  # slices of breast above and below a crop, out of which ghosts come
# Angle from the middle to the end of a sweep, in degrees, and number of projections: of three
# makers, as compared by Sechopoulos 2013, Medical Physics 40:014301.
SWEEPS = ((7.5, 15), (12.5, 9), (25.0, 25))
WIDEST = max(reach for reach, _ in SWEEPS)
FINER = 3  # steps along the depth within a slice, for the profile of a mass
OFF_CENTRE = 0.06  # standard deviation of the height of a mass, in slices of a crop
BOOST, BOOSTED = 2.0, 32.0  # of fine waves by the filter; waves along an edge, from which in full
DETECTOR_BLUR = 0.5 / 128  # standard deviation of the point spread, in edges of a crop
LOBE_CONTRAST, SHEET_SHARE = 0.35, 3.0  # of projected lobes; of a sheet, slices it is seen in


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VolumePhantom:
    """One phantom as tomosynthesis and as mammography show it.

    Attributes:
        case: Values that it was drawn from.
        slices: Shape ``(D, size, size)``, values in ``[0, 1]``.
        mask: Shape ``(D, size, size)``, the mass.
        mammogram: Shape ``(size, size)``, values in ``[0, 1]``: the same phantom, projected.
        centre_slice: Position of the centre of the mass among the slices, from 0.
    """

    case: PhantomCase
    slices: FloatImage
    mask: NDArray[np.bool_]
    mammogram: FloatImage
    centre_slice: float

    @property
    def attributes(self) -> Mapping[str, str]:
        """What the case states, ``size_mm`` (longer edge in the plane) and ``centre_slice``."""
        known = {
            "size_mm": f"{self.case.mass.size * EDGE_MM:.2f}",
            "centre_slice": f"{self.centre_slice:.2f}",
        }
        return MappingProxyType({**self.case.stated, **known})


def draw_volume(case: PhantomCase, *, size: int = 128, depth: int = 16) -> VolumePhantom:
    """Draws the slices of one case around its mass, and its mammogram.

    Args:
        case: The case.
        size: Edge of a slice, in pixels.
        depth: Number of slices, ``SLICE_MM`` apart.
    """
    source = Details(case.texture)
    pixel_mm = EDGE_MM / size
    thick = depth + 2 * BEYOND
    normal, which = source.normals(Layer.SWEEP, 2).tolist()
    middle = (thick - 1) / 2 + OFF_CENTRE * depth * min(max(normal, -2.5), 2.5)
    top = math.ceil(thick / 2 * SLICE_MM * math.tan(math.radians(WIDEST)) / pixel_mm)
    volume = tissue_volume(case.tissue, source, (thick, size + 2 * top, size), edge=size)
    mask = add_mass(volume, case, source, edge=size, top=top, middle=middle)
    _add_surroundings(volume, case, edge=size, top=top)
    reach, count = SWEEPS[min(int(len(SWEEPS) * ndtr(which)), len(SWEEPS) - 1)]
    tangents = sweep(reach, count)
    here = slice(top, top + size)
    heights = np.arange(thick) - (thick - 1) / 2
    shifts = heights[:, None] * tangents * (SLICE_MM / pixel_mm)
    views = project(volume, shifts)
    add_quantum_noise(views, source, grain=case.film.grain)
    inside = slice(BEYOND, BEYOND + depth)
    slices = shift_and_add(views, shifts[inside], edge=size)[:, here]
    mammogram = volume[:, here].sum(axis=0, keepdims=True)
    add_quantum_noise(mammogram, source, grain=case.film.grain)
    return VolumePhantom(
        case=case,
        slices=displayed(slices, slope=case.film.slope, edge=size),
        mask=mask[inside, here],
        mammogram=displayed(mammogram, slope=case.film.slope, edge=size)[0],
        centre_slice=middle - BEYOND,
    )


def sweep(reach: float, count: int) -> NDArray[np.float64]:
    """Tangents of the angles of a sweep from ``-reach`` to ``reach`` degrees, evenly spaced."""
    return np.tan(np.radians(np.linspace(-reach, reach, count)))


def project(volume: FloatImage, shifts: NDArray[np.float64]) -> FloatImage:
    """Projects a volume along several directions.

    Args:
        volume: Attenuation of each slice, shape ``(T, H, W)``; periodic along H, so that rows near
            its ends are not to be used.
        shifts: Rows by which each slice appears moved in each projection, shape ``(T, A)``.

    Returns:
        Shape ``(A, H, W)``; without shifts it is the sum over slices.
    """
    return _combined(volume, _steering(volume.shape[1], shifts.T))


def shift_and_add(
    views: FloatImage, shifts: NDArray[np.float64], *, edge: float, boost: float = BOOST
) -> FloatImage:
    """Moves projections back, so that one slice lies on itself, and takes their mean.

    Args:
        views: Projections, shape ``(A, H, W)``.
        shifts: Of the wanted slices, shape ``(D, A)``, as for :func:`project`.
        edge: Pixels per edge of a crop.
        boost: Fine waves along H count up to so many times more: less than the ramp of filtered
            back-projection, and 0 for none.

    Returns:
        Shape ``(D, H, W)``.

    Source: Niklason et al. 1997, Radiology 205:399 (tomosynthesis of the breast by shift and add).
    """
    waves = edge * np.fft.rfftfreq(views.shape[1])[:, None, None]
    weight = (1 + boost * np.minimum(waves / BOOSTED, 1)) / len(views)
    return _combined(views, _steering(views.shape[1], -shifts) * weight.astype(np.float32))


def _steering(rows: int, shifts: NDArray[np.float64]) -> NDArray[np.complex64]:
    """Factors of the waves along the rows that move an image; shape ``(K, *shifts.shape)``."""
    frequencies = np.fft.rfftfreq(rows)[:, None, None]
    return np.asarray(np.exp(-2j * np.pi * frequencies * shifts), np.complex64)


def _combined(images: FloatImage, factors: NDArray[np.complex64]) -> FloatImage:
    """Sums of images whose rows are moved.

    Args:
        images: Shape ``(N, H, W)``.
        factors: Of each wave, sum and image, shape ``(K, M, N)``.

    Returns:
        Shape ``(M, H, W)``.
    """
    waves = fft.rfft(images, axis=1)
    # Threads of a matrix product that wait for one another took seconds on busy processors.
    sums = np.einsum("kmn,nkw->mkw", factors, waves)
    return np.ascontiguousarray(fft.irfft(sums, images.shape[1], axis=1), np.float32)


def add_quantum_noise(views: FloatImage, source: Details, *, grain: float) -> None:
    """Adds the noise of photons to projections that share one dose, in place.

    Args:
        views: Shape ``(A, H, W)``; attenuation about 0.5.
        source: Random numbers.
        grain: Standard deviation that a single projection with all of the dose would have, where
            attenuation is 0.5; it grows with attenuation as for :func:`data_prep.phantoms.film`.
    """
    dots = noise([source], Layer.GRAIN, views.size).reshape(views.shape)
    dots *= np.float32(grain * math.sqrt(len(views)))
    dots *= exponential(np.float32(LATITUDE) * np.minimum(views - np.float32(0.5), 0.6))
    views += dots


def displayed(attenuation: FloatImage, *, slope: float, edge: float) -> FloatImage:
    """Blurs by the detector and applies the curve of the display.

    Args:
        attenuation: Shape ``(D, H, W)``.
        slope: Slope of the curve at its middle, an attenuation of 0.5.
        edge: Pixels per edge of a crop.

    Returns:
        Shape ``(D, H, W)``, values in ``[0, 1]``.
    """
    result = np.empty_like(attenuation)
    for image, seen in zip(attenuation, result, strict=True):
        cv2.GaussianBlur(image, (0, 0), DETECTOR_BLUR * edge, dst=seen)
    result -= np.float32(0.5)
    result *= np.float32(4 * slope)
    return logistic(result)


def power_law_volume(
    source: Details,
    layer: Layer,
    shape: tuple[int, int, int],
    *,
    edge: float,
    beta: float,
    finest: int,
    outer_scale: float = OUTER_SCALE,
    stretch: float = 1.0,
    angle: float = 0.0,
) -> FloatImage:
    """Draws a Gaussian field in space whose power spectrum falls as ``1 / f**beta``.

    Its projection along any axis is a field in the plane with the same exponent (projection-slice
    theorem), so a mammogram of it has the spectrum of a mammogram.

    Args:
        source: Random numbers.
        layer: Layer whose random numbers are used.
        shape: ``(T, H, W)``; periodic along T and nearly along H.
        edge: Pixels per edge of a crop.
        beta: Exponent of the power spectrum.
        finest: Highest number of waves along an edge of a crop, in the plane.
        outer_scale: Wavelength beyond which power stays constant, in edges of a crop.
        stretch: Ratio of the correlation lengths along and across ``angle``, in the plane.
        angle: Direction of the longer correlation, in radians from the x axis.

    Returns:
        Shape ``(T, H, W)``, mean 0 and standard deviation 1.
    """
    thick, height, width = shape
    rows = fft.next_fast_len(height, real=False)
    columns = fft.next_fast_len(math.ceil(PADDING * width), real=True)
    most_y, most_x = (math.floor(finest * n / edge) for n in (rows, columns))
    # All waves are drawn at any size, and those that the pixels cannot hold are left out.
    normals = noise([source], layer, 2 * thick * (2 * most_y + 1) * (most_x + 1))
    waves = normals.view(np.complex64).reshape(thick, 2 * most_y + 1, most_x + 1)
    kept_y, kept_x = min(most_y, (rows - 1) // 2), min(most_x, (columns - 1) // 2)
    waves = waves[:, most_y - kept_y : most_y + kept_y + 1, : kept_x + 1]
    fz = np.fft.fftfreq(thick, SLICE_MM / EDGE_MM)[:, None, None]
    fy = (np.arange(-kept_y, kept_y + 1) * edge / rows)[None, :, None]
    fx = (np.arange(kept_x + 1) * edge / columns)[None, None, :]
    along, across = fx * math.cos(angle) + fy * math.sin(angle), fy * math.cos(angle)
    across = across - fx * math.sin(angle)
    squared = (fz**2 + outer_scale**-2.0) + (along**2 * stretch + across**2 / stretch)
    amplitude = logarithm(np.ascontiguousarray(squared, np.float32))
    amplitude *= np.float32(-beta / 4)
    exponential(amplitude)
    amplitude[:, :, 0] *= np.float32(math.sqrt(2))  # there twice in the half spectrum, counts once
    amplitude[0, kept_y, 0] = 0
    spectrum = np.zeros((thick, rows, kept_x + 1), np.complex64)
    part = fft.ifft(amplitude * waves, axis=0)
    spectrum[:, : kept_y + 1] = part[:, kept_y:]
    if kept_y:
        spectrum[:, -kept_y:] = part[:, :kept_y]
    lines = fft.ifft(spectrum, axis=1, overwrite_x=True)[:, :height]
    field = np.ascontiguousarray(fft.irfft(lines, columns, axis=2)[:, :, :width], np.float32)
    field -= field.mean()
    field /= field.std()
    return field


def tissue_volume(
    case: Tissue, source: Details, shape: tuple[int, int, int], *, edge: float
) -> FloatImage:
    """Draws the attenuation of breast tissue; the sum over slices is that of a mammogram.

    Args:
        case: The tissue.
        source: Random numbers.
        shape: ``(T, H, W)``.
        edge: Pixels per edge of a crop.

    Returns:
        Shape ``(T, H, W)``.
    """
    thick, height, width = shape
    background = power_law_volume(
        source,
        Layer.BACKGROUND,
        shape,
        edge=edge,
        beta=case.beta,
        finest=FINE,
        stretch=case.stretch,
        angle=case.direction,
    )
    # Thin sheets are the surfaces on which a smooth field is zero.
    sheets = power_law_volume(
        source,
        Layer.SHEETS,
        shape,
        edge=edge,
        beta=4.4,
        finest=SMOOTH,
        stretch=case.sheet_stretch,
        angle=case.direction + case.sheet_turn,
    )
    sheets *= np.float32(case.sheet_fineness)
    decay(np.square(sheets, out=sheets))
    sheets *= np.float32(case.sheet_strength * SHEET_SHARE / thick)
    lines = {
        kind: _lines(source, shape, edge, kind, getattr(case, kind), case.direction)
        for kind in ("strands", "vessels")
    }
    strands = lines["strands"]
    strands *= np.float32(case.strand_strength)
    strands += sheets
    strands *= np.float32(0.25) + logistic(2 * background)  # fainter in fatty tissue
    lobes = power_law_volume(
        source,
        Layer.LOBES,
        shape,
        edge=edge,
        beta=case.beta + 1,
        finest=SMOOTH,
        stretch=case.lobe_stretch,
        angle=case.direction,
    )
    lobes += np.float32(case.covered)
    lobes = logistic(lobes * np.float32(case.sharpness))
    result = background
    result *= np.float32(0.6) / _projected_contrast(result)
    lobes -= lobes.mean()
    lobes *= np.float32(case.gland * LOBE_CONTRAST) / _projected_contrast(lobes)
    result += lobes
    result += strands
    result += lines["vessels"] * np.float32(case.vessel_strength)
    result *= np.float32(case.contrast)
    y, x = ((np.arange(n, dtype=np.float32) + 0.5 - n / 2) / edge for n in (height, width))
    across = x * math.cos(case.slant_side) + y[:, None] * math.sin(case.slant_side)
    result += ((case.level + case.slant * across) / thick).astype(np.float32)
    return result


def _projected_contrast(volume: FloatImage) -> np.float32:
    """Standard deviation of the sum over slices."""
    return np.float32(max(float(volume.sum(axis=0).std()), 1e-6))


def _lines(
    source: Details,
    shape: tuple[int, int, int],
    edge: float,
    kind: str,
    per_area: float,
    direction: float,
) -> FloatImage:
    """Draws ducts or vessels, each at a height and with a slope of its own."""
    layer, look = LINES[kind]
    count = round(per_area * shape[1] * shape[2] / edge**2)
    if not count:
        return np.zeros(shape, np.float32)
    normals = source.normals(layer, count, 7 + LINE_STEPS)
    heights = source.normals(Layer.HEIGHTS, 2, count, 2)[int(layer == Layer.VESSELS)]
    return _draw_lines(shape, edge, look, normals, heights, direction)


def _draw_lines(
    shape: tuple[int, int, int],
    edge: float,
    look: Lines,
    normals: FloatImage,
    heights: FloatImage,
    direction: float,
) -> FloatImage:
    thick, height, width = shape
    uniform = ndtr(normals[:, :6])
    paths = line_paths(normals, uniform[:, 0], look, np.full(len(normals), direction)) * edge
    paths += uniform[:, None, 4:6] * (width, height)
    wide = look.width[0] * (look.width[1] / look.width[0]) ** uniform[:, 2]
    level = (0.25 + 0.75 * uniform[:, 3]) * np.sqrt(look.width[0] / wide)
    level *= np.minimum(edge * wide, 1)  # thinner than a pixel: a pixel wide, and fainter
    # From its middle on, a line rises or falls by about a quarter of the way it goes.
    moves = np.linalg.norm(np.diff(paths, axis=1, prepend=paths[:, :1]), axis=2)
    way = np.cumsum(moves, axis=1) * EDGE_MM / edge
    way -= way[:, LINE_STEPS // 2, None]
    z = thick * ndtr(heights[:, :1]) + 0.25 * heights[:, 1:] * way / SLICE_MM
    z = np.floor((z[:, :-1] + z[:, 1:]) / 2).astype(int)  # of the piece between two points
    layers = np.zeros((2, *shape), np.uint8)
    points = np.round((paths - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
    strokes = np.maximum(np.round(edge * wide), 1).astype(int).tolist()
    for i, tone in enumerate((FULL * level).tolist()):
        for first, last, at in _runs(z[i]):
            if 0 <= at < thick:
                cv2.polylines(
                    layers[i % 2, at],
                    [points[i, first : last + 1]],
                    False,
                    tone,
                    strokes[i],
                    cv2.LINE_AA,
                    SUBPIXEL_BITS,
                )
    return _sum_of(layers)


def _runs(values: NDArray[np.int_]) -> list[tuple[int, int, int]]:
    """Parts of a sequence in which one value stands: first place, place after, value.

    >>> _runs(np.array([3, 3, 4]))
    [(0, 2, 3), (2, 3, 4)]
    """
    ends = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [(a, b, int(values[a])) for a, b in itertools.pairwise(ends)]


def _sum_of(layers: NDArray[np.uint8]) -> FloatImage:
    """Sum of two 8-bit drawings of volumes, shape ``(2, T, H, W)``."""
    result = np.empty(layers.shape[1:], np.float32)
    flat = layers.reshape(2, -1, layers.shape[-1])
    add_layers(flat, result.reshape(-1, layers.shape[-1]))
    return result


def add_mass(
    volume: FloatImage,
    case: PhantomCase,
    source: Details,
    *,
    edge: float,
    top: int = 0,
    left: int = 0,
    middle: float,
) -> NDArray[np.bool_]:
    """Adds a mass with its spicules and calcifications to a volume, in place.

    A ball of the density ``(1 - r**2)**(nu - 1/2)`` has the projection ``(1 - rho**2)**nu``, so
    that the mass has the profile of a mass in the plane. Tissue that hides its margin in the
    mammogram lies above or below it, where slices are free of it.

    Args:
        volume: Attenuation, shape ``(T, H, W)``.
        case: The mass and its calcifications.
        source: Random numbers.
        edge: Pixels per edge of a crop.
        top: Row of ``volume`` in which the crop begins that ``case.mass.centre`` refers to.
        left: Column in which it begins.
        middle: Slice of the centre, from 0; need not be whole.

    Returns:
        The mass as an annotator would outline it, shape ``(T, H, W)``.

    Source: Abel transform of ``(1 - r**2)**(nu - 1/2)``; nu after Burgess, as in
    :mod:`data_prep.phantoms.masses`.
    """
    mass = case.mass
    outlines, origins = place_outlines([mass], [source], edge=edge)
    outline, origin = outlines[0], origins[0] + (left, top)
    thick, height, width = volume.shape
    x, y = (
        (np.arange(n) + 0.5 - o).astype(np.float32)
        for n, o in ((width, origin[0]), (height, origin[1]))
    )
    rho = np.empty((height, width), np.float32)
    relative_distance(outline, x, y, out=rho)
    half_mm = mass.size * EDGE_MM / 2
    half_slices = half_mm / math.sqrt(mass.elongation) / SLICE_MM
    rows, columns = (_span(rho.min(axis=axis), 1.6) for axis in (1, 0))
    first = max(0, math.floor(middle - half_slices))
    last = min(thick, math.ceil(middle + half_slices) + 1)
    box = (slice(first, last), rows, columns)
    near = rho[rows, columns]
    shape = (last - first, *near.shape)
    inner = power_law_volume(
        source, Layer.MASS, shape, edge=edge, beta=3.6, finest=SMOOTH, outer_scale=0.5
    )
    volume[box] += _body(mass, near, inner, np.arange(first, last) - middle, half_slices)
    if mass.obscured:
        _hide(volume, mass, source, near, x[columns], y[rows], (rows, columns), edge, middle)
    if mass.spicules:
        volume += np.float32(mass.contrast * mass.spicule_level) * _spicules(
            mass, source, volume.shape, outline, origin, edge, middle
        )
    if case.calcifications:
        _add_calcifications(volume, case, source, edge=edge, at=(top, left), middle=middle)
    z = ((np.arange(thick) - middle) / half_slices)[:, None, None]
    return np.asarray(rho**2 + z**2 < 1, np.bool_)


def _span(distance: FloatImage, most: float) -> slice:
    """Places with a distance below a bound."""
    inside = np.flatnonzero(distance < most)
    return slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 0)


def _body(
    mass: Mass, rho: FloatImage, inner: FloatImage, heights: NDArray[np.float64], half: float
) -> FloatImage:
    """Attenuation of a mass without spicules, shape ``(slices, H, W)``.

    Args:
        mass: The mass.
        rho: Distance from the centre in the plane, over the radius, shape ``(H, W)``.
        inner: Texture, shape ``(slices, H, W)``.
        heights: Of each slice above the centre, in slices.
        half: Half the extent along the depth, in slices.
    """
    plane = rho * (1 + np.float32(mass.raggedness) * inner)
    np.square(plane, out=plane)
    power = np.float32(max(mass.exponent - 0.5, 0.0))
    steps = (np.arange(FINER) + 0.5) / FINER - 0.5
    body, whole = np.zeros_like(plane), 0.0
    for step in steps:
        z = ((heights + step) / half)[:, None, None].astype(np.float32)
        left = 1 - plane - z**2
        inside = left > 0
        body += np.where(inside, np.maximum(left, 1e-9) ** power, 0)
        whole += float((np.maximum(1 - z**2, 0) ** power * (np.abs(z) < 1)).sum())
    body *= np.float32(mass.contrast / whole)
    body *= 1 + np.float32(mass.grain) * inner
    return body


def _hide(
    volume: FloatImage,
    mass: Mass,
    source: Details,
    rho: FloatImage,
    x: FloatImage,
    y: FloatImage,
    part: tuple[slice, slice],
    edge: float,
    middle: float,
) -> None:
    """Adds tissue above or below a mass that hides one side of its margin, in place."""
    half = mass.size * edge / 2
    side = x * math.cos(mass.obscured_side) + y[:, None] * math.sin(mass.obscured_side)
    normals = source.normals(Layer.HIDING, 2, *rho.shape)
    above = 1 if normals[0, 0, 0] > 0 else -1
    texture = cv2.GaussianBlur(normals[1], (0, 0), max(0.05 * edge, 1))
    texture /= max(float(texture.std()), 1e-6)
    veil = hiding_tissue(
        (side / half).astype(np.float32), rho, np.asarray(texture, np.float32), 0.12 * half
    )
    at = middle + above * (mass.size * EDGE_MM / 2 / SLICE_MM + 2)
    weight = np.exp(-0.5 * np.square(np.arange(len(volume)) - at))
    if weight.sum() > 0.5:
        weight *= mass.obscured * mass.contrast / weight.sum()
        volume[:, part[0], part[1]] += weight[:, None, None].astype(np.float32) * veil


def _spicules(
    mass: Mass,
    source: Details,
    shape: tuple[int, ...],
    outline: NDArray[np.float64],
    origin: NDArray[np.float64],
    edge: float,
    middle: float,
) -> FloatImage:
    """Draws spicules that radiate from a mass in all directions; values in ``[0, 2]``."""
    count, thick = mass.spicules, shape[0]
    normals = source.normals(Layer.SPICULES, count, 12)
    uniform = ndtr(normals)
    half = np.full(count, outline.max())
    spine, twig = spicule_spines(
        normals,
        uniform,
        base=np.broadcast_to(outline, (count, len(outline))),
        half=half,
        reach=np.full(count, mass.spicule_reach),
    )
    slope = np.tan(np.clip(0.5 * source.normals(Layer.HEIGHTS, 3, count)[2], -1.2, 1.2))
    width = 0.03 * half * (0.4 + 1.1 * uniform[:, 6])
    level = FULL * (0.25 + 0.75 * uniform[:, 7])
    layers = np.zeros((2, *shape), np.uint8)
    forked = uniform[:, 8] < BRANCHING
    for lines, wide, tones, drawn in (
        (spine, width, level, np.ones(count, np.bool_)),
        (twig, 0.6 * width, 0.8 * level, forked),
    ):
        ways = np.linalg.norm(lines, axis=2) * EDGE_MM / edge / SLICE_MM
        z = middle + slope[:, None] * ways
        z = np.round((z[:, :-1] + z[:, 1:]) / 2).astype(int)
        wedges = spicule_wedges(lines, wide) + origin
        points = np.round((wedges - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
        for i in np.flatnonzero(drawn):
            for first, last, at in _runs(z[i]):
                if 0 <= at < thick:
                    ends = points.shape[1] - 1
                    piece = np.concatenate(
                        [points[i, first : last + 1], points[i, ends - last : ends - first + 1]]
                    )
                    cv2.fillPoly(
                        layers[i % 2, at], [piece], float(tones[i]), cv2.LINE_AA, SUBPIXEL_BITS
                    )
    return _sum_of(layers)


def _add_calcifications(
    volume: FloatImage,
    case: PhantomCase,
    source: Details,
    *,
    edge: float,
    at: tuple[int, int],
    middle: float,
) -> None:
    """Adds calcifications in and about a mass, each in one slice."""
    mass = case.mass
    normals = source.normals(Layer.CALCIFICATIONS, case.calcifications, 5)
    heights = source.normals(Layer.HEIGHTS, 4, case.calcifications)[3]
    half = edge * mass.size / 2
    centre = np.array([edge * c + first for c, first in zip(mass.centre, at, strict=True)])
    places = np.round(middle + 0.45 * mass.size * EDGE_MM / 2 / SLICE_MM * heights)
    for i, place in enumerate(places.clip(0, len(volume) - 1).astype(int).tolist()):
        one = slice(i, i + 1)
        volume[place] += np.float32(case.calcification_level) * draw_ellipses(
            volume.shape[1:],
            centres=centre + 0.45 * half * normals[one, :2],
            axes=edge * case.calcification_radius * np.exp(0.25 * normals[one, 2:4]),
            levels=0.55 + 0.45 * ndtr(normals[one, 4]),
        )


def _add_surroundings(volume: FloatImage, case: PhantomCase, *, edge: float, top: int) -> None:
    """Adds muscle and skin line to each slice, so that their sum has those of the mammogram."""
    none, one = np.zeros((2, *volume.shape[1:]), np.float32)
    one += 1
    for image in (none, one):
        add_surroundings(image, case.film, edge=edge, top=top)
    volume *= one - none  # what it does to attenuation is linear
    volume += none / np.float32(len(volume))
