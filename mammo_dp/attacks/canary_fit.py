# SPDX-License-Identifier: Apache-2.0
"""A private fit whose every unit is a canary: the training loop itself, with someone to look for.

Sampler, clip, noise, optimizer and account are those of every private fit; only the crops are made
up. Each has one loud pixel and one output, so that its clipped gradient is ``C e_i`` on a weight of
its own.
"""

import tempfile
import warnings
from collections.abc import Sequence
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
from mammo_dp.attacks.audit import Scores
from mammo_dp.attacks.canaries import WhiteBoxObserver, canary_scores
from mammo_dp.privacy.accounting import Mechanism
from mammo_dp.privacy.budget import PrivacyBudget
from mammo_dp.privacy.datamodule import ResumableLoader
from mammo_dp.privacy.noise import PrivateOptimizer
from mammo_dp.privacy.sampling import PoissonSampling, PoissonUnitSampler, new_key
from mammo_dp.privacy.training import DPTraining

PIXELS = 50
LOUD = 100.0  # grey level of a canary's pixel: its gradient is far above the clipping norm


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
        audited_noise: Noise multiplier of the audited run, whatever its target was; that of the
            budget if not given.
    """

    def __init__(
        self, budget: PrivacyBudget, outputs: int, audited_noise: float | None = None
    ) -> None:
        super().__init__()
        self.net = nn.Linear(PIXELS, outputs, bias=False)
        self.audited_noise = audited_noise
        self.promise(budget, clipping_norm=0.5)  # not 1, or a forgotten norm would go unseen

    def setup(self, stage: str) -> None:
        """Takes the noise of the audited run."""
        super().setup(stage)
        if self.audited_noise is not None:
            self.noise_multiplier = self.audited_noise

    def losses(self, batch: CropBatch) -> Tensor:
        """Linear in the weights, so that a canary stays loud while they move."""
        outputs: Tensor = self.net(batch.image.float().flatten(1))
        return outputs.gather(1, batch.malignant[:, None]).squeeze(1)

    def configure_optimizers(self) -> PrivateOptimizer:
        """Plain SGD, whose update shows the noisy sum."""
        return self.privatise(SGD(self.parameters(), lr=0.25))


def fit_canaries(
    mechanism: Mechanism,
    inside: NDArray[np.bool_],
    *,
    unit: Unit,
    epsilon: float,
    delta: float,
    progress: bool = False,
) -> Scores:
    """Runs the training loop on the canaries that are inside, and scores all of them.

    Args:
        mechanism: Noise, sampling rate and steps.
        inside: Whether each canary takes part, shape ``(canaries,)``.
        unit: What is drawn.
        epsilon: As stated for the mechanism.
        delta: Of epsilon, below 1 over the number of canaries inside.
        progress: Whether to show a bar.

    Returns:
        Log-likelihood ratio of each canary, high for "inside", shape ``(canaries,)``.
    """
    observer = WhiteBoxObserver("net.weight")
    model = CanaryHead(
        PrivacyBudget(delta=delta, epsilon=epsilon),
        outputs=-(-len(inside) // PIXELS),
        audited_noise=mechanism.noise_multiplier,
    )
    rows_of = tuple((row,) for row in range(int(inside.sum())))
    sampling = PoissonSampling(unit=unit, rows_of=rows_of, rate=mechanism.sampling_rate)
    data = CanaryData(np.flatnonzero(inside), sampling, new_key())
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning advises workers for a table in memory
        lightning.Trainer(
            max_steps=mechanism.steps,
            accelerator="cpu",
            devices=1,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[observer],
        ).fit(model, data)
    scores = canary_scores(
        observer.products,
        noise_multiplier=mechanism.noise_multiplier,
        sampling_rate=mechanism.sampling_rate,
    )
    return scores[: len(inside)]


def _as_is(batch: CropBatch | list[Any]) -> CropBatch | list[Any]:
    """The batch that ``__getitems__`` made."""
    return batch
