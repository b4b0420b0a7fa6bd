# SPDX-License-Identifier: Apache-2.0
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F

from classifier.features import body_features
from classifier.module import CropClassifier, parameter_groups, total_steps, warmup_cosine
from classifier.predictions import read_predictions
from classifier.weights import WeightsError, state_sha256
from data_prep.datamodule import CropBatch, CropsDataModule
from data_prep.errors import LabelError, TrainingError
from data_prep.manifest import CropsManifest

pytestmark = pytest.mark.filterwarnings(
    # Lightning 2.6 reads a tree type that newer torch renames
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
    # a loader in the training process is what a test wants
    "ignore:The '.*' does not have many workers",
    r"ignore:The number of training batches \(\d+\) is smaller than the logging interval",
)

SMALL: dict[str, Any] = {
    "backbone_args": {"depth": 2, "embed_dim": 48, "num_heads": 3, "patch_size": 8},
    "image_size": 32,
    "warmup_steps": 2,
}
Make = Callable[..., CropsManifest]


def model(**changes: Any) -> CropClassifier:
    return CropClassifier(**SMALL | changes)


def trainer(folder: Path, **changes: Any) -> lightning.Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return lightning.Trainer(**settings | changes)


def data(cohort: CropsManifest, **changes: Any) -> CropsDataModule:
    settings: dict[str, Any] = {"batch_size": 6, "augment": "gan"}
    return CropsDataModule(str(cohort.folder), **settings | changes)


