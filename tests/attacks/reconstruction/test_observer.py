from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from scipy.stats import norm

from classifier.backbones import head
from data_prep.datamodule import CropBatch
from data_prep.manifest import CropsManifest
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.reconstruction.lists import CandidateScores
from mammo_dp.attacks.reconstruction.observer import CandidateObserver, HeadPatients
from mammo_dp.privacy.training.classifier import DPCropClassifier
from tests.privacy.training.fits import data, model, quiet, trainer

pytestmark = quiet
Vector = NDArray[np.float64]
CLIP, RATE, STEPS = 0.2, 0.5, 4
BENIGN_WEIGHT = 0.5  # beside 1 of malignant crops


class Diary(Callback):
    def __init__(self) -> None:
        self.steps: list[tuple[Vector, float, Vector, set[int]]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, DPCropClassifier)
        self.layer = head(pl_module.net)
        private: Any = trainer.optimizers[0]
        private.original_optimizer.register_step_pre_hook(self.note)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: CropBatch, batch_idx: int
    ) -> None:
        self.drawn = set(batch.unit.tolist())

    def note(self, *arguments: Any) -> None:
        weight, bias = self.layer.weight, self.layer.bias
        assert weight.grad is not None
        assert bias.grad is not None
        noisy = torch.cat([weight.grad.flatten(), bias.grad])
        parts = (
            weight[0].detach().numpy().astype(float),
            float(bias.detach()),
            noisy.numpy().astype(float),
        )
        self.steps.append((*parts, self.drawn))


def slow_gradient(patients: HeadPatients, who: int, weight: Vector, bias: float) -> Vector:
    own = np.flatnonzero(patients.patient.numpy() == who)
    rows = []
    for crop in own:
        for view in patients.features[crop].double().numpy():
            probability = 1 / (1 + np.exp(-(view @ weight + bias)))
            error = probability - float(patients.malignant[crop])
            weight_of_class = 1.0 if patients.malignant[crop] else BENIGN_WEIGHT
            rows.append(weight_of_class * error * np.append(view, 1.0))
    mean = np.mean(rows, axis=0)
    return np.asarray(mean * min(1.0, CLIP / float(np.linalg.norm(mean))))


def log_ratio(left: Vector, gradient: Vector, sigma: float) -> float:
    deviation = sigma * CLIP
    absent = norm.logpdf(left, 0, deviation).sum()
    present = norm.logpdf(left, gradient, deviation).sum()
    return float(np.logaddexp(np.log(1 - RATE), np.log(RATE) + present - absent))


def test_scores_are_those_of_a_loop_over_steps_targets_and_candidates(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    settings = {"views": 2, "clipping_norm": CLIP, "target_epsilon": 3.0}
    module = model(trainable="head", malignant_weight=1 / BENIGN_WEIGHT, **settings)
    observer, diary = CandidateObserver(cohort), Diary()
    crops = data(cohort, rate=RATE, insecure_seed=4, augment="light")
    fit = trainer(tmp_path, max_steps=STEPS, callbacks=[observer, diary])
    fit.fit(module, crops)
    sigma, members, others = module.noise_multiplier, observer.members, observer.others
    units = np.unique([u for *_, drawn in diary.steps for u in drawn])
    assert len(units) == 4  # each target is drawn at least once
    own, lists, outsiders = np.zeros(4), np.zeros((4, 2)), np.zeros(2)
    for weight, bias, noisy, drawn in diary.steps:
        gradients = [slow_gradient(members, who, weight, bias) for who in range(4)]
        foreign = [slow_gradient(others, who, weight, bias) for who in range(2)]
        total = noisy * crops.sampling.expected_units
        everyone = total - sum(gradients[who] for who in range(4) if units[who] in drawn)
        outsiders += [log_ratio(everyone, gradient, sigma) for gradient in foreign]
        for who in range(4):
            left = everyone + gradients[who] if units[who] in drawn else everyone
            own[who] += log_ratio(left, gradients[who], sigma)
            lists[who] += [log_ratio(left, gradient, sigma) for gradient in foreign]
    np.testing.assert_allclose(observer.scores.targets, own, atol=1e-3)
    np.testing.assert_allclose(observer.scores.lists, lists, atol=1e-3)
    np.testing.assert_allclose(observer.scores.outsiders, outsiders, atol=1e-3)


def observed(cohort: CropsManifest, folder: Path, **settings: Any) -> CandidateScores:
    observer = CandidateObserver(cohort)
    module = model(trainable="head", clipping_norm=CLIP, **settings)
    crops = data(cohort, rate=1.0, insecure_seed=0)
    trainer(folder, max_steps=STEPS, callbacks=[observer]).fit(module, crops)
    return observer.scores


def test_a_fit_with_hardly_any_noise_gives_every_patient_away(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    assert observed(cohort, tmp_path, target_epsilon=1e6).named.all()


def test_scores_of_a_very_private_fit_are_about_nothing(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    scores = observed(cohort, tmp_path, target_epsilon=0.01)
    assert np.abs(scores.targets).max() < 0.1


def test_what_has_no_signals_is_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    observer = CandidateObserver(cohort)
    with pytest.raises(AttackError, match=r"has no signals. Fit it with this callback"):
        _ = observer.scores
    module = model(trainable="head", cache_features=False)
    with pytest.raises(AttackError, match="no private fit of a head over cached features"):
        trainer(tmp_path, callbacks=[observer]).fit(module, data(cohort))


def test_a_list_without_the_target_or_without_others_is_refused(cohort: CropsManifest) -> None:
    with pytest.raises(AttackError, match="the target is not on the list"):
        CandidateObserver(cohort, ("val",))
    with pytest.raises(AttackError, match="0 crops of others"):
        CandidateObserver(cohort, ("train",))
