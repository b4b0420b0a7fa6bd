# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from classifier.backbones import head
from classifier.features import body_features
from classifier.module import CropClassifier
from classifier.pretraining import CropPretraining
from classifier.weights import state_sha256
from data_prep.datamodule import CropsDataModule
from data_prep.descriptors.targets import COUNT, describe
from data_prep.manifest import CropsManifest
from tests.classifier.test_module import data, trainer

pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",  # lightning 2.6
    "ignore:The '.*' does not have many workers",
    r"ignore:The number of training batches \(\d+\) is smaller than the logging interval",
    "ignore:Checkpoint directory .* exists and is not empty",
)

BODY: dict[str, Any] = {
    "backbone_args": {
        "depth": 1,
        "embed_dim": 96,
        "num_heads": 3,
        "patch_size": 8,
        "global_pool": "avg",
        "class_token": False,
        "fc_norm": False,
    },
    "image_size": 32,
    "warmup_steps": 2,
}
Make = Callable[..., CropsManifest]


def pretraining(**changes: Any) -> CropPretraining:
    lightning.seed_everything(0, verbose=False)
    return CropPretraining(**BODY | changes)


def crops_of(some: CropsDataModule) -> torch.Tensor:
    dataset = some.dataset(some.train_rows)
    return torch.stack([dataset[i].image for i in range(len(dataset))])


@pytest.fixture
def phantoms(make_cohort: Make) -> CropsManifest:
    return make_cohort(origin="phantom")


def test_features_learn_to_measure(phantoms: CropsManifest, tmp_path: Path) -> None:
    some = data(phantoms, augment="none")
    image = crops_of(some)
    wanted = describe(image)
    wanted = (wanted - wanted.mean(0)) / wanted.std(0)

    def error(net: CropPretraining) -> float:
        return float((body_features(net.net, image)[:, :COUNT] - wanted).square().mean())

    net = pretraining(standardise=False, learning_rate=3e-3)
    before = error(net)
    run = trainer(tmp_path, max_epochs=12)
    run.fit(net, datamodule=some)
    assert error(net) < 0.6 * before
    assert run.callback_metrics["measure_loss"] < 1
    assert run.callback_metrics["train_loss"] < 0.69


def test_standardised_features_score_as_before(phantoms: CropsManifest, tmp_path: Path) -> None:
    some = data(phantoms, augment="none")
    image = crops_of(some)
    scores = {}
    for standardise in (False, True):
        net = pretraining(standardise=standardise)
        trainer(tmp_path, max_epochs=2).fit(net, datamodule=some)
        with torch.no_grad():
            scores[standardise] = net.eval()(image)
        found = body_features(net.net, image)
        whitened = float((found.std(0) - 1).abs().max()) < 1e-2
        assert whitened == standardise
    torch.testing.assert_close(scores[True], scores[False], atol=1e-3, rtol=1e-3)


def test_without_measurements_and_standardising_it_is_a_crop_classifier(
    phantoms: CropsManifest, tmp_path: Path
) -> None:
    plain = CropClassifier(**BODY)
    own = CropPretraining(**BODY, measure=0.0, standardise=False)
    own.load_state_dict(plain.state_dict())
    for net in (plain, own):
        lightning.seed_everything(1, verbose=False)
        trainer(tmp_path, max_epochs=2).fit(net, datamodule=data(phantoms))
    for ours, theirs in zip(own.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_its_weights_start_a_crop_classifier(phantoms: CropsManifest, tmp_path: Path) -> None:
    net, run = pretraining(), trainer(tmp_path)
    run.fit(net, datamodule=data(phantoms))
    run.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    started = CropClassifier(**BODY, weights=str(tmp_path / "last.ckpt"), trainable="head")
    assert state_sha256(started.net.state_dict()) == state_sha256(net.net.state_dict())
    again = CropPretraining.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert state_sha256(again.net.state_dict()) == state_sha256(net.net.state_dict())
    assert (again.measure, again.standardise) == (1.0, True)


def test_a_fit_resumed_after_its_last_epoch_is_standardised_too(
    phantoms: CropsManifest, tmp_path: Path
) -> None:
    some = data(phantoms, augment="none")
    keep = ModelCheckpoint(tmp_path, filename="last")
    run = trainer(tmp_path, max_epochs=2, callbacks=[keep], enable_checkpointing=True)
    whole = pretraining()
    run.fit(whole, datamodule=some)
    again = pretraining()
    run = trainer(
        tmp_path, max_epochs=2, callbacks=[ModelCheckpoint(tmp_path)], enable_checkpointing=True
    )
    run.fit(again, datamodule=some, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert float(head(whole.net).weight.detach().abs().max()) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measure": -1.0}, "measure=-1.0"),
        ({"backbone_args": {"depth": 1, "embed_dim": 48, "num_heads": 3}}, "48 features for"),
        (
            {"backbone": "crop_measurements", "backbone_args": {}, "measure": 0.0},
            "FixedFeatures has no `norm`.* standardise: false",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pretraining(**changes)


def test_a_narrow_body_may_pre_train_without_measurements() -> None:
    narrow = {"depth": 1, "embed_dim": 48, "num_heads": 3, "patch_size": 8}
    assert pretraining(measure=0.0, backbone_args=narrow).measure == 0
