# SPDX-License-Identifier: Apache-2.0
"""Features that a private head can use: principal components, as public crops vary, of one length.

A private head pays for each direction of its features, and clips what is long. So numbers about a
crop become few features, and all crops get features of the same length.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from classifier.linear import LinearOnFeatures
from data_prep.errors import DataError

FAR = 3.0  # standardised numbers are cut here: an odd crop shall not rule its features


class WhitenedFeatures(LinearOnFeatures):
    """Scores crops by one linear layer on whitened numbers, which a subclass computes.

    The numbers come in blocks of the same total variance, however many numbers each has. Features
    have length ``sqrt(components)`` exactly, so the gradient of a crop in the head is bounded by
    its residual: clipping needs no tuning.

    Args:
        blocks: Numbers in each block.
        components: Principal components that are features, between 1 and all numbers.
        num_classes: Logits, > 0.
    """

    mean: Tensor
    deviation: Tensor
    projection: Tensor

    def __init__(self, blocks: Sequence[int], components: int, num_classes: int) -> None:
        super().__init__(components, num_classes)
        count = sum(blocks)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("deviation", torch.ones(count))
        self.register_buffer("projection", nn.init.orthogonal_(torch.empty(count, components)))
        share = torch.cat([torch.full((n,), n**-0.5) for n in blocks])
        self.register_buffer("share", share, persistent=False)

    @property
    def words(self) -> str:
        """What the features are made of, for people."""
        raise NotImplementedError

    def numbers(self, image: Tensor) -> Tensor:
        """All that is known of crops before whitening.

        Args:
            image: Shape ``(B, 1, size, size)``, in ``[-1, 1]``.

        Returns:
            Shape ``(B, numbers)``.
        """
        raise NotImplementedError

    def require_crops(self, count: int) -> None:
        """Refuses too few crops to whiten on.

        Raises:
            DataError: If there are fewer than two per component.
        """
        components = self.num_features
        if count < 2 * components:
            raise DataError(
                f"{count} crops cannot say how {components} components vary. Give at least "
                f"{2 * components}, or backbone_args: {{components: {max(1, count // 2)}}}."
            )

    @torch.no_grad()
    def whiten(self, numbers: Tensor) -> None:
        """Learns mean, deviation and principal components of the numbers of some crops.

        These are statistics without noise: of phantoms or synthetic crops they cost what those
        cost, of patients the whole guarantee.

        Args:
            numbers: Of :meth:`numbers`, shape ``(crops, numbers)``.

        Raises:
            DataError: If there are fewer crops than two per component.
        """
        self.require_crops(len(numbers))
        components = self.num_features
        found = numbers.double()
        self.mean.copy_(found.mean(0))
        self.deviation.copy_(found.std(0).clamp_min(1e-6))
        covariance = torch.cov(self._standardised(found.float()).double().T)
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values[-components:].flip(0), vectors[:, -components:].flip(1)
        self.projection.copy_(vectors / values.clamp_min(1e-9).sqrt())

    def features(self, numbers: Tensor) -> Tensor:
        """Whitened numbers of length ``sqrt(components)``, shape ``(B, components)``."""
        whitened = self._standardised(numbers) @ self.projection
        length = whitened.square().mean(1, keepdim=True).clamp_min(1e-12).sqrt()
        return whitened / length

    def forward_features(self, image: Tensor) -> Tensor:
        """Features of crops, shape ``(B, components)``."""
        return self.features(self.numbers(image))

    def _standardised(self, numbers: Tensor) -> Tensor:
        cut = ((numbers - self.mean) / self.deviation).clamp(-FAR, FAR)
        return cut * self.get_buffer("share")
