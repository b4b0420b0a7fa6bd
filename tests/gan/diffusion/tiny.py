# SPDX-License-Identifier: Apache-2.0
"""Tiny autoencoders and diffusions, in the plane and in depth."""

from pathlib import Path
from typing import Any

import lightning
import monai.networks.nets  # noqa: F401  once here, not in each process that tests start
import torch
from torch import nn

from gan.diffusion.autoencoder import CropAutoencoder
from gan.diffusion.module import LatentDiffusion

FIRST: dict[str, Any] = {"image_size": 16, "encoder_channels": [4, 8], "latent_channels": 2}
NETS: dict[str, Any] = FIRST | {
    "channels": [8, 8],
    "attention_levels": [False, True],
    "head_channels": 4,
    "token_width": 4,
    "sample_steps": 2,
}
DEPTH: dict[str, Any] = {"spatial_dims": 3, "depth": 4, "image_size": 8}
SHAPES: dict[int, dict[str, Any]] = {2: {}, 3: DEPTH}


def shaken(module: nn.Module, seed: int = 0) -> None:
    """Moves all weights: layers that start at zero hide mistakes."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=rng))


def diffusion(**settings: Any) -> LatentDiffusion:
    torch.manual_seed(0)
    model = LatentDiffusion(**NETS | settings)
    shaken(model)
    return model


def save(path: Path, model: CropAutoencoder | LatentDiffusion, **extra: Any) -> Path:
    """A checkpoint as Lightning writes it, without the training."""
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "crop_rule": "centred",
        "pytorch-lightning_version": lightning.__version__,
    }
    torch.save(content | extra, path)
    return path
