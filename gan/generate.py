# SPDX-License-Identifier: Apache-2.0
"""``generate``: a trained ``MCGAN`` becomes a folder of labelled crops."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from data_prep.manifest import FILE_NAME, Crop, CropRule, CropsManifest, save_crop_image
from gan.networks import Generator

AVERAGED = "average.module."  # where MCGAN's state dict holds the averaged generator


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedGenerator:
    """The averaged generator of a checkpoint.

    Attributes:
        net: In evaluation mode, on the CPU.
        crop_rule: How the training crops were cut.
        sha256: Hash of the checkpoint file.
    """

    net: Generator
    crop_rule: CropRule
    sha256: str

    @classmethod
    def read(cls, checkpoint: str | Path) -> "TrainedGenerator":
        """Loads a checkpoint of an ``MCGAN``; no code in the file is run.

        Raises:
            ValueError: If the file is missing, is no checkpoint, or holds another model.
        """
        path = Path(checkpoint)
        advice = "Give the checkpoint of a fit of mammo_dp.MCGAN, such as RUN/checkpoints/last.ckpt"
        if not path.is_file():
            raise ValueError(f"{path}: is no file. {advice}.")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        try:
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises half a dozen kinds for what is no checkpoint
            raise ValueError(
                f"{path}: cannot be read as a checkpoint ({type(error).__name__}). {advice}."
            ) from error
        parts = content if isinstance(content, dict) else {}
        state = {
            name.removeprefix(AVERAGED): value
            for name, value in parts.get("state_dict", {}).items()
            if name.startswith(AVERAGED)
        }
        settings = parts.get("hyper_parameters", {})
        if missing := {"image_size", "channels", "latent"} - set(settings):
            raise ValueError(f"{path}: holds no MCGAN, {sorted(missing)} unknown. {advice}.")
        net = Generator(settings["image_size"], settings["channels"], settings["latent"])
        expected = {name: value.shape for name, value in net.state_dict().items()}
        found = {name: value.shape for name, value in state.items()}
        if wrong := sorted(name for name, _ in expected.items() ^ found.items()):
            raise ValueError(
                f"{path}: {len(set(wrong))} tensors do not fit the generator of this version, "
                f"such as {wrong[0]!r}. {advice}."
            )
        net.load_state_dict(state)
        rule = parts.get("crop_rule", "as-is")
        if rule not in get_args(CropRule):
            raise ValueError(f"{path}: crop_rule is {rule!r}. {advice}.")
        return cls(net=net.eval().requires_grad_(False), crop_rule=rule, sha256=sha256)

    def crops(
        self, malignant: Tensor, *, start: int, seed: int, truncation: float
    ) -> NDArray[np.uint16]:
        """Generates consecutive crops.

        Args:
            malignant: Shape ``(B,)``, 1 or 0.
            start: Number of the first crop; number and ``seed`` fix latent vector and noise.
            seed: Of the whole set.
            truncation: Factor on the latent vectors, in ``(0, 1]``.

        Returns:
            Shape ``(B, size, size)``, values in ``[0, 65535]``.
        """
        numbers = range(start, start + len(malignant))
        latents, noise = zip(*(draw(self.net, number, seed) for number in numbers), strict=True)
        with torch.inference_mode():
            crops = self.net(truncation * torch.stack(latents), torch.stack(noise), malignant)
        grey: NDArray[np.float64] = (crops.squeeze(1).double().numpy() + 1) / 2 * 65535
        return np.rint(grey).astype(np.uint16)


def generate(
    checkpoint: str,
    out: str,
    *,
    per_class: int = 1000,
    seed: int = 0,
    truncation: float = 1.0,
    batch_size: int = 64,
) -> None:
    """Generates labelled crops, as many benign as malignant ones, and their manifest.

    Crop ``n`` depends on checkpoint, seed and truncation, not on the batch it is made in (up to
    rounding). The manifest is written last; a killed run is repeated into the same folder and
    writes the same crops again.

    Args:
        checkpoint: Checkpoint of a trained ``mammo_dp.MCGAN``.
        out: Folder to write, new or of the same checkpoint.
        per_class: Crops of each class, ``>= 1``.
        seed: Of the latent vectors, ``>= 0``.
        truncation: Factor on the latent vectors, in ``(0, 1]``: less is more typical, less diverse.
        batch_size: Crops generated at once, ``>= 1``; a matter of speed and memory.

    Raises:
        ValueError: Naming the argument or file that is wrong.
    """
    if per_class < 1 or batch_size < 1 or seed < 0:
        raise ValueError(f"{per_class=}, {batch_size=}, {seed=}. Give 1 or more; a seed from 0.")
    if not 0 < truncation <= 1:
        raise ValueError(f"{truncation=}. Give a number above 0, at most 1.")
    generator = TrainedGenerator.read(checkpoint)
    names = [file_of(number) for number in range(2 * per_class)]
    _refuse_foreign(Path(out), f"gan:{generator.sha256}", set(names))
    starts = range(0, len(names), batch_size)
    rows: list[Crop] = []
    for start in track(starts, description="Generating crops"):
        chosen = names[start : start + batch_size]
        labels = torch.arange(start, start + len(chosen)) % 2
        crops = generator.crops(labels, start=start, seed=seed, truncation=truncation)
        rows += _write(Path(out), generator, start, chosen, crops)
    CropsManifest.write(out, rows)


def draw(net: Generator, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Randomness of one crop, fixed by its number and the seed of the set.

    Returns:
        Latent vector, shape ``(latent,)``, and noise, shape ``(1, image_size, image_size)``; both
        standard normal.
    """
    rng = np.random.default_rng([seed, number])
    shapes = (net.latent,), (1, net.image_size, net.image_size)
    latent, noise = (torch.from_numpy(rng.standard_normal(shape, np.float32)) for shape in shapes)
    return latent, noise


def file_of(number: int) -> str:
    """Path of a crop below the manifest's folder; odd numbers are malignant.

    >>> file_of(3)
    'images/000003_malignant.png'
    """
    return f"images/{number:06d}_{'malignant' if number % 2 else 'benign'}.png"


def _write(
    folder: Path,
    generator: TrainedGenerator,
    start: int,
    names: list[str],
    crops: NDArray[np.uint16],
) -> Iterator[Crop]:
    """Writes images and yields their rows."""
    for number, (name, pixels) in enumerate(zip(names, crops, strict=True), start):
        yield Crop(
            file=name,
            patient_id="",
            lesion_id="1",
            image_id=str(number),
            malignant=bool(number % 2),
            split="train",
            origin=f"gan:{generator.sha256}",
            label_source="generator",
            crop_rule=generator.crop_rule,
            sha256=save_crop_image(folder / name, pixels),
        )


def _refuse_foreign(folder: Path, origin: str, names: set[str]) -> None:
    """Stops before crops of another source or request would mix with ours.

    Raises:
        ValueError: If the folder holds what this run would neither write nor replace.
    """
    if (folder / FILE_NAME).exists():
        origins = {crop.origin for crop in CropsManifest.read(folder).crops}
        if origins != {origin}:
            raise ValueError(
                f"{folder}: holds crops of {', '.join(sorted(origins))}. Choose another folder."
            )
    present = {path.relative_to(folder).as_posix() for path in folder.glob("images/*.png")}
    if foreign := sorted(present - names):
        raise ValueError(
            f"{folder}: holds {len(foreign)} images of another run, such as {foreign[0]}. "
            "Choose another folder."
        )
