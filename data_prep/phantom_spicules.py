# SPDX-License-Identifier: Apache-2.0
"""What lies about a mass: spicules that branch, and specks of calcium."""

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from data_prep.phantom_lines import SUBPIXEL_BITS, SUPERSAMPLING, blurred, shrunk
from data_prep.phantom_texture import FloatImage, Layer, Texture

_STEPS = 8  # of a spicule
_FORK = 4  # step at which a branch leaves
BRANCHING = 0.5  # chance that a spicule has a branch


def draw_spicules(
    texture: Texture,
    shape: tuple[int, int],
    *,
    base: FloatImage,
    centre: tuple[float, float],
    count: int,
    reach: float,
) -> FloatImage:
    """Thin wedges that radiate from a mass, bend a little and fork.

    Args:
        texture: Source of normals.
        shape: ``(H, W)``.
        base: Radius of the mass by angle, in pixels.
        centre: ``(y, x)`` of the mass, in pixels.
        count: Number of spicules.
        reach: Mean length, in radii.

    Returns:
        Shape ``(H, W)``, values in ``[0, 2]``.

    Source: segments that branch and taper after de Sisternes 2015, doi 10.1118/1.4905232; here in
    the plane, with one generation of branches and numbers of ours.
    """
    normals = texture.normals(Layer.SPICULES, count, 12)
    chance = ndtr(normals)
    angle = 2 * np.pi * chance[:, 0]
    start = base[(chance[:, 0] * len(base)).astype(np.int64) % len(base)]
    length = reach * start * np.exp(0.5 * normals[:, 1] - 0.125)  # lognormal, mean 1
    along = np.linspace(0, 1, _STEPS)
    distance = 0.5 * start[:, None] + (0.5 * start + length)[:, None] * along
    bend = (angle + 0.25 * normals[:, 2])[:, None] + 0.2 * normals[:, 3:4] * along
    spine = np.stack([distance * np.cos(bend), distance * np.sin(bend)], axis=-1)
    half = float(base.max())
    spine += np.array([centre[1], centre[0]]) + 0.12 * half * normals[:, None, 4:6]
    width = 0.04 * half * (0.5 + 1.1 * chance[:, 6])
    level = 0.25 + 0.75 * chance[:, 7]

    forks = chance[:, 8] < BRANCHING
    turn = np.where(normals[:, 9] < 0, -1, 1) * (0.3 + 0.4 * chance[:, 10])
    heading = np.arctan2(*(spine[:, _FORK + 1] - spine[:, _FORK]).T[::-1]) + turn
    twig = np.stack([np.cos(heading), np.sin(heading)], axis=-1)[:, None]
    twig = twig * ((0.3 + 0.3 * chance[:, 11]) * length)[:, None, None] * along[:, None]
    twig += spine[:, _FORK, None]

    wedges = np.concatenate([_wedges(spine, width), _wedges(twig, 0.6 * width)[forks]])
    canvas = _filled(wedges, np.concatenate([level, 0.8 * level[forks]]), shape)
    return blurred(canvas, max(0.3, 0.02 * half))


def _wedges(spine: NDArray[np.float64], width: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outlines ``(count, 2 * steps, 2)`` of wedges about spines, down to a third of a pixel."""
    ahead = np.gradient(spine, axis=1)
    normal = np.stack([-ahead[..., 1], ahead[..., 0]], axis=-1)
    normal /= np.maximum(np.hypot(normal[..., :1], normal[..., 1:]), 1e-6)
    taper = np.maximum(width[:, None] * np.linspace(1.1, 0.1, spine.shape[1]), 0.3)
    side = normal * taper[..., None]
    return np.concatenate([spine + side, (spine - side)[:, ::-1]], axis=1)


def _filled(
    polygons: NDArray[np.float64], levels: NDArray[np.float64], shape: tuple[int, int]
) -> FloatImage:
    """Draws polygons into two layers that add up."""
    layers = np.zeros((2, SUPERSAMPLING * shape[0], SUPERSAMPLING * shape[1]), np.uint8)
    points = np.round(polygons * SUPERSAMPLING * 2**SUBPIXEL_BITS).astype(np.int32)
    for i in range(len(points)):
        cv2.fillPoly(
            layers[i % 2],
            [points[i]],
            color=255 * float(levels[i]),
            lineType=cv2.LINE_AA,
            shift=SUBPIXEL_BITS,
        )
    return shrunk(layers[0], shape) + shrunk(layers[1], shape)


def draw_calcifications(
    texture: Texture,
    shape: tuple[int, int],
    *,
    centre: tuple[float, float],
    half: float,
    count: int,
    radius: float,
) -> FloatImage:
    """A few specks of calcium about a mass.

    Args:
        texture: Source of normals.
        shape: ``(H, W)``.
        centre: ``(y, x)`` of the mass, in pixels.
        half: Half the longer edge of the mass, in pixels.
        count: Number of specks.
        radius: Mean radius of a speck, in pixels.

    Returns:
        Shape ``(H, W)``, up to about 1 on a coarse speck.
    """
    normals = texture.normals(Layer.CALCIFICATIONS, count, 4)
    canvas = np.zeros((4 * shape[0], 4 * shape[1]), np.uint8)
    one = 4 * 2**SUBPIXEL_BITS
    where = np.round((centre + 0.45 * half * normals[:, :2]) * one).astype(int)
    radii = np.round(radius * np.exp(0.25 * normals[:, 2]) * one).astype(int)
    levels = 255 * (0.55 + 0.45 * ndtr(normals[:, 3]))
    for (y, x), size, level in zip(where.tolist(), radii.tolist(), levels.tolist(), strict=True):
        cv2.circle(canvas, (x, y), size, level, -1, cv2.LINE_AA, SUBPIXEL_BITS)
    return shrunk(canvas, shape)
