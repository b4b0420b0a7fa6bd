# SPDX-License-Identifier: Apache-2.0
"""The networks: what turns crops into codes, and the U-Net that denoises these under attributes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gan.conditions import Conditions
from gan.diffusion.schedule import denoise, shares
from gan.diffusion.settings import CodecSettings, DiffusionError, DiffusionSettings

LINEAR_PARTS = frozenset({"mean_code", "correlation"})  # of a denoiser
GROUPS = 8  # of normalisation, or as many as all channels have for a divisor
TIMES = 1000.0  # MONAI's embedding tells whole numbers of this size apart
COUPLED = 1024  # coarse frequencies that are made uncorrelated: all of 32 x 32 pixels
FINE = 0.25  # frequencies from here on follow the contrast of a crop; 1 is the finest of an edge
SHARE, FALL = 32.0, 1.5  # times their frequency to this power, fine frequencies vary alike
FLAT = 0.2  # added to contrasts, which are about 4, so that flat crops have one
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


class Codec(nn.Module):
    """Turns crops into codes of about unit variance, and codes into crops.

    Args:
        settings: Sizes.
        shape: Of the scale; it is measured over crops, and along axes of length 1.

    Attributes:
        mean: Of raw codes of the crops it was made on, shape ``shape``.
        deviation: Their standard deviation. Both are constants from then on, never of what is
            encoded later.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, settings: CodecSettings, shape: Sequence[int]) -> None:
        super().__init__()
        self.spatial_dims = settings.spatial_dims
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("deviation", torch.ones(*shape))

    def raw(self, image: Tensor) -> Tensor:
        """What is scaled, of crops ``(B, 1, ...)`` in ``[-1, 1]``; shape ``(B, ...)``."""
        raise NotImplementedError

    def decode_raw(self, raw: Tensor) -> Tensor:
        """Crops of what was scaled; not cut to ``[-1, 1]``."""
        raise NotImplementedError

    def pack(self, scaled: Tensor) -> Tensor:
        """The code of what is scaled."""
        return scaled

    def unpack(self, code: Tensor) -> Tensor:
        """Undoes :meth:`pack`."""
        return code

    def encode(self, image: Tensor) -> Tensor:
        """Codes of crops, without noise, shape ``(B, channels, ...)``."""
        return self.pack((self.raw(image) - self.mean) / self.deviation)

    def decode(self, code: Tensor) -> Tensor:
        """Crops of codes, shape ``(B, 1, ...)``, in ``[-1, 1]``."""
        return self.decode_raw(self.unpack(code) * self.deviation + self.mean).clamp(-1, 1)

    def set_scale(self, raw: Tensor) -> None:
        """Makes mean and deviation those of raw codes."""
        over = (0, *(axis for axis, size in enumerate(self.mean.shape, 1) if size == 1))
        self.mean.copy_(raw.mean(over, keepdim=True)[0])
        self.deviation.copy_(raw.std(over, keepdim=True)[0].clamp(min=1e-6))


