# SPDX-License-Identifier: Apache-2.0
"""Generators and the public network: ``ProjectedMCGAN``, and the network for others."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from classifier.public import PublicNet, resized
from classifier.weights import PACKAGE, PUBLIC_NETWORK, LoadedWeights, WeightsError, load_weights
from gan.module import MCGAN
from gan.projected import ProjectedDiscriminator

log = logging.getLogger(__name__)


class ProjectedMCGAN(MCGAN):
    """An ``MCGAN`` with further discriminators that see crops through a network of public images.

    The discriminator of the MCGAN stays, for fine texture. Heads on EfficientNet-Lite0, trained on
    ImageNet and fixed, join it (:mod:`gan.projected`). The extra ``imagenet`` brings the weights;
    without it the fit is that of an MCGAN, which the log says.

    Args:
        public_size: Edge of the crops that it sees, in pixels; smaller is faster.
        stages: Stages that heads see, from fine to coarse, as :class:`classifier.public.PublicNet`
            counts them.
        projected: Weight of the heads' losses beside those of the discriminator, > 0.
        mcgan: Further arguments of :class:`gan.module.MCGAN`.

    Attributes:
        initial_weights: Those of the network; None without the package.

    Raises:
        ValueError: If the weight is out of range, or the network has no such stages.
    """

    def __init__(
        self,
        *,
        public_size: int = 64,
        stages: Sequence[int] = (1, 2, 4, 6),
        projected: float = 1.0,
        **mcgan: Any,
    ) -> None:
        if projected <= 0:
            raise ValueError(f"{projected=}. Give a weight above 0, or take an MCGAN.")
        stages = list(stages)  # as a checkpoint keeps it
        super().__init__(**mcgan)
        network, self.initial_weights = public_network(
            public_size, stages, without="so this trains as an MCGAN"
        )
        if self.initial_weights is None:
            return
        self.projected = ProjectedDiscriminator(
            network,
            network.public.channels,
            network.public.edges,
            self.conditions.width,
            projected,
        )


class SeenByDiscriminator(nn.Module):
    """The first stages of EfficientNet-Lite0, frozen.

    Args:
        size: Edge of the crops that it sees, in pixels; others are resized.
        stages: Which it shows, from fine to coarse.
    """

    def __init__(self, size: int, stages: Sequence[int]) -> None:
        super().__init__()
        self.public = PublicNet(PUBLIC_NETWORK, size=size, stages=stages)

    def forward(self, crops: Tensor) -> list[Tensor]:
        """Maps of its stages, of crops ``(B, 1, H, H)`` in ``[-1, 1]``."""
        maps: list[Tensor] = self.public(resized(crops, self.public.size))
        return maps


def public_network(
    size: int, stages: Sequence[int], *, without: str
) -> tuple[SeenByDiscriminator, LoadedWeights | None]:
    """The network with its weights of ImageNet, or without the extra ``imagenet`` with random ones.

    Args:
        size: See :class:`SeenByDiscriminator`.
        stages: Likewise.
        without: What follows if there are no weights, for the log.

    Returns:
        The network, equal at each call, in evaluation mode, and its weights; none if random.

    Raises:
        ValueError: If there are no such stages.
    """
    network, weights, reason = _frozen(size, tuple(stages))
    if weights is None:
        log.warning("The public network has random weights, %s. %s", without, reason)
    else:
        log.info("The discriminator sees stages %s of %s.", list(stages), weights.path)
    return network, weights


@cache  # nobody changes it, so all models of a process see through one
def _frozen(
    size: int, stages: tuple[int, ...]
) -> tuple[SeenByDiscriminator, LoadedWeights | None, str]:
    """The network, its weights, and why there are none."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # a resumed fit sees through the same network
        network = SeenByDiscriminator(size, stages)
    weights, reason = None, ""
    try:
        weights = load_weights(network, PACKAGE)
    except WeightsError as error:
        reason = str(error)
    network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network, weights, reason
