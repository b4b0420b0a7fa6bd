# SPDX-License-Identifier: Apache-2.0
"""Distortions of crops, as other scanners, other films and other cuts would make them.

Each changes a crop in the same way whenever it is applied. They stand in for an external set, no
more: what a scanner does to a mammogram is not known from crops of another one.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import albumentations as A
import cv2

from data_prep.transforms import resize

_SHIFT = 10 / 128  # of the edge: 10 px of a crop of 128 px
_BLUR = 1.5 / 128  # standard deviation, of the edge
_BORDER = cv2.BORDER_REFLECT_101  # what a crop does not hold is mirrored in


def _grey_curve(gamma: float) -> A.BasicTransform:
    return A.RandomGamma(gamma_limit=(100 * gamma, 100 * gamma), p=1.0)


def _window(low: float, high: float) -> A.BasicTransform:
    """Maps grey from ``low`` to ``high`` onto ``[0, 1]``; what lies outside is cut."""
    gain, offset = 1 / (high - low), -low / (high - low)
    return A.RandomBrightnessContrast(
        brightness_limit=(offset, offset),
        contrast_limit=(gain - 1, gain - 1),
        brightness_by_max=True,
        p=1.0,
    )


def _moved(*, scale: float = 1.0, right: float = 0.0, down: float = 0.0) -> A.BasicTransform:
    return A.Affine(
        scale=(scale, scale),
        translate_percent={"x": (right, right), "y": (down, down)},
        border_mode=_BORDER,
        p=1.0,
    )


def _blur(edge: int) -> A.BasicTransform:
    sigma = _BLUR * edge
    return A.GaussianBlur(sigma_limit=(sigma, sigma), blur_limit=0, p=1.0)


def _coarse(edge: int, divisor: int) -> A.BaseCompose:
    # `A.Downscale` would round to 8 bits on the way.
    return A.Sequential([resize(max(1, edge // divisor)), resize(edge)], p=1.0)


# Name for people, and what it does at an edge of so many pixels.
DISTORTIONS: Mapping[str, Callable[[int], A.BasicTransform | A.BaseCompose]] = MappingProxyType(
    {
        "grey curve x^0.7": lambda edge: _grey_curve(0.7),
        "grey curve x^1.4": lambda edge: _grey_curve(1.4),
        "window 0.1 to 0.9": lambda edge: _window(0.1, 0.9),
        "window -0.125 to 1.125": lambda edge: _window(-0.125, 1.125),
        "window -0.1 to 0.9": lambda edge: _window(-0.1, 0.9),
        "window 0.1 to 1.1": lambda edge: _window(0.1, 1.1),
        "blur of 1.5 px in 128": _blur,
        "shift right by 10 px in 128": lambda edge: _moved(right=_SHIFT),
        "shift down by 10 px in 128": lambda edge: _moved(down=_SHIFT),
        "scale 0.8": lambda edge: _moved(scale=0.8),
        "scale 1.25": lambda edge: _moved(scale=1.25),
        "half the resolution": lambda edge: _coarse(edge, 2),
        "a quarter of the resolution": lambda edge: _coarse(edge, 4),
    }
)


def distorted(name: str, image_size: int) -> A.Compose:
    """Resizes a crop as for any model, then distorts it.

    Args:
        name: One of :data:`DISTORTIONS`.
        image_size: Edge of the result, in pixels, > 0.

    Returns:
        Called as the result of :func:`data_prep.transforms.pipeline`; deterministic.

    Raises:
        ValueError: For an unknown name.
    """
    if name not in DISTORTIONS:
        raise ValueError(f"distorted: {name=} is unknown. Choose one of {', '.join(DISTORTIONS)}.")
    return A.Compose([resize(image_size), DISTORTIONS[name](image_size)])
