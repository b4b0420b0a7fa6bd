# SPDX-License-Identifier: Apache-2.0
"""What a private fit refuses, before it looks at a patient."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from classifier.module import CropClassifier
from data_prep.datamodule import CropItem, CropsDataModule
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.datamodule import DPCropsDataModule
from mammo_dp.privacy.training.gradients.units import Clip
from mammo_dp.privacy.training.optimizer import PrivateOptimizer
from tests.privacy.training.fits import BODY, data, model, quiet, trainer

pytestmark = quiet


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": -1, "max_epochs": 1}, "max_steps=-1"),
        ({"precision": "bf16-true"}, "precision=bf16-true"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2"),
        ({"gradient_clip_val": 1.0}, "gradient_clip_val=1.0"),
        ({"max_time": "00:00:01:00"}, "max_time: how far a fit comes within a time depends"),
        ({"callbacks": [StochasticWeightAveraging(0.1)]}, "StochasticWeightAveraging: .*tunes by"),
    ],
)
def test_settings_that_break_the_guarantee_are_refused_before_compute(
    cohort: CropsManifest, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(PrivacyError, match=message):
        trainer(tmp_path, **settings).fit(model(), data(cohort))


@pytest.mark.parametrize(
    ("devices", "chosen"),
    [(1, "ddp"), (2, "ddp"), (2, "ddp_find_unused_parameters_true"), (2, "auto")],
)
def test_strategies_without_privacy_are_refused_with_reason_and_remedy(
    cohort: CropsManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: int,
    chosen: str,
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")  # Lightning then starts no further process
    run = trainer(tmp_path, devices=devices, strategy=chosen)
    reason = rf"DDPStrategy on {devices} device.s.: .*raw gradients .*--trainer.strategy dp_ddp"
    with pytest.raises(PrivacyError, match=reason):
        run.fit(model(), data(cohort))


def test_batch_norm_is_refused_by_layer_name(cohort: CropsManifest, tmp_path: Path) -> None:
    net = model()
    net.net.norm = nn.Sequential(nn.BatchNorm1d(17), nn.LayerNorm(12))
    net.net.blocks = nn.Sequential(nn.Identity(), nn.BatchNorm1d(17))
    with pytest.raises(PrivacyError, match=r"blocks.1 \(BatchNorm1d\), norm.0 \(BatchNorm1d\)"):
        trainer(tmp_path).fit(net, data(cohort))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"proj_drop_rate": 0.1}, r"blocks.0.attn.proj_drop \(Dropout\)"),
        ({"attn_drop_rate": 0.1}, r"blocks.0.attn.attn_drop \(Dropout\)"),
    ],
)
def test_dropout_under_a_public_seed_is_refused_by_layer_name(
    cohort: CropsManifest, tmp_path: Path, body: dict[str, Any], named: str
) -> None:
    net = model(backbone_args=BODY["backbone_args"] | body)
    with pytest.raises(PrivacyError, match=named + ".*: random numbers come in turn"):
        trainer(tmp_path).fit(net, data(cohort))
    frozen = model(backbone_args=BODY["backbone_args"] | body, trainable="head")
    trainer(tmp_path, max_steps=1).fit(frozen, data(cohort))


def test_delta_of_one_over_patients_is_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"delta=0.25 is not below 1/4"):
        trainer(tmp_path).fit(model(delta=0.25), data(cohort))


def test_data_without_units_are_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="CropsDataModule does not sample units"):
        trainer(tmp_path).fit(model(), CropsDataModule(str(cohort.folder)))


def test_a_loader_that_is_not_accounted_is_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    class Shuffled(DPCropsDataModule):
        def train_dataloader(self) -> DataLoader[CropItem]:
            return CropsDataModule.train_dataloader(self)

    with pytest.raises(PrivacyError, match="not the one that is accounted"):
        trainer(tmp_path).fit(model(), Shuffled(str(cohort.folder)))


@pytest.mark.parametrize(
    "change",
    [
        {"clipping_norm": 0.0},
        {"clipping_norm": math.inf},
        {"ema_decay": 1.0},
        {"gradient_method": "ghost"},
        {"clipping": "none"},
        {"max_physical_batch": 0},
        {"views": 0},
        {"target_epsilon": 0.0},
    ],
)
def test_impossible_promises_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(PrivacyError, match=next(iter(change)).removeprefix("target_")):
        model(**change)


class ChosenKey(DPCropsDataModule):
    """Takes a number of its own, for repeatable runs."""

    chosen = 2026

    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.key = self.chosen


@pytest.mark.parametrize("key", [2026, 2**255 + 12345])
def test_a_key_that_somebody_chose_is_refused(
    cohort: CropsManifest, tmp_path: Path, key: int
) -> None:
    crops = ChosenKey(str(cohort.folder), rate=0.5, augment="none")
    crops.chosen = key
    with pytest.raises(PrivacyError, match="ChosenKey sets a key that was not drawn for this fit"):
        trainer(tmp_path).fit(model(), crops)


class Changes(Callback):
    """Changes something after the first step."""

    def __init__(self, change: Callable[[Any, Any], None]) -> None:
        self.change = change

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.change(pl_module, trainer)


def smaller_rate(trainer: Trainer) -> None:
    crops = trainer.datamodule  # type: ignore[attr-defined]
    crops.__dict__["sampling"] = replace(crops.sampling, rate=0.001)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net, _: setattr(net, "noise_multiplier", 100.0), "noise_multiplier changed"),
        (lambda net, _: setattr(net, "clipping_norm", 0.1), "clipping_norm, clip changed"),
        (lambda net, _: setattr(net, "clip", Clip(norm=1000.0)), "clip changed"),
        (lambda _, trainer: smaller_rate(trainer), "sampling, expected_units changed"),
        (lambda net, _: setattr(net.optimizers().optimizer, "noise_multiplier", 0), "noise_mult"),
        (lambda net, _: setattr(net, "clipped_sums", object()), "clipped_sums changed"),
    ],
)
def test_what_a_step_does_and_what_is_accounted_cannot_come_apart(
    cohort: CropsManifest, tmp_path: Path, change: Callable[[Any, Any], None], message: str
) -> None:
    net = model(trainable="head")
    with pytest.raises(PrivacyError, match=f"account: {message}"):
        trainer(tmp_path, callbacks=[Changes(change)]).fit(net, data(cohort))
    assert net.accounted_steps == 1


def test_a_fit_resumes_from_nothing_that_has_no_account(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    run = trainer(tmp_path, max_steps=2)
    run.fit(CropClassifier(**BODY), CropsDataModule(str(cohort.folder)))
    run.save_checkpoint(tmp_path / "bare.ckpt")
    with pytest.raises(PrivacyError, match="the checkpoint has none, so its steps would count"):
        trainer(tmp_path).fit(model(), data(cohort), ckpt_path=tmp_path / "bare.ckpt")


class OnceSetUp(DPCropsDataModule):
    """Prepares its crops once, as Lightning's examples do, and with them its key."""

    def setup(self, stage: str) -> None:
        if not hasattr(self, "key"):
            super().setup(stage)


