# SPDX-License-Identifier: Apache-2.0
"""``canary_pixels``: a timm model on pixels, so that each canary has a weight of its own."""

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

default_cfgs = generate_default_cfgs(
    {"canary_pixels.untrained": {"classifier": "head", "input_size": (1, 32, 32), "num_classes": 1}}
)


QUIET = 0.5  # grey values up to here are 0 to the model


class CanaryPixels(nn.Module):
    """Scores crops by one linear layer on their first pixels; dark ones are 0.

    A crop that is dark but for pixel i has a gradient on weight i alone.

    Args:
        img_size: Edge of the crops, in pixels.
        in_chans: Channels, 1.
        num_classes: Logits, 1.
        canaries: Pixels that are read, row by row, at most ``img_size ** 2``.
        loudness: Feature of a white pixel, > 0; far above the clipping norm.

    Raises:
        ValueError: If there are fewer pixels, or several channels.
    """

    def __init__(
        self,
        img_size: int = 32,
        in_chans: int = 1,
        num_classes: int = 1,
        canaries: int = 1024,
        loudness: float = 100.0,
    ) -> None:
        super().__init__()
        if in_chans != 1 or not 1 <= canaries <= img_size**2:
            raise ValueError(f"{in_chans=}, {canaries=}. Give 1 channel and 1 to {img_size**2}.")
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = canaries
        self.loudness = loudness
        self.head = nn.Linear(canaries, num_classes, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward_features(self, image: Tensor) -> Tensor:
        """Brightness of the pixels that are read, beyond ``QUIET``, shape ``(B, canaries)``."""
        grey = (image.flatten(1)[:, : self.num_features] + 1) / 2
        return (grey - QUIET).clamp_min(0) * (self.loudness / (1 - QUIET))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of features, or the features themselves."""
        if pre_logits:
            return features
        logits: Tensor = self.head(features)
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """Logits of crops.

        Args:
            image: Shape ``(B, 1, img_size, img_size)``, in ``[-1, 1]``.

        Returns:
            Shape ``(B, num_classes)``.
        """
        return self.forward_head(self.forward_features(image))

    def get_classifier(self) -> nn.Linear:
        """The linear layer, as of every timm model."""
        return self.head


@register_model
def canary_pixels(pretrained: bool = False, **arguments: Any) -> CanaryPixels:
    """The model under timm's name; see :class:`CanaryPixels` for its arguments."""
    net: CanaryPixels = build_model_with_cfg(CanaryPixels, "canary_pixels", pretrained, **arguments)
    return net
