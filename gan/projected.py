# SPDX-License-Identifier: Apache-2.0
"""Discriminators that see crops through a fixed network, and train small heads alone.

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
from gan.discriminator import conditional_logits
from gan.generator import LEAK
from gan.losses import Loss, adversarial_loss, class_loss, generator_loss

MIXED = 64  # channels of each map after mixing
SMALLEST = 4  # places along an edge of a map at which a head stops halving
UNSEEN = 1e-3  # added to deviations, so that a feature that is always 0 stays finite


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
        self.mixing = nn.ModuleList(random_mixing(count) for count in channels)
        self.across = nn.ModuleList(random_mixing(MIXED) for _ in channels)
        self.heads = nn.ModuleList(Head(edge, columns) for edge in edges)

    def read(self, crops: Tensor) -> list[Tensor]:
        """Maps of crops, mixed over channels and scales, shape ``(B, MIXED, edge, edge)`` each.

        Each scale adds what the next coarser one holds, doubled bilinearly.
        """
        maps: list[Tensor] = []
        found = self._network[0].to(crops.device)(crops)
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


class PooledDiscriminator(nn.Module):
    """Logits that are linear in pooled maps of a fixed network, for training with noise.

    Each map is mixed at random, pooled to ``SMALLEST`` x ``SMALLEST`` places and standardised. The
    few weights behind it start at 0: no opinion, which each step of training forms. Nothing mixes
    the rows of a batch, so that per-row gradients exist.

    The network is no part of a checkpoint; mixing, standardisation and weights are.

    Args:
        network: As that of :class:`ProjectedDiscriminator`.
        channels: Channels of each of its stages.
        columns: Length of a condition, :attr:`gan.conditions.Conditions.width`.

    Source: the fixed network and random mixing of arXiv 2111.01007; pooled features, their
    standardisation and one layer in place of trained convolutions are ours.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, channels: Sequence[int], columns: int) -> None:
        super().__init__()
        self._network = (network,)  # a tuple is no submodule
        self.mixing = nn.ModuleList(random_mixing(count) for count in channels)
        features = len(channels) * MIXED * SMALLEST**2
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("deviation", torch.ones(features))
        self.real = nn.Linear(features, 1)
        self.projection = nn.Linear(columns, features, bias=False)
        for weight in (*self.real.parameters(), *self.projection.parameters()):
            nn.init.zeros_(weight)

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """Judges crops; above 0 means real.

        Args:
            image: Shape ``(B, 1, H, H)``, values about ``[-1, 1]``.
            condition: Shape ``(B, columns)``, see :mod:`gan.conditions`.

        Returns:
            Logits, shape ``(B,)``.
        """
        features = (self._pooled(image) - self.mean) / self.deviation
        features = features / features.shape[1] ** 0.5  # of length 1 on average
        return conditional_logits(self.real, self.projection, features, condition)

    @torch.no_grad()
    def standardise(self, crops: Tensor) -> None:
        """Takes mean and deviation of each feature from crops that are no patient's.

        Args:
            crops: Shape ``(B, 1, H, H)``, some 100 of them.
        """
        features = torch.cat([self._pooled(some) for some in torch.split(crops, 32)])
        self.mean.copy_(features.mean(0))
        self.deviation.copy_(features.std(0) + UNSEEN)

    def _pooled(self, image: Tensor) -> Tensor:
        found = self._network[0].to(image.device)(image)
        pooled = []
        for mix, map_ in zip(self.mixing, found, strict=True):
            mixed = F.leaky_relu(mix(map_), LEAK)
            pooled.append(F.adaptive_avg_pool2d(mixed, SMALLEST).flatten(1))
        return torch.cat(pooled, dim=1)


def random_mixing(channels: int) -> nn.Conv2d:
    """A layer that mixes the channels of a map at random to ``MIXED``, and does not train."""
    layer = nn.Conv2d(channels, MIXED, 1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    return layer.requires_grad_(False)
