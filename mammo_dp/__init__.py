# SPDX-License-Identifier: Apache-2.0
"""mammo_dp: from mammograms that must not leak to a classifier with a privacy statement.

The public names of Python: what is listed in ``__all__`` stays where it is from one version to the
next, whatever moves behind it; YAML files and checkpoints name classes by this module, such as
``mammo_dp.CropClassifier``. Names are loaded on first use, so that ``import mammo_dp`` is instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING

import data_prep  # noqa: F401  declares what torchvision lacks before lightning is imported

if TYPE_CHECKING:
    from classifier.module import CropClassifier
    from classifier.pretraining import CropPretraining
    from data_prep.datamodule import CropBatch, CropsDataModule
    from data_prep.manifest import CropsManifest
    from gan.diffusion.autoencoder import CropAutoencoder
    from gan.diffusion.module import LatentDiffusion
    from gan.module import MCGAN
    from mammo_dp.attacks.lower_bounds import many_run as many_run_epsilon
    from mammo_dp.attacks.lower_bounds import one_run as one_run_epsilon
    from mammo_dp.attacks.membership.scores import (
        lira_scores,
        loss_scores,
        rmia_scores,
        sum_by_unit,
    )
    from mammo_dp.attacks.statistics import auc as membership_auc
    from mammo_dp.attacks.statistics import audit as membership_audit
    from mammo_dp.privacy.accounting.account import Mechanism, PrivacyCurve, compose
    from mammo_dp.privacy.accounting.budget import PrivacyBudget
    from mammo_dp.privacy.accounting.budget import calibrate as calibrate_noise
    from mammo_dp.privacy.accounting.risk import Risk, TradeOff, risk_of
    from mammo_dp.privacy.commands import verified as verify
    from mammo_dp.privacy.errors import PrivacyError
    from mammo_dp.privacy.statement.document import read_statements
    from mammo_dp.privacy.statement.guarantee import PrivacyStatement
    from mammo_dp.privacy.training.calibration import DPCalibration
    from mammo_dp.privacy.training.classifier import DPCropClassifier
    from mammo_dp.privacy.training.datamodule import DPCropsDataModule, DPDataModule
    from mammo_dp.privacy.training.diffusion import DPLatentDiffusion
    from mammo_dp.privacy.training.generator import DPMCGAN
    from mammo_dp.privacy.training.module import DPTraining
    from mammo_dp.privacy.training.plugins import DPDDPStrategy
    from mammo_dp.privacy.training.sampling import PoissonSampling
    from mammo_dp.projected import ProjectedMCGAN

__version__ = "0.1.0"
__all__ = [
    "DPMCGAN",
    "MCGAN",
    "CropAutoencoder",
    "CropBatch",
    "CropClassifier",
    "CropPretraining",
    "CropsDataModule",
    "CropsManifest",
    "DPCalibration",
    "DPCropClassifier",
    "DPCropsDataModule",
    "DPDDPStrategy",
    "DPDataModule",
    "DPLatentDiffusion",
    "DPTraining",
    "LatentDiffusion",
    "Mechanism",
    "PoissonSampling",
    "PrivacyBudget",
    "PrivacyCurve",
    "PrivacyError",
    "PrivacyStatement",
    "ProjectedMCGAN",
    "Risk",
    "TradeOff",
    "calibrate_noise",
    "compose",
    "lira_scores",
    "loss_scores",
    "many_run_epsilon",
    "membership_auc",
    "membership_audit",
    "one_run_epsilon",
    "read_statements",
    "risk_of",
    "rmia_scores",
    "sum_by_unit",
    "verify",
]

# Where each public name stands: a module, and its name there if that is another.
_SCORES = "mammo_dp.attacks.membership.scores"
MODULES = {
    "DPMCGAN": "mammo_dp.privacy.training.generator",
    "MCGAN": "gan.module",
    "CropAutoencoder": "gan.diffusion.autoencoder",
    "CropBatch": "data_prep.datamodule",
    "CropClassifier": "classifier.module",
    "CropPretraining": "classifier.pretraining",
    "CropsDataModule": "data_prep.datamodule",
    "CropsManifest": "data_prep.manifest",
    "DPCalibration": "mammo_dp.privacy.training.calibration",
    "DPCropClassifier": "mammo_dp.privacy.training.classifier",
    "DPCropsDataModule": "mammo_dp.privacy.training.datamodule",
    "DPDDPStrategy": "mammo_dp.privacy.training.plugins",
    "DPDataModule": "mammo_dp.privacy.training.datamodule",
    "DPLatentDiffusion": "mammo_dp.privacy.training.diffusion",
    "DPTraining": "mammo_dp.privacy.training.module",
    "LatentDiffusion": "gan.diffusion.module",
    "Mechanism": "mammo_dp.privacy.accounting.account",
    "PoissonSampling": "mammo_dp.privacy.training.sampling",
    "PrivacyBudget": "mammo_dp.privacy.accounting.budget",
    "PrivacyCurve": "mammo_dp.privacy.accounting.account",
    "PrivacyError": "mammo_dp.privacy.errors",
    "ProjectedMCGAN": "mammo_dp.projected",
    "PrivacyStatement": "mammo_dp.privacy.statement.guarantee",
    "Risk": "mammo_dp.privacy.accounting.risk",
    "TradeOff": "mammo_dp.privacy.accounting.risk",
    "calibrate_noise": "mammo_dp.privacy.accounting.budget:calibrate",
    "compose": "mammo_dp.privacy.accounting.account",
    "lira_scores": _SCORES,
    "loss_scores": _SCORES,
    "many_run_epsilon": "mammo_dp.attacks.lower_bounds:many_run",
    "membership_auc": "mammo_dp.attacks.statistics:auc",
    "membership_audit": "mammo_dp.attacks.statistics:audit",
    "one_run_epsilon": "mammo_dp.attacks.lower_bounds:one_run",
    "read_statements": "mammo_dp.privacy.statement.document",
    "risk_of": "mammo_dp.privacy.accounting.risk",
    "rmia_scores": _SCORES,
    "sum_by_unit": _SCORES,
    "verify": "mammo_dp.privacy.commands:verified",
}


def __getattr__(name: str) -> object:
    """Imports the module that owns a public name.

    Raises:
        AttributeError: For a name that is not public.
    """
    if name not in MODULES:
        raise AttributeError(f"module 'mammo_dp' has no attribute {name!r}")
    module, _, attribute = MODULES[name].partition(":")
    return getattr(import_module(module), attribute or name)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return [*__all__, "__version__"]
