# SPDX-License-Identifier: Apache-2.0
"""The attack with a list during a private fit of a head on cached features.

Threat model: see :mod:`mammo_dp.attacks.reconstruction.lists`. Every patient of the fit is a target
once, with the same patients who took no part as the rest of its list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from classifier.backbones import head
from classifier.features import cached_features
from data_prep.datamodule import CropBatch
from data_prep.manifest import CropsManifest, Split
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.reconstruction.lists import CandidateScores, write_candidates
from mammo_dp.attacks.statistics import Scores, likelihood_ratios
from mammo_dp.privacy.statement.seals import SealedFeatures
from mammo_dp.privacy.training.datamodule import FeatureRows
from mammo_dp.privacy.training.gradients.units import Clip
from mammo_dp.privacy.training.module import DPTraining
from mammo_dp.privacy.training.optimizer import PrivateOptimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPatients:
    """Features of patients, the input of a head.

    Attributes:
        features: Shape ``(crops, views, d)``.
        malignant: Shape ``(crops,)``, 0 or 1.
        patient: Position of each crop's patient, from 0 without gaps, shape ``(crops,)``.
    """

    features: Tensor
    malignant: Tensor
    patient: Tensor

    def gradients(self, weight: Tensor, bias: Tensor, clip: Clip) -> Tensor:
        """Clipped gradients of the cross-entropy, in units of the clipping norm.

        Args:
            weight: Of the head, shape ``(1, d)``.
            bias: Of the head, shape ``(1,)``.
            clip: The clip of the fit.

        Returns:
            Shape ``(patients, d + 1)``, the bias last.
        """
        with torch.autocast("cpu", enabled=False):
            wrong = (self.features @ weight[0] + bias).sigmoid() - self.malignant[:, None]
            crops = torch.cat(
                [torch.einsum("cv,cvd->cd", wrong, self.features), wrong.sum(1, keepdim=True)], 1
            )
        counts = torch.bincount(self.patient)[:, None] * self.features.shape[1]
        means = torch.zeros(len(counts), crops.shape[1]).index_add_(0, self.patient, crops) / counts
        return means * (clip.factors(means.norm(dim=1)) / clip.norm)[:, None]


class CandidateObserver(Callback):
    """Scores every patient of a private fit of a head against patients who take no part.

    Reads noisy gradients where the private optimizer hands them to the ordinary one, so any
    optimizer will do.

    Args:
        manifest: Crops of the fit and of the others.
        candidates: Splits whose patients stand on the lists: the one of the fit, for the target,
            and others, whose patients take no part.

    Raises:
        AttackError: If the lists would not hold the target, or nobody else.
    """

    def __init__(
        self, manifest: CropsManifest, candidates: Sequence[Split] = ("train", "val")
    ) -> None:
        others = [row for split in candidates if split != "train" for row in manifest.rows(split)]
        if "train" not in candidates or not others:
            raise AttackError(
                f"candidates={tuple(candidates)}: {len(others)} crops of others, the target "
                f"{'is' if 'train' in candidates else 'is not'} on the list. An adversary with a "
                "list has the target on it, among others: give train and at least one more split."
            )
        self.manifest, self._rows = manifest, others
        self._drawn: Tensor = torch.empty(0)
        self._position: dict[int, int] = {}
        self._scores: tuple[Scores, Scores] | None = None

    @property
    def scores(self) -> CandidateScores:
        """Scores after the fit.

        Raises:
            AttackError: If nothing was observed.
        """
        if self._scores is None:
            raise AttackError(
                "candidates: this run has no signals. Fit it with this callback; they cannot be "
                "had from the final weights."
            )
        lists, own = self._scores
        outsiders = lists[0]
        return CandidateScores(targets=own, lists=lists[1:], outsiders=outsiders)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finds features of all patients and listens to the optimizer.

        Raises:
            AttackError: If it is no private fit of a head over cached features.
        """
        rows = getattr(trainer.train_dataloader, "dataset", None)
        private = trainer.optimizers[0]
        if (
            not isinstance(pl_module, DPTraining)
            or not isinstance(private, PrivateOptimizer)
            or not isinstance(rows, FeatureRows)
            or rows.features.ndim != 3
            or pl_module.sampling.unit != "patient"
        ):
            raise AttackError(
                f"{type(pl_module).__name__}: is no private fit of a head over cached features of "
                "patients. Train with trainable: head, cache_features: true and unit: patient."
            )
        malignant, _, unit = rows.columns
        units, position = torch.unique(unit, return_inverse=True)
        self._position = {int(u): i for i, u in enumerate(units)}
        self.members = HeadPatients(
            features=rows.features, malignant=malignant.float(), patient=position
        )
        self.others = self._others(trainer, pl_module)
        self._module, self._layer = pl_module, head(pl_module.net)
        count = int(self.others.patient.max()) + 1
        # Row 0 is for those who are not drawn, and so for outsiders; then one per target.
        self._scores = np.zeros((1 + len(units), count)), np.zeros(len(units))
        private.original_optimizer.register_step_pre_hook(self._observe)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: CropBatch, batch_idx: int
    ) -> None:
        """Remembers which patients were sampled."""
        drawn = [self._position[int(unit)] for unit in torch.unique(batch.unit)]
        self._drawn = torch.tensor(drawn, dtype=torch.int64)

    @torch.no_grad()
    def _observe(self, optimizer: Optimizer, *arguments: Any) -> None:
        module, layer, drawn = self._module, self._layer, self._drawn
        noisy = torch.cat([_gradient(layer.weight).flatten(), _gradient(layer.bias)])
        weights = layer.weight.cpu(), layer.bias.cpu()  # features lie there, wherever the fit runs
        members = self.members.gradients(*weights, module.clip)
        others = self.others.gradients(*weights, module.clip)
        scale = module.sampling.expected_units / module.clipping_norm
        # What is left without all that were drawn; a target that was drawn is then put back.
        left = noisy * scale - members[drawn].sum(dim=0)
        settings = {
            "noise_multiplier": module.noise_multiplier,
            "sampling_rate": module.sampling.rate,
        }

        def ratios(products: Tensor, squares: Tensor) -> Scores:
            return likelihood_ratios(
                products.double().numpy(), squares.double().numpy(), **settings
            )

        assert self._scores is not None
        lists, own = self._scores
        lengths, sizes = others.square().sum(dim=1), members.square().sum(dim=1)
        absent = ratios(others @ left, lengths)
        lists += absent
        if len(drawn):
            seen = left + members[drawn]
            lists[1 + drawn.numpy()] += ratios(seen @ others.T, lengths) - absent
        present = members @ left
        present[drawn] += sizes[drawn]
        own += ratios(present, sizes)

    def _others(self, trainer: Trainer, module: DPTraining) -> HeadPatients:
        data = trainer.datamodule  # type: ignore[attr-defined]
        rows = self._rows
        units = self.manifest.units(rows, "patient")
        position = {row: unit for unit, own in enumerate(units) for row in own}
        features = cached_features(
            module.net,
            self.manifest,
            rows,
            folder=Path(trainer.default_root_dir) / "features",
            image_size=data.image_size,
            augment=data.augment,
            views=module.views,
            seal=SealedFeatures(),
        )
        return HeadPatients(
            features=features,
            malignant=torch.tensor([float(self.manifest.crops[row].malignant) for row in rows]),
            patient=torch.tensor([position[row] for row in rows]),
        )


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad.detach().cpu()


class SavedCandidates(CandidateObserver):
    """Scores every patient against a list of others, and saves the scores.

    Args:
        crops: Folder of the crops of the fit.
        file: Where the scores go; private data.
    """

    def __init__(self, crops: str, file: str) -> None:
        super().__init__(CropsManifest.read(crops))
        self.file = Path(file)
        self._earlier: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Scores of the steps so far, so that an interrupted fit resumes."""
        if self._scores is None:
            return {}
        lists, own = self._scores
        return {"lists": lists.tolist(), "own": own.tolist()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers the scores of an interrupted fit."""
        self._earlier = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resumes from the scores of an interrupted fit."""
        super().on_train_start(trainer, pl_module)
        if self._earlier:
            self._scores = np.array(self._earlier["lists"]), np.array(self._earlier["own"])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the scores."""
        write_candidates(self.file, self.scores)
