# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.manifest import CropsManifest
from gan.checkpoint import CheckpointError, TrainedGenerator, draw
from gan.diffusion.autoencoder import CropAutoencoder
from gan.diffusion.checkpoint import DiffusionCheckpoint
from gan.generate import generate
from gan.interpolate import interpolate
from mammo_dp.main import main
from tests.gan.diffusion.tiny import DEPTH, FIRST, SHAPES, diffusion, save, shaken


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = diffusion(conditions=["margin"])
    assert model.average is not None
    shaken(model.average.module, seed=1)  # tells the averaged network from the trained one
    return save(tmp_path_factory.mktemp("diffusion") / "last.ckpt", model)


def test_generate_draws_with_the_averaged_network(checkpoint: Path, tmp_path: Path) -> None:
    generate(
        str(checkpoint), str(tmp_path), per_class=2, batch_size=3, attributes={"margin": "OBSCURED"}
    )
    manifest = CropsManifest.read(tmp_path)
    assert {crop.attributes["margin"] for crop in manifest.crops} == {"OBSCURED"}
    pixels = manifest.images(manifest.rows()).astype(np.int64)
    assert pixels.shape == (4, 16, 16)
    model = diffusion(conditions=["margin"])
    assert model.average is not None
    shaken(model.average.module, seed=1)
    net = TrainedGenerator.read(checkpoint).net
    latent, _ = draw(net, 3, seed=0)
    asked = model.conditions.vector(malignant=True, attributes={"margin": "OBSCURED"})
    with torch.no_grad():
        crop = model(latent[None], asked[None])[0, 0].double().numpy()
    assert np.abs(pixels[3] - np.rint((crop + 1) / 2 * 65535)).max() <= 2


@pytest.mark.parametrize("dims", [2, 3])
def test_a_size_is_asked_for_or_drawn_for_each_crop(dims: int, tmp_path: Path) -> None:
    model = diffusion(conditions=["size_share"], **SHAPES[dims])
    path = str(save(tmp_path / "last.ckpt", model))
    small, large = ({"size_share": size} for size in ("0.3", "0.8"))
    for name, asked in (("small", small), ("large", large)):
        generate(path, str(tmp_path / name), per_class=2, attributes=asked)
    generate(path, str(tmp_path / "drawn"), per_class=2, draw_attributes=True)
    one, other, drawn = (CropsManifest.read(tmp_path / n) for n in ("small", "large", "drawn"))
    assert not np.array_equal(one.stacked([0]), other.stacked([0]))
    assert {crop.attributes["size_share"] for crop in one.crops} == {"0.3"}
    assert len({crop.attributes["size_share"] for crop in drawn.crops}) == 4


def test_interpolate_takes_a_diffusion(checkpoint: Path, tmp_path: Path) -> None:
    interpolate(str(checkpoint), str(tmp_path), rows=1, columns=2)
    assert (tmp_path / "latents.png").is_file()


def test_files_that_hold_no_diffusion_of_crops_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save(path, diffusion(**DEPTH))
    with pytest.raises(CheckpointError, match=r"draws volumes of \d+ slices"):
        TrainedGenerator.read(path)
    first = CropAutoencoder(**FIRST)
    save(path, first)
    with pytest.raises(CheckpointError, match="holds no MCGAN"):
        TrainedGenerator.read(path)
    torch.save({"hyper_parameters": {"channels": 8}}, path)
    with pytest.raises(CheckpointError, match=r"no autoencoder and no diffusion .*spatial_dims"):
        DiffusionCheckpoint.read(path)
    model = diffusion()
    save(path, model, hyper_parameters=dict(model.hparams) | {"image_size": 17})
    with pytest.raises(CheckpointError, match=r"image_size=17"):
        TrainedGenerator.read(path)
    save(path, model, hyper_parameters=dict(model.hparams) | {"token_width": 8})
    with pytest.raises(CheckpointError, match=r"tensors do not fit"):
        TrainedGenerator.read(path)
    with torch.no_grad():
        model.autoencoder.mean[0] = torch.nan
    save(path, model)
    with pytest.raises(CheckpointError, match=r"autoencoder.mean holds NaN"):
        TrainedGenerator.read(path)


def test_a_command_says_that_a_checkpoint_draws_volumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "volumes.ckpt", diffusion(**DEPTH))
    assert main(["interpolate", "--checkpoint", str(path), "--out", str(tmp_path / "out")]) == 1
    assert "draws volumes of 4 slices" in capsys.readouterr().err


def test_generate_fills_a_folder_with_volumes_and_draws_a_damaged_one_again(
    tmp_path: Path,
) -> None:
    path = save(tmp_path / "volumes.ckpt", diffusion(**DEPTH))
    generate(str(path), str(tmp_path / "out"), per_class=1)
    manifest = CropsManifest.read(tmp_path / "out")
    assert [(crop.depth, crop.malignant) for crop in manifest.crops] == [(4, False), (4, True)]
    assert manifest.stacked([0, 1]).shape == (2, 4, 8, 8)
    marks = [crop.sha256 for crop in manifest.crops]
    lines = [f"{i},{crop.sha256},{crop.fingerprint}\n" for i, crop in enumerate(manifest.crops)]
    (tmp_path / "out" / "drawn.csv").write_text("".join(lines))
    (tmp_path / "out" / "crops.csv").unlink()
    cut = tmp_path / "out" / manifest.crops[1].file
    cut.write_bytes(cut.read_bytes()[:40])
    generate(str(path), str(tmp_path / "out"), per_class=1)
    assert [crop.sha256 for crop in CropsManifest.read(tmp_path / "out").crops] == marks
    assert CropsManifest.read(tmp_path / "out").pixels(1).shape == (4, 8, 8)
