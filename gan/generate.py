# SPDX-License-Identifier: Apache-2.0
"""``generate``: a trained ``MCGAN`` becomes a folder of labelled crops."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track

from data_prep.manifest import FILE_NAME, Crop, CropsManifest, save_crop_image
from gan.checkpoint import TrainedGenerator


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
        numbers = range(start, start + len(chosen))
        asked = [
            generator.conditions.vector(malignant=bool(number % 2), attributes={})
            for number in numbers
        ]
        crops = generator.crops(torch.stack(asked), start=start, seed=seed, truncation=truncation)
        rows += _write(Path(out), generator, start, chosen, crops)
    CropsManifest.write(out, rows)


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
