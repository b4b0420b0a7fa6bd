# SPDX-License-Identifier: Apache-2.0
"""The conditional generator and discriminator.

Both grow from a 4 x 4 grid by factors of two, so the image size is a power of two. The width at
resolution ``r`` is ``channels * image_size / r``, at most ``WIDEST``: each resolution costs about
the same number of multiplications. Nothing mixes the rows of a batch and nothing works in place,
so that per-row gradients exist.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

GRID = 4
WIDEST = 512
CHANNELS_PER_GROUP = 8
LEAK = 0.2
POWER_ITERATIONS = 15  # torch's own number at the start of a spectral norm
DETAIL_WINDOW = 5  # pixels, odd
DETAIL_GAIN = 16.0  # tissue of power 1 / f^3 has about 1/20 of its contrast below DETAIL_WINDOW

Normalisation = Literal["spectral", "group", "none"]


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


def group_norm(width: int, *, affine: bool) -> nn.GroupNorm:
    """Group normalisation with ``CHANNELS_PER_GROUP`` channels a group where there are as many."""
    return nn.GroupNorm(max(1, width // CHANNELS_PER_GROUP), width, affine=affine)


class ConditionalGroupNorm(nn.Module):
    """Group normalisation whose scale and shift depend on a condition.

    Conditional normalisation after Miyato and Koyama 2018, arXiv 1802.05637; since the condition
    here holds the latent vector too, also self-modulation after Chen et al. 2019, arXiv 1810.01365.

    Args:
        width: Channels to normalise.
        condition: Length of the condition vector.
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm = group_norm(width, affine=False)
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

    Args:
        image_size: Edge of the crops, in pixels, a power of two, ``>= 16``.
        channels: Feature channels at the full resolution.
        latent: Length of the latent vector, ``>= 1``.
        columns: Length of a condition, :attr:`gan.conditions.Conditions.width`.
    """

    def __init__(
        self, image_size: int = 128, channels: int = 8, latent: int = 128, columns: int = 2
    ) -> None:
        super().__init__()
        if latent < 1:
            raise ValueError(f"{latent=}. Give 1 or more.")
        first, *others = levels = widths(image_size, channels)
        self.image_size, self.latent = image_size, latent
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
            condition: Shape ``(B, columns)``, see :mod:`gan.conditions`. Between two conditions lie
                crops in between, beyond them exaggerated ones.

        Returns:
            Shape ``(B, 1, image_size, image_size)``, values in ``(-1, 1)``.
        """
        mixed = self.condition(torch.cat([latent, self.embedding(condition)], dim=1))
        style = F.leaky_relu(mixed, LEAK)
        features = self.grid(style).unflatten(1, (-1, GRID, GRID))
        features = F.leaky_relu(self.first_norm(self.first(features), style), LEAK)
        image: Tensor = self.images[0](features)
        for block, to_image in zip(self.blocks, self.images[1:], strict=True):
            features = block(features, coarser(noise, 2 * features.shape[-1]), style)
            image = double(image) + to_image(features) * (GRID / features.shape[-1])
        return torch.tanh(image)


