# SPDX-License-Identifier: Apache-2.0
"""The shipped recipe on volumes: phantoms teach the body, a private head follows."""

from pathlib import Path

import pytest
import torch
import yaml

from classifier.backbones import build
from classifier.features import body_features, cached_features
from data_prep.datamodule import CropsDataset
from data_prep.errors import ManifestError
from data_prep.manifest import CropsManifest
from mammo_dp.main import main
from mammo_dp.runs import read_run

ARGUMENTS = {"components": 8}
BODY = {"backbone": "crop_measurements", "image_size": 16}


def volume_body(slices: int | None = 4) -> torch.nn.Module:
    return build("crop_measurements", image_size=16, backbone_args={**ARGUMENTS, "slices": slices})


def test_numbers_of_a_volume_are_mean_and_spread_of_those_of_its_slices(
    volumes: CropsManifest,
) -> None:
    deep, plane = volume_body(), volume_body(None)
    dataset = CropsDataset(volumes, [0, 1, 2], depth=4)
    batch = torch.stack([dataset[i].image for i in range(3)])
    found = deep.numbers(batch)  # type: ignore[operator]
    for row, volume in zip(found, batch, strict=True):
        each = torch.stack([plane.numbers(one[None, None])[0] for one in volume[0]])  # type: ignore[operator]
        torch.testing.assert_close(row, torch.cat([each.mean(0), each.std(0)]))
    assert deep.numbers(batch[:0]).shape == (0, found.shape[1])  # type: ignore[operator]
    with pytest.raises(ValueError, match="for 4 slices"):
        deep.numbers(batch[:, :, :3])  # type: ignore[operator]


@pytest.mark.parametrize("slices", [1, 0])
def test_one_slice_is_no_volume(slices: int) -> None:
    with pytest.raises(ValueError, match="2 slices or more"):
        volume_body(slices)


def test_features_are_kept_for_volumes_only_by_a_body_of_volumes(
    volumes: CropsManifest, cohort: CropsManifest, tmp_path: Path
) -> None:
    net = volume_body()
    kept = cached_features(net, volumes, [0, 1], folder=tmp_path)
    dataset = CropsDataset(volumes, [0, 1], depth=4)
    torch.testing.assert_close(
        kept[:, 0], body_features(net, torch.stack([dataset[i].image for i in range(2)]))
    )
    with pytest.raises(ManifestError, match="crops in the plane are needed"):
        cached_features(volume_body(None), volumes, [0], folder=tmp_path)
    with pytest.raises(ManifestError, match="volumes of 4 slices are needed"):
        cached_features(net, cohort, [0], folder=tmp_path)


def fit(tmp_path: Path, name: str, content: object, crops: CropsManifest, *flags: str) -> int:
    config = tmp_path / f"{name}.yaml"
    config.write_text(yaml.safe_dump(content))
    data = ["--data.init_args.crops", str(crops.folder)]
    return main(["fit", "--config", str(config), *data, "--run_dir", str(tmp_path / name), *flags])


TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "logger": True}
PRETRAIN = {
    "model": {
        "class_path": "mammo_dp.CropPretraining",
        "init_args": {
            **BODY,
            "backbone_args": {**ARGUMENTS, "slices": 4},
            "trainable": "head",
            "measure": 0.0,
            "standardise": False,
        },
    },
    "data": {
        "class_path": "mammo_dp.CropsDataModule",
        "init_args": {"augment": "none", "depth": 4, "batch_size": 8},
    },
    "trainer": {"max_epochs": 1, **TRAINER},
}


def test_phantom_volumes_then_a_private_head(
    tmp_path: Path, volumes: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path, "pretrain", PRETRAIN, volumes) == 0
    private = {
        "model": {
            "class_path": "mammo_dp.DPCropClassifier",
            "init_args": {
                "backbone": None,
                "weights": str(tmp_path / "pretrain" / "checkpoints" / "last.ckpt"),
                "trainable": "head",
                "target_epsilon": 8.0,
                "delta": 1e-3,
            },
        },
        "data": {
            "class_path": "mammo_dp.DPCropsDataModule",
            "init_args": {"augment": "none", "depth": 4, "rate": 0.5, "unit": "crop"},
        },
        "trainer": {"max_steps": 4, **TRAINER},
    }
    assert fit(tmp_path, "private", private, volumes) == 0
    assert read_run(tmp_path / "private").is_finished
    assert (tmp_path / "private" / "privacy.json").exists()
    sets = ["--crops", str(volumes.folder), "--out", str(tmp_path / "scores")]
    assert main(["predict", "--run", str(tmp_path / "private"), *sets]) == 1
    assert "its classifier takes volumes of 4 slices" in capsys.readouterr().err


def test_a_body_of_volumes_refuses_crops(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data.init_args.depth", "null", "--model.init_args.image_size", "32"]
    assert fit(tmp_path, "run", PRETRAIN, cohort, *flags) == 1
    assert "takes volumes of 4 slices, but the data are crops in the plane" in (
        capsys.readouterr().err
    )
