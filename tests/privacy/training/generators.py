# SPDX-License-Identifier: Apache-2.0
"""Tiny private generators and what they are fitted to."""

from typing import Any

import torch

from data_prep.manifest import CropsManifest
from mammo_dp.privacy.training.datamodule import DPCropsDataModule
from mammo_dp.privacy.training.generator import DPMCGAN
from tests.privacy.training.fits import data

NETS: dict[str, Any] = {"image_size": 16, "channels": 4, "latent": 4}
TINY: dict[str, Any] = NETS | {
    "target_epsilon": 8.0,
    "delta": 1e-3,
    "fakes": 6,
    "augmentations": "flip,brightness",
    "public_size": 32,
    "stages": [1],
}


def gan(**settings: Any) -> DPMCGAN:
    torch.manual_seed(0)
    return DPMCGAN(**{**TINY, **settings})


def crops(cohort: CropsManifest, **settings: Any) -> DPCropsDataModule:
    return data(cohort, **{"image_size": 16, "insecure_seed": 3, "rate": 1.0, **settings})
