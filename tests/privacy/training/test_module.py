import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    Callback,
    ModelCheckpoint,
)
from torch import nn

from classifier.backbones import head
from classifier.module import warmup_cosine
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.accounting.account import compose
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.classifier import DPCropClassifier
from mammo_dp.privacy.training.datamodule import DPCropsDataModule
from mammo_dp.privacy.training.optimizer import PrivateOptimizer
from mammo_dp.privacy.training.sampling import NOISE, draw, gaussian
from tests.privacy.training.fits import data, model, quiet, trainer

pytestmark = [
    *quiet,
    # It would rather save weights from before the step.
    pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization"),
    # The second trainer of a resumed run saves nothing.
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


def weights(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def fitted(
    cohort: CropsManifest,
    folder: Path,
    *,
    data_settings: dict[str, Any] | None = None,
    trainer_settings: dict[str, Any] | None = None,
    **model_settings: Any,
) -> DPCropClassifier:
    torch.manual_seed(0)
    net = model(**model_settings)
    module = data(cohort, **({"insecure_seed": 3} | (data_settings or {})))
    trainer(folder, **(trainer_settings or {})).fit(net, module)
    return net


def naive_dp_sgd(start: DPCropClassifier, module: DPCropsDataModule, steps: int) -> torch.Tensor:
    """DP-SGD per patient, line by line; returns the final weights."""
    net, sampling, key = start.net, module.sampling, 3
    params = list(net.parameters())
    images = torch.from_numpy(module.manifest.images(range(24)).astype(np.float32))
    images = images[:, None] / 65535 * 2 - 1
    optimizer = torch.optim.SGD(start.parameter_groups(), lr=start.learning_rate, momentum=0.9)
    schedule = warmup_cosine(optimizer, start.warmup_steps, steps)
    in_order = [p for group in optimizer.param_groups for p in group["params"]]
    for step in range(steps):
        total = {p: torch.zeros_like(p) for p in params}
        for unit in sampling.sample(key, step):
            rows = sampling.rows_of[unit]
            mean = [torch.zeros_like(p) for p in params]
            for row in rows:
                target = torch.tensor([float(module.manifest.crops[row].malignant)])
                logit = net(images[row][None]).squeeze(-1)
                loss = nn.functional.binary_cross_entropy_with_logits(logit, target)
                for part, grad in zip(mean, torch.autograd.grad(loss, params), strict=True):
                    part += grad / len(rows)
            norm = math.sqrt(sum(float(part.double().square().sum()) for part in mean))
            for p, part in zip(params, mean, strict=True):
                total[p] += part * min(1.0, start.clipping_norm / norm)
        scale = start.noise_multiplier * start.clipping_norm
        for index, p in enumerate(in_order):
            z = torch.from_numpy(gaussian(draw(key, step, NOISE, index), tuple(p.shape))).float()
            p.grad = (total[p] + scale * z) / (sampling.rate * len(sampling.rows_of))
        optimizer.step()
        schedule.step()
    return weights(net)


def test_matches_plain_patient_dp_sgd_loop(cohort: CropsManifest, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "clipping_norm": 0.4,
        "warmup_steps": 2,
    }
    net = fitted(cohort, tmp_path, **settings)
    torch.manual_seed(0)
    start = model(**settings)
    assert not torch.allclose(weights(start), weights(net), atol=1e-3)
    start.noise_multiplier = net.noise_multiplier
    module = data(cohort)
    drawn = [len(module.sampling.sample(3, step)) for step in range(4)]
    assert sum(drawn) > 4
    expected = naive_dp_sgd(start, module, steps=4)
    assert torch.allclose(weights(net), expected, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # functorch under Opacus' hooks
@pytest.mark.parametrize("trainable", ["all", "last_blocks", "norm_bias", "lora", "head"])
def test_speed_settings_do_not_change_weights(
    cohort: CropsManifest, tmp_path: Path, trainable: str
) -> None:
    variants: tuple[dict[str, Any], ...] = (
        {"gradient_method": "loop"},
        {"gradient_method": "loop", "max_physical_batch": 1},
        {"gradient_method": "opacus"},
        {"gradient_method": "opacus", "max_physical_batch": 3},
        {"gradient_method": "book_keeping"},
        {"gradient_method": "book_keeping", "max_physical_batch": 3},
        {"data_settings": {"num_workers": 1}},
    )
    found = [
        weights(fitted(cohort, tmp_path / str(i), trainable=trainable, **settings).net)
        for i, settings in enumerate(variants)
    ]
    for other in found[1:]:
        assert torch.allclose(found[0], other, rtol=0, atol=1e-6)


def test_noise_and_draws_differ_between_runs_unless_a_seed_is_forced(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    one, two = (
        weights(fitted(cohort, tmp_path / str(i), data_settings={"insecure_seed": None}).net)
        for i in range(2)
    )
    assert not torch.allclose(one, two, atol=1e-3)


def test_empty_draw_is_a_noisy_accounted_step(cohort: CropsManifest, tmp_path: Path) -> None:
    moved: list[float] = []

    class Watch(Callback):
        def on_train_batch_start(self, *arguments: Any) -> None:
            assert len(arguments[2].row) == 0
            self.before = weights(net.net)

        def on_train_batch_end(self, *_: Any) -> None:
            moved.append(float((weights(net.net) - self.before).abs().max()))

    net = model(trainable="head")
    run = trainer(tmp_path, max_steps=8, callbacks=[Watch()])
    run.fit(net, data(cohort, rate=1e-9))
    assert run.global_step == net.accounted_steps == 8
    assert all(change > 0 for change in moved[:7])  # the cosine ends at 0


def test_every_trainable_parameter_gets_noise_even_if_unused(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    net = model(trainable="head")
    net.net.unused = nn.Parameter(torch.zeros(50))
    trainer(tmp_path).fit(net, data(cohort))
    assert net.method == "loop"
    assert (net.net.unused != 0).all()


def test_account_follows_the_steps_that_ran(cohort: CropsManifest, tmp_path: Path) -> None:
    net = fitted(cohort, tmp_path, trainable="head", data_settings={"insecure_seed": None})
    assert net.mechanisms == net.executed
    (mechanism,) = net.mechanisms
    assert (mechanism.steps, mechanism.sampling_rate) == (4, 0.5)
    assert mechanism.noise_multiplier == net.noise_multiplier
    assert net.spent_epsilon == compose([mechanism]).epsilon(1e-3)
    assert 0.99 * 8 < net.spent_epsilon <= 8
    assert model().spent_epsilon == 0


def test_steps_beyond_the_budget_are_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    net = model(trainable="head")
    run = trainer(tmp_path)
    run.fit(net, data(cohort))
    with pytest.raises(PrivacyError, match=r"the 4 steps .* are spent"):
        net.training_step(None, 0)  # type: ignore[arg-type]
    with pytest.raises(PrivacyError, match=r"the 4 steps .* are spent"):
        net._account_step()
    assert net.accounted_steps == 4


class PowerCutError(Exception):
    pass


class Cut(Callback):
    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.after:
            raise PowerCutError


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["all", "head"])
def test_resume_continues_the_account_with_fresh_noise(
    cohort: CropsManifest, tmp_path: Path, trainable: str
) -> None:
    settings: dict[str, Any] = {"trainable": trainable, "ema_decay": 0.9}
    whole = fitted(cohort, tmp_path / "whole", trainer_settings={"max_steps": 9}, **settings)

    def keep(folder: Path) -> ModelCheckpoint:
        return ModelCheckpoint(folder, filename="resume", every_n_train_steps=3)

    def resumed(name: str, seed: int | None) -> DPCropClassifier:
        torch.manual_seed(0)
        folder = tmp_path / name
        common: dict[str, Any] = {"max_steps": 9, "enable_checkpointing": True}
        first = trainer(folder, callbacks=[keep(folder), Cut(after=7)], **common)
        with pytest.raises(PowerCutError):
            first.fit(model(**settings), data(cohort, insecure_seed=seed))
        saved = torch.load(folder / "resume.ckpt", weights_only=True)
        assert sum(steps for _, _, steps in saved["accountant"]["history"]) == 6
        net = model(**settings)
        second = trainer(folder, callbacks=[Watch()], **common)
        second.fit(net, data(cohort, insecure_seed=seed), ckpt_path=folder / "resume.ckpt")
        assert second.global_step == 9
        assert seen.pop() == 3
        return net

    seen: list[int] = []

    class Watch(Callback):
        def on_train_start(self, *_: Any) -> None:
            seen.append(0)

        def on_train_batch_end(self, *_: Any) -> None:
            seen[-1] += 1

    same = resumed("same", seed=3)
    assert same.executed == whole.executed
    assert same.spent_epsilon == whole.spent_epsilon == math.inf  # of a fixed seed
    assert torch.allclose(weights(same.net), weights(whole.net), rtol=0, atol=1e-6)
    fresh = resumed("fresh", seed=None)
    assert fresh.executed == whole.executed
    assert not torch.allclose(weights(fresh.net), weights(whole.net), atol=1e-4)


def test_an_account_under_other_settings_is_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(model(trainable="head"), data(cohort))
    run.save_checkpoint(tmp_path / "end.ckpt")
    other = model(trainable="head", target_epsilon=2.0)
    with pytest.raises(PrivacyError, match="account: 4 steps ran with noise multiplier"):
        trainer(tmp_path, max_steps=8).fit(other, data(cohort), ckpt_path=tmp_path / "end.ckpt")


def test_checkpoints_release_the_average_and_keep_the_last_weights_beside_it(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    path: list[torch.Tensor] = []

    class Watch(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            path.append(head(net.net).weight.detach().clone())

    torch.manual_seed(0)
    net = model(trainable="head", ema_decay=0.5)
    average = head(net.net).weight.detach().clone()
    keep = ModelCheckpoint(tmp_path, filename="mid", every_n_train_steps=3)
    run = trainer(tmp_path, callbacks=[keep, Watch()], enable_checkpointing=True)
    run.fit(net, data(cohort))
    averages = []
    for step, now in enumerate(path):
        decay = min(0.5, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * now
        averages.append(average)
    assert torch.allclose(head(net.net).weight, averages[3], atol=1e-6)
    run.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert torch.allclose(last["state_dict"]["net.head.weight"], averages[3], atol=1e-6)
    assert "last_weights" not in last
    mid = torch.load(tmp_path / "mid.ckpt", weights_only=True)
    assert torch.allclose(mid["state_dict"]["net.head.weight"], averages[2], atol=1e-6)
    assert torch.equal(mid["last_weights"]["net.head.weight"], path[2])
    restored = DPCropClassifier.load_from_checkpoint(tmp_path / "mid.ckpt")
    assert torch.allclose(head(restored.net).weight, averages[2], atol=1e-6)
    assert restored.accounted_steps == 3
    assert restored.hparams["target_epsilon"] == 8.0


SWIN: dict[str, Any] = {
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_args": {
        "patch_size": 4,
        "window_size": 4,
        "embed_dim": 8,
        "depths": (1, 2),
        "num_heads": (1, 2),
        "drop_path_rate": 0.0,
    },
}


@pytest.mark.parametrize("trainable", ["all", "last_blocks", "norm_bias", "lora"])
def test_swin_trains_by_book_keeping_as_by_the_loop(
    cohort: CropsManifest, tmp_path: Path, trainable: str
) -> None:
    fast = fitted(cohort, tmp_path / "a", trainable=trainable, views=2, **SWIN)
    slow = fitted(
        cohort, tmp_path / "b", trainable=trainable, views=2, gradient_method="loop", **SWIN
    )
    assert (fast.method, slow.method) == ("book_keeping", "loop")
    assert torch.allclose(weights(fast.net), weights(slow.net), rtol=0, atol=1e-6)


def test_a_model_without_rules_falls_back_to_the_loop(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    body: dict[str, Any] = {
        "backbone": "cait_xxs24_224",
        "backbone_args": {"depth": 1, "embed_dim": 8},
    }
    net = fitted(cohort, tmp_path, **body, trainable="all")
    assert net.method == "loop"
    assert net.accounted_steps == 4


def test_automatic_clipping_trains_and_says_so(cohort: CropsManifest, tmp_path: Path) -> None:
    flat = fitted(cohort, tmp_path / "a", trainable="head", clipping_norm=1e-3)
    automatic = fitted(
        cohort, tmp_path / "b", trainable="head", clipping_norm=1e-3, clipping="automatic"
    )
    assert automatic.executed == flat.executed
    assert automatic.hparams["clipping"] == "automatic"
    assert not torch.equal(weights(flat.net), weights(automatic.net))


@pytest.mark.slow
def test_mixed_precision_accounts_the_same_and_keeps_weights_whole(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    net = fitted(cohort, tmp_path, trainer_settings={"precision": "bf16-mixed"})
    exact = fitted(cohort, tmp_path / "32")
    assert net.executed == exact.executed
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert not torch.equal(weights(net.net), weights(exact.net))
    assert float((weights(net.net) - weights(exact.net)).abs().max()) < 0.05


def test_nothing_private_is_logged(cohort: CropsManifest, tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(model(trainable="head"), data(cohort))
    assert run.logged_metrics == run.callback_metrics == {}


def test_a_fit_that_broke_leaves_no_hooks_behind(cohort: CropsManifest, tmp_path: Path) -> None:
    net = model(trainable="head", gradient_method="opacus")
    with pytest.raises(PowerCutError):
        trainer(tmp_path, callbacks=[Cut(after=1)]).fit(net, data(cohort))
    net.accountant.history.clear()
    trainer(tmp_path).fit(net, data(cohort))
    assert net.accounted_steps == 4
    assert isinstance(net.trainer.optimizers[0], PrivateOptimizer)
