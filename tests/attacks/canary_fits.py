"""Private fits of a linear head in which every patient is a canary on a coordinate of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader, Dataset

from data_prep.datamodule import CropBatch
from data_prep.manifest import Unit
from mammo_dp.attacks.audit import Bounds, Scores, exceeds, tpr_at_fpr
from mammo_dp.attacks.canaries import WhiteBoxObserver, canary_scores
from mammo_dp.privacy.accounting import Mechanism, compose
from mammo_dp.privacy.budget import PrivacyBudget
from mammo_dp.privacy.noise import PrivateOptimizer
from mammo_dp.privacy.risk import risk_of
from mammo_dp.privacy.sampling import PoissonSampling, PoissonUnitSampler
from mammo_dp.privacy.training import DPTraining
from tests.privacy.fits import trainer

PIXELS, OUTPUTS = 200, 300
COORDINATES = PIXELS * OUTPUTS  # of the weights, each a canary that is in or out
PATIENTS = 2000  # canaries that are in
DELTA = 1e-4
FPRS = (0.001, 0.01)
LOUD = 100.0  # grey level of a canary's one pixel: its gradient is far above the clipping norm


class CanaryImages(Dataset[CropBatch]):
    def __init__(self, coordinates: NDArray[np.int64], crops: int, unit: Unit) -> None:
        self.coordinates = torch.from_numpy(np.repeat(coordinates, crops))
        self.crops, self.unit = crops, unit

    def __len__(self) -> int:
        return len(self.coordinates)

    def __getitems__(self, rows: Sequence[int]) -> CropBatch:
        row = torch.tensor(rows, dtype=torch.int64)
        image = nn.functional.one_hot(self.coordinates[row] % PIXELS, PIXELS) * LOUD
        output = self.coordinates[row] // PIXELS  # stands where the label would
        unit = row // self.crops if self.unit == "patient" else row
        return CropBatch(image[:, None, None], output, row, unit)


class Canaries(lightning.LightningDataModule):
    def __init__(self, coordinates: NDArray[np.int64], crops: int, unit: Unit, rate: float) -> None:
        super().__init__()
        self.images = CanaryImages(coordinates, crops, unit)
        rows = np.arange(len(self.images)).reshape(-1, crops if unit == "patient" else 1)
        self.sampling = PoissonSampling(
            unit=unit, rows_of=tuple(map(tuple, rows.tolist())), rate=rate
        )
        self.key = int(coordinates.sum())

    def image_shape(self) -> tuple[int, ...]:
        return 1, 1, PIXELS

    def train_dataloader(self) -> DataLoader[CropBatch]:
        model = self.trainer.lightning_module  # type: ignore[union-attr]  # a fit has a trainer
        assert isinstance(model, DPTraining)
        sampler = PoissonUnitSampler(
            self.sampling,
            steps=model.trainer.max_steps,
            key=self.key,
            done=lambda: model.accounted_steps,
        )
        return DataLoader(self.images, batch_sampler=sampler, collate_fn=lambda batch: batch)


class LinearHead(DPTraining):
    def __init__(self, epsilon: float) -> None:
        super().__init__()
        self.net = nn.Linear(PIXELS, OUTPUTS, bias=False)
        self.promise(PrivacyBudget(delta=DELTA, epsilon=epsilon), clipping_norm=0.5)

    def losses(self, batch: CropBatch) -> Tensor:
        # linear in the logit, so that a canary's gradient stays loud while the weights move
        logits: Tensor = self.net(batch.image.float().flatten(1))
        return logits.gather(1, batch.malignant[:, None]).squeeze(1)

    def configure_optimizers(self) -> PrivateOptimizer:
        return self.privatise(SGD(self.parameters(), lr=0.25))


def observed(
    folder: Path,
    inside: NDArray[np.int64],
    *,
    epsilon: float,
    rate: float,
    steps: int,
    crops: int = 1,
    unit: Unit = "patient",
) -> tuple[Scores, LinearHead]:
    model, observer = LinearHead(epsilon), WhiteBoxObserver("net.weight")
    data = Canaries(inside, crops, unit, rate)
    trainer(folder, max_steps=steps, callbacks=[observer]).fit(model, data)
    (mechanism,) = model.mechanisms
    scores = canary_scores(
        observer.products, noise_multiplier=mechanism.noise_multiplier, sampling_rate=rate
    )
    return scores, model


@dataclass(frozen=True)
class Trials:
    members: Scores
    nonmembers: Scores
    mechanism: Mechanism
    epsilon: float  # as stated: per unit, at DELTA, add or remove, by PLD

    @property
    def stated(self) -> Bounds:
        risk = risk_of(compose([self.mechanism]), fprs=FPRS)
        return Bounds(
            epsilon=self.epsilon, delta=DELTA, advantage=risk.advantage, tpr_at_fpr=risk.tpr_at_fpr
        )

    @property
    def break_the_curve(self) -> bool:
        return exceeds(self.members, self.nonmembers, self.stated, fprs=FPRS)

    @property
    def attain_the_curve(self) -> bool:
        rate = tpr_at_fpr(self.members, self.nonmembers, fpr=0.01, level=0.99).tpr
        return rate.low <= self.stated.tpr_at_fpr[0.01] <= rate.high


def trials(folder: Path, fits: int, **settings: Any) -> Trials:
    members, nonmembers = [], []
    for seed in range(fits):
        inside = np.random.default_rng(seed).permutation(COORDINATES)[:PATIENTS]
        scores, model = observed(folder, inside, **settings)
        members.append(scores[inside])
        nonmembers.append(np.delete(scores, inside))
    (mechanism,) = model.mechanisms
    return Trials(
        np.concatenate(members), np.concatenate(nonmembers), mechanism, model.spent_epsilon
    )
