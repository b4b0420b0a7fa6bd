# SPDX-License-Identifier: Apache-2.0
"""``MatchedMCGAN``: an MCGAN of public crops whose classes are held to released means."""

import logging
from typing import Any

import torch
from torch import Tensor

from classifier.unit_features import unit_features
from gan.matching import RunningMatching
from gan.module import MCGAN
from mammo_dp.privacy.means.query import CLASSES
from mammo_dp.privacy.means.release import ReleasedMeans

log = logging.getLogger(__name__)


class MatchedMCGAN(MCGAN):
    """An ``MCGAN`` of phantoms whose crops have, class by class, the released mean features.

    No patient's crop is read: the discriminator sees phantoms, so that pictures stay pictures, and
    what is known of the patients is one noisy mean of each class, from `mammo-dp release-means`.
    Training is post-processing and may take any number of steps. Statements of the fit and of its
    crops follow from that release, and from the crops and the weights that the fit starts from.

    Source: Harder et al. 2022, arXiv 2205.12900 (DP-MEPF), for training against released means of
    features; the adversarial loss beside it is ours.

    Args:
        means: File ``means.pt`` of `mammo-dp release-means`.
        matching: Weight of the squared distance of means, > 0.
        difference: Weight of the difference of the two classes beside the means, >= 0: it is
            smaller than what both share, and is all that labels teach.
        compared: Generated crops of a batch whose features are compared, >= 1. Gradients through
            their network are what a step costs most; running means make up for few crops.
        mcgan: Further arguments of :class:`gan.module.MCGAN`.

    Raises:
        PrivacyError: If the file holds no released means, or a class counts no more than its noise.
        ValueError: If a weight is out of range, or the features are of crops of another size.
    """

    def __init__(
        self,
        *,
        means: str,
        matching: float = 50.0,
        difference: float = 4.0,
        compared: int = 4,
        **mcgan: Any,
    ) -> None:
        if matching <= 0 or difference < 0 or compared < 1:
            raise ValueError(
                f"{matching=}, {difference=}, {compared=}. Give a matching above 0, a difference "
                ">= 0 and 1 crop or more."
            )
        super().__init__(**mcgan)
        self.hparams.pop("means")  # a path of this machine
        self.matching = matching
        self.matched = MeanMatching(
            ReleasedMeans.read(means), difference=difference, compared=compared
        )
        if (size := self.matched.size) != self.image_size:
            raise ValueError(
                f"means={means!r}: are of features of crops of {size} px, but image_size="
                f"{self.image_size}. Set both to one value."
            )
        log.info("%s", self.matched.words)


class MeanMatching(RunningMatching):
    """Compares running means of features of generated crops with released ones.

    The network that gives the features is no part of a checkpoint; it is read again.

    Args:
        released: The means, and the network.
        difference: Weight of the difference of the classes beside the means, >= 0.
        compared: Crops of a batch that are compared, >= 1.
    """

    targets: Tensor

    def __init__(self, released: ReleasedMeans, *, difference: float, compared: int) -> None:
        means, noise = released.released.means()
        super().__init__(means.shape[1])
        self.register_buffer("targets", torch.from_numpy(means).float(), persistent=False)
        self.difference = difference
        self.compared = compared
        self.size = int(released.model.hparams["image_size"])
        self._net = (released.net.eval().requires_grad_(False),)  # a tuple is no submodule
        apart = float(torch.linalg.vector_norm(self.targets[1] - self.targets[0]))
        self.words = (
            f"Released means of {means.shape[1]} features: the classes differ by {apart:.2f}, the "
            f"noise of a class has length {noise[0]:.2f} (benign), {noise[1]:.2f} (malignant)."
        )

    def forward(self, fakes: Tensor, malignant: Tensor) -> Tensor:
        """Penalty on the first crops of a batch, which is in random order."""
        return super().forward(fakes[: self.compared], malignant[: self.compared])

    def describe(self, crops: Tensor) -> Tensor:
        """Features of length 1, shape ``(B, d)``."""
        net = self._net[0].to(crops.device)
        with torch.autocast(crops.device.type, enabled=False):
            return unit_features(net, crops.float())

    def distance(self) -> Tensor:
        """Squared distance of the running means to the released ones, mean of the classes."""
        return (self.running - self.targets).square().sum() / CLASSES

    def slope(self) -> Tensor:
        """What a crop of each class is pushed along, shape ``(2, d)``."""
        away = self.running - self.targets
        apart = self.difference / 2 * (away[1] - away[0])
        # times d, as the penalty is a mean over numbers and the distance a sum
        return away.shape[1] * (away + torch.stack([-apart, apart]))
