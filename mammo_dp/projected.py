# SPDX-License-Identifier: Apache-2.0
"""``ProjectedMCGAN``: an MCGAN whose crops are also compared through a public network."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from classifier.public import PublicNet, resized
from classifier.weights import PACKAGE, LoadedWeights, WeightsError, load_weights
from gan.module import MCGAN
from gan.projected import ProjectedDiscriminator

log = logging.getLogger(__name__)


class ProjectedMCGAN(MCGAN):
    """An ``MCGAN`` with further discriminators that see crops through a network of public images.

    The discriminator of the MCGAN stays, for fine texture. Heads on a fixed network join it
    (:mod:`gan.projected`). Without the package of weights it trains as an MCGAN, which the log says.

    Args:
        public: timm's name of the network, one of which a package brings weights.
        public_size: Edge of the crops that it sees, in pixels; smaller is faster.
        stages: Stages that heads see, from fine to coarse, see :class:`classifier.public.PublicNet`.
        projected: Weight of the heads' losses beside those of the discriminator, > 0.
        mcgan: Further arguments of :class:`gan.module.MCGAN`.

    Attributes:
        initial_weights: Those of the network; None without the package.
    """

    def __init__(
        self,
        *,
        public: str = "tf_efficientnet_lite0",
        public_size: int = 64,
        stages: Sequence[int] = (1, 2, 4, 6),
        projected: float = 1.0,
        **mcgan: Any,
    ) -> None:
        super().__init__(**mcgan)
        self.initial_weights: LoadedWeights | None = None
        network = _Seen(public, public_size, stages)
        try:
            self.initial_weights = load_weights(network, PACKAGE)
        except WeightsError as error:
            log.warning("No discriminator on a public network, as an MCGAN trains. %s", error)
            return
        self.projected = ProjectedDiscriminator(
            network.eval().to(memory_format=torch.channels_last),  # type: ignore[call-overload]
            self.conditions.width,
            projected,
        )


class _Seen(nn.Module):
    """The public network, where :func:`classifier.weights.load_weights` looks for it."""

    def __init__(self, backbone: str, size: int, stages: Sequence[int]) -> None:
        super().__init__()
        self.public = PublicNet(backbone, size=size, stages=stages)
        self.channels, self.edges = self.public.channels, self.public.edges

    def forward(self, crops: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.public(resized(crops, self.public.size))
        return maps
