# SPDX-License-Identifier: Apache-2.0
"""What timm asks of a model whose body is fixed and whose head is one linear layer."""

from torch import Tensor, nn


class LinearOnFeatures(nn.Module):
    """A linear layer, at zero in the beginning, on features that a subclass computes.

    Args:
        features: Numbers per crop, > 0.
        num_classes: Logits, > 0.
        bias: Whether the layer has one.
    """

    def __init__(self, features: int, num_classes: int, *, bias: bool = True) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = features
        self.head = nn.Linear(features, num_classes, bias=bias)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward_features(self, image: Tensor) -> Tensor:
        """Features of crops.

        Args:
            image: Shape ``(B, 1, size, size)``, in ``[-1, 1]``.

        Returns:
            Shape ``(B, features)``.
        """
        raise NotImplementedError

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
