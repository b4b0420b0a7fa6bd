# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of generative models: reading them safely, drawing from them, starting from them."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_prep.manifest import CropRule
from data_prep.recorded import read_recorded
from gan.conditions import ConditionError, Conditions
from gan.discriminator import Discriminator
from gan.generator import Generator

AVERAGED = "average.module."  # where the state dict of a model holds the averaged generator
DISCRIMINATOR = "discriminator."
ATTEMPTS = 20  # draws of a crop that is too dark
ADVICE = (
    "Give the checkpoint of a fit of mammo_dp.MCGAN, DPMCGAN, LatentDiffusion or "
    "DPLatentDiffusion, such as RUN/checkpoints/last.ckpt"
)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and what would fit."""


class CropNet(Protocol):
    """What crops are drawn with: latent vector, noise and condition to crops in ``[-1, 1]``."""

    @property
    def latent(self) -> int:
        """Length of the latent vector."""

    @property
    def image_size(self) -> int:
        """Edge of the crops and of the noise, in pixels."""

    def __call__(self, latent: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
        """Crops, shape ``(B, 1, image_size, image_size)``."""


def read_content(path: Path, advice: str = ADVICE) -> tuple[str, Mapping[str, Any]]:
    """Reads a checkpoint; no code in the file is run.

    Args:
        path: The file.
        advice: What to give instead, a sentence without its full stop.

    Returns:
        Hash of the file, and its parts; none for a file that holds anything but a dict.

    Raises:
        CheckpointError: If the file is missing, or no checkpoint.
        DataError: If it is not what the run recorded.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: is no file. {advice}.")
    read = read_recorded(path)
    try:
        content: Any = torch.load(io.BytesIO(read), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for what is no checkpoint
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({type(error).__name__}). {advice}."
        ) from error
    return hashlib.sha256(read).hexdigest(), content if isinstance(content, dict) else {}


