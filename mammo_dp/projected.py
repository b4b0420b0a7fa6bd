# SPDX-License-Identifier: Apache-2.0
"""``ProjectedMCGAN``: an MCGAN whose crops are also compared through a public network."""

import logging
from collections.abc import Sequence
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
        self.initial_weights: LoadedWeights | None = None
        network = _Seen(public_size, stages)
        try:
            self.initial_weights = load_weights(network, PACKAGE)
        except WeightsError as error:
            log.warning("No discriminator on a public network: trains as an MCGAN. %s", error)
            return
        log.info("Discriminators on stages %s of %s.", stages, self.initial_weights.path)
        self.projected = ProjectedDiscriminator(
            network.eval().to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            network.public.channels,
            network.public.edges,
            self.conditions.width,
            projected,
        )


class _Seen(nn.Module):
    """The public network, where :func:`classifier.weights.load_weights` looks for it."""

    def __init__(self, size: int, stages: Sequence[int]) -> None:
        super().__init__()
        self.public = PublicNet(PUBLIC_NETWORK, size=size, stages=stages)

    def forward(self, crops: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.public(resized(crops, self.public.size))
        return maps
