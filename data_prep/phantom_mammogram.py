# SPDX-License-Identifier: Apache-2.0
"""One whole phantom mammogram: a compressed breast against air, pectoral muscle, lesions, film."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.phantom_film import expose
from data_prep.phantom_masses import draw_mass, draw_outline, mass_model
from data_prep.phantom_tissue import FloatImage, behind_skin, logistic, power_law_field, tissue
from data_prep.phantoms import PhantomParameters, mass_contrast

WINDOW = 3.6  # edge of the patch a lesion is drawn in, over its longer edge


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """One mass of a breast, seen in one view or in two.

    Attributes:
        shape: BI-RADS shape.
        margin: BI-RADS margin.
        subtlety: 1 (barely visible) to 5 (obvious).
        longer_edge: Longer edge of the bounding box, in pixels of the mammogram.
        depth: Distance to the chest wall, over that of the nipple, in ``[0, 1]``.
        side: Position across the breast, in ``[-1, 1]``.
    """

    shape: str
    margin: str
    subtlety: int
    longer_edge: float
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
        shape: ``(H, W)``; texture is as fine as in a crop of 128 px.
        view: Medio-lateral oblique views also show the pectoral muscle.
        laterality: Side of the body.
        density: BI-RADS density category, 1 to 4.
        lesions: Masses of this breast that this view shows.
        parameters: Ranges of contrast, grain and blur.
    """
    height, width = shape
    deep, wide = width * rng.uniform(0.62, 0.78), height * rng.uniform(0.38, 0.44)
    middle = height * (0.5 if view == "CC" else 0.54) + rng.normal(0, 0.01 * height)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None, :]
    across, ahead = (y - np.float32(middle)) / np.float32(wide), x / np.float32(deep)
    reach = (np.abs(across) ** 2.2 + ahead**2) ** 0.5
    inside = np.asarray((1 - reach) * min(deep, wide), np.float32)
    nipple = np.exp(-np.square(across * wide / 11)) * np.exp(-np.square((ahead - 1) * deep / 16))
    inside += np.asarray(9 * nipple, np.float32)

    lobes = cv2.resize(power_law_field(rng, (height // 8, width // 8), beta=3.6), (width, height))
    centred = np.hypot((ahead - 0.5) / 0.55, across / 0.85)
    glandular = logistic(6 * (0.5 + 0.1 * density - centred + 0.25 * lobes))
    image = tissue(
        rng,
        shape,
        density=density,
        beta=parameters.beta_mean,
        contrast=rng.uniform(*parameters.contrast_range),
        direction=0.0 if view == "CC" else 0.3,
        grain_size=1.0,
    ) * (0.35 + 0.65 * glandular)
    image += 0.30 + (0.06 + 0.03 * density) * glandular
    if view == "MLO":
        muscle = 1 - x / (0.42 * deep) - y / (0.62 * height)
        image += 0.22 * logistic(14 * muscle)
    masks = []
    for lesion in lesions:
        centre = (middle + lesion.side * wide, lesion.depth * deep)
        masks.append(_add_lesion(rng, image, lesion, centre, parameters))
    image = behind_skin(image, inside, rim=0.28 * min(deep, wide))
    film = expose(
        rng, image, blur=rng.uniform(*parameters.blur_range), grain=rng.uniform(0.003, 0.008)
    )
    turned = film if laterality == "L" else np.ascontiguousarray(film[:, ::-1])
    _add_film_label(turned, f"{laterality} {view}", on_the_left=laterality == "R")
    if rng.random() < 0.25:
        turned[: int(rng.integers(2, 6))] = 1.0  # film border
    return Mammogram(
        film=turned,
        masks=tuple(mask if laterality == "L" else mask[:, ::-1] for mask in masks),
    )


def _add_lesion(
    rng: np.random.Generator,
    image: FloatImage,
    lesion: Lesion,
    centre: tuple[float, float],
    parameters: PhantomParameters,
) -> NDArray[np.bool_]:
    """Adds a mass to attenuation in place and returns its mask."""
    half = math.ceil(WINDOW * lesion.longer_edge / 2)
    top, left = (max(0, round(at) - half) for at in centre)
    patch = image[top : round(centre[0]) + half, left : round(centre[1]) + half]
    model = mass_model(lesion.shape, lesion.margin)
    mass, covered = draw_mass(
        rng,
        patch.shape,
        model=model,
        outline=draw_outline(rng, model),
        centre=(centre[0] - top, centre[1] - left),
        longer_edge=lesion.longer_edge,
        obscured=lesion.margin == "OBSCURED",
    )
    patch += mass_contrast(rng, lesion.subtlety, parameters) * mass
    mask = np.zeros(image.shape, np.bool_)
    mask[top : top + patch.shape[0], left : left + patch.shape[1]] = covered
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
