# SPDX-License-Identifier: Apache-2.0
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data_prep.datamodule import (
    CropBatch,
    CropItem,
    CropsDataModule,
    CropsDataset,
    collate_crops,
)
from data_prep.manifest import CropsManifest
from gan.checkpoint import CheckpointError
from gan.conditions import ConditionError
from gan.generator import decay_of
from gan.losses import Loss
from gan.module import MCGAN

pytestmark = pytest.mark.filterwarnings(
    # lightning 2.6 on torch 2.13
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"
)
TINY: dict[str, Any] = {"image_size": 32, "channels": 4, "latent": 8}


class InOrder(CropsDataModule):
    """The same batches in each epoch, so that two runs can be compared number by number."""

    def train_dataloader(self) -> DataLoader[CropItem]:
        return self.loader(self.train_dataset)


def data(cohort: CropsManifest, batch_size: int = 8, **settings: Any) -> InOrder:
    return InOrder(str(cohort.folder), augment="none", batch_size=batch_size, **settings)


def trainer(folder: Path, **settings: Any) -> lightning.Trainer:
    return lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        limit_val_batches=0,
        log_every_n_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


def batch(count: int, edge: int = 32) -> CropBatch:
    numbers = torch.arange(count)
    return CropBatch(torch.zeros(count, 1, edge, edge), numbers % 2, numbers, numbers)


@pytest.mark.parametrize(("loss", "r1"), [("hinge", 0.0), ("non-saturating", 1.0), ("hinge", 1.0)])
def test_every_part_trains(cohort: CropsManifest, tmp_path: Path, loss: Loss, r1: float) -> None:
    torch.manual_seed(0)  # first steps of Adam are of one length: two may cancel in a lone bias
    net = MCGAN(**TINY, loss=loss, r1=r1)
    before = {name: value.clone() for name, value in net.named_parameters()}
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(net, data(cohort, batch_size=5))  # the last batch holds one or more crops
    unmoved = [name for name, value in net.named_parameters() if torch.equal(before[name], value)]
    assert unmoved == []
    assert all(value.isfinite().all() for value in net.parameters())
    assert {"generator_loss", "discriminator_loss"} <= set(fit.callback_metrics)


def test_half_precision_trains(cohort: CropsManifest, tmp_path: Path) -> None:
    net = MCGAN(**TINY, r1=1.0)
    trainer(tmp_path, max_steps=2, precision="bf16-mixed").fit(net, data(cohort))
    assert all(value.dtype == torch.float32 for value in net.parameters())
    assert all(value.isfinite().all() for value in net.parameters())


def test_one_crop_is_a_batch(cohort: CropsManifest, tmp_path: Path) -> None:
    fit = trainer(tmp_path, max_steps=2)
    fit.fit(MCGAN(**TINY), data(cohort, batch_size=1))
    assert fit.global_step == 2


def test_max_steps_counts_batches(cohort: CropsManifest, tmp_path: Path) -> None:
    net = MCGAN(**TINY)
    fit = trainer(tmp_path, max_steps=3)
    fit.fit(net, data(cohort, batch_size=2))
    assert fit.global_step == 3
    assert int(net.average.n_averaged) == 3