class Discriminator(nn.Module):
    """Crops and conditions become logits: above 0 means real.

    Strided convolutions and a projection on the condition (Miyato and Koyama 2018, arXiv
    1802.05637). Beside the crop they see its amplified :func:`detail`, which would otherwise drown
    in the twentyfold contrast of coarse structure.

    Per-row gradients by Opacus hooks work with ``"group"`` and ``"none"``; ``"spectral"``
    (arXiv 1802.05957) is a parametrisation, which the hooks refuse.

    Args:
        image_size: Edge of the crops, in pixels, a power of two, ``>= 16``.
        channels: Feature channels that the full resolution would have; the first layer halves it.
        normalisation: What bounds the layers.
        columns: Length of a condition, :attr:`gan.conditions.Conditions.width`.
    """

    def __init__(
        self,
        image_size: int = 128,
        channels: int = 8,
        normalisation: Normalisation = "spectral",
        columns: int = 2,
    ) -> None:
        super().__init__()
        levels = widths(image_size, channels)[-2::-1]
        layers: list[nn.Module] = []
        for wide, narrow in zip([2, *levels], levels, strict=False):
            layers.append(_bounded(nn.Conv2d(wide, narrow, 4, stride=2, padding=1), normalisation))
            if normalisation == "group" and wide > 2:
                layers.append(group_norm(narrow, affine=True))
            layers.append(nn.LeakyReLU(LEAK))
        self.features = nn.Sequential(*layers)
        self.real = _bounded(nn.Linear(levels[-1] * GRID * GRID, 1), normalisation)
        projection = nn.Linear(columns, levels[-1] * GRID * GRID, bias=False)
        nn.init.normal_(projection.weight, std=0.02)
        self.projection = _bounded(projection, normalisation)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """Judges crops.

        Args:
            image: Shape ``(B, 1, image_size, image_size)``, values about ``[-1, 1]``.
            condition: Shape ``(B, columns)``, see :mod:`gan.conditions`.

        Returns:
            Logits, shape ``(B,)``.
        """
        return self.judge(self.describe(image), condition)

    def describe(self, image: Tensor) -> Tensor:
        """What is seen of a crop before the condition is known, shape ``(B, features)``."""
        seen = torch.cat([image, DETAIL_GAIN * detail(image)], dim=1)
        features: Tensor = self.features(seen).flatten(1)
        return features

    def judge(self, features: Tensor, condition: Tensor) -> Tensor:
        """Logits, shape ``(B,)``, of what :meth:`describe` gave under a condition."""
        unconditional: Tensor = self.real(features).squeeze(1)
        asked: Tensor = (self.projection(condition) * features).sum(dim=1)
        return unconditional + asked

    def take_plain(self, weights: Mapping[str, Tensor]) -> None:
        """Starts from plain weights, under the normalisation of this network.

        Args:
            weights: As :func:`plain_weights` gives them.
        """
        with torch.no_grad():
            for name, value in weights.items():
                owner, _, tensor = name.rpartition(".")
                layer = self.get_submodule(owner)
                if parametrize.is_parametrized(layer, tensor):
                    setattr(layer, tensor, value)
                    for _ in range(POWER_ITERATIONS):
                        getattr(layer, tensor)  # each look in training mode is one iteration
                else:
                    layer.get_parameter(tensor).copy_(value)


def plain_weights(net: Discriminator) -> dict[str, Tensor]:
    """Weights as the layers use them, spectral norms divided out.

    Args:
        net: Its mode is restored.

    Returns:
        Tensor by name, as a discriminator without parametrisations has them.
    """
    training = net.training
    net.eval()  # a look in training mode would move the estimate of the norm
    weights = {
        name: value.detach().clone()
        for name, value in net.named_parameters()
        if ".parametrizations." not in name
    }
    for owner, layer in net.named_modules():
        for tensor in getattr(layer, "parametrizations", {}):
            weights[f"{owner}.{tensor}"] = getattr(layer, tensor).detach().clone()
    net.train(training)
    return weights


def double(image: Tensor) -> Tensor:
    """Doubles height and width bilinearly: ``(B, C, H, W)`` to ``(B, C, 2H, 2W)``."""
    larger: Tensor = F.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
    return larger


def coarser(noise: Tensor, edge: int) -> Tensor:
    """White noise ``(B, 1, H, H)`` at a smaller size ``(B, 1, edge, edge)`` and equal variance."""
    factor = noise.shape[-1] // edge
    pooled: Tensor = F.avg_pool2d(noise, factor)
    return factor * pooled


def detail(image: Tensor) -> Tensor:
    """What remains of ``(B, 1, H, W)`` without its mean over ``DETAIL_WINDOW`` squared pixels."""
    around = F.avg_pool2d(
        image, DETAIL_WINDOW, stride=1, padding=DETAIL_WINDOW // 2, count_include_pad=False
    )
    return image - around


def _bounded(layer: nn.Module, normalisation: Normalisation) -> nn.Module:
    return parametrizations.spectral_norm(layer) if normalisation == "spectral" else layer


def _convolution(wide: int, narrow: int, *, bias: bool = True) -> nn.Conv2d:
    """3 x 3, with the border repeated: zeros there would show as a frame in the crops."""
    return nn.Conv2d(wide, narrow, 3, padding=1, padding_mode="replicate", bias=bias)