class Spectrum(Codec):
    """Whitens crops: takes contrast, spectrum and correlations of coarse frequencies out.

    1. Cosine transform. Fine frequencies are divided by the contrast of the crop, coarse ones by a
       part of it, and the finest of all gives its place to the logarithm of the contrast.
    2. Each frequency is divided by its deviation among crops; the coarsest ``COUPLED`` are then
       made uncorrelated by the symmetric root of their inverse covariance.
    3. Back to pixels, which are gathered by blocks into channels, so that the network has fewer
       places to visit.

    Only the finest frequency is lost. A network that has learned nothing yet draws crops of the
    right contrasts, spectrum and correlations: tissue that is brighter in its middle.

    Args:
        settings: Sizes; channels are ``block ** spatial_dims``.

    Attributes:
        coupling: Whitens the coarse frequencies, shape ``(K, K)``.
        uncoupling: Its inverse.

    Source: frequencies of the orthonormal cosine transform, type II, Ahmed, Natarajan and Rao 1974;
    division by contrast, Wainwright and Simoncelli 1999; symmetric whitening, Bell and Sejnowski
    1997. The covariance is shrunk, since crops can be fewer than frequencies.
    """

    coupling: Tensor
    uncoupling: Tensor
    frequency: Tensor
    coarse: Tensor

    def __init__(self, settings: CodecSettings) -> None:
        super().__init__(settings, settings.image_shape)
        self.block = settings.block
        edges = settings.image_shape[1:]
        for axis, size in enumerate(edges):
            self.register_buffer(f"waves_{axis}", cosines(size), persistent=False)
        steps = torch.meshgrid(*(torch.arange(size) / size for size in edges), indexing="ij")
        self.register_buffer("frequency", torch.stack(steps).square().sum(0).sqrt(), False)
        coarse = self.frequency.flatten().argsort(stable=True)[:COUPLED]
        self.register_buffer("coarse", coarse, persistent=False)
        for name in ("coupling", "uncoupling"):
            self.register_buffer(name, torch.eye(len(coarse)))
        # Place of the finest frequency of all crops.
        self._finest: tuple[int | slice, ...] = (slice(None), 0, *[-1] * len(edges))

    def raw(self, image: Tensor) -> Tensor:
        """Cosine transform of crops divided by their contrast, whose logarithm stands at its end.

        Args:
            image: Shape ``(B, 1, ...)``.

        Returns:
            Same shape.
        """
        waves = self.transform(image)
        fine = self.frequency >= FINE
        level = (waves[:, 0, fine] * (SHARE * self.frequency[fine]) ** FALL).square().mean(1).sqrt()
        contrast = (level + FLAT).log()
        waves = waves * self._contrasts(-contrast)
        waves[self._finest] = contrast
        return waves

    def decode_raw(self, raw: Tensor) -> Tensor:
        """Crops of what :meth:`raw` returns, without their finest frequency."""
        waves = raw * self._contrasts(raw[self._finest])
        waves[self._finest] = 0
        return self.transform_back(waves)

    def set_scale(self, raw: Tensor) -> None:
        """Makes mean, deviation and correlations those of raw codes."""
        super().set_scale(raw)
        scaled = ((raw - self.mean) / self.deviation).flatten(1)[:, self.coarse].double()
        count, size = scaled.shape
        own = count / (count + size)  # the rest counts as uncorrelated
        covariance = own * scaled.T @ scaled / count + (1 - own) * torch.eye(size).to(scaled)
        values, vectors = torch.linalg.eigh(covariance)
        self.coupling.copy_(vectors * values.rsqrt() @ vectors.T)
        self.uncoupling.copy_(vectors * values.sqrt() @ vectors.T)

    def pack(self, scaled: Tensor) -> Tensor:
        """Whitened crops by blocks, shape ``(B, block ** dims, ...)``."""
        image, dims = self.transform_back(self._coupled(scaled, self.coupling)), self.spatial_dims
        split = image.reshape(
            len(image), *(n for s in image.shape[2:] for n in (s // self.block, self.block))
        )
        inside = range(2, 2 * dims + 1, 2)
        return split.permute(0, *inside, *range(1, 2 * dims, 2)).flatten(1, dims)

    def unpack(self, code: Tensor) -> Tensor:
        """Undoes :meth:`pack`."""
        dims = self.spatial_dims
        split = code.reshape(len(code), *[self.block] * dims, *code.shape[2:])
        axes = [axis for place in range(1, dims + 1) for axis in (dims + place, place)]
        image = split.permute(0, *axes).reshape(
            len(code), 1, *(self.block * s for s in code.shape[2:])
        )
        return self._coupled(self.transform(image), self.uncoupling)

    def transform(self, image: Tensor) -> Tensor:
        """Cosine transform of crops ``(B, 1, ...)``, same shape."""
        for axis in range(self.spatial_dims):
            waves = self.get_buffer(f"waves_{axis}")
            image = torch.tensordot(image, waves, dims=([2], [1]))  # the next axis comes to place 2
        return image

    def transform_back(self, waves: Tensor) -> Tensor:
        """Undoes :meth:`transform`."""
        for axis in range(self.spatial_dims):
            waves = torch.tensordot(waves, self.get_buffer(f"waves_{axis}"), dims=([2], [0]))
        return waves

    def _contrasts(self, contrast: Tensor) -> Tensor:
        """Factors of all frequencies ``(B, 1, ...)`` for logarithms of contrast ``(B,)``."""
        share = (self.frequency / FINE).clamp(max=1)
        return (contrast.view(-1, *[1] * (share.ndim + 1)) * share).exp()

    def _coupled(self, scaled: Tensor, matrix: Tensor) -> Tensor:
        """Coarse frequencies times a matrix; the others stay."""
        flat = scaled.flatten(1).clone()
        flat[:, self.coarse] = flat[:, self.coarse] @ matrix
        return flat.view_as(scaled)


def cosines(size: int) -> Tensor:
    """Orthonormal cosine waves of rising frequency, one a row, shape ``(size, size)``."""
    place, frequency = torch.arange(size) + 0.5, torch.arange(size)[:, None]
    waves = math.sqrt(2 / size) * torch.cos(math.pi / size * place * frequency)
    waves[0] /= math.sqrt(2)
    return waves


class Autoencoder(Codec):
    """A trained codec.

    Args:
        settings: Sizes.

    Attributes:
        net: MONAI's ``AutoencoderKL``.
    """

    def __init__(self, settings: CodecSettings) -> None:
        super().__init__(settings, (settings.code_channels, *[1] * settings.spatial_dims))
        if settings.encoder_channels is None:
            raise DiffusionError("encoder_channels: are missing. Give one number for each level.")
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

    def distribution(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of codes as the autoencoder trains on them.

        Args:
            image: Shape ``(B, 1, ...)``, in ``[-1, 1]``.
        """
        found: tuple[Tensor, Tensor] = self.net.encode(image)  # type: ignore[operator]
        return found

    def raw(self, image: Tensor) -> Tensor:
        """Means of the codes of crops."""
        return self.distribution(image)[0]

    def decode_raw(self, raw: Tensor) -> Tensor:
        """Crops of codes that are not normalised."""
        image: Tensor = self.net.decode(raw)  # type: ignore[operator]
        return image


def codec_of(settings: CodecSettings) -> Codec:
    """An autoencoder where its channels are given, else the whitened spectrum."""
    return Spectrum(settings) if settings.encoder_channels is None else Autoencoder(settings)


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

    Beside the U-Net there is a linear part, which starts at zero. It is what codes with a mean, and
    with correlations inside their blocks, need: if they vary like a Gaussian of mean ``m`` and
    covariance ``1 + D``, the expected velocity of a noised code ``x`` is ``-sin m - sin cos D x``,
    to first order in ``m`` and ``D``. It has few weights, so a private fit can learn it.

    Args:
        settings: Sizes.
    """

    def __init__(self, settings: DiffusionSettings) -> None:
        super().__init__()
        self.tokens = Tokens(settings.attributes, settings.token_width)
        self.unet: nn.Module = monai_networks().DiffusionModelUNet(
            spatial_dims=settings.spatial_dims,
            in_channels=settings.code_channels,
            out_channels=settings.code_channels,
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
        inside = settings.code_channels
        self.mean_code = nn.Linear(columns, inside, bias=False)
        self.correlation = nn.Linear(inside, inside, bias=False)
        for layer in (self.mean_code, self.correlation):
            nn.init.zeros_(layer.weight)

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
        code_share, noise_share = shares(time, code)
        mean: Tensor = self.mean_code(known).view(len(code), -1, *[1] * (code.ndim - 2))
        places: Tensor = self.correlation((code_share * code).movedim(1, -1)).movedim(-1, 1)
        return found - noise_share * (mean + places)


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
        self.codec = codec_of(settings)
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
        return draw_crops(self.codec, self.net, self.settings, latent, condition, steps=self.steps)


def draw_crops(
    codec: Codec,
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
    return codec.decode(codes)


def attention_parameters(net: nn.Module) -> list[nn.Parameter]:
    """Attention to itself and to attributes, the norms before it, and what passes it on.

    The layer that passes on what a transformer found (``proj_out``) starts at zero and is small
    after a short fit; while it stays, attention can learn what it likes and changes nothing.
    """
    return [
        p
        for name, p in net.named_parameters()
        if ATTENTION_PARTS & set(_block(name)) or "proj_out" in name.split(".")
    ]


def linear_parameters(net: nn.Module) -> list[nn.Parameter]:
    """The linear part beside the U-Net."""
    return [p for name, p in net.named_parameters() if name.split(".")[0] in LINEAR_PARTS]


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