def test_average_equals_a_plain_loop(cohort: CropsManifest, tmp_path: Path) -> None:
    net, decay = MCGAN(**TINY, average_decay=0.3), 0.3
    steps: list[dict[str, torch.Tensor]] = []

    class Keep(lightning.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            steps.append({k: v.clone() for k, v in net.generator.state_dict().items()})

    trainer(tmp_path, max_steps=6, callbacks=[Keep()]).fit(net, data(cohort, batch_size=2))
    naive = dict(steps[0])
    for updates, state in enumerate(steps[1:], start=1):
        share = min(decay, (1 + updates) / (10 + updates))
        naive = {name: share * naive[name] + (1 - share) * state[name] for name in naive}
    for name, value in net.average.module.state_dict().items():
        assert torch.allclose(value, naive[name], atol=1e-6), name
    assert [decay_of(n, 0.5) for n in (0, 5, 100)] == pytest.approx([0.1, 0.4, 0.5])


def test_a_resumed_run_equals_an_uninterrupted_one(cohort: CropsManifest, tmp_path: Path) -> None:
    settings = TINY | {"r1": 0.1, "matching": 1.0, "sample_every_epochs": 1}
    whole = MCGAN(**settings)
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    first = trainer(tmp_path / "whole", max_epochs=2)
    first.fit(whole, data(cohort))

    half = MCGAN(**settings)
    half.load_state_dict(start)
    stopped = trainer(tmp_path / "resumed", max_epochs=1)
    stopped.fit(half, data(cohort))
    stopped.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    resumed = MCGAN(**settings)  # starts from other weights
    second = trainer(tmp_path / "resumed", max_epochs=2)
    second.fit(resumed, data(cohort), ckpt_path=tmp_path / "half.ckpt", weights_only=True)

    assert second.global_step == first.global_step
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    for ours, theirs in zip(second.optimizers, first.optimizers, strict=True):
        for key, state in theirs.state_dict()["state"].items():
            for name, value in state.items():
                assert torch.equal(ours.state_dict()["state"][key][name], value), (key, name)
    for epoch in (1, 2):
        name = f"samples/epoch_000{epoch}.png"
        sheets = [(tmp_path / run / name).read_bytes() for run in ("whole", "resumed")]
        assert sheets[0] == sheets[1]


def test_checkpoint_loads_without_running_code(cohort: CropsManifest, tmp_path: Path) -> None:
    net = MCGAN(**TINY, seed=3)
    fit = trainer(tmp_path, max_steps=1)
    fit.fit(net, data(cohort))
    fit.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["crop_rule"] == "as-is"
    assert content["hyper_parameters"]["seed"] == 3
    loaded = MCGAN.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(loaded.samples(), net.cpu().samples())


def test_sheets_come_at_the_interval_and_at_the_end(cohort: CropsManifest, tmp_path: Path) -> None:
    net = MCGAN(**TINY, sample_every_epochs=2)
    trainer(tmp_path, max_epochs=3).fit(net, data(cohort, batch_size=16))
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["epoch_0002.png", "epoch_0003.png"]
    with Image.open(tmp_path / "samples" / names[0]) as image:
        assert (image.mode, image.size) == ("L", (8 * 32, 2 * 32))


def test_malignant_discs_become_brighter_than_benign_ones(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = MCGAN(
        **TINY | {"image_size": 16},
        loss="non-saturating",
        r1=1.0,
        diversity=0.0,  # the discs of a class are all alike
        augmentations="flip",
        generator_rate=2e-3,
        discriminator_rate=8e-3,
        average_decay=0.9,
    )
    trainer(tmp_path, max_steps=100).fit(net, data(cohort, batch_size=8, image_size=16))
    with torch.no_grad():
        latents, noise = torch.randn(32, 8), torch.randn(32, 1, 16, 16)
        benign, malignant = (
            net(latents, noise, torch.eye(2)[[label] * 32])[:, 0, 7:9, 7:9] for label in (0, 1)
        )
    real = cohort.images(cohort.rows()) / 65535 * 2 - 1
    truth = [crop.malignant for crop in cohort.crops]
    gap = real[truth][:, 14:18, 14:18].mean() - real[np.invert(truth)][:, 14:18, 14:18].mean()
    assert (malignant.mean() - benign.mean()).item() > gap / 2


def test_a_model_starts_from_the_averaged_generator_of_another(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    first = MCGAN(**TINY)
    fit = trainer(tmp_path, max_steps=3)
    fit.fit(first, data(cohort))
    fit.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    second = MCGAN(**TINY, weights=str(tmp_path / "last.ckpt"))
    assert "weights" not in second.hparams
    ours = second.generator.state_dict() | second.average.module.state_dict()
    for name, value in first.average.module.state_dict().items():
        assert torch.equal(ours[name], value)
    crops, asked = torch.randn(4, 1, 32, 32), torch.eye(2)[[0, 1, 0, 1]]
    judged = [net.discriminator.eval()(crops, asked) for net in (first.cpu(), second)]
    assert torch.equal(*judged)
    with pytest.raises(CheckpointError, match=r"last.ckpt: \d+ tensors do not fit, such as"):
        MCGAN(**TINY | {"channels": 2}, weights=str(tmp_path / "last.ckpt"))


def test_attributes_that_are_known_can_be_asked_for(cohort: CropsManifest, tmp_path: Path) -> None:
    with pytest.raises(ConditionError, match="'margin' is known of none"):
        fit_one_step(MCGAN(**TINY, conditions=["margin"]), cohort, tmp_path)
    margins = ("SPICULATED", "CIRCUMSCRIBED")
    crops = [
        replace(crop, attributes={"margin": margins[i % 2]} if i % 3 else {})
        for i, crop in enumerate(cohort.crops)
    ]
    shutil.copytree(cohort.folder, tmp_path / "known")
    known = CropsManifest.write(tmp_path / "known", crops)
    net = MCGAN(**TINY, conditions=["margin"])
    fit_one_step(net, known, tmp_path)
    latent, noise = torch.randn(1, 8), torch.randn(1, 1, 32, 32)
    asked = [
        net.conditions.vector(malignant=True, attributes=attributes)[None]
        for attributes in ({}, {"margin": "SPICULATED"})
    ]
    drawn = [net(latent, noise, condition) for condition in asked]
    assert not torch.equal(*drawn)


def fit_one_step(net: MCGAN, cohort: CropsManifest, folder: Path) -> None:
    trainer(folder, max_steps=1).fit(net, data(cohort))


def test_samples_are_compared_with_real_crops(
    cohort: CropsManifest,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gan.monitor.COLLAPSED", 1e9)
    net = MCGAN(**TINY, sample_every_epochs=1)
    fit = trainer(tmp_path, max_epochs=1)
    fit.fit(net, data(cohort))
    assert {"distance", "diversity"} <= set(fit.callback_metrics)
    assert "the generator may be collapsing" in caplog.text


def test_the_class_loss_teaches_the_discriminator_the_class(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    gaps = []
    for weight in (0.0, 2.0):
        torch.manual_seed(0)
        net = MCGAN(**TINY, class_weight=weight, augmentations="", discriminator_rate=2e-3)
        trainer(tmp_path, max_steps=20).fit(net, data(cohort, batch_size=8))
        dataset = CropsDataset(cohort, cohort.rows())
        crops = collate_crops([dataset[i] for i in range(len(dataset))])
        asked = torch.eye(2)[crops.malignant]
        judge = net.discriminator.eval().requires_grad_(False)
        gaps.append(float((judge(crops.image, asked) - judge(crops.image, asked.flip(1))).mean()))
    assert gaps[1] > gaps[0] + 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"average_decay": 1.0}, "average_decay=1.0. Give a number from 0"),
        (
            {"r1": -1.0},
            "r1=-1.0, diversity=0.1, class_weight=0.4, matching=0.0, sample_every_epochs=10. ",
        ),
        ({"sample_every_epochs": 0}, "sample_every_epochs=0. Give weights >= 0 and epochs >= 1"),
        ({"class_weight": -0.1}, "class_weight=-0.1"),
        ({"matching": -0.1}, "matching=-0.1"),
        ({"separability": 0.5}, "separability=0.5. Give a number above 0.5, at most 1"),
        ({"augmentations": "flip,blur"}, r"\['blur'\] unknown"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MCGAN(**TINY | settings)


def test_crops_of_another_size_are_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    net = MCGAN(image_size=16, channels=2, latent=8)
    with pytest.raises(ValueError, match=r"crops of shape \(1, 32, 32\), but image_size=16"):
        trainer(tmp_path, max_steps=1).fit(net, data(cohort))


def test_precision_that_scales_losses_is_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"precision='64-true'.*Use 32-true or bf16-mixed"):
        trainer(tmp_path, max_steps=1, precision="64-true").fit(MCGAN(**TINY), data(cohort))
