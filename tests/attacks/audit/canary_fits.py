"""Private fits of a linear head in which every patient is a canary on a coordinate of its own.

The training loop itself on tables in memory: tens of thousands of canaries in seconds.
"""

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
from torch.utils.data import Dataset

from data_prep.datamodule import CropBatch, CropItem
from data_prep.manifest import Unit
from mammo_dp.attacks.audit.canaries import WhiteBoxObserver, canary_scores
from mammo_dp.attacks.statistics import Bounds, Scores, exceeds, tpr_at_fpr
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.budget import PrivacyBudget
from mammo_dp.privacy.accounting.risk import risk_of
from mammo_dp.privacy.training.datamodule import ResumableLoader
from mammo_dp.privacy.training.module import DPTraining
from mammo_dp.privacy.training.optimizer import PrivateOptimizer
from mammo_dp.privacy.training.sampling import PoissonSampling, PoissonUnitSampler
from tests.privacy.training.fits import accounted, trainer

PIXELS = 50
LOUD = 100.0  # grey level of a canary's pixel: its gradient is far above the clipping norm
OUTPUTS = 1200
COORDINATES = PIXELS * OUTPUTS  # of the weights, each a canary that is in or out
PATIENTS = 2000  # canaries that are in
DELTA = 1e-4
FPRS = (0.001, 0.01)


class CanaryImages(Dataset[CropItem]):
    """Images with one loud pixel; the label is the number of an output.

    Args:
        coordinates: Weight that each image changes, shape ``(images,)``.
        units: Unit that each belongs to, shape ``(images,)``.
    """

    def __init__(self, coordinates: NDArray[np.int64], units: NDArray[np.int64]) -> None:
        self.coordinates, self.units = torch.from_numpy(coordinates), torch.from_numpy(units)

    def __len__(self) -> int:
        return len(self.coordinates)

    def __getitems__(self, rows: Sequence[int]) -> CropBatch:
        """One draw."""
        row = torch.tensor(rows, dtype=torch.int64)
        image = nn.functional.one_hot(self.coordinates[row] % PIXELS, PIXELS) * LOUD
        output = self.coordinates[row] // PIXELS
        return CropBatch(image[:, None, None], output, row, self.units[row])


class CanaryData(lightning.LightningDataModule):
    """Canaries drawn by Poisson sampling, as patients are.

    Args:
        coordinates: Weight that each image changes, shape ``(images,)``.
        sampling: Which images make a unit, and how often a unit is drawn.
        key: Of draws and noise.
    """

    def __init__(self, coordinates: NDArray[np.int64], sampling: PoissonSampling, key: int) -> None:
        super().__init__()
        sizes = list(map(len, sampling.rows_of))
        self.images = CanaryImages(coordinates, np.repeat(np.arange(len(sizes)), sizes))
        self.sampling, self.key = sampling, key
        self.insecure_seed = key  # equal canaries give equal audits

    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image."""
        return 1, 1, PIXELS

    def train_dataloader(self) -> ResumableLoader:
        """One draw per step."""
        model = self.trainer.lightning_module if self.trainer else None
        assert isinstance(model, DPTraining)
        sampler = PoissonUnitSampler(
            self.sampling,
            steps=model.trainer.max_steps,
            key=self.key,
            done=lambda: model.accounted_steps,
        )
        return ResumableLoader(self.images, batch_sampler=sampler, collate_fn=_as_is)


class CanaryHead(DPTraining):
    """A linear layer with one weight per canary.

    Args:
        budget: What is stated.
        outputs: Outputs of the layer.
    """

    def __init__(self, budget: PrivacyBudget, outputs: int) -> None:
        super().__init__()
        self.net = nn.Linear(PIXELS, outputs, bias=False)
        self.configure_privacy(
            budget, clipping_norm=0.5
        )  # not 1, or a forgotten norm would go unseen

    def losses(self, batch: CropBatch) -> Tensor:
        """Linear in the weights, so that a canary stays loud while they move."""
        outputs: Tensor = self.net(batch.image.float().flatten(1))
        return outputs.gather(1, batch.malignant[:, None]).squeeze(1)

    def configure_optimizers(self) -> PrivateOptimizer:
        """Plain SGD, whose update shows the noisy sum."""
        return self.privatise(SGD(self.parameters(), lr=0.25))


def _as_is(batch: CropBatch | list[Any]) -> CropBatch | list[Any]:
    """The batch that ``__getitems__`` made."""
    return batch


def head(epsilon: float) -> CanaryHead:
    return CanaryHead(PrivacyBudget(delta=DELTA, epsilon=epsilon), OUTPUTS)


def canaries(
    inside: NDArray[np.int64], *, crops: int = 1, unit: Unit = "patient", rate: float
) -> CanaryData:
    rows = np.arange(crops * len(inside)).reshape(-1, crops if unit == "patient" else 1)
    sampling = PoissonSampling(unit=unit, rows_of=tuple(map(tuple, rows.tolist())), rate=rate)
    return CanaryData(np.repeat(inside, crops), sampling, key=int(inside.sum()))


def observed(
    folder: Path,
    inside: NDArray[np.int64],
    *,
    epsilon: float,
    rate: float,
    steps: int,
    crops: int = 1,
    unit: Unit = "patient",
) -> tuple[Scores, CanaryHead]:
    model, observer = head(epsilon), WhiteBoxObserver("net.weight")
    data = canaries(inside, crops=crops, unit=unit, rate=rate)
    trainer(folder, max_steps=steps, callbacks=[observer]).fit(model, data)
    (mechanism,) = model.executed
    scores = canary_scores(
        observer.products, noise_multiplier=mechanism.noise_multiplier, sampling_rate=rate
    )
    return scores, model


@dataclass(frozen=True)
class Trials:
    members: Scores
    nonmembers: Scores
    mechanism: Mechanism
    epsilon: float  # as stated: per unit, at DELTA, zero-out, by PLD

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
    (mechanism,) = model.executed
    return Trials(np.concatenate(members), np.concatenate(nonmembers), mechanism, accounted(model))
