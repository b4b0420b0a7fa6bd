# SPDX-License-Identifier: Apache-2.0
"""The conditional generator, and the average of its weights that is evaluated and released.

It grows from a 4 x 4 grid by factors of two, so the image size is a power of two. The width at
resolution ``r`` is ``channels * image_size / r``, at most ``WIDEST``: each resolution costs about
the same number of multiplications.
"""

import math
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

GRID = 4
WIDEST = 512
CHANNELS_PER_GROUP = 8
LEAK = 0.2


def resolutions(image_size: int) -> list[int]:
    """Resolutions from the coarsest grid to the image.

    >>> resolutions(32)
    [4, 8, 16, 32]

    Raises:
        ValueError: If the size is not a power of two from 16 on.
    """
    if image_size < 16 or image_size & (image_size - 1):
        raise ValueError(f"{image_size=}. Give a power of two, 16 or more, such as 64 or 128.")
    return [GRID << step for step in range((image_size // GRID).bit_length())]


def widths(image_size: int, channels: int) -> list[int]:
    """Feature channels at each of :func:`resolutions`.

    Raises:
        ValueError: If ``channels`` cannot be split into groups, or the size is not allowed.
    """
    if channels < 1 or (channels % CHANNELS_PER_GROUP and CHANNELS_PER_GROUP % channels):
        raise ValueError(
            f"{channels=}. Give a multiple of {CHANNELS_PER_GROUP}, or for tiny networks a power "
            "of two below it."
        )
    return [min(WIDEST, channels * image_size // edge) for edge in resolutions(image_size)]


class ConditionalGroupNorm(nn.Module):
    """Group normalisation whose scale and shift depend on a condition.

    A group has ``CHANNELS_PER_GROUP`` channels where there are as many. Conditional normalisation
    after Miyato and Koyama 2018, arXiv 1802.05637; since the condition here holds the latent vector
    too, also self-modulation after Chen et al. 2019, arXiv 1810.01365.

    Args:
        width: Channels to normalise.
        condition: Length of the condition vector.
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        groups = max(1, width // CHANNELS_PER_GROUP)
        self.norm = nn.GroupNorm(groups, width, affine=False)
        self.scale_and_shift = nn.Linear(condition, 2 * width)
        nn.init.normal_(self.scale_and_shift.weight, std=0.05)
        nn.init.zeros_(self.scale_and_shift.bias)

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        """Normalises, scales and shifts.

        Args:
            features: Shape ``(B, width, H, W)``.
            condition: Shape ``(B, condition)``.

        Returns:
            Shape ``(B, width, H, W)``.
        """
        scale, shift = self.scale_and_shift(condition)[:, :, None, None].chunk(2, dim=1)
        return torch.addcmul(shift, self.norm(features), 1 + scale)


class GrowingBlock(nn.Module):
    """A 3 x 3 convolution, bilinear doubling, noise, conditional normalisation, LeakyReLU.

    Each output pixel is reached by equally much kernel weight, so no grid is built in, as it is by
    transposed convolutions (Odena et al. 2016, doi 10.23915/distill.00003). Convolving before
    doubling costs a quarter; the next block convolves what the LeakyReLU made sharp.
    """

    def __init__(self, wide: int, narrow: int, condition: int) -> None:
        super().__init__()
        self.convolution = _convolution(wide, narrow, bias=False)
        self.strength = nn.Parameter(0.1 * torch.randn(narrow, 1, 1))
        self.norm = ConditionalGroupNorm(narrow, condition)

    def forward(self, features: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
        """Maps ``(B, wide, H, W)`` and noise ``(B, 1, 2H, 2W)`` to ``(B, narrow, 2H, 2W)``."""
        features = torch.addcmul(double(self.convolution(features)), noise, self.strength)
        active: Tensor = F.leaky_relu(self.norm(features, condition), LEAK)
        return active


class Generator(nn.Module):
    """Latent vectors, noise and conditions become crops.

    Noise enters each block (Karras et al. 2019, arXiv 1812.04948), so that tissue texture need not
    be made from the latent vector. The latent vector and the embedded condition, mixed by one
    layer, make the first grid and steer every normalisation. Each resolution adds to a running
    image that is doubled bilinearly; finer ones add less, in proportion to the pixel, as the power
    law of tissue asks for.

    Benign and malignant masses often look alike, and a generator that is told a class outright
    marks each crop with it in ways that no real mass shows. ``separability`` bounds that by
    construction: malignancy is blurred by the first entry of the latent vector, which is used for
    nothing else (:func:`blur`). Shorter latent vectors and exaggerated conditions lift the bound.

    Args:
        image_size: Edge of the crops, in pixels, a power of two, ``>= 16``.
        channels: Feature channels at the full resolution.
        latent: Length of the latent vector, ``>= 1``.
        columns: Length of a condition, :attr:`gan.conditions.Conditions.width`.
        separability: AUROC between the two classes of generated crops that no classifier exceeds,
            above 0.5, at most 1; 1 tells the class outright.
    """

    def __init__(
        self,
        image_size: int = 128,
        channels: int = 8,
        latent: int = 128,
        columns: int = 2,
        separability: float = 1.0,
    ) -> None:
        super().__init__()
        if latent < 1:
            raise ValueError(f"{latent=}. Give 1 or more.")
        first, *others = levels = widths(image_size, channels)
        self.image_size, self.latent = image_size, latent
        self.signal, self.blur = blur(separability)
        self.embedding = nn.Linear(columns, latent, bias=False)
        nn.init.normal_(self.embedding.weight)
        self.condition = nn.Linear(2 * latent, latent)
        self.grid = nn.Linear(latent, first * GRID * GRID)
        self.first = _convolution(first, first, bias=False)
        self.first_norm = ConditionalGroupNorm(first, latent)
        self.blocks = nn.ModuleList(
            GrowingBlock(wide, narrow, latent) for wide, narrow in zip(levels, others, strict=False)
        )
        self.images = nn.ModuleList(nn.Conv2d(width, 1, 1) for width in levels[:-1])
        self.images.append(_convolution(levels[-1], 1))

    def forward(self, latent: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
        """Generates crops.

        Args:
            latent: Shape ``(B, latent)``, standard normal.
            noise: Shape ``(B, 1, image_size, image_size)``, standard normal.
            condition: Shape ``(B, columns)``, benign and malignant first, see
                :mod:`gan.conditions`. Between two conditions lie crops in between, beyond them
                exaggerated ones.

        Returns:
            Shape ``(B, 1, image_size, image_size)``, values in ``(-1, 1)``.
        """
        if self.blur:
            told = self.signal * (condition[:, 1] - condition[:, 0]) + self.blur * latent[:, 0]
            blurred = torch.stack([1 - told, 1 + told], dim=1) / 2
            condition = torch.cat([blurred, condition[:, 2:]], dim=1)
            latent = torch.cat([torch.zeros_like(latent[:, :1]), latent[:, 1:]], dim=1)
        mixed = self.condition(torch.cat([latent, self.embedding(condition)], dim=1))
        style = F.leaky_relu(mixed, LEAK)
        features = self.grid(style).unflatten(1, (-1, GRID, GRID))
        features = F.leaky_relu(self.first_norm(self.first(features), style), LEAK)
        image: Tensor = self.images[0](features)
        for block, to_image in zip(self.blocks, self.images[1:], strict=True):
            features = block(features, coarser(noise, 2 * features.shape[-1]), style)
            image = double(image) + to_image(features) * (GRID / features.shape[-1])
        return torch.tanh(image)


def blur(separability: float) -> tuple[float, float]:
    """How much of its class a generator is told, and how much noise beside it.

    Told ``signal * (1 or -1) + blur * standard normal``, it cannot make crops whose classes are
    told apart better than by that number, whose AUROC is ``Phi(sqrt(2) * signal / blur)``.

    Args:
        separability: That AUROC, above 0.5, at most 1.

    Returns:
        Signal and blur, whose squares add up to 1.

    Raises:
        ValueError: If the AUROC is out of range.

    >>> blur(1.0)
    (1.0, 0.0)
    """
    if not 0.5 < separability <= 1:
        raise ValueError(f"{separability=}. Give a number above 0.5, at most 1.")
    if separability == 1:
        return 1.0, 0.0
    ratio = NormalDist().inv_cdf(separability) / math.sqrt(2)
    return ratio / math.hypot(1, ratio), 1 / math.hypot(1, ratio)


def double(image: Tensor) -> Tensor:
    """Doubles height and width bilinearly: ``(B, C, H, W)`` to ``(B, C, 2H, 2W)``."""
    larger: Tensor = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    return larger


def coarser(noise: Tensor, edge: int) -> Tensor:
    """White noise ``(B, 1, H, H)`` at a smaller size ``(B, 1, edge, edge)`` and equal variance."""
    factor = noise.shape[-1] // edge
    pooled: Tensor = F.avg_pool2d(noise, factor)
    return factor * pooled


def _convolution(wide: int, narrow: int, *, bias: bool = True) -> nn.Conv2d:
    """3 x 3, with the border repeated: zeros there would show as a frame in the crops."""
    return nn.Conv2d(wide, narrow, 3, padding=1, padding_mode="replicate", bias=bias)


def averaged(generator: nn.Module, most: float) -> AveragedModel:
    """An exponential average of a network's weights that no optimizer moves.

    Args:
        generator: Followed by ``update_parameters``.
        most: Largest decay per update, in ``[0, 1)``; smaller ones come first.

    Source: Yazici et al. 2019, arXiv 1806.04498 (averaging of generators).
    """

    def average(mean: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        return mean.lerp(current, 1 - decay_of(int(updates), most))

    model = AveragedModel(generator, avg_fn=average)
    model.requires_grad_(False)
    return model


def decay_of(updates: int, most: float) -> float:
    """Decay of the average after some updates, from 0.1 up to ``most``.

    >>> decay_of(0, 0.999), decay_of(90, 0.999), decay_of(10**6, 0.999)
    (0.1, 0.91, 0.999)
    """
    return min(most, (1 + updates) / (10 + updates))
