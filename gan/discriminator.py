# SPDX-License-Identifier: Apache-2.0
"""The discriminator, which scores crops under a condition.

It halves the crop down to the grid that the generator grows from. Nothing mixes the rows of a
batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from gan.generator import GRID, LEAK, widths

DETAIL_WINDOW = 5  # pixels, odd
DETAIL_GAIN = 16.0  # tissue of power 1 / f^3 has about 1/20 of its contrast below DETAIL_WINDOW


class Discriminator(nn.Module):
    """Maps crops and conditions to logits; above 0 means real.

    Strided convolutions and a projection on the condition (Miyato and Koyama 2018, arXiv
    1802.05637). Beside the crop they see its amplified :func:`detail`, which would otherwise drown
    in the twentyfold contrast of coarse structure.

    Spectral norms (Miyato et al. 2018, arXiv 1802.05957) bound its layers.

    Args:
        image_size: Edge of the crops, in pixels, a power of two, ``>= 16``.
        channels: Feature channels that the full resolution would have; the first layer halves it.
        columns: Length of a condition, :attr:`gan.conditions.Conditions.width`.
    """

    def __init__(self, image_size: int = 128, channels: int = 8, columns: int = 2) -> None:
        super().__init__()
        levels = widths(image_size, channels)[-2::-1]
        layers: list[nn.Module] = []
        for wide, narrow in zip([2, *levels], levels, strict=False):
            layers.append(spectral_norm(nn.Conv2d(wide, narrow, 4, stride=2, padding=1)))
            layers.append(nn.LeakyReLU(LEAK))
        self.features = nn.Sequential(*layers)
        self.real = spectral_norm(nn.Linear(levels[-1] * GRID * GRID, 1))
        projection = nn.Linear(columns, levels[-1] * GRID * GRID, bias=False)
        nn.init.normal_(projection.weight, std=0.02)
        self.projection = spectral_norm(projection)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """Judges crops.

        Args:
            image: Shape ``(B, 1, image_size, image_size)``, values about ``[-1, 1]``.
            condition: Shape ``(B, columns)``, see :mod:`gan.conditions`.

        Returns:
            Logits, shape ``(B,)``.
        """
        return self.score(self.describe(image), condition)

    def describe(self, image: Tensor) -> Tensor:
        """Features of a crop, before the condition is used, shape ``(B, features)``."""
        seen = torch.cat([image, DETAIL_GAIN * detail(image)], dim=1)
        features: Tensor = self.features(seen).flatten(1)
        return features

    def score(self, features: Tensor, condition: Tensor) -> Tensor:
        """Logits, shape ``(B,)``, of what :meth:`describe` gave under a condition."""
        return conditional_logits(self.real, self.projection, features, condition)


def conditional_logits(
    real: nn.Module, projection: nn.Module, features: Tensor, condition: Tensor
) -> Tensor:
    """Logits of features under a condition.

    Args:
        real: Maps ``(B, features)`` to ``(B, 1)``, whatever the condition.
        projection: Maps ``(B, columns)`` to ``(B, features)``.
        features: Shape ``(B, features)``.
        condition: Shape ``(B, columns)``.

    Returns:
        Shape ``(B,)``.

    Source: Miyato and Koyama 2018, arXiv 1802.05637.
    """
    unconditional: Tensor = real(features).squeeze(1)
    asked: Tensor = (projection(condition) * features).sum(dim=1)
    return unconditional + asked


def detail(image: Tensor) -> Tensor:
    """What remains of ``(B, 1, H, W)`` without its mean over ``DETAIL_WINDOW`` squared pixels."""
    around = F.avg_pool2d(
        image, DETAIL_WINDOW, stride=1, padding=DETAIL_WINDOW // 2, count_include_pad=False
    )
    return image - around
