# SPDX-License-Identifier: Apache-2.0
"""Benign and malignant breast masses in mammograms, from a conditional generator of mammo_dp.

Needs torch, numpy and pillow. What is known about the privacy of the patients behind the weights
stands in ``privacy.json``, in words in ``PRIVACY.md``.
"""

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from gan.generator import Generator

CLASSES = ("benign", "malignant")
AT_ONCE = 32  # crops in memory on their way to files

Labelled = tuple[NDArray[np.uint8], str]


def generate(
    model_file: str,
    num_samples: int,
    output_path: str,
    save_images: bool,
    condition: str | None = None,
    z: ArrayLike | None = None,
    seed: int | None = None,
) -> list[Labelled] | None:
    """Generates crops of breast masses.

    Args:
        model_file: Path of the weights, ``generator.pt``.
        num_samples: Number of crops, 0 or more.
        output_path: Folder for ``{i}_{benign|malignant}.png``, 8-bit grey; made if it is missing.
        save_images: Whether crops are saved, or returned.
        condition: ``"malignant"`` or ``"benign"``; both in turn if none.
        z: Latent vectors, shape ``(num_samples or more, latent)``; standard normal if none.
        seed: 0 or more; equal seeds give equal crops, but a folder called ``batch_<n>``, in which
            medigan collects call after call with equal arguments, enters the seed. Fresh if none.

    Returns:
        Pairs of a crop, shape ``(H, W)``, and its class; none if they were saved.

    Raises:
        ValueError: If an argument is out of range.
    """
    if condition is not None and condition not in CLASSES:
        raise ValueError(
            f"{condition=}. Give 'malignant', 'benign' or none. Numbers are refused: 0 is "
            "malignant in some models and benign in others."
        )
    if num_samples < 0 or (seed is not None and seed < 0):
        raise ValueError(f"{num_samples=}, {seed=}. Give 0 or more.")
    net, columns = _load(model_file)
    latents = None if z is None else torch.as_tensor(np.asarray(z, np.float32))
    if latents is not None and (latents.ndim != 2 or latents.shape[1] != net.latent):
        raise ValueError(f"z has shape {tuple(latents.shape)}. Give rows of length {net.latent}.")
    if latents is not None and len(latents) < num_samples:
        raise ValueError(f"z has {len(latents)} rows for {num_samples=}. Give one for each crop.")
    folder = Path(output_path)
    crops = _crops(net, columns, num_samples, condition, latents, _entropy(folder, seed))
    if not save_images:
        return list(crops)
    folder.mkdir(parents=True, exist_ok=True)  # medigan lists it even when nothing is asked for
    for number, (crop, label) in enumerate(crops):
        Image.fromarray(crop).save(folder / f"{number}_{label}.png")
    return None


def _load(model_file: str) -> tuple[Generator, int]:
    """The generator on the best device, and the length of a condition."""
    stored: dict[str, Any] = torch.load(model_file, map_location="cpu", weights_only=True)
    net = Generator(**stored["settings"])
    net.load_state_dict(stored["generator"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return net.eval().requires_grad_(False).to(device), stored["settings"]["columns"]


def _entropy(folder: Path, seed: int | None) -> tuple[int, int]:
    """Seed of this call, and its number within a set, from 0."""
    batch = re.fullmatch(r"batch_(\d+)", folder.name)
    return secrets.randbits(64) if seed is None else seed, int(batch[1]) if batch else 0


def _crops(
    net: Generator,
    columns: int,
    count: int,
    condition: str | None,
    latents: Tensor | None,
    entropy: tuple[int, int],
) -> Iterator[Labelled]:
    """Yields crops and classes; a few are in memory."""
    seed, batch = entropy
    device = next(net.parameters()).device
    shapes = (net.latent,), (1, net.image_size, net.image_size)
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        drawn, asked, labels = [], torch.zeros(len(numbers), columns), []
        for row, number in enumerate(numbers):
            # Zeros at the end of the entropy change nothing: batch 0 is a call without batches.
            rng = np.random.default_rng([seed, number, batch])
            drawn.append([rng.standard_normal(shape, np.float32) for shape in shapes])
            label = condition or CLASSES[(batch + number) % 2]
            asked[row, CLASSES.index(label)] = 1
            labels.append(label)
        latent, noise = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
        if latents is not None:
            latent = latents[start : start + len(numbers)]
        with torch.inference_mode():
            made = net(latent.to(device), noise.to(device), asked.to(device))
        grey = ((made.squeeze(1).double().cpu() + 1) * 127.5).round().to(torch.uint8).numpy()
        yield from zip(grey, labels, strict=True)
