"""A tiny private run through the command line, and faults to put into its loop or its data."""

from pathlib import Path
from typing import Any

import torch
import yaml

from data_prep.datamodule import CropBatch
from data_prep.manifest import CropsManifest
from mammo_dp import DPCropsDataModule
from mammo_dp.main import main


class CropsAsUnits(DPCropsDataModule):
    """Numbers each crop as a unit of its own: each is clipped alone."""

    def on_after_batch_transfer(self, batch: CropBatch, dataloader_idx: int) -> CropBatch:
        return batch._replace(unit=batch.row)


class Undrawn(DPCropsDataModule):
    """Returns the crops of a further patient with each draw."""

    def on_before_batch_transfer(self, batch: CropBatch, dataloader_idx: int) -> CropBatch:
        missing = [rows for rows in self.sampling.rows_of if rows[0] not in batch.row.tolist()]
        if not missing:
            return batch
        more = self.train_dataset.__getitems__(missing[0])
        if batch.image.ndim == 3:  # features
            more = more._replace(image=torch.zeros(len(more.row), *batch.image.shape[1:]))
        return CropBatch(*(torch.cat(pair) for pair in zip(batch, more, strict=True)))


def config(
    folder: Path,
    *,
    data: type[DPCropsDataModule] = DPCropsDataModule,
    rate: float = 0.5,
    steps: int = 6,
    **model: Any,
) -> Path:
    """Settings of a private fit of a tiny head."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "seed_everything": 0,
        "model": {
            "class_path": "mammo_dp.DPCropClassifier",
            "init_args": {
                "backbone_args": {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2},
                "image_size": 32,
                "trainable": "head",
                "target_epsilon": 6.0,
                "delta": 1e-3,
                "views": 1,
                **model,
            },
        },
        "data": {
            "class_path": f"{data.__module__}.{data.__qualname__}",
            "init_args": {"crops": "?", "image_size": 32, "augment": "none", "rate": rate},
        },
        "trainer": {"max_steps": steps, "accelerator": "cpu", "devices": 1},
    }
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def private_run(folder: Path, cohort: CropsManifest, **settings: Any) -> Path:
    """Folder of a finished private fit."""
    path = config(folder, **settings)
    run = folder / "run"
    crops = f"--data.init_args.crops={cohort.folder}"
    assert main(["fit", "--config", str(path), "--run_dir", str(run), crops]) == 0
    return run
