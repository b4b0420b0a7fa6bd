# SPDX-License-Identifier: Apache-2.0
"""Whole phantom mammograms: a compressed breast in air, pectoral muscle, lesions, film."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.phantoms.case import PhantomCase, draw_case
from data_prep.phantoms.film import behind_skin, expose
from data_prep.phantoms.masses import draw_masses
from data_prep.phantoms.parameters import PhantomParameters
from data_prep.phantoms.texture import Details, FloatImage, Layer, logistic, power_law_fields
from data_prep.phantoms.tissue import tissue

EDGE = 128  # pixels of a mammogram that correspond to one edge of a crop
WINDOW = 3.6  # edge of the patch a lesion is drawn in, over its longer edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """One mass of a breast, visible in one view or in two.

    Attributes:
        case: The mass and its descriptors.
        depth: Distance to the chest wall, over that of the nipple, in ``[0, 1]``.
        side: Position across the breast, in ``[-1, 1]``.
    """

    case: PhantomCase
    depth: float
    side: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mammogram:
    """One view and the outlines of its lesions.

    Attributes:
        film: Shape ``(H, W)``, values in ``[0, 1]``.
        masks: One mask of that shape per lesion.
    """

    film: FloatImage
    masks: tuple[NDArray[np.bool_], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Breast:
    """Form of a compressed breast, chest wall left. Lengths in pixels.

    Attributes:
        inside: Distance to the skin line, negative in air, shape ``(H, W)``.
        glandular: Share of glandular tissue, shape ``(H, W)``.
        level: Mean attenuation, shape ``(H, W)``.
        muscle: Attenuation of the pectoral muscle, shape ``(H, W)``.
        middle: Row of the nipple.
        deep: Distance from the chest wall to the nipple.
        wide: Half the length along the chest wall.
    """

    inside: FloatImage
    glandular: FloatImage
    level: FloatImage
    muscle: FloatImage
    middle: float
    deep: float
    wide: float

    @property
    def rim(self) -> float:
        """Width of the rounded rim."""
        return 0.28 * min(self.deep, self.wide)

    def place(self, lesion: Lesion) -> tuple[float, float]:
        """Row and column of a lesion."""
        return self.middle + lesion.side * self.wide, lesion.depth * self.deep


def draw_breast(
    rng: np.random.Generator,
    source: Details,
    shape: tuple[int, int],
    *,
    view: Literal["CC", "MLO"],
    density: int,
    edge: float = EDGE,
) -> Breast:
    """Draws the form of a breast.

    Args:
        rng: Source of randomness of its size.
        source: Random numbers of its glandular tissue.
        shape: ``(H, W)``.
        view: As for :func:`draw_mammogram`.
        density: As for :func:`draw_mammogram`.
        edge: Pixels that correspond to one edge of a crop.
    """
    height, width = shape
    scale = edge / EDGE
    deep, wide = width * rng.uniform(0.62, 0.78), height * rng.uniform(0.38, 0.44)
    middle = height * (0.5 if view == "CC" else 0.54) + rng.normal(0, 0.01 * height)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    across, ahead = (y - np.float32(middle)) / np.float32(wide), x / np.float32(deep)
    reach = (np.abs(across) ** 2.2 + ahead**2) ** 0.5
    inside = np.asarray((1 - reach) * min(deep, wide), np.float32)
    tall, long = 11 * scale, 16 * scale
    nipple = np.exp(-np.square(across * wide / tall))
    nipple = nipple * np.exp(-np.square((ahead - 1) * deep / long))
    inside += np.asarray(9 * scale * nipple, np.float32)

    (lobes,) = power_law_fields([source], Layer.BREAST, (height // 8, width // 8), beta=3.6)
    lobes = cv2.resize(lobes, (width, height))
    centred = np.hypot((ahead - 0.5) / 0.55, across / 0.85)
    glandular = logistic(6 * (0.5 + 0.1 * density - centred + 0.25 * lobes))
    muscle = np.zeros(shape, np.float32)
    if view == "MLO":
        muscle = 0.22 * logistic(14 * (1 - x / (0.42 * deep) - y / (0.62 * height)))
    return Breast(
        inside=inside,
        glandular=glandular,
        level=np.asarray(0.30 + (0.06 + 0.03 * density) * glandular, np.float32),
        muscle=muscle,
        middle=middle,
        deep=deep,
        wide=wide,
    )


def draw_mammogram(
    rng: np.random.Generator,
    shape: tuple[int, int],
    *,
    view: Literal["CC", "MLO"],
    laterality: Literal["L", "R"],
    density: int,
    lesions: Sequence[Lesion],
    parameters: PhantomParameters,
) -> Mammogram:
    """Draws one view of one breast; the chest wall is left for ``L`` and right for ``R``.

    Args:
        rng: Source of randomness.
        shape: ``(H, W)``; tissue has the same detail as in a crop of ``EDGE`` pixels.
        view: Medio-lateral oblique views also show the pectoral muscle.
        laterality: Side of the body.
        density: BI-RADS density category, 1 to 4.
        lesions: Masses of this breast that are visible in this view.
        parameters: Population that the tissue and the film are drawn from.
    """
    first, second, third, fourth = (float(density == i) for i in range(1, 5))
    alone = replace(parameters, densities=(first, second, third, fourth))
    ground = draw_case(rng, malignant=False, parameters=alone)
    details = Details(ground.texture)
    breast = draw_breast(rng, details, shape, view=view, density=density)
    within = replace(ground.tissue, level=0.0, slant=0.0, direction=0.0 if view == "CC" else 0.3)
    (image,) = tissue([within], [details], shape, edge=EDGE)
    image *= 0.35 + 0.65 * breast.glandular
    image += breast.level
    image += breast.muscle
    masks = []
    for lesion in lesions:
        masks.append(_add_lesion(image, lesion.case, breast.place(lesion)))
    image = behind_skin(image, breast.inside, rim=breast.rim)
    (film,) = expose(image[None], [ground.film], [details], edge=EDGE)
    turned = film if laterality == "L" else np.ascontiguousarray(film[:, ::-1])
    _add_film_label(turned, f"{laterality} {view}", on_the_left=laterality == "R")
    if rng.random() < 0.25:
        turned[: int(rng.integers(2, 6))] = 1.0  # film border
    return Mammogram(
        film=turned,
        masks=tuple(mask if laterality == "L" else mask[:, ::-1] for mask in masks),
    )


def _add_lesion(
    image: FloatImage, case: PhantomCase, centre: tuple[float, float]
) -> NDArray[np.bool_]:
    """Adds a mass to an attenuation image in place and returns its mask."""
    half = math.ceil(WINDOW * EDGE * case.mass.size / 2)
    top, left = (max(0, round(at) - half) for at in centre)
    patch = image[top : round(centre[0]) + half, left : round(centre[1]) + half]
    at = ((centre[0] - top) / EDGE, (centre[1] - left) / EDGE)
    masses, covered = draw_masses(
        [replace(case.mass, centre=at)], [Details(case.texture)], patch.shape, edge=EDGE
    )
    patch += masses[0]
    mask = np.zeros(image.shape, np.bool_)
    mask[top : top + patch.shape[0], left : left + patch.shape[1]] = covered[0]
    return mask


def _add_film_label(film: FloatImage, text: str, *, on_the_left: bool) -> None:
    """Writes side and view into the air beside the breast, in place, as radiographers do."""
    scale = film.shape[0] / 640
    tall, wide, gap = round(26 * scale), round(86 * scale), round(12 * scale)
    plate = np.full((tall, wide), 215, np.uint8)
    at = (round(8 * scale), round(20 * scale))
    cv2.putText(plate, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6 * scale, 25, 1, cv2.LINE_AA)
    left = gap if on_the_left else film.shape[1] - wide - gap
    film[gap : gap + tall, left : left + wide] = plate.astype(np.float32) / 255
