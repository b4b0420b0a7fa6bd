# SPDX-License-Identifier: Apache-2.0
"""A discriminator that sees crops through a fixed network, and trains small heads alone.

A network of other images knows edges, textures and shapes already, so that heads of few weights
learn from a small cohort how real crops differ from generated ones. Fixed random mixing spreads
what the network knows over all channels and scales, so that heads cannot settle for a part of it.

Source: Sauer et al. 2021, arXiv 2111.01007 (projected GAN). Ours mixes across scales without
3 x 3 convolutions, and each head is told how much the crops of a batch differ (after Karras et al.
2018, arXiv 1710.10196), since a small cohort lets a generator collapse.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from gan.conditions import other_class
from gan.generator import LEAK
from gan.losses import Loss, adversarial_loss, class_loss, generator_loss

MIXED = 64  # channels of each map after mixing
SMALLEST = 4  # places along an edge of a map at which a head stops halving


class Head(nn.Module):
    """Logits of each place of a map, with class and spread of the batch.

    Args:
        edge: Edge of the map, in places.
        columns: Length of a condition, :attr:`gan.conditions.Conditions.width`.
    """

    def __init__(self, edge: int, columns: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        while edge > SMALLEST:
            layers += [spectral_norm(nn.Conv2d(MIXED, MIXED, 4, stride=2, padding=1))]
            layers += [nn.LeakyReLU(LEAK)]
            edge //= 2
        layers += [spectral_norm(nn.Conv2d(MIXED, MIXED, 3, padding=1)), nn.LeakyReLU(LEAK)]
        self.features = nn.Sequential(*layers)
        self.real = spectral_norm(nn.Conv2d(MIXED + 1, 1, 1))
        self.projection = spectral_norm(nn.Linear(columns, MIXED, bias=False))

    def forward(self, mixed: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Judges the places of a map.

        Args:
            mixed: Crops of one kind, all real or all generated, shape ``(B, MIXED, edge, edge)``.
            condition: Shape ``(B, columns)``.

        Returns:
            Logits, shape ``(B, places)``, and how much higher they are than under the other class,
            shape ``(B,)``, see :func:`gan.losses.class_loss`.
        """
        features: Tensor = self.features(mixed)
        spread = (features.float().var(0, correction=0) + 1e-8).sqrt().mean()
        told = torch.cat([features, spread.to(features).expand_as(features[:, :1])], dim=1)
        pooled = features.mean((2, 3))
        asked = torch.stack([condition, other_class(condition)])
        own, other = (self.projection(asked) * pooled).sum(2)
        logits: Tensor = self.real(told).flatten(1) + own[:, None]
        return logits, own - other


class ProjectedDiscriminator(nn.Module):
    """Heads on the mixed maps of a fixed network.

    The network is no part of a checkpoint; mixing and heads are. The network must not change, and
    gradients pass through it to the crops.

    Args:
        network: Maps crops ``(B, 1, H, H)`` in ``[-1, 1]`` to maps ``(B, channels, edge, edge)`` of
            its stages, from fine to coarse; frozen, in evaluation mode.
        channels: Channels of each stage.
        edges: Edge of the map of each stage, in places.
        columns: Length of a condition, :attr:`gan.conditions.Conditions.width`.
        weight: Of the losses of all heads together, > 0.
    """

    def __init__(
        self,
        network: nn.Module,
        channels: Sequence[int],
        edges: Sequence[int],
        columns: int,
        weight: float,
    ) -> None:
        super().__init__()
        self._network = (network,)  # a tuple is no submodule
        self.weight = weight
        self.mixing = nn.ModuleList(nn.Conv2d(count, MIXED, 1) for count in channels)
        self.across = nn.ModuleList(nn.Conv2d(MIXED, MIXED, 1) for _ in channels)
        for part in (*self.mixing, *self.across):
            nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
            part.requires_grad_(False)
        self.heads = nn.ModuleList(Head(edge, columns) for edge in edges)

    def read(self, crops: Tensor) -> list[Tensor]:
        """Maps of crops, mixed over channels and scales, shape ``(B, MIXED, edge, edge)`` each.

        Each scale adds what the next coarser one holds, doubled bilinearly.
        """
        maps: list[Tensor] = []
        network = self._network[0]
        network.to(crops.device)
        found = network(crops)
        for number in reversed(range(len(found))):
            mixed = self.mixing[number](found[number])
            if maps:
                size = mixed.shape[-2:]
                mixed = mixed + F.interpolate(maps[0], size, mode="bilinear", align_corners=False)
            maps.insert(0, self.across[number](mixed))
        return maps

    def discriminator_loss(
        self,
        real: Tensor,
        maps: Sequence[Tensor],
        condition: Tensor,
        loss: Loss,
        class_weight: float,
    ) -> Tensor:
        """How far the heads are from telling real from generated crops, and real classes apart.

        Args:
            real: Crops, augmented, shape ``(B, 1, H, H)``.
            maps: Of generated crops, augmented alike, from :meth:`read`; get no gradient.
            condition: Of both, shape ``(B, columns)``.
            loss: See :func:`gan.losses.discriminator_loss`.
            class_weight: Weight of :func:`gan.losses.class_loss`, >= 0.

        Returns:
            Scalar: mean over the heads, weighted.
        """
        with torch.no_grad():
            real_maps = self.read(real)
        total = real.new_zeros(())
        for head, ours, theirs in zip(self.heads, real_maps, maps, strict=True):
            opinions = []
            for sign, seen in ((1, ours), (-1, theirs.detach())):
                logits, opinion = head(seen, condition)
                total = total + adversarial_loss(sign * logits, loss).mean()
                opinions.append(opinion)
            total = total + class_weight * class_loss(*opinions)
        return self.weight * total / len(self.heads)

    def generator_loss(self, maps: Sequence[Tensor], condition: Tensor, loss: Loss) -> Tensor:
        """How far generated crops are from convincing the heads, weighted mean over them.

        Args:
            maps: Of generated crops, from :meth:`read`, with gradient.
            condition: Shape ``(B, columns)``.
            loss: See :func:`gan.losses.generator_loss`.
        """
        total = condition.new_zeros(())
        for head, seen in zip(self.heads, maps, strict=True):
            logits, _ = head(seen, condition)
            total = total + generator_loss(logits, loss)
        return self.weight * total / len(self.heads)
