# SPDX-License-Identifier: Apache-2.0
"""``crop_measurements``: a timm model whose body computes whitened measurements of a crop.

Each direction of the features consumes budget of a private head. This body has few: principal
components of fixed measurements, as they vary among public crops, each of variance 1.
"""

from collections.abc import Iterable
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from data_prep.descriptors.measurements import COUNT, Measurements
from data_prep.errors import DataError

FAR = 3.0  # standardised measurements are cut here: an odd crop shall not rule its features

default_cfgs = generate_default_cfgs(
    {
        "crop_measurements.untrained": {
            "classifier": "head",
            "input_size": (1, 64, 64),
            "mean": (0.5,),
            "std": (0.5,),
            "num_classes": 1,
        }
    }
)


class MeasuredCrops(nn.Module):
    """Scores crops by one linear layer on whitened measurements.

    Features have length ``sqrt(components)`` exactly, so the gradient of a crop in the head is
    bounded by its residual: clipping needs no tuning.

    Args:
        img_size: Edge of the crops in pixels, a multiple of 4 from 16 on.
        in_chans: Channels, 1.
        num_classes: Logits, > 0.
        components: Principal components that are features, between 1 and the measurements.

    Raises:
        ValueError: For a value outside its range.
    """

    measure: Measurements
    mean: Tensor
    deviation: Tensor
    projection: Tensor

    def __init__(
        self, img_size: int = 64, in_chans: int = 1, num_classes: int = 1, components: int = 48
    ) -> None:
        super().__init__()
        if in_chans != 1 or not 1 <= components <= COUNT:
            raise ValueError(f"{in_chans=}, {components=}. Give 1 channel and 1 to {COUNT}.")
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = components
        self.measure = Measurements(img_size)
        self.register_buffer("mean", torch.zeros(COUNT))
        self.register_buffer("deviation", torch.ones(COUNT))
        self.register_buffer("projection", nn.init.orthogonal_(torch.empty(COUNT, components)))
        self.head = nn.Linear(components, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @torch.no_grad()
    def whiten(self, images: Iterable[Tensor]) -> None:
        """Learns mean, deviation and principal components of the measurements.

        These are statistics without noise: of phantoms or synthetic crops they cost what those
        cost; of patients, they end the guarantee.

        Args:
            images: Batches of shape ``(B, 1, size, size)``, in ``[-1, 1]``.

        Raises:
            DataError: If there are fewer crops than two per component.
        """
        found = torch.cat([self.measure(batch).double() for batch in images])
        components = self.num_features
        if len(found) < 2 * components:
            raise DataError(
                f"{len(found)} crops cannot say how {components} components vary. Give at least "
                f"{2 * components}, or backbone_args: {{components: {max(1, len(found) // 2)}}}."
            )
        self.mean.copy_(found.mean(0))
        self.deviation.copy_(found.std(0).clamp_min(1e-6))
        covariance = torch.cov(self._standardised(found.float()).double().T)
        values, vectors = torch.linalg.eigh(covariance)
        values, vectors = values[-components:].flip(0), vectors[:, -components:].flip(1)
        self.projection.copy_(vectors / values.clamp_min(1e-6).sqrt())

    def forward_features(self, image: Tensor) -> Tensor:
        """Whitened measurements of length ``sqrt(components)``, shape ``(B, components)``."""
        whitened = self._standardised(self.measure(image)) @ self.projection
        length = whitened.square().mean(1, keepdim=True).clamp_min(1e-12).sqrt()
        return whitened / length

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of features, or the features themselves."""
        if pre_logits:
            return features
        logits: Tensor = self.head(features)
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """Logits of crops.

        Args:
            image: Shape ``(B, 1, size, size)``, in ``[-1, 1]``.

        Returns:
            Shape ``(B, num_classes)``.
        """
        return self.forward_head(self.forward_features(image))

    def get_classifier(self) -> nn.Linear:
        """The linear layer, as of every timm model."""
        return self.head

    def _standardised(self, measured: Tensor) -> Tensor:
        return ((measured - self.mean) / self.deviation).clamp(-FAR, FAR)


@register_model
def crop_measurements(pretrained: bool = False, **arguments: Any) -> MeasuredCrops:
    """The model under timm's name; see :class:`MeasuredCrops` for its arguments."""
    net: MeasuredCrops = build_model_with_cfg(
        MeasuredCrops, "crop_measurements", pretrained, **arguments
    )
    return net
