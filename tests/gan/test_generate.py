# SPDX-License-Identifier: Apache-2.0
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import nn

from data_prep.datamodule import CropBatch
from data_prep.manifest import CropsManifest
from gan.checkpoint import TrainedGenerator, draw
from gan.generate import generate
from gan.module import MCGAN


def save(path: Path, net: MCGAN, **extra: Any) -> Path:
    """A checkpoint as Lightning writes it, without the training."""
    content = {
        "state_dict": net.state_dict(),
        "hyper_parameters": dict(net.hparams),
        "crop_rule": "centred",
        "pytorch-lightning_version": lightning.__version__,
    }
    torch.save(content | extra, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = MCGAN(image_size=16, channels=2, latent=8)
    with torch.no_grad():  # tells the averaged generator from the trained one
        for value in net.average.module.parameters():
            value.mul_(1.5)
    return save(tmp_path_factory.mktemp("mcgan") / "last.ckpt", net)


def pixels(folder: Path) -> np.ndarray[Any, Any]:
    manifest = CropsManifest.read(folder)
    return manifest.images(manifest.rows())


def test_manifest_is_valid_and_names_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    generate(str(checkpoint), str(tmp_path), per_class=5, batch_size=4)
    manifest = CropsManifest.read(tmp_path)
    assert len(manifest.crops) == 10
    assert sum(crop.malignant for crop in manifest.crops) == 5
    sha256 = TrainedGenerator.read(checkpoint).sha256
    assert {crop.origin for crop in manifest.crops} == {f"gan:{sha256}"}
    assert {crop.crop_rule for crop in manifest.crops} == {"centred"}
    assert all(crop.is_synthetic and crop.label_source == "generator" for crop in manifest.crops)
    assert len({crop.sha256 for crop in manifest.crops}) == 10
    assert manifest.images(manifest.rows()).shape == (10, 16, 16)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["crops.csv", "images"]
    assert len(list((tmp_path / "images").iterdir())) == 10


def test_crops_are_those_of_the_averaged_generator(checkpoint: Path, tmp_path: Path) -> None:
    generate(str(checkpoint), str(tmp_path), per_class=2, seed=7, truncation=0.5)
    net = MCGAN.load_from_checkpoint(checkpoint, weights_only=True)
    for number, crop in enumerate(pixels(tmp_path)):
        latent, noise = draw(net.generator, number, seed=7)
        expected = net(0.5 * latent[None], noise[None], torch.eye(2)[[number % 2]])[0, 0]
        grey = (expected.detach().double().numpy() + 1) / 2 * 65535
        assert np.abs(grey - crop).max() < 2


def test_crops_depend_on_seed_and_truncation_but_not_on_batches(
    checkpoint: Path, tmp_path: Path
) -> None:
    def crops(name: str, **settings: Any) -> np.ndarray[Any, Any]:
        generate(str(checkpoint), str(tmp_path / name), per_class=4, **settings)
        return pixels(tmp_path / name).astype(np.int64)

    base = crops("base", batch_size=8)
    assert np.array_equal(base, crops("again", batch_size=8))
    assert np.abs(base - crops("batches", batch_size=3)).max() <= 1
    assert np.abs(base - crops("seed", seed=1, batch_size=8)).max() > 100
    calmer = crops("truncated", truncation=0.1, batch_size=8)
    assert calmer[::2].std(axis=0).mean() < 0.75 * base[::2].std(axis=0).mean()


def test_a_killed_run_ends_with_the_same_crops(checkpoint: Path, tmp_path: Path) -> None:
    generate(str(checkpoint), str(tmp_path / "whole"), per_class=100, batch_size=16)
    out = tmp_path / "killed"
    call = f"generate({str(checkpoint)!r}, {str(out)!r}, per_class=100, batch_size=16)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"from gan.generate import generate; {call}"],
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None and len(list(out.glob("images/*.png"))) < 5:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 5 <= len(list(out.glob("images/*.png"))) < 200
    assert not (out / "crops.csv").exists()
    generate(str(checkpoint), str(out), per_class=100, batch_size=16)
    assert (out / "crops.csv").read_bytes() == (tmp_path / "whole" / "crops.csv").read_bytes()
    assert len(list((out / "images").iterdir())) == 200
    assert len({crop.sha256 for crop in CropsManifest.read(out).crops}) == 200


def test_folders_with_other_crops_are_refused(
    checkpoint: Path, tmp_path: Path, cohort: CropsManifest
) -> None:
    with pytest.raises(ValueError, match=r"holds crops of phantom-archive. Choose another folder"):
        generate(str(checkpoint), str(cohort.folder), per_class=1)
    generate(str(checkpoint), str(tmp_path), per_class=2)
    with pytest.raises(ValueError, match="holds 2 images of another run, such as images/000002_"):
        generate(str(checkpoint), str(tmp_path), per_class=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_class": 0}, "per_class=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"truncation": 0.0}, "truncation=0.0. Give a number above 0, at most 1"),
        ({"truncation": 1.1}, "truncation=1.1"),
    ],
)
def test_arguments_out_of_range_are_refused(
    checkpoint: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        generate(str(checkpoint), str(tmp_path), **settings)
    assert list(tmp_path.iterdir()) == []


class Classifier(lightning.LightningModule):
    def __init__(self, image_size: int = 16) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(2, 1)

    def training_step(self, batch: CropBatch) -> None:
        """Never called."""


def test_files_that_hold_no_mcgan_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(ValueError, match=r"last.ckpt: is no file. Give the checkpoint of a fit"):
        TrainedGenerator.read(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"cannot be read as a checkpoint \(UnpicklingError\)"):
        TrainedGenerator.read(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="holds no MCGAN"):
        TrainedGenerator.read(path)
    other = Classifier()
    torch.save({"state_dict": other.state_dict(), "hyper_parameters": dict(other.hparams)}, path)
    with pytest.raises(ValueError, match=r"holds no MCGAN, .*'channels'.* unknown"):
        TrainedGenerator.read(path)
    save(path, MCGAN(image_size=16, channels=2, latent=8), state_dict=other.state_dict())
    with pytest.raises(ValueError, match=r"tensors do not fit, such as"):
        TrainedGenerator.read(path)
    save(path, MCGAN(image_size=16, channels=2, latent=8), crop_rule="oval")
    with pytest.raises(ValueError, match="crop_rule is 'oval'"):
        TrainedGenerator.read(path)
