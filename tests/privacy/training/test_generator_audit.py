"""A canary patient is in or out of private steps of ``DPMCGAN``: what is released may not tell."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import SGD, Optimizer

from data_prep.datamodule import CropBatch
from data_prep.manifest import CropsManifest
from mammo_dp.attacks.lower_bounds import many_run
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.budget import PrivacyBudget
from mammo_dp.privacy.training import optimizer as noise
from mammo_dp.privacy.training.generator import CLASSES, DPMCGAN
from mammo_dp.privacy.training.sampling import noisy
from tests.privacy.training.fits import data, quiet, trainer

pytestmark = quiet

SIGMA, DELTA, STEPS = 2.0, 1e-3, 72
CANARY = 0
# Each step is a trial in which she was drawn or not: a Gaussian mechanism without sampling.
STATED = compose([Mechanism(noise_multiplier=SIGMA, sampling_rate=1.0, steps=1)]).epsilon(DELTA)


class Audited(DPMCGAN):
    """The canary is loud and the others are silent; what is public is the same in each step."""

    def losses(self, batch: CropBatch) -> Tensor:
        return super().losses(batch) * torch.where(batch.unit == CANARY, 1e3, 1e-6)

    def configure_optimizers(self) -> list[Optimizer]:
        judge = SGD([p for p in self.net.parameters() if p.requires_grad], lr=1e-3)
        return [self.privatise(judge), SGD(self.generator.parameters(), lr=1.0)]

    def _public_rng(self, stream: int) -> torch.Generator:
        return torch.Generator().manual_seed(stream)


@dataclass
class Trials(Callback):
    """Each step starts from the same weights; keeps what could be released after it."""

    drawn: list[bool] = field(default_factory=list)
    logits: list[float] = field(default_factory=list)
    pictures: list[NDArray[np.float64]] = field(default_factory=list)

    def on_train_start(self, run: Trainer, net: LightningModule) -> None:
        self.start = deepcopy(net.state_dict())
        crops = run.datamodule.train_dataset  # type: ignore[attr-defined]
        self.canary: CropBatch = crops.__getitems__(run.datamodule.sampling.rows_of[CANARY])  # type: ignore[attr-defined]

    def on_train_batch_start(
        self, run: Trainer, net: LightningModule, batch: CropBatch, batch_idx: int
    ) -> None:
        net.load_state_dict(self.start)
        self.drawn.append(CANARY in batch.unit)

    @torch.no_grad()
    def on_train_batch_end(self, run: Trainer, net: LightningModule, *_: object) -> None:
        assert isinstance(net, DPMCGAN)
        asked = CLASSES.of_classes(self.canary.malignant)
        self.logits.append(float(net.discriminator(self.canary.image, asked).mean()))
        crops = net._fakes(torch.Generator().manual_seed(0), net.fakes)[-1]
        self.pictures.append(crops.flatten().double().numpy())


@pytest.fixture
def trials(
    make_cohort: Callable[..., CropsManifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[float], Trials]:
    cohort = make_cohort(patients=6, crops=12)

    @cache
    def run(factor: float) -> Trials:
        monkeypatch.setattr(PrivacyBudget, "noise_multiplier", lambda *_, **__: SIGMA)
        monkeypatch.setattr(noise, "noisy", lambda exact, by, of: noisy(exact, factor * by, of))
        torch.manual_seed(0)
        net = Audited(
            target_epsilon=STATED,
            delta=DELTA,
            image_size=16,
            channels=1,
            latent=2,
            public_size=32,
            stages=[1],
            fakes=2,
            augmentations="",
            clipping_norm=1.0,
            diversity=0.0,
            sample_every_steps=STEPS,
        )
        seen = Trials()
        module = data(cohort, image_size=16, rate=0.5, insecure_seed=3)
        trainer(tmp_path, max_steps=STEPS, callbacks=[seen]).fit(net, module)
        return seen

    return run


def bounds(found: Trials, without_noise: Trials) -> dict[str, float]:
    """Epsilon that the released networks refute, to an attacker who knows all but who was drawn."""
    drawn, pictures = np.array(found.drawn), np.array(found.pictures)
    clean, present = np.array(without_noise.pictures), np.array(without_noise.drawn)
    direction = clean[present].mean(0) - clean[~present].mean(0)
    scores = {
        "discriminator": np.array(found.logits),
        "generator": pictures @ (direction / np.linalg.norm(direction)),
    }
    return {
        name: many_run(score[drawn], score[~drawn], delta=DELTA, allowed=(0,)).epsilon
        for name, score in scores.items()
    }


@pytest.mark.slow
def test_what_is_released_stays_below_the_stated_epsilon_and_betrays_missing_noise(
    trials: Callable[[float], Trials],
) -> None:
    silent = trials(0.0)
    assert 24 < sum(silent.drawn) < 48
    assert max(bounds(trials(1.0), silent).values()) <= STATED
    assert min(bounds(silent, silent).values()) > STATED
