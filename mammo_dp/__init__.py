# SPDX-License-Identifier: Apache-2.0
"""mammo_dp: from mammograms that must not leak to a classifier with a privacy statement.

Public names are loaded on first use, so that ``mammo-dp --help`` imports nothing heavy. YAML files
and checkpoints name classes by this facade (``mammo_dp.CropClassifier``); files may move behind it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from classifier.module import CropClassifier
    from classifier.pretraining import CropPretraining
    from data_prep.datamodule import CropsDataModule
    from data_prep.manifest import CropsManifest
    from gan.module import MCGAN
    from mammo_dp.privacy.training.calibration import DPCalibration
    from mammo_dp.privacy.training.classifier import DPCropClassifier
    from mammo_dp.privacy.training.datamodule import DPCropsDataModule
    from mammo_dp.privacy.training.generator import DPMCGAN
    from mammo_dp.privacy.training.plugins import DPDDPStrategy

__version__ = "0.1.0"
__all__ = [
    "DPMCGAN",
    "MCGAN",
    "CropClassifier",
    "CropPretraining",
    "CropsDataModule",
    "CropsManifest",
    "DPCalibration",
    "DPCropClassifier",
    "DPCropsDataModule",
    "DPDDPStrategy",
]

MODULES = {
    "DPMCGAN": "mammo_dp.privacy.training.generator",
    "MCGAN": "gan.module",
    "CropClassifier": "classifier.module",
    "CropPretraining": "classifier.pretraining",
    "CropsDataModule": "data_prep.datamodule",
    "CropsManifest": "data_prep.manifest",
    "DPCalibration": "mammo_dp.privacy.training.calibration",
    "DPCropClassifier": "mammo_dp.privacy.training.classifier",
    "DPCropsDataModule": "mammo_dp.privacy.training.datamodule",
    "DPDDPStrategy": "mammo_dp.privacy.training.plugins",
}


def __getattr__(name: str) -> object:
    """Imports the module that owns a public name.

    Raises:
        AttributeError: For a name that is not public.
    """
    if name not in MODULES:
        raise AttributeError(f"module 'mammo_dp' has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)