def crop_rule_of(parts: Mapping[str, Any], path: Path) -> CropRule:
    """How the training crops were cut.

    Raises:
        CheckpointError: If the word for it is unknown.
    """
    rule: CropRule = parts.get("crop_rule", "as-is")
    if rule not in get_args(CropRule):
        raise CheckpointError(f"{path}: crop_rule is {rule!r}. {ADVICE}.")
    return rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Content of a checkpoint whose tensors fit the networks of this version.

    Attributes:
        path: The file.
        sha256: Its hash.
        settings: Hyper-parameters of the model, with ``conditions`` as a list of names.
        crop_rule: How the training crops were cut.
        generator: The averaged generator, in evaluation mode, on the CPU.
        discriminator: In training mode, on the CPU; none for a DPMCGAN, which has another kind.
    """

    path: Path
    sha256: str
    settings: Mapping[str, Any]
    crop_rule: CropRule
    generator: Generator
    discriminator: Discriminator | None

    @classmethod
    def read(cls, path: str | Path) -> "Checkpoint":
        """Loads a checkpoint; no code in the file is run.

        Raises:
            CheckpointError: If the file is missing, is no checkpoint, or holds another model.
        """
        path = Path(path)
        return cls.of(path, *read_content(path))

    @classmethod
    def of(cls, path: Path, sha256: str, parts: Mapping[str, Any]) -> "Checkpoint":
        """Builds the networks of what :func:`read_content` found.

        Raises:
            CheckpointError: If it holds another model.
        """
        settings = parts.get("hyper_parameters", {})
        needed = {"image_size", "channels", "latent", "conditions"}
        if missing := needed - set(settings):
            raise CheckpointError(f"{path}: holds no MCGAN, {sorted(missing)} unknown. {ADVICE}.")
        try:
            columns = Conditions(tuple(settings["conditions"])).width
            size, channels = settings["image_size"], settings["channels"]
            generator = Generator(
                size, channels, settings["latent"], columns, settings.get("separability", 1.0)
            )
            discriminator = None
            if "public_network" not in parts:  # through which a DPMCGAN's sees crops
                discriminator = Discriminator(size, channels, columns)
        except (ConditionError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: its settings build no model ({error}).") from error
        state = parts.get("state_dict", {})
        load_part(generator, AVERAGED, state, path)
        if discriminator is not None:
            load_part(discriminator, DISCRIMINATOR, state, path)
        return cls(
            path=path,
            sha256=sha256,
            settings=settings,
            crop_rule=crop_rule_of(parts, path),
            generator=generator.eval().requires_grad_(False),
            discriminator=discriminator,
        )

    def start(self, generator: Generator, discriminator: Discriminator | None = None) -> None:
        """Copies the weights into networks that will train on.

        Args:
            generator: Gets the averaged weights.
            discriminator: Gets the weights and the estimates of their norms.

        Raises:
            CheckpointError: Naming the first tensor that does not fit, or if there is no
                discriminator to copy.
        """
        _match(generator.state_dict(), self.generator.state_dict(), self.path)
        generator.load_state_dict(self.generator.state_dict())
        if discriminator is None:
            return
        if self.discriminator is None:
            raise CheckpointError(
                f"{self.path}: is of a DPMCGAN, whose discriminator is of another kind. Start an "
                "MCGAN from the checkpoint of an MCGAN."
            )
        _match(discriminator.state_dict(), self.discriminator.state_dict(), self.path)
        discriminator.load_state_dict(self.discriminator.state_dict())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedGenerator:
    """The averaged generator of a checkpoint, of an MCGAN or of a diffusion.

    Attributes:
        net: In evaluation mode, on the CPU.
        depth: Slices of the volumes that it draws; none for crops in the plane.
        conditions: What can be asked for.
        crop_rule: How the training crops were cut.
        sha256: Hash of the checkpoint file.
    """

    net: CropNet
    conditions: Conditions
    crop_rule: CropRule
    sha256: str
    depth: int | None = None

    @classmethod
    def read(cls, checkpoint: str | Path, *, volumes: bool = False) -> "TrainedGenerator":
        """Loads the generator of a checkpoint; no code in the file is run.

        Args:
            checkpoint: The file.
            volumes: Whether it may draw volumes.

        Raises:
            CheckpointError: If the file is missing, is no checkpoint, or holds another model, or
                one of volumes where crops in the plane are needed.
        """
        from gan.diffusion.checkpoint import DiffusionCheckpoint  # which imports this file

        path = Path(checkpoint)
        found: Checkpoint | DiffusionCheckpoint
        net: CropNet
        depth: int | None = None
        sha256, parts = read_content(path)
        if DiffusionCheckpoint.holds_diffusion(parts):
            found = DiffusionCheckpoint.of(path, sha256, parts)
            net = sampler = found.sampler()
            depth = sampler.settings.depth
        else:
            found = Checkpoint.of(path, sha256, parts)
            net = found.generator
        if depth is not None and not volumes:
            raise CheckpointError(
                f"{path}: draws volumes of {depth} slices, and this command makes crops in the "
                "plane. Give a checkpoint with spatial_dims 2."
            )
        return cls(
            net=net,
            conditions=Conditions(tuple(found.settings["conditions"])),
            crop_rule=found.crop_rule,
            sha256=found.sha256,
            depth=depth,
        )

    def crops(
        self,
        condition: Tensor,
        *,
        start: int,
        seed: int,
        truncation: float = 1.0,
        darkest: float = 0.0,
    ) -> NDArray[np.uint16]:
        """Generates consecutive crops.

        Args:
            condition: Shape ``(B, columns)``, see :class:`gan.conditions.Conditions`.
            start: Number of the first crop; number and ``seed`` fix latent vector and noise.
            seed: Of the whole set.
            truncation: Factor on the latent vectors, > 0.
            darkest: Mean grey in ``[0, 1)``; a darker crop is drawn again.

        Returns:
            Shape ``(B, size, size)``, or ``(B, depth, size, size)``, values in ``[0, 65535]``.

        Raises:
            CheckpointError: If a crop is darker in each of ``ATTEMPTS`` draws.
        """
        rows = np.arange(len(condition))
        crops: dict[int, NDArray[np.uint16]] = {}
        for attempt in range(ATTEMPTS):
            found = (draw(self.net, start + int(row), seed, attempt) for row in rows)
            latents, noise = (torch.stack(part) for part in zip(*found, strict=True))
            with torch.inference_mode():
                grey = grey_levels(self.net(truncation * latents, noise, condition[rows]))
            crops |= dict(zip(rows.tolist(), grey, strict=True))
            rows = rows[grey.reshape(len(rows), -1).mean(axis=1) < 65535 * darkest]
            if not len(rows):
                return np.stack([crops[row] for row in range(len(crops))])
        raise CheckpointError(
            f"crop {start + int(rows[0])}: is darker than {darkest=} in {ATTEMPTS} draws. Give a "
            "lower one."
        )


def grey_levels(crops: Tensor) -> NDArray[np.uint16]:
    """Crops ``(B, 1, ...)`` in ``[-1, 1]`` as they are written, ``(B, ...)`` in ``[0, 65535]``."""
    grey: NDArray[np.float64] = (crops.squeeze(1).double().numpy() + 1) / 2 * 65535
    return np.rint(grey).astype(np.uint16)


def draw(net: CropNet, number: int, seed: int, attempt: int = 0) -> tuple[Tensor, Tensor]:
    """Randomness of one crop, fixed by its number, the seed of the set and the attempt.

    Returns:
        Latent vector, shape ``(latent,)``, and noise, shape ``(1, image_size, image_size)``; both
        standard normal.
    """
    rng = np.random.default_rng([seed, number, attempt] if attempt else [seed, number])
    shapes = (net.latent,), (1, net.image_size, net.image_size)
    latent, noise = (torch.from_numpy(rng.standard_normal(shape, np.float32)) for shape in shapes)
    return latent, noise


def load_part(net: nn.Module, prefix: str, state: Mapping[str, Tensor], path: Path) -> None:
    """Loads the part of a state dict under a prefix.

    Raises:
        CheckpointError: If a tensor does not fit, or holds NaN or infinity, which would become
            black crops without a word.
    """
    part = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
    _match(net.state_dict(), part, path)
    if broken := sorted(name for name, tensor in part.items() if not tensor.isfinite().all()):
        raise CheckpointError(
            f"{path}: {prefix}{broken[0]} holds NaN or infinity: the training diverged. Fit again "
            "with lower rates."
        )
    net.load_state_dict(part)


def _match(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    shapes = ({name: tuple(t.shape) for name, t in part.items()} for part in (expected, found))
    ours, theirs = shapes
    if wrong := sorted({name for name, _ in ours.items() ^ theirs.items()}):
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors do not fit, such as {wrong[0]!r} (here "
            f"{ours.get(wrong[0], 'absent')}, in the file {theirs.get(wrong[0], 'absent')}). Use "
            f"one image_size, channels, latent and conditions; otherwise: {ADVICE}."
        )
