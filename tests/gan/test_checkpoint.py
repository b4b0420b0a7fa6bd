# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import lightning
import pytest
import torch
from torch import nn

from data_prep.datamodule import CropBatch
from gan.checkpoint import CheckpointError, TrainedGenerator
from gan.module import MCGAN
from tests.gan.checkpoints import save


class Classifier(lightning.LightningModule):
    def __init__(self, image_size: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(2, 1)

    def training_step(self, batch: CropBatch) -> None:
        """Never called."""


def test_files_that_hold_no_mcgan_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(
        CheckpointError, match=r"last.ckpt: is no file. Give the checkpoint of a fit"
    ):
        TrainedGenerator.read(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(
        CheckpointError, match=r"cannot be read as a checkpoint \(UnpicklingError\)"
    ):
        TrainedGenerator.read(path)
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds no MCGAN"):
        TrainedGenerator.read(path)
    other = Classifier()
    torch.save({"state_dict": other.state_dict(), "hyper_parameters": dict(other.hparams)}, path)
    with pytest.raises(CheckpointError, match=r"holds no MCGAN, .*'channels'.* unknown"):
        TrainedGenerator.read(path)
    save(path, MCGAN(image_size=16, channels=2, latent=8), state_dict=other.state_dict())
    with pytest.raises(CheckpointError, match=r"tensors do not fit, such as"):
        TrainedGenerator.read(path)
    save(path, MCGAN(image_size=16, channels=2, latent=8), crop_rule="oval")
    with pytest.raises(CheckpointError, match="crop_rule is 'oval'"):
        TrainedGenerator.read(path)


def test_a_training_that_diverged_is_named(tmp_path: Path) -> None:
    net = MCGAN(image_size=16, channels=2, latent=8)
    with torch.no_grad():
        dict(net.named_parameters())["average.module.grid.bias"][0] = torch.nan
    path = save(tmp_path / "last.ckpt", net)
    with pytest.raises(CheckpointError, match=r"average.module.grid.bias holds NaN .* diverged"):
        TrainedGenerator.read(path)
