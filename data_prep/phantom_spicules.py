# SPDX-License-Identifier: Apache-2.0
"""Spicules: thin wedges that radiate from a mass and branch."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from data_prep.phantom_lines import FULL, SUBPIXEL_BITS, added
from data_prep.phantom_texture import Details, FloatImage, Layer

_STEPS = 8  # of a spicule
_FORK = 4  # step at which a branch leaves
BRANCHING = 0.5  # chance that a spicule has a branch


def draw_spicules(
    details: Sequence[Details],
    shape: tuple[int, int],
    *,
    base: NDArray[np.float64],
    origin: NDArray[np.float64],
    count: Sequence[int],
    reach: Sequence[float],
) -> FloatImage:
    """Thin wedges that radiate from masses, bend a little and fork.

    Args:
        details: One per picture.
        shape: ``(H, W)``.
        base: Radii of the masses by angle, in pixels, shape ``(N, angles)``.
        origin: Where the radii start, x and y in pixels, shape ``(N, 2)``.
        count: Numbers of spicules.
        reach: Mean lengths, in radii.

    Returns:
        Shape ``(N, H, W)``, values in ``[0, 2]``.

    Source: segments that branch and taper after de Sisternes 2015, doi 10.1118/1.4905232; here in
    the plane, with one generation of branches and numbers of ours.
    """
    result = np.zeros((len(details), *shape), np.float32)
    if not sum(count):
        return result
    drawn = [
        source.normals(Layer.SPICULES, number, 12)
        for source, number in zip(details, count, strict=True)
    ]
    normals, case = np.concatenate(drawn), np.repeat(np.arange(len(count)), count)
    chance = ndtr(normals)
    half = base.max(axis=1)
    spine, twig = _spines(
        normals, chance, base=base[case], half=half[case], reach=np.array(reach)[case]
    )
    width = 0.03 * half[case] * (0.4 + 1.1 * chance[:, 6])
    level = 0.25 + 0.75 * chance[:, 7]
    forked = chance[:, 8] < BRANCHING
    outlines = [
        wedges + origin[case, None]
        for wedges in (_wedges(spine, width), _wedges(twig, 0.6 * width))
    ]
    for i in np.unique(case):
        here = case == i
        both = here & forked
        result[i] = _filled(
            np.concatenate([outlines[0][here], outlines[1][both]]),
            np.concatenate([level[here], 0.8 * level[both]]),
            shape,
        )
    return result


def _spines(
    normals: FloatImage,
    chance: FloatImage,
    *,
    base: NDArray[np.float64],
    half: NDArray[np.float64],
    reach: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle lines of spicules and of their branches, each ``(count, steps, 2)``, about origin."""
    angle = 2 * np.pi * chance[:, 0]
    toward = (chance[:, 0] * base.shape[1]).astype(np.int64) % base.shape[1]
    start = base[np.arange(len(base)), toward]
    length = reach * start * np.exp(0.6 * normals[:, 1] - 0.18)  # lognormal, mean 1
    along = np.linspace(0, 1, _STEPS)
    distance = 0.5 * start[:, None] + (0.5 * start + length)[:, None] * along
    bend = (angle + 0.25 * normals[:, 2])[:, None] + 0.2 * normals[:, 3:4] * along
    spine = np.stack([distance * np.cos(bend), distance * np.sin(bend)], axis=-1)
    spine += 0.12 * half[:, None, None] * normals[:, None, 4:6]
    step = spine[:, _FORK + 1] - spine[:, _FORK]
    turn = np.where(normals[:, 9] < 0, -1, 1) * (0.3 + 0.4 * chance[:, 10])
    heading = np.arctan2(step[:, 1], step[:, 0]) + turn
    twig = np.stack([np.cos(heading), np.sin(heading)], axis=-1)[:, None] * along[:, None]
    twig *= ((0.3 + 0.3 * chance[:, 11]) * length)[:, None, None]
    return spine, spine[:, _FORK, None] + twig


def _wedges(spine: NDArray[np.float64], width: NDArray[np.float64]) -> NDArray[np.float64]:
    """Outlines ``(count, 2 * steps, 2)`` of wedges about spines, down to half a pixel across."""
    ahead = np.gradient(spine, axis=1)
    normal = np.stack([-ahead[..., 1], ahead[..., 0]], axis=-1)
    normal /= np.maximum(np.hypot(normal[..., :1], normal[..., 1:]), 1e-6)
    taper = np.maximum(width[:, None] * np.linspace(1.1, 0.1, spine.shape[1]), 0.25)
    side = normal * taper[..., None]
    return np.concatenate([spine + side, (spine - side)[:, ::-1]], axis=1)


def _filled(
    polygons: NDArray[np.float64], levels: NDArray[np.float64], shape: tuple[int, int]
) -> FloatImage:
    """Draws polygons into two layers that add up."""
    layers = np.zeros((2, *shape), np.uint8)
    points = np.round((polygons - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
    for i, level in enumerate((FULL * levels).tolist()):
        cv2.fillPoly(layers[i % 2], [points[i]], level, cv2.LINE_AA, SUBPIXEL_BITS)
    return added(layers)
