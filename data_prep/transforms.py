# SPDX-License-Identifier: Apache-2.0
"""Augmentation of crops: three albumentations pipelines on float32 images in ``[0, 1]``.

Every pipeline maps an image of shape ``(H, W, 1)`` to ``(image_size, image_size, 1)``. Random
choices come from the pipeline's own generator, not from Python's, NumPy's or torch's: whoever runs
a pipeline calls ``set_random_seed``, once per process, since forked workers share one state.
"""

from typing import Literal, get_args

import albumentations as A
import cv2

Augmentation = Literal["none", "light", "gan"]


def pipeline(kind: Augmentation, image_size: int, *, seed: int | None = None) -> A.Compose:
    """Builds one of the pipelines.

    Args:
        kind: ``"none"`` only resizes and is deterministic. ``"gan"`` adds the eight symmetries of
            the square; what a generator learns beyond them would show in its samples. ``"light"``
            adds small rotations, shifts and scalings that mean the same in both directions, and
            mild changes of brightness, contrast, sharpness and noise.
        image_size: Edge of the result, in pixels, > 0; crops are shrunk by area averaging.
        seed: Start of the random choices; ``None`` takes entropy of the system.

    Returns:
        Called as ``pipeline(image=array)["image"]``; values may leave ``[0, 1]`` by rounding only.

    Raises:
        ValueError: For an unknown ``kind`` or an ``image_size`` below 1.
    """
    if image_size < 1:
        raise ValueError(f"pipeline: {image_size=}. Give a number of pixels above 0.")
    steps = [resize(image_size)]
    if kind == "light":
        steps += [
            A.D4(p=1.0),
            A.Affine(
                scale=(0.9, 1.1),
                translate_percent=(-0.06, 0.06),
                rotate=(-30, 30),
                balanced_scale=True,
                keep_ratio=True,
                border_mode=cv2.BORDER_REFLECT_101,
                p=0.8,
            ),
            A.RandomBrightnessContrast(
                brightness_limit=0.1, contrast_limit=0.15, brightness_by_max=True, p=0.5
            ),
            A.OneOf(
                [A.GaussNoise(std_range=(0.0, 0.03)), A.GaussianBlur(sigma_limit=(0.3, 0.9))],
                p=0.25,
            ),
        ]
    elif kind == "gan":
        steps.append(A.D4(p=1.0))
    elif kind != "none":
        raise ValueError(
            f"pipeline: {kind=} is unknown. Choose one of {', '.join(get_args(Augmentation))}."
        )
    return A.Compose(steps, seed=seed)


def resize(image_size: int) -> A.BasicTransform:
    """First step of every pipeline: crops are shrunk by area averaging, enlarged linearly."""
    return A.Resize(
        image_size, image_size, interpolation=cv2.INTER_LINEAR, area_for_downscale="image"
    )
