# SPDX-License-Identifier: Apache-2.0
"""Differentiable augmentation of all crops that the discriminator gets.

One function for real and generated crops, so that the generator does not learn the distortions
(Zhao et al. 2020, arXiv 2006.10738). Colour is grey here, and shifts mirror the border instead of
filling it, so that no edge appears.
"""

import torch
from torch import Tensor

SHIFT = 1 / 8
BRIGHTNESS = 0.2
CONTRAST = 0.25
CUTOUT = 1 / 2


def flip(crops: Tensor, rng: torch.Generator) -> Tensor:
    """Mirrors left and right, and upper and lower side, each with probability 1/2."""
    for axis in (2, 3):
        crops = torch.where(_uniform(crops, rng) < 0.5, crops.flip(axis), crops)
    return crops


def translation(crops: Tensor, rng: torch.Generator) -> Tensor:
    """Shifts by up to ``SHIFT`` of the edge in whole pixels; the border is mirrored."""
    edge = crops.shape[-1]
    pixels = torch.arange(edge, device=crops.device)
    for axis in (2, 3):
        most = int(SHIFT * edge)
        size = (len(crops), 1)
        shift = torch.randint(-most, most + 1, size, generator=rng, device=crops.device)
        source = (pixels + shift).abs()  # (B, edge); mirrored at the start
        source = edge - 1 - (edge - 1 - source).abs()  # mirrored at the end
        shape = (-1, 1, edge, 1) if axis == 2 else (-1, 1, 1, edge)
        crops = crops.gather(axis, source.reshape(shape).expand_as(crops))
    return crops


def brightness(crops: Tensor, rng: torch.Generator) -> Tensor:
    """Adds one value in ``[-BRIGHTNESS, BRIGHTNESS]`` to a crop."""
    return crops + BRIGHTNESS * (2 * _uniform(crops, rng) - 1)


def contrast(crops: Tensor, rng: torch.Generator) -> Tensor:
    """Scales a crop about its mean by a factor in ``[1 - CONTRAST, 1 + CONTRAST]``."""
    mean = crops.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (crops - mean) * (1 + CONTRAST * (2 * _uniform(crops, rng) - 1))


def cutout(crops: Tensor, rng: torch.Generator) -> Tensor:
    """Sets a square of ``CUTOUT`` of the edge to 0, wherever its centre falls in the crop."""
    edge = crops.shape[-1]
    pixels = torch.arange(edge, device=crops.device)
    half = CUTOUT * edge / 2
    inside = torch.ones_like(crops, dtype=torch.bool)
    for shape in ((1, 1, edge, 1), (1, 1, 1, edge)):
        centre = _uniform(crops, rng) * edge
        inside = inside & ((pixels.reshape(shape) + 0.5 - centre).abs() < half)
    return torch.where(inside, torch.zeros_like(crops), crops)


AUGMENTATIONS = {
    "flip": flip,
    "translation": translation,
    "brightness": brightness,
    "contrast": contrast,
    "cutout": cutout,
}


def parse_policy(policy: str) -> tuple[str, ...]:
    """Names in a policy such as ``"flip,translation"``; empty for none.

    >>> parse_policy("flip, translation")
    ('flip', 'translation')

    Raises:
        ValueError: Naming what is unknown.
    """
    names = tuple(name.strip() for name in policy.split(",") if name.strip())
    if unknown := [name for name in names if name not in AUGMENTATIONS]:
        raise ValueError(f"{policy=}: {unknown} unknown. Allowed: {', '.join(AUGMENTATIONS)}.")
    return names


def augment(crops: Tensor, policy: str, rng: torch.Generator) -> Tensor:
    """Distorts each crop on its own, differentiably in its values.

    Args:
        crops: Shape ``(B, 1, H, H)``, values in ``[-1, 1]``.
        policy: Names of ``AUGMENTATIONS``, separated by commas, applied in the order given.
        rng: On the device of the crops.

    Returns:
        Shape of ``crops``; values may leave ``[-1, 1]``.
    """
    for name in parse_policy(policy):
        crops = AUGMENTATIONS[name](crops, rng)
    return crops


def _uniform(crops: Tensor, rng: torch.Generator) -> Tensor:
    """One number in ``[0, 1)`` for each crop, shape ``(B, 1, 1, 1)``."""
    return torch.rand(len(crops), 1, 1, 1, generator=rng, device=crops.device)
