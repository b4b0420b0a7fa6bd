# SPDX-License-Identifier: Apache-2.0
"""Tiny classifiers under attack, and the run folders that released them."""

from pathlib import Path
from typing import Any

import lightning
import torch

from classifier.module import CropClassifier
from classifier.released import Calibration, ReleasedClassifier
from data_prep.manifest import CropsManifest
from mammo_dp.runs import close_run, open_run
from tests.stated import write_stated

BACKBONE = {"depth": 1, "embed_dim": 24, "num_heads": 2, "patch_size": 8}


def model(seed: int = 0, **changes: Any) -> CropClassifier:
    torch.manual_seed(seed)
    settings: dict[str, Any] = {"image_size": 32, "warmup_steps": 0} | changes
    return CropClassifier(backbone="vit_tiny_patch16_224", backbone_args=BACKBONE, **settings)


def released(net: CropClassifier, calibration: Calibration | None = None) -> ReleasedClassifier:
    return ReleasedClassifier(model=net.eval(), calibration=calibration)


def write_run(folder: Path, net: CropClassifier, manifest: CropsManifest, **changes: Any) -> Path:
    data = {"augment": "none", "batch_size": 8, "train_split": changes.get("split", "train")}
    record = open_run(
        folder,
        command="fit",
        config={
            "model": {"class_path": "mammo_dp.CropClassifier"},
            "data": {"init_args": data},
            "trainer": {"max_epochs": 60},
        },
        inputs={"data": manifest.folder},
    )
    (folder / "checkpoints").mkdir(parents=True)
    trainer = lightning.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=folder
    )
    trainer.strategy.connect(net)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    write_stated(folder, manifest, **changes)
    close_run(record)
    return folder