def batch(size: int = 4) -> CropBatch:
    image = torch.randn(size, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    row = torch.arange(size)
    return CropBatch(image, row % 2, row, row)


def test_loss_is_the_mean_binary_cross_entropy() -> None:
    net, some = model().eval(), batch()
    probability = torch.sigmoid(net(some.image))
    expected = torch.where(some.malignant == 1, -probability.log(), -(1 - probability).log())
    torch.testing.assert_close(net.losses(some), expected)
    assert net(some.image).shape == (4,)
    assert net.losses(batch(0)).shape == (0,)


@pytest.mark.parametrize("weight", [0.25, 3.0])
def test_class_weights_are_relative_and_let_no_gradient_grow(weight: float) -> None:
    net, plain, some = model(malignant_weight=weight), model(), batch()
    net.net.load_state_dict(plain.net.state_dict())
    logits = plain.eval()(some.image)
    positive = torch.tensor(weight)
    expected = F.binary_cross_entropy_with_logits(
        logits, some.malignant.float(), pos_weight=positive, reduction="none"
    ) / max(1.0, weight)
    torch.testing.assert_close(net.eval().losses(some), expected)
    assert (net.losses(some) <= plain.losses(some) + 1e-6).all()


def test_a_prior_moves_the_start_by_its_log_odds_and_never_a_loaded_model() -> None:
    lightning.seed_everything(0, verbose=False)
    plain = model()
    lightning.seed_everything(0, verbose=False)
    moved = model(prior=0.1)
    difference = moved.eval()(batch().image) - plain.eval()(batch().image)
    torch.testing.assert_close(difference, torch.full((4,), math.log(1 / 9)))


@pytest.mark.parametrize(
    "wrong", [{"malignant_weight": 0.0}, {"prior": 1.0}, {"prior": 0.0}, {"malignant_weight": -1.0}]
)
def test_wrong_class_constants_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weight above 0"):
        model(**wrong)


def test_descent_over_all_crops_is_gradient_descent_on_features_kept_once(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    settings = {"trainable": "head", "optimizer": "descent", "learning_rate": 0.5}
    net = model(**settings, weight_decay=0.0)
    crops = data(cohort, batch_size=1000, augment="none", image_size=32)
    rows = crops.train_rows
    features = body_features(
        net.net, torch.stack([crops.dataset(rows)[i].image for i in range(len(rows))])
    )
    malignant = torch.tensor([float(cohort.crops[row].malignant) for row in rows])
    weight, bias = (p.detach().clone() for p in net.net.get_submodule("head").parameters())
    for _ in range(3):
        error = torch.sigmoid(features @ weight[0] + bias) - malignant
        weight -= 0.5 * (error @ features)[None] / len(rows)
        bias -= 0.5 * error.mean()
    trainer(tmp_path, max_epochs=3).fit(net, crops)
    torch.testing.assert_close(net.net.get_parameter("head.weight").detach(), weight)
    torch.testing.assert_close(net.net.get_parameter("head.bias").detach(), bias)
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_features_are_not_kept_where_views_or_bodies_change(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    for changes, augment in (({"trainable": "head"}, "gan"), ({}, "none")):
        crops = data(cohort, augment=augment, image_size=32)
        trainer(tmp_path, max_steps=1).fit(model(**changes), crops)
        assert crops.train_dataset.features is None


def test_cached_views_pass_only_the_head_and_average_their_losses() -> None:
    net = model().eval()
    nn.init.normal_(net.net.get_parameter("head.weight"))
    one, two = batch().image, -batch().image
    cached = torch.stack([body_features(net.net, image) for image in (one, two)], 1)
    torch.testing.assert_close(net(cached), torch.stack([net(one), net(two)], 1))
    expected = (net.losses(batch()) + net.losses(batch()._replace(image=two))) / 2
    torch.testing.assert_close(net.losses(batch()._replace(image=cached)), expected)


def test_it_learns_bright_from_dim_discs(cohort: CropsManifest, tmp_path: Path) -> None:
    lightning.seed_everything(0, verbose=False)
    net, some = model(learning_rate=3e-3), data(cohort)
    run = trainer(tmp_path, max_epochs=8)
    run.fit(net, datamodule=some)
    assert run.callback_metrics["val_auroc"] > 0.9
    assert math.isfinite(run.callback_metrics["val_loss"])
    run.test(net, datamodule=some, verbose=False)
    predictions = read_predictions(tmp_path / "predictions.csv")
    assert predictions.row.tolist() == cohort.rows("val")
    for row, patient, label in zip(
        predictions.row, predictions.patient, predictions.malignant, strict=True
    ):
        crop = cohort.crops[row]
        assert label == crop.malignant
        assert patient == list(dict.fromkeys(c.patient_id for c in cohort.crops)).index(
            crop.patient_id
        )
    with torch.no_grad():
        dataset = some.evaluate_dataset
        logits = net.eval()(torch.stack([dataset[i].image for i in range(len(dataset))]))
    torch.testing.assert_close(
        torch.from_numpy(predictions.logit).float(), logits, atol=1e-5, rtol=0
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["auroc"]["value"] == pytest.approx(float(run.callback_metrics["test_auroc"]))
    assert (metrics["split"], metrics["crops"], metrics["patients"]) == ("val", len(dataset), 2)


def test_the_same_seed_gives_the_same_weights(cohort: CropsManifest, tmp_path: Path) -> None:
    def weights(seed: int) -> str:
        lightning.seed_everything(seed, verbose=False)
        net = model()
        trainer(tmp_path).fit(net, datamodule=data(cohort, augment="light"))
        return state_sha256(net.state_dict())

    assert weights(1) == weights(1)
    assert weights(1) != weights(2)


def test_a_checkpoint_restores_without_its_initial_weights(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    torch.save(model().net.state_dict(), tmp_path / "timm.pth")
    net = model(weights=str(tmp_path / "timm.pth"), trainable="last_blocks")
    assert net.initial_weights is not None
    assert net.initial_weights.loaded == len(net.net.state_dict())
    run = trainer(tmp_path)
    run.fit(net, datamodule=data(cohort))
    run.save_checkpoint(tmp_path / "last.ckpt")
    (tmp_path / "timm.pth").unlink()
    again = CropClassifier.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert state_sha256(again.state_dict()) == state_sha256(net.state_dict())
    assert again.initial_weights is None
    assert "weights" not in again.hparams
    assert again.hparams["trainable"] == "last_blocks"
    assert model(weights=str(tmp_path / "last.ckpt")).initial_weights is not None


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_fit_that_is_cut_off_and_goes_on_equals_a_whole_one(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    start = model().state_dict()

    class CutOff(lightning.Callback):
        def on_train_batch_start(self, trainer: lightning.Trainer, *_: object) -> None:
            if trainer.global_step == 2:
                raise InterruptedError

    def fit(*callbacks: lightning.Callback, checkpoint: Path | None = None) -> Tensor:
        net = model()
        net.load_state_dict(start)
        trainer(tmp_path, max_epochs=4, callbacks=[*callbacks], enable_checkpointing=True).fit(
            net,
            datamodule=data(cohort, augment="none", batch_size=64),
            ckpt_path=checkpoint,
            weights_only=True if checkpoint else None,
        )
        return nn.utils.parameters_to_vector(net.parameters())

    whole = fit(ModelCheckpoint(tmp_path / "whole"))
    with pytest.raises(InterruptedError):
        fit(ModelCheckpoint(tmp_path / "cut", filename="last"), CutOff())
    again = fit(ModelCheckpoint(tmp_path / "cut"), checkpoint=tmp_path / "cut" / "last.ckpt")
    torch.testing.assert_close(again, whole, atol=5e-5, rtol=0)  # crops come in other orders


def test_frozen_parts_do_not_move_and_stay_in_evaluation_mode(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    net = model(trainable="head")
    before = {key: value.clone() for key, value in net.net.state_dict().items()}
    trainer(tmp_path).fit(net, datamodule=data(cohort))
    changed = {k for k, v in net.net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"head.weight", "head.bias"}
    for _ in range(2):
        assert not net.net.get_submodule("blocks.1").training
        assert net.net.get_submodule("head").training
        net.eval().train()


def test_matrices_decay_and_vectors_and_embeddings_do_not() -> None:
    net = model(weight_decay=0.1)
    decayed, free = net.parameter_groups()
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    names = {parameter: name for name, parameter in net.net.named_parameters()}
    assert {names[p] for p in free["params"]} >= {"pos_embed", "cls_token", "norm.weight"}
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    net.net.requires_grad_(False)
    assert parameter_groups(net.net, 0.1) == []


def test_the_rate_rises_linearly_and_falls_along_a_cosine() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, 4, 20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [2 * min(1, (t + 1) / 4) * 0.5 * (1 + math.cos(math.pi * t / 20)) for t in range(20)]
    assert rates == pytest.approx(expected)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0)


def test_total_steps_come_from_the_trainer(cohort: CropsManifest, tmp_path: Path) -> None:
    assert total_steps(trainer(tmp_path, max_steps=7)) == 7
    seen = []

    class Watching(CropClassifier):
        def on_train_start(self) -> None:
            seen.append(total_steps(self.trainer))

    trainer(tmp_path, max_epochs=2).fit(Watching(**SMALL), datamodule=data(cohort))
    assert seen == [2 * math.ceil(len(cohort.rows("train")) / 6)]


@pytest.mark.filterwarnings("ignore:`max_epochs` was not set")
def test_a_fit_without_an_end_is_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="neither max_steps nor max_epochs"):
        trainer(tmp_path, max_epochs=-1).fit(model(), datamodule=data(cohort))


def test_a_synthetic_folder_trains_without_validation(make_cohort: Make, tmp_path: Path) -> None:
    run = trainer(tmp_path)
    run.fit(model(), datamodule=data(make_cohort(origin="phantom")))
    assert run.global_step > 0
    assert "val_auroc" not in run.callback_metrics


def test_a_split_with_one_class_has_no_auroc_and_cannot_be_tested(
    make_cohort: Make, tmp_path: Path
) -> None:
    cohort = make_cohort()
    crops = [crop for crop in cohort.crops if crop.split == "train" or crop.malignant]
    one = data(CropsManifest.write(cohort.folder, crops))
    run = trainer(tmp_path)
    net = model()
    run.fit(net, datamodule=one)
    assert "val_loss" in run.callback_metrics
    assert "val_auroc" not in run.callback_metrics
    with pytest.raises(LabelError, match="Both classes are needed"):
        run.test(net, datamodule=one, verbose=False)


def test_logits_that_are_not_finite_are_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    net = model()
    nn.init.constant_(net.net.get_parameter("head.bias"), math.nan)
    with pytest.raises(ValueError, match=r"not finite.*diverged"):
        trainer(tmp_path).test(net, datamodule=data(cohort), verbose=False)
    assert not (tmp_path / "predictions.csv").exists()


def test_predict_writes_scores_without_metrics(cohort: CropsManifest, tmp_path: Path) -> None:
    logits: Any = trainer(tmp_path).predict(model(), datamodule=data(cohort))
    found = read_predictions(tmp_path / "predictions.csv")
    assert sorted(found.logit) == pytest.approx(sorted(torch.cat(logits).tolist()))
    assert not (tmp_path / "metrics.json").exists()


def test_testing_on_several_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(Path())
    monkeypatch.setattr(lightning.Trainer, "world_size", 2)
    net = model()
    net.trainer = run
    with pytest.raises(ValueError, match="2 devices"):
        net.on_predict_start()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**changes)


def test_an_unreachable_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="cannot be fetched"):
        model(weights="hub")


def test_training_logs_its_loss(cohort: CropsManifest, tmp_path: Path) -> None:
    run, net = trainer(tmp_path, max_steps=1, max_epochs=-1), model(trainable="head")
    logits: list[Tensor] = []
    net.register_forward_hook(lambda _m, _i, out: logits.append(out.detach()))
    run.fit(net, datamodule=data(cohort, batch_size=64))
    labels = torch.tensor([float(cohort.crops[row].malignant) for row in cohort.rows("train")])
    flat = F.binary_cross_entropy_with_logits(torch.zeros_like(labels), labels)
    assert run.callback_metrics["train_loss"] == pytest.approx(float(flat), abs=0.1)
