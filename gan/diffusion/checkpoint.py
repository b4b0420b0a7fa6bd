# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of autoencoders and diffusions: reading them safely, and starting from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from data_prep.manifest import CropRule
from gan.checkpoint import AVERAGED, CheckpointError, crop_rule_of, load_part, read_content
from gan.diffusion.networks import Codec, Denoiser, Sampler
from gan.diffusion.settings import CodecSettings, DiffusionError, DiffusionSettings

CODEC, NET = "codec.", "net."  # where a state dict holds the networks
ADVICE = (
    "Give the checkpoint of a fit of mammo_dp.CropAutoencoder, LatentDiffusion or "
    "DPLatentDiffusion, such as RUN/checkpoints/last.ckpt"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionCheckpoint:
    """What a checkpoint of an autoencoder, or of a diffusion with its codec, holds.

    Attributes:
        path: The file.
        sha256: Its hash.
        settings: Hyper-parameters of the model.
        state: Its tensors by name.
        crop_rule: How the training crops were cut.
    """

    path: Path
    sha256: str
    settings: Mapping[str, Any]
    state: Mapping[str, Tensor]
    crop_rule: CropRule

    @staticmethod
    def holds_diffusion(parts: Mapping[str, Any]) -> bool:
        """Whether the content of a file is that of a diffusion, by the names of its settings."""
        return "token_width" in parts.get("hyper_parameters", {})

    @classmethod
    def read(cls, path: str | Path) -> "DiffusionCheckpoint":
        """Loads a checkpoint; no code in the file is run.

        Raises:
            CheckpointError: If the file is missing, is no checkpoint, or holds another model.
        """
        path = Path(path)
        return cls.of(path, *read_content(path, ADVICE))

    @classmethod
    def of(cls, path: Path, sha256: str, parts: Mapping[str, Any]) -> "DiffusionCheckpoint":
        """Takes what :func:`gan.checkpoint.read_content` found.

        Raises:
            CheckpointError: If it holds another model.
        """
        settings = parts.get("hyper_parameters", {})
        try:
            CodecSettings.of(settings)
        except (DiffusionError, TypeError) as error:
            raise CheckpointError(
                f"{path}: holds no autoencoder and no diffusion ({error}) {ADVICE}."
            ) from error
        return cls(
            path=path,
            sha256=sha256,
            settings=settings,
            state=parts.get("state_dict", {}),
            crop_rule=crop_rule_of(parts, path),
        )

    def start(self, codec: Codec, net: Denoiser | None = None) -> None:
        """Copies weights into networks that will train on.

        Args:
            codec: Gets those of an autoencoder, or a spectrum.
            net: Gets the averaged weights of a diffusion; left as it is if the file holds an
                autoencoder alone.

        Raises:
            CheckpointError: Naming the first tensor that does not fit, or the dimensions.
        """
        dims = self.settings["spatial_dims"]
        if dims != codec.spatial_dims:
            raise CheckpointError(
                f"{self.path}: trained with spatial_dims={dims}, but this model has "
                f"{codec.spatial_dims}. Give a checkpoint of as many dimensions."
            )
        load_part(codec, CODEC, self.state, self.path)
        if net is not None and self.holds_net:
            load_part(net, self._prefix, self.state, self.path)

    def sampler(self) -> Sampler:
        """What draws crops or volumes, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: If the file holds no diffusion.
        """
        try:
            settings = DiffusionSettings.of(self.settings)
        except (DiffusionError, TypeError) as error:
            raise CheckpointError(f"{self.path}: its settings build no model ({error})") from error
        sampler = Sampler(settings, self.settings["sample_steps"])
        self.start(sampler.codec, sampler.net)
        return sampler.eval().requires_grad_(False)

    @property
    def holds_net(self) -> bool:
        """Whether there is a diffusion beside the autoencoder."""
        return self.holds_diffusion({"hyper_parameters": self.settings})

    @property
    def _prefix(self) -> str:
        """Averaged weights where there are some; a private fit releases its average under NET."""
        averaged = any(name.startswith(AVERAGED) for name in self.state)
        return AVERAGED if averaged else NET
