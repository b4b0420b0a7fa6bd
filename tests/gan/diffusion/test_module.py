# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from data_prep.datamodule import CropsDataModule, CropsDataset
from data_prep.manifest import CropsManifest
from gan.checkpoint import CheckpointError
from gan.conditions import ConditionError
from gan.diffusion.autoencoder import CropAutoencoder
from gan.diffusion.module import LatentDiffusion
from gan.diffusion.schedule import noised, velocity
from gan.diffusion.settings import DiffusionError
from tests.gan.diffusion.tiny import DEPTH, FIRST, NETS, SHAPES, diffusion, save
from tests.privacy.training.fits import quiet, trainer

pytestmark = quiet


def crops(cohort: CropsManifest, **settings: Any) -> CropsDataModule:
    chosen = {"image_size": 16, "augment": "none", "batch_size": 8, **settings}
    return CropsDataModule(str(cohort.folder), **chosen)


def weights(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


@pytest.fixture(scope="module")
def first(cohort: CropsManifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a fitted autoencoder, beside its folder of sheets."""
    folder = tmp_path_factory.mktemp("autoencoder")
    torch.manual_seed(0)
    model = CropAutoencoder(**FIRST, learning_rate=5e-3)
    fit = trainer(folder, max_steps=-1, max_epochs=3)
    fit.fit(model, crops(cohort))
    fit.save_checkpoint(folder / "last.ckpt", weights_only=True)
    return folder / "last.ckpt"


def test_an_autoencoder_learns_and_keeps_the_scale_of_its_codes(
    first: Path, cohort: CropsManifest
) -> None:
    torch.manual_seed(0)
    new, fitted = CropAutoencoder(**FIRST), CropAutoencoder(**FIRST, weights=str(first))
    data = crops(cohort)
    plain = data.dataset(data.train_rows)
    images = torch.stack([plain[i].image for i in range(len(plain))])
    with torch.no_grad():
        before, after = ((model(images) - images).abs().mean() for model in (new, fitted))
        assert after < 0.9 * before
        raw, _ = fitted.codec.distribution(images)
        codes = fitted.codec.encode(images)
    assert torch.allclose(fitted.codec.mean[:, 0, 0], raw.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(codes.mean((0, 2, 3)), torch.zeros(2), atol=1e-4)
    assert torch.allclose(codes.std((0, 2, 3)), torch.ones(2), atol=1e-2)
    assert (first.parent / "samples" / "autoencoder.png").is_file()


def test_a_fit_denoises_frozen_codes_and_its_average_is_the_product(
    first: Path, cohort: CropsManifest, tmp_path: Path
) -> None:
    model = LatentDiffusion(**NETS, weights=str(first), views=2, average_decay=0.5)
    start, codes = weights(model.net), weights(model.codec)
    assert model.average is not None
    assert torch.equal(weights(model.average.module), start)
    fit = trainer(tmp_path, max_steps=-1, max_epochs=1)
    fit.fit(model, crops(cohort, augment="gan"))
    assert torch.equal(weights(model.codec), codes)
    assert not torch.equal(weights(model.net), start)
    assert not torch.equal(weights(model.average.module), weights(model.net))
    assert (tmp_path / "samples" / "last.png").is_file()
    fit.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    more = LatentDiffusion(**NETS, weights=str(tmp_path / "last.ckpt"))
    assert torch.equal(weights(more.net), weights(model.average.module))
    again = LatentDiffusion.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert torch.equal(weights(again.net), weights(model.net))


def test_a_spectrum_is_that_of_the_first_fit_and_is_kept(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    white = NETS | {"encoder_channels": None, "block": 4}
    model, data = LatentDiffusion(**white), crops(cohort)
    fit = trainer(tmp_path / "first", max_steps=1)
    fit.fit(model, data)
    plain = data.dataset(data.train_rows)
    raw = model.codec.raw(torch.stack([plain[i].image for i in range(len(plain))]))
    assert torch.allclose(model.codec.mean, raw.mean(0), atol=1e-5)
    assert torch.allclose(model.codec.deviation, raw.std(0), atol=1e-5)
    assert not torch.equal(model.codec.state_dict()["coupling"], torch.eye(256))
    fit.save_checkpoint(tmp_path / "first.ckpt", weights_only=True)
    more = LatentDiffusion(**white, weights=str(tmp_path / "first.ckpt"))
    trainer(tmp_path / "more", max_steps=1).fit(more, crops(cohort, train_split="val"))
    for name, kept in model.codec.state_dict().items():
        assert torch.equal(more.codec.state_dict()[name], kept)
    with pytest.raises(CheckpointError, match=r"tensors do not fit"):
        LatentDiffusion(**NETS, weights=str(tmp_path / "first.ckpt"))


def test_a_fit_that_resumes_is_the_fit_that_never_stopped(
    first: Path, cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = crops(cohort, batch_size=16)
    rows = data.loader

    def in_order(dataset: CropsDataset, **_: Any) -> Any:  # noqa: ANN401  a shuffle is not resumed
        return rows(dataset)

    monkeypatch.setattr(data, "loader", in_order)

    def fitted(folder: Path, epochs: int, resume: Path | None = None) -> LatentDiffusion:
        torch.manual_seed(0)
        model = LatentDiffusion(**NETS, weights=str(first))
        fit = trainer(folder, max_steps=-1, max_epochs=epochs)
        fit.fit(model, data, ckpt_path=resume, weights_only=True)
        fit.save_checkpoint(folder / "resume.ckpt")
        return model

    whole = fitted(tmp_path / "whole", 2)
    fitted(tmp_path / "half", 1)
    resumed = fitted(tmp_path / "half", 2, tmp_path / "half" / "resume.ckpt")
    assert whole.average is not None
    assert resumed.average is not None
    assert torch.equal(weights(resumed.net), weights(whole.net))
    assert torch.equal(weights(resumed.average.module), weights(whole.average.module))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_loss_is_the_squared_error_of_the_velocity(dims: int) -> None:
    model = diffusion(**SHAPES[dims], conditions=["view"])
    size, columns = model.settings.latent_size, model.conditions.width
    codes, noise = torch.randn(3, size), torch.randn(3, size)
    asked = torch.eye(columns)[:3]
    time = torch.tensor([0.1, 0.5, 1.0])
    with torch.no_grad():
        found = model.velocity_losses(torch.cat([codes, asked], dim=1), time, noise)
    for row in range(3):
        code, own = (x[row].view(1, *model.settings.latent_shape) for x in (codes, noise))
        at = time[row : row + 1]
        with torch.no_grad():
            predicted = model.net(noised(code, own, at), at, asked[row : row + 1])
        expected = (predicted - velocity(code, own, at)).square().mean()
        assert float(found[row]) == pytest.approx(float(expected), rel=1e-4)


def test_attention_alone_trains_where_it_is_asked_for(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    start = save(tmp_path / "start.ckpt", diffusion())
    model = LatentDiffusion(**NETS, weights=str(start), trainable="attention", average_decay=None)
    before = {name: p.detach().clone() for name, p in model.net.named_parameters()}
    trainer(tmp_path, max_steps=2).fit(model, crops(cohort))
    moved = {name for name, p in model.net.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("transformer_blocks" in name or ".proj_out." in name for name in moved)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trainable": "head"}, r"trainable='head'. Choose all, attention, norm_bias or linear"),
        ({"image_size": 32}, r"images of 16 x 16, but the model takes 32 x 32"),
        ({"weights": None}, r"weights: are missing"),
    ],
)
def test_fits_that_make_no_sense_are_refused(
    first: Path, cohort: CropsManifest, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(DiffusionError, match=said):
        trainer(tmp_path).fit(
            LatentDiffusion(**NETS | {"weights": str(first)} | settings), crops(cohort)
        )


def test_volumes_and_crops_are_told_apart_by_name(
    first: Path, cohort: CropsManifest, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"spatial_dims=2, but this model has 3"):
        LatentDiffusion(**NETS | DEPTH, weights=str(first))
    volumes = CropAutoencoder(**FIRST | DEPTH)
    with pytest.raises(DiffusionError, match=r"takes 4 x 8 x 8 \(spatial_dims=3\)"):
        trainer(tmp_path).fit(volumes, crops(cohort))


def test_volumes_are_learned_as_crops_are(volumes: CropsManifest, tmp_path: Path) -> None:
    deep = DEPTH | {"image_size": 16}
    first = CropAutoencoder(**FIRST | deep)
    fit = trainer(tmp_path / "first", max_steps=1)
    fit.fit(first, crops(volumes, depth=4))
    assert not torch.equal(first.codec.mean, torch.zeros(2, 1, 1, 1))
    fit.save_checkpoint(tmp_path / "first.ckpt", weights_only=True)
    model = LatentDiffusion(**NETS | deep, weights=str(tmp_path / "first.ckpt"))
    before = weights(model.net)
    trainer(tmp_path / "second", max_steps=1).fit(model, crops(volumes, depth=4))
    assert not torch.equal(weights(model.net), before)


def test_an_attribute_that_no_crop_has_is_refused_unless_it_was_learned_before(
    first: Path, cohort: CropsManifest, tmp_path: Path
) -> None:
    asked = NETS | {"conditions": ["margin"]}
    with pytest.raises(ConditionError, match="'margin' is known of none"):
        trainer(tmp_path).fit(LatentDiffusion(**asked, weights=str(first)), crops(cohort))
    start = save(tmp_path / "start.ckpt", diffusion(conditions=["margin"]))
    trainer(tmp_path, max_steps=1).fit(LatentDiffusion(**asked, weights=str(start)), crops(cohort))


@pytest.mark.parametrize(
    "settings",
    [
        {"views": 0},
        {"sample_steps": 0},
        {"learning_rate": 0.0},
        {"earliest_time": 1.0},
        {"average_decay": 1.0},
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(DiffusionError, match=f"{next(iter(settings))}="):
        LatentDiffusion(**NETS | settings)


def test_an_autoencoder_refuses_values_out_of_range() -> None:
    with pytest.raises(DiffusionError, match="divergence_weight=-1"):
        CropAutoencoder(**FIRST, divergence_weight=-1)
