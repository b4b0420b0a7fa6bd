"""Tiny private fits for the tests of this folder."""

from pathlib import Path
from typing import Any

import lightning
import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.privacy.accounting.account import compose
from mammo_dp.privacy.training.classifier import DPCropClassifier
from mammo_dp.privacy.training.datamodule import DPCropsDataModule
from mammo_dp.privacy.training.module import DPTraining

BODY: dict[str, Any] = {
    "backbone_args": {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2},
    "image_size": 32,
}

quiet = [
    pytest.mark.filterwarnings(  # lightning 2.6 on torch 2.13
        "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
    ),
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
]


def model(**settings: Any) -> DPCropClassifier:
    """A one-block ViT at 32 px; epsilon 8, one view, no average of weights."""
    chosen = {"target_epsilon": 8.0, "delta": 1e-3, "views": 1, "ema_decay": None}
    return DPCropClassifier(**{**BODY, **chosen, **settings})


def data(cohort: CropsManifest, **settings: Any) -> DPCropsDataModule:
    return DPCropsDataModule(str(cohort.folder), **{"rate": 0.5, "augment": "none", **settings})


def trainer(folder: Path, **settings: Any) -> lightning.Trainer:
    chosen: dict[str, Any] = {
        "max_steps": 4,
        "accelerator": "cpu",
        "devices": 1,
        "limit_val_batches": 0,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(default_root_dir=folder, **(chosen | settings))


def accounted(net: DPTraining) -> float:
    """Epsilon of the steps of a fit, whose seed leaves none that ``spent_epsilon`` could state."""
    return compose(net.executed).epsilon(net.budget.delta)
