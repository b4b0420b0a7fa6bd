# SPDX-License-Identifier: Apache-2.0
"""Turns attenuation into a scanned film: muscle, skin line, grain, blur, film curve, artefacts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.special import ndtr

from data_prep.phantoms.masses import draw_ellipses
from data_prep.phantoms.texture import (
    Details,
    FloatImage,
    Layer,
    column,
    exponential,
    logistic,
    noise,
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
    y, x = np.ogrid[: image.shape[0], : image.shape[1]]
    if film.muscle:
        ahead = x[:, ::-1] if film.muscle_mirrored else x
        beyond = ahead * math.cos(film.muscle_slope) + (y - top) * math.sin(film.muscle_slope)
        inside = np.asarray(film.muscle_reach - beyond / edge, np.float32)
        image += np.float32(film.muscle) * logistic(40 * inside)
    if math.isfinite(film.skin):
        away = film.skin - film.skin_bow
        y0 = image.shape[0] / 2 + edge * away * math.sin(film.skin_side)
        x0 = image.shape[1] / 2 + edge * away * math.cos(film.skin_side)
        inside = (edge * film.skin_bow - np.hypot(y - y0, x - x0)).astype(np.float32)
        image[:] = behind_skin(image, inside, rim=edge * film.rim)


def behind_skin(attenuation: FloatImage, inside: FloatImage, *, rim: float) -> FloatImage:
    """Reduces attenuation towards the skin line, adds the skin, and sets air outside.

    Args:
        attenuation: Shape ``(H, W)``.
        inside: Distance to the skin line, in pixels, negative in air.
        rim: Width of the rounded rim, in pixels; thickness falls along a half circle over it.
    """
    depth = np.clip(inside / rim, 0, 1)
    thickness = np.sqrt(depth * (2 - depth))
    skin = 0.08 * np.exp(-np.square((inside - 0.04 * rim) / (0.03 * rim)))
    return np.asarray(AIR + (attenuation - AIR) * thickness + skin, np.float32)


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
    seen = np.empty_like(attenuation)
    grain = noise(details, Layer.GRAIN, seen[0].size).reshape(seen.shape)
    for i, case in enumerate(cases):
        kernel = cv2.getGaussianKernel(2 * math.ceil(3 * edge * case.blur) + 1, edge * case.blur)
        visible = grain[i]
        visible *= case.grain / np.square(kernel).sum()  # what the blur leaves of it
        visible *= exponential(np.float32(LATITUDE) * np.minimum(attenuation[i] - 0.5, 0.6))
        visible += attenuation[i]
        seen[i] = cv2.sepFilter2D(visible, -1, kernel, kernel)
    return logistic(4 * column(cases, "slope") * (seen - np.float32(0.5)))


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
    uniform = ndtr(source.normals(Layer.ARTEFACT, 4, 6))
    if artefact == "marker":
        uniform, axes = uniform[:1], 2 + 1.5 * uniform[:1, [2, 2]]
        levels = np.ones(1)
    else:
        uniform = uniform[: 1 + int(3 * uniform[0, 5])]
        axes, levels = 0.3 + uniform[:, 2:4], 0.25 + 0.6 * uniform[:, 4]
    cover = draw_ellipses(
        film.shape, centres=uniform[:, :2] * film.shape, axes=axes * edge / 128, levels=levels
    )
    return np.asarray(film + cover * (np.float32(0.97) - film), np.float32)