def test_two_fits_never_share_a_key(cohort: CropsManifest, tmp_path: Path) -> None:
    """With one key, twice the second step less the first would be the exact sums."""
    crops = OnceSetUp(str(cohort.folder), rate=0.5, augment="none")
    trainer(tmp_path).fit(model(trainable="head"), crops)
    with pytest.raises(PrivacyError, match="or an earlier fit under it, can remove the noise"):
        trainer(tmp_path).fit(model(trainable="head"), crops)


@pytest.mark.parametrize("settings", [{}, {"max_epochs": 9}])
def test_a_trainer_goes_on_where_the_account_ends(
    cohort: CropsManifest, tmp_path: Path, settings: dict[str, Any]
) -> None:
    net = model(trainable="head")
    trainer(tmp_path).fit(net, data(cohort))
    with pytest.raises(PrivacyError, match="holds 4 steps, and the trainer begins at 0"):
        trainer(tmp_path, **settings).fit(net, data(cohort))
    assert net.accounted_steps == 4


def test_an_account_does_not_go_back(cohort: CropsManifest, tmp_path: Path) -> None:
    """Steps after a checkpoint were taken, and by this module."""
    net, first = model(trainable="head"), trainer(tmp_path, max_steps=4)
    early = Changes(lambda _, run: run.save_checkpoint(tmp_path / f"{run.global_step}.ckpt"))
    first.callbacks.append(early)  # type: ignore[attr-defined]
    first.fit(net, data(cohort))
    with pytest.raises(PrivacyError, match="holds 4 steps, and that of the checkpoint 2"):
        trainer(tmp_path).fit(net, data(cohort), ckpt_path=tmp_path / "2.ckpt")
    assert net.accounted_steps == 4


def test_an_account_is_not_dropped(cohort: CropsManifest, tmp_path: Path) -> None:
    net = model(trainable="head")
    trainer(tmp_path).fit(net, data(cohort))
    with pytest.raises(PrivacyError, match="holds 4 steps, which configure_privacy would drop"):
        net.configure_privacy(net.budget, clipping_norm=1.0)


def test_a_fixed_seed_stays_with_the_account(cohort: CropsManifest, tmp_path: Path) -> None:
    net = model(trainable="head")
    first = trainer(tmp_path)
    first.fit(net, data(cohort, insecure_seed=1))
    first.save_checkpoint(tmp_path / "seeded.ckpt")
    trainer(tmp_path).validate(net, data(cohort), verbose=False)
    loaded = type(net).load_from_checkpoint(tmp_path / "seeded.ckpt", weights_only=True)
    for one in (net, copy.deepcopy(net), loaded):
        assert one.accounted_steps == sum(part.steps for part in one.executed) == 4
        assert one.spent_epsilon == math.inf
        with pytest.raises(PrivacyError, match=r"of a fixed seed, .* So epsilon is infinite"):
            _ = one.mechanisms
    rest = model(trainable="head")
    trainer(tmp_path, max_steps=4).fit(rest, data(cohort), ckpt_path=tmp_path / "seeded.ckpt")
    assert rest.spent_epsilon == math.inf


class NoNoise(PrivateOptimizer):
    def add_noise(self) -> None:
        self.account()
        for p in self.params:
            p.grad, p.summed_grad = p.summed_grad, None


def without_noise(optimizer: PrivateOptimizer) -> None:
    optimizer.__class__ = NoNoise


def noise_of_its_own(optimizer: PrivateOptimizer) -> None:
    optimizer.add_noise = lambda: None  # type: ignore[method-assign]


def another_key(optimizer: PrivateOptimizer) -> None:
    optimizer.key = 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_noise, "the first optimizer, a NoNoise, does not step as"),
        (noise_of_its_own, "the first optimizer, a PrivateOptimizer, does not step as"),
        (another_key, "key changed"),
    ],
)
def test_what_adds_noise_is_what_is_accounted(
    cohort: CropsManifest,
    tmp_path: Path,
    change: Callable[[PrivateOptimizer], None],
    message: str,
) -> None:
    net = model(trainable="head")
    after = Changes(lambda net, _: change(net.optimizers().optimizer))
    with pytest.raises(PrivacyError, match=f"account: {message}"):
        trainer(tmp_path, callbacks=[after]).fit(net, data(cohort))
    assert net.accounted_steps == 1
