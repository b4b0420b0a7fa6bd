# SPDX-License-Identifier: Apache-2.0
"""Turns attenuation into a scanned film: muscle, skin line, grain, blur, film curve, artefacts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from data_prep.phantoms.masses import draw_ellipses
from data_prep.phantoms.texture import (
    Details,
    FloatImage,
    Layer,
    decay,
    exponential,
    logistic,
    noise,
    uniform,
)

AIR = -0.5  # attenuation at which the film is black
LATITUDE = 1.15  # half of log 10: a film shows exposures over about a factor of 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Position of a crop in the breast, and how it was imaged. Lengths in edges of a crop.

    Attributes:
        skin: Distance from the crop's middle to the skin line; infinite if it is not visible.
        skin_side: Direction in which it lies, in radians from the x axis.
        skin_bow: Radius of the skin line.
        rim: Width of the rim where the breast thins out.
        muscle: Attenuation of the pectoral muscle in a corner; 0 if it is not visible.
        muscle_reach: Distance from the corner to the edge of the muscle.
        muscle_slope: Angle between the row of the corner and the way to that edge, in radians.
        muscle_mirrored: Whether the corner is the upper right one, not the upper left one.
        blur: Standard deviation of the point spread.
        grain: Standard deviation of quantum noise and film grain, relative to full range.
        slope: Slope of the characteristic curve at its middle.
        artefact: What lies on the film: ``"dust"``, ``"marker"`` or ``""``.
    """

    skin: float
    skin_side: float
    skin_bow: float
    rim: float
    muscle: float
    muscle_reach: float
    muscle_slope: float
    muscle_mirrored: bool
    blur: float
    grain: float
    slope: float
    artefact: str


def add_surroundings(image: FloatImage, film: Film, *, edge: float, top: float = 0.0) -> None:
    """Adds muscle and skin line to one crop's attenuation, in place.

    Args:
        image: Shape ``(H, W)``.
        film: Which structures are visible, and where.
        edge: Pixels per edge of a crop.
        top: Row of ``image`` in which the crop begins; as many rows follow after its end.
    """
    if not film.muscle and math.isinf(film.skin):
        return
    y, x = (
        np.arange(n, dtype=np.float32).reshape(axes)
        for n, axes in zip(image.shape, ((-1, 1), (1, -1)), strict=True)
    )
    if film.muscle:
        ahead = x[:, ::-1] if film.muscle_mirrored else x
        across, down = (40 / edge * f(film.muscle_slope) for f in (math.cos, math.sin))
        inside = 40 * film.muscle_reach - ahead * across - (y - top) * down
        muscle = logistic(np.asarray(inside, np.float32))
        muscle *= np.float32(film.muscle)
        image += muscle
    if math.isfinite(film.skin):
        away = film.skin - film.skin_bow
        y0 = image.shape[0] / 2 + edge * away * math.sin(film.skin_side)
        x0 = image.shape[1] / 2 + edge * away * math.cos(film.skin_side)
        inside = np.square(y - y0) + np.square(x - x0)
        np.sqrt(inside, out=inside)
        np.subtract(edge * film.skin_bow, inside, out=inside)
        image[:] = behind_skin(image, inside, rim=edge * film.rim)


def behind_skin(attenuation: FloatImage, inside: FloatImage, *, rim: float) -> FloatImage:
    """Reduces attenuation towards the skin line, adds the skin, and sets air outside.

    Args:
        attenuation: Shape ``(H, W)``.
        inside: Distance to the skin line, in pixels, negative in air.
        rim: Width of the rounded rim, in pixels; thickness falls along a half circle over it.
    """
    depth = np.clip(inside * np.float32(1 / rim), 0, 1)
    thickness = np.sqrt(depth * (2 - depth))
    result = (attenuation - np.float32(AIR)) * thickness
    skin = inside * np.float32(1 / (0.03 * rim))
    skin -= np.float32(0.04 / 0.03)
    decay(np.square(skin, out=skin))
    skin *= np.float32(0.08)
    result += skin
    result += np.float32(AIR)
    return np.asarray(result, np.float32)


def expose(
    attenuation: FloatImage, cases: Sequence[Film], details: Sequence[Details], *, edge: float
) -> FloatImage:
    """Simulates scanned films of attenuation images.

    Args:
        attenuation: Shape ``(N, H, W)``; around 0.5 the display follows it with slope ``slope``.
        cases: One per picture.
        details: One per picture.
        edge: Pixels per edge of a crop.

    Returns:
        Shape ``(N, H, W)``, values in ``[0, 1]``, bright where attenuation is high.

    Photons are Poisson: the relative noise of the exposure grows as the root of the attenuation
    factor. The light of the screen blurs image and noise alike. The characteristic curve of film
    (Hurter and Driffield 1890) is sigmoid in log exposure; a logistic one is used.
    """
    films = noise(details, Layer.GRAIN, attenuation[0].size).reshape(attenuation.shape)
    for film, layer, case in zip(films, attenuation, cases, strict=True):
        kernel = cv2.getGaussianKernel(2 * math.ceil(3 * edge * case.blur) + 1, edge * case.blur)
        grain = layer * np.float32(LATITUDE)
        cv2.threshold(grain, 1.1 * LATITUDE, 0, cv2.THRESH_TRUNC, grain)
        film *= exponential(grain)
        # What the blur leaves of it, and how it is where the attenuation is a half.
        scale = case.grain / np.square(kernel).sum() * math.exp(-LATITUDE / 2)
        cv2.scaleAdd(film, scale, layer, film)
        # The film curve is 1 / (1 + exp(-4 * slope * (seen - 0.5))).
        steep = -4 * case.slope
        cv2.sepFilter2D(film, -1, kernel, steep * kernel, film, delta=-0.5 * steep)
        exponential(film)
        film += 1
        np.reciprocal(film, out=film)
    return films


def add_film_artefact(
    film: FloatImage, artefact: str, source: Details, *, edge: float
) -> FloatImage:
    """Adds dust or a skin marker to a film.

    Args:
        film: Shape ``(H, W)``, values in ``[0, 1]``.
        artefact: ``"dust"``, up to four particles, or ``"marker"``, a lead ball on the skin.
        source: Random numbers for its position and size.
        edge: Pixels per edge of a crop.

    Returns:
        A new image, values in ``[0, 1]``.
    """
    share = uniform(source.normals(Layer.ARTEFACT, 4, 6))
    if artefact == "marker":
        share, axes = share[:1], 2 + 1.5 * share[:1, [2, 2]]
        levels = np.ones(1, np.float32)
    else:
        share = share[: 1 + int(3 * share[0, 5])]
        axes, levels = 0.3 + share[:, 2:4], 0.25 + 0.6 * share[:, 4]
    cover = draw_ellipses(
        film.shape, centres=share[:, :2] * film.shape, axes=axes * edge / 128, levels=levels
    )
    return np.asarray(film + cover * (np.float32(0.97) - film), np.float32)
