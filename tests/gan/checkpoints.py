# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of generators without their training."""

from pathlib import Path
from typing import Any

import lightning
import torch


def save(path: Path, net: lightning.LightningModule, **extra: Any) -> Path:
    """A checkpoint as Lightning writes it, without the training."""
    content = {
        "state_dict": net.state_dict(),
        "hyper_parameters": dict(net.hparams),
        "crop_rule": "centred",
        "pytorch-lightning_version": lightning.__version__,
    }
    torch.save(content | extra, path)
    return path
