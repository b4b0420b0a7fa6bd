# SPDX-License-Identifier: Apache-2.0
"""The networks: an autoencoder, and the U-Net that denoises its codes under attributes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gan.conditions import Conditions
from gan.diffusion.schedule import denoise
from gan.diffusion.settings import AutoencoderSettings, DiffusionError, DiffusionSettings

GROUPS = 8  # of normalisation, or as many as all channels have for a divisor
TIMES = 1000.0  # MONAI's embedding tells whole numbers of this size apart
ATTENTION_PARTS = frozenset({"attn1", "attn2", "norm1", "norm2"})  # of a transformer block


def monai_networks() -> Any:  # noqa: ANN401  a module
    """``monai.networks.nets``; takes seconds.

    Raises:
        DiffusionError: If the extra is not installed.
    """
    try:
        import einops  # noqa: F401  MONAI finds out that it is missing only as it builds
        from monai.networks import nets
    except ImportError as error:
        raise DiffusionError(
            f"diffusion: {error.name or 'monai'} is not installed. Run "
            '`pip install -e ".[diffusion]"` in the source tree.'
        ) from error
    return nets


class Autoencoder(nn.Module):
    """Turns crops into codes of about unit variance, and codes into crops.

    Args:
        settings: Sizes.

    Attributes:
        net: MONAI's ``AutoencoderKL``.
        mean: Of each channel of the codes of the crops it was trained on, shape ``(channels,)``.
        deviation: Their standard deviation. Both are constants of the trained autoencoder, never
            of what is encoded later.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: AutoencoderSettings) -> None:
        super().__init__()
        levels = len(settings.encoder_channels)
        self.net: nn.Module = monai_networks().AutoencoderKL(
            spatial_dims=settings.spatial_dims,
            in_channels=1,
            out_channels=1,
            channels=tuple(settings.encoder_channels),
            num_res_blocks=1,
            attention_levels=(False,) * levels,
            latent_channels=settings.latent_channels,
            norm_num_groups=math.gcd(GROUPS, *settings.encoder_channels),
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )
        self.spatial_dims = settings.spatial_dims
        self.register_buffer("mean", torch.zeros(settings.latent_channels))
        self.register_buffer("deviation", torch.ones(settings.latent_channels))

    def distribution(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of codes as the autoencoder trains on them.

        Args:
            image: Shape ``(B, 1, ...)``, in ``[-1, 1]``.
        """
        found: tuple[Tensor, Tensor] = self.net.encode(image)  # type: ignore[operator]
        return found

    def decode_raw(self, code: Tensor) -> Tensor:
        """Crops of codes that are not normalised; not cut to ``[-1, 1]``."""
        image: Tensor = self.net.decode(code)  # type: ignore[operator]
        return image

    def encode(self, image: Tensor) -> Tensor:
        """Normalised codes, without noise, shape ``(B, channels, ...)``."""
        mean, _ = self.distribution(image)
        return (mean - self._of_channels(self.mean)) / self._of_channels(self.deviation)

    def decode(self, code: Tensor) -> Tensor:
        """Crops of normalised codes, shape ``(B, 1, ...)``, in ``[-1, 1]``."""
        raw = code * self._of_channels(self.deviation) + self._of_channels(self.mean)
        return self.decode_raw(raw).clamp(-1, 1)

    def _of_channels(self, values: Tensor) -> Tensor:
        return values.view(-1, *[1] * self.spatial_dims)


class Tokens(nn.Module):
    """Turns a condition into one token for each attribute; what is missing has its own.

    Args:
        conditions: The columns.
        width: Length of a token.
    """

    def __init__(self, conditions: Conditions, width: int) -> None:
        super().__init__()
        self.sizes = conditions.sizes
        self.layers = nn.ModuleList(nn.Linear(size + 1, width, bias=False) for size in self.sizes)

    def forward(self, condition: Tensor) -> Tensor:
        """Maps ``(B, columns)`` to ``(B, attributes, width)``; columns of zeros are missing."""
        parts = with_missing(condition, self.sizes)
        tokens = [layer(part) for layer, part in zip(self.layers, parts, strict=True)]
        return torch.stack(tokens, dim=1)


def with_missing(condition: Tensor, sizes: Sequence[int]) -> list[Tensor]:
    """Columns of each attribute ``(B, size + 1)``; the last is 1 where it is missing."""
    parts = torch.split(condition, list(sizes), dim=1)
    return [
        torch.cat([part, (part == 0).all(dim=1, keepdim=True).to(part.dtype)], dim=1)
        for part in parts
    ]


class Denoiser(nn.Module):
    """Predicts the velocity of noised codes under their attributes.

    Attributes reach the network twice: as tokens that it attends to, and added to the embedding of
    time, which all levels see. Both together are learned faster than the first alone.

    Args:
        settings: Sizes.
    """

    def __init__(self, settings: DiffusionSettings) -> None:
        super().__init__()
        self.tokens = Tokens(settings.attributes, settings.token_width)
        self.unet: nn.Module = monai_networks().DiffusionModelUNet(
            spatial_dims=settings.spatial_dims,
            in_channels=settings.latent_channels,
            out_channels=settings.latent_channels,
            channels=tuple(settings.channels),
            attention_levels=tuple(settings.attention_levels),
            num_res_blocks=1,
            norm_num_groups=math.gcd(GROUPS, *settings.channels),
            num_head_channels=settings.head_channels,
            with_conditioning=True,
            cross_attention_dim=settings.token_width,
            num_class_embeds=1,
        )
        # MONAI's embedding takes one of several classes; this one takes all attributes.
        sizes = self.tokens.sizes
        columns, width = sum(sizes) + len(sizes), 4 * settings.channels[0]
        self.unet.class_embedding = nn.Linear(columns, width, bias=False)

    def forward(self, code: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """Velocities.

        Args:
            code: Noised codes, shape ``(B, channels, ...)``.
            time: Shape ``(B,)``, in ``[0, 1]``.
            condition: Shape ``(B, columns)``, see :class:`gan.conditions.Conditions`.

        Returns:
            Shape ``(B, channels, ...)``.
        """
        known = torch.cat(with_missing(condition, self.tokens.sizes), dim=1)
        found: Tensor = self.unet(
            code, TIMES * time, context=self.tokens(condition), class_labels=known
        )
        return found


class Sampler(nn.Module):
    """Draws crops as a :class:`gan.generator.Generator` does: from a latent vector, here the noise.

    Args:
        settings: Sizes.
        steps: Of sampling, ``>= 1``.

    Attributes:
        latent: Length of the latent vector.
        image_size: Edge of the crops, in pixels.
    """

    def __init__(self, settings: DiffusionSettings, steps: int) -> None:
        super().__init__()
        self.autoencoder = Autoencoder(settings)
        self.net = Denoiser(settings)
        self.settings = settings
        self.steps = steps

    @property
    def latent(self) -> int:
        """Length of the latent vector: numbers in a code."""
        return self.settings.latent_size

    @property
    def image_size(self) -> int:
        """Edge of the crops, in pixels."""
        return self.settings.image_size

    def forward(self, latent: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
        """Draws crops.

        Args:
            latent: Standard normal, shape ``(B, latent)``.
            noise: Not used: detail comes from the latent vector, too.
            condition: Shape ``(B, columns)``.

        Returns:
            Shape ``(B, 1, ...)``, values in ``[-1, 1]``.
        """
        return draw_crops(
            self.autoencoder, self.net, self.settings, latent, condition, steps=self.steps
        )


def draw_crops(
    autoencoder: Autoencoder,
    net: nn.Module,
    settings: DiffusionSettings,
    latent: Tensor,
    condition: Tensor,
    *,
    steps: int,
) -> Tensor:
    """Crops of latent vectors, see :meth:`Sampler.forward`; ``net`` is a :class:`Denoiser`."""
    noise = latent.view(-1, *settings.latent_shape)
    codes = denoise(lambda code, time: net(code, time, condition), noise, steps)
    return autoencoder.decode(codes)


def attention_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Self-attention, attention to attributes and the norms before them, of each transformer."""
    return [p for name, p in net.named_parameters() if ATTENTION_PARTS & set(_block(name))]


def norm_bias_parameters(net: nn.Module) -> list[nn.Parameter]:
    """All norms and biases."""
    return [
        p
        for module in net.modules()
        for name, p in module.named_parameters(recurse=False)
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) or name == "bias"
    ]


def train_only(net: nn.Module, chosen: Sequence[nn.Parameter]) -> None:
    """Freezes all parameters but some."""
    net.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)


def _block(name: str) -> list[str]:
    """Parts of a parameter's name below its transformer block; residual blocks have norms too."""
    _, found, rest = name.partition("transformer_blocks.")
    return rest.split(".") if found else []
