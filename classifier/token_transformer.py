# SPDX-License-Identifier: Apache-2.0
"""``crop_tokens``: a small transformer on what a public network sees at each place of a crop.

The public network stays frozen. The transformer learns on phantom or synthetic crops what the
places of a crop say together, and can go on learning on patients, its last block or its norms and
biases for instance. Its features are whitened as those of ``crop_features``, so the same private
descent trains their head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from classifier.public import PublicNet, in_passes, resized
from classifier.weights import PUBLIC_NETWORK
from classifier.whitened import WhitenedFeatures
from data_prep.symmetries import inverse, symmetric

default_cfgs = generate_default_cfgs(
    {
        "crop_tokens.untrained": {
            "classifier": "head",
            "input_size": (1, 128, 128),
            "mean": (0.5,),
            "std": (0.5,),
            "num_classes": 1,
        }
    }
)


class TokenTransformer(WhitenedFeatures):
    """Scores crops by one linear layer on whitened numbers of a transformer.

    The maps of the public network are averaged over mirror images of the crop, each mirrored back,
    so a mirrored crop has mirrored maps. Their places are the tokens; the numbers are the class
    token, and mean and spread of the others.

    Args:
        img_size: Edge of the crops in pixels, >= 16; they are brought to ``public_size`` inside.
        in_chans: Channels, 1.
        num_classes: Logits, > 0.
        components: Principal components that are features, between 1 and ``3 * width``.
        public: timm's name of the network.
        stages: Stages of it that are read, see :class:`classifier.public.PublicNet`.
        public_size: Edge of what it sees, in pixels.
        symmetries: Turned and mirrored copies that the maps are averaged over, from 1 to 8; 4 are
            the mirror images, 8 the quarter turns too. Each takes one pass.
        grid: Tokens along an edge; divides the edge of each map.
        width: Channels of a token.
        depth: Blocks of the transformer, > 0.
        num_heads: Heads of attention; divides ``width``.

    Attributes:
        public: The network.
        transformer: Maps in, tokens out.
        map_shape: Shape of the maps of one crop, ``(channels, grid, grid)``.

    Raises:
        ValueError: For a value outside its range.
    """

    map_mean: Tensor
    map_deviation: Tensor

    def __init__(
        self,
        img_size: int = 128,
        in_chans: int = 1,
        num_classes: int = 1,
        components: int = 64,
        public: str = PUBLIC_NETWORK,
        stages: Sequence[int] = (4,),
        public_size: int = 224,
        symmetries: int = 4,
        grid: int = 7,
        width: int = 96,
        depth: int = 2,
        num_heads: int = 3,
    ) -> None:
        if (
            in_chans != 1
            or img_size < 16
            or not 1 <= symmetries <= 8
            or min(grid, depth, num_heads) < 1
            or width % num_heads
            or not 1 <= components <= 3 * width
        ):
            raise ValueError(
                f"{in_chans=}, {img_size=}, {symmetries=}, {grid=}, {width=}, {depth=}, "
                f"{num_heads=}, {components=}. Give 1 channel, crops of at least 16 px, 1 to 8 "
                "symmetries, a width that the heads divide, and 1 to 3 * width components."
            )
        super().__init__([width] * 3, components, num_classes)
        self.public = PublicNet(public, size=public_size, stages=stages)
        if odd := [edge for edge in self.public.edges if edge % grid]:
            raise ValueError(f"{grid=} does not divide the edge {odd[0]} of a map. Choose another.")
        self.symmetries = symmetries
        self.map_shape = (sum(self.public.channels), grid, grid)
        self.register_buffer("map_mean", torch.zeros(self.map_shape[0], 1, 1))
        self.register_buffer("map_deviation", torch.ones(self.map_shape[0], 1, 1))
        self.transformer = VisionTransformer(
            img_size=grid,
            patch_size=1,
            in_chans=self.map_shape[0],
            num_classes=0,
            global_pool="",  # all tokens
            embed_dim=width,
            depth=depth,
            num_heads=num_heads,
        )

    @property
    def blocks(self) -> nn.Sequential:
        """Blocks of the transformer, as of timm's models."""
        found: nn.Sequential = self.transformer.blocks
        return found

    @property
    def norm(self) -> nn.Module:
        """The norm behind the last block, as of timm's models."""
        found: nn.Module = self.transformer.norm
        return found

    @property
    def words(self) -> str:
        """What the features are made of, for people."""
        stages = " and ".join(map(str, self.public.stages))
        return (
            f"{self.num_features} components of a transformer on {self.map_shape[1]} x "
            f"{self.map_shape[2]} places of stages {stages} of {self.public.backbone}"
        )

    def no_weight_decay(self) -> set[str]:
        """Parameters that must not decay, as of timm's models."""
        return {f"transformer.{name}" for name in self.transformer.no_weight_decay()}

    def maps(self, image: Tensor) -> Tensor:
        """What the public network sees, which no training changes.

        Args:
            image: Shape ``(B, 1, size, size)``, in ``[-1, 1]``.

        Returns:
            Shape ``(B, *map_shape)``; :meth:`numbers` takes it in place of images.
        """
        return in_passes(self._seen, resized(image, self.public.size))

    def _seen(self, image: Tensor) -> Tensor:
        views = []
        for number in range(self.symmetries):
            parts = [
                F.avg_pool2d(part.float(), part.shape[-1] // self.map_shape[-1])
                for part in self.public(symmetric(image, number))
            ]
            views.append(symmetric(torch.cat(parts, 1), inverse(number)))
        return torch.stack(views).mean(0)

    @torch.no_grad()
    def standardise_maps(self, maps: Tensor) -> None:
        """Learns mean and deviation of each channel, as they are on some crops.

        Args:
            maps: Of :meth:`maps`, shape ``(crops, *map_shape)``.
        """
        self.map_mean.copy_(maps.mean((0, 2, 3))[:, None, None])
        self.map_deviation.copy_(maps.std((0, 2, 3)).clamp_min(1e-6)[:, None, None])

    def numbers(self, image: Tensor) -> Tensor:
        """Class token, mean and spread of the other tokens.

        Args:
            image: Shape ``(B, 1, size, size)``, in ``[-1, 1]``, or what :meth:`maps` made of it.

        Returns:
            Shape ``(B, 3 * width)``.
        """
        maps = self.maps(image) if image.shape[1] == 1 else image
        tokens = self.transformer((maps - self.map_mean) / self.map_deviation)
        first, rest = tokens[:, 0], tokens[:, 1:]
        spread = (rest.var(1) + 1e-6).sqrt()  # with a gradient where tokens agree
        return torch.cat([first, rest.mean(1), spread], 1)


@register_model
def crop_tokens(pretrained: bool = False, **arguments: Any) -> TokenTransformer:
    """A transformer on stage 4 of EfficientNet-Lite0, unless told otherwise."""
    net: TokenTransformer = build_model_with_cfg(
        TokenTransformer, "crop_tokens", pretrained, **arguments
    )
    return net
