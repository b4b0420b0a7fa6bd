# SPDX-License-Identifier: Apache-2.0
"""Sizes of the networks of a latent diffusion, checked before anything is built."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from gan.conditions import ConditionError, Conditions


class DiffusionError(ValueError):
    """A diffusion cannot be built or run as asked; the message names the setting and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSettings:
    """Sizes of what turns crops into codes: their spectrum, or an autoencoder.

    Attributes:
        spatial_dims: 2 for crops, 3 for volumes.
        image_size: Edge of crops, and of the slices of volumes, in pixels.
        depth: Slices of a volume; none for crops.
        encoder_channels: Feature channels of each level of an autoencoder; each but the first
            halves all edges. None whitens crops by their spectrum.
        latent_channels: Channels of the codes of an autoencoder.
        block: Edge of the blocks of whitened pixels that become channels; 2 or more. Not used
            with an autoencoder.
    """

    spatial_dims: int = 2
    image_size: int = 64
    depth: int | None = None
    encoder_channels: Sequence[int] | None = None
    latent_channels: int = 4
    block: int = 4

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            DiffusionError: Naming the setting.
        """
        if self.spatial_dims not in (2, 3):
            raise DiffusionError(f"spatial_dims={self.spatial_dims}. Give 2 or 3.")
        if (self.depth is None) == (self.spatial_dims == 3):
            raise DiffusionError(
                f"depth={self.depth}, spatial_dims={self.spatial_dims}. Give a depth for volumes "
                "(spatial_dims 3), and none for crops."
            )
        levels = [1] if self.encoder_channels is None else list(self.encoder_channels)
        if not levels or min(*levels, self.latent_channels, self.block - 1) < 1:
            raise DiffusionError(
                f"encoder_channels={levels}, latent_channels={self.latent_channels}, "
                f"block={self.block}. Give numbers of 1 or more, and a block of 2 or more."
            )
        self.refuse_edges(self.shrinkage)

    @property
    def shrinkage(self) -> int:
        """Pixels along an edge of a crop for one of its code.

        >>> CodecSettings(encoder_channels=(8, 16, 32)).shrinkage
        4
        """
        if self.encoder_channels is None:
            return self.block
        return int(2 ** (len(self.encoder_channels) - 1))

    @property
    def code_channels(self) -> int:
        """Channels of a code; a block has as many numbers as pixels.

        >>> CodecSettings(block=4).code_channels
        16
        """
        return self.latent_channels if self.encoder_channels else self.block**self.spatial_dims

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one crop ``(1, H, W)`` or volume ``(1, D, H, W)``."""
        return (1, *self._edges())

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one code.

        >>> CodecSettings(spatial_dims=3, depth=16, encoder_channels=(8, 16, 32)).latent_shape
        (4, 4, 16, 16)
        """
        return (self.code_channels, *(edge // self.shrinkage for edge in self._edges()))

    def refuse_edges(self, step: int) -> None:
        """Refuses edges that halving does not divide.

        Args:
            step: What an edge must be a multiple of.

        Raises:
            DiffusionError: Naming the edge and the nearest that fit.
        """
        edges = {"image_size": self.image_size}
        if self.depth is not None:
            edges["depth"] = self.depth
        for name, edge in edges.items():
            if edge < step or edge % step:
                below = max(1, edge // step) * step
                fewer = (
                    f"a smaller block than {self.block}"
                    if self.encoder_channels is None
                    else f"fewer levels: encoder_channels has {len(self.encoder_channels)}"
                )
                raise DiffusionError(
                    f"{name}={edge}: the networks halve it until {step} become one. Give a "
                    f"multiple of {step}, such as {below} or {below + step}, or {fewer}."
                )

    def _edges(self) -> tuple[int, ...]:
        square = (self.image_size, self.image_size)
        return square if self.depth is None else (self.depth, *square)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """Takes its fields out of the hyper-parameters of a model.

        Raises:
            DiffusionError: Naming what is missing, or out of range.
        """
        names = [field.name for field in fields(cls)]
        known = {"block", *settings}  # an autoencoder has no block
        if missing := [name for name in names if name not in known]:
            raise DiffusionError(f"settings without {', '.join(missing)}.")
        return cls(**{name: settings[name] for name in names if name in settings})


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionSettings(CodecSettings):
    """Sizes of a codec and of the network that denoises its codes.

    Attributes:
        channels: Feature channels of each level of the U-Net; each but the first halves all edges.
        attention_levels: Which levels attend to themselves and to the attributes.
        head_channels: Channels of a head of attention.
        token_width: Length of an attribute's token.
        conditions: Attributes beside malignancy, see :class:`gan.conditions.Conditions`.
    """

    channels: Sequence[int] = (32, 64, 64)
    attention_levels: Sequence[bool] = (False, True, True)
    head_channels: int = 16
    token_width: int = 32
    conditions: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Checks the ranges.

        Raises:
            DiffusionError: Naming the setting.
        """
        CodecSettings.__post_init__(self)  # slots: `super()` would name the class before them
        if not self.channels or len(self.channels) != len(self.attention_levels):
            raise DiffusionError(
                f"channels={list(self.channels)}, attention_levels={list(self.attention_levels)}. "
                "Give both one value for each level."
            )
        if not any(self.attention_levels):
            raise DiffusionError("attention_levels: no level attends. Set one to true.")
        attending = [c for c, on in zip(self.channels, self.attention_levels, strict=True) if on]
        wrong = [c for c in [*attending, self.channels[-1]] if c % max(1, self.head_channels)]
        if min(self.token_width, self.head_channels) < 1 or wrong:
            raise DiffusionError(
                f"head_channels={self.head_channels}, token_width={self.token_width}, "
                f"channels={list(self.channels)}. Give numbers of 1 or more, head_channels a "
                "divisor of the channels that attend and of the last ones."
            )
        try:
            Conditions(tuple(self.conditions))
        except ConditionError as error:
            raise DiffusionError(str(error)) from error
        self.refuse_edges(int(self.shrinkage * 2 ** (len(self.channels) - 1)))

    @property
    def latent_size(self) -> int:
        """Numbers in one code, >= 1."""
        return math.prod(self.latent_shape)

    @property
    def attributes(self) -> Conditions:
        """What crops can be asked for."""
        return Conditions(tuple(self.conditions))
