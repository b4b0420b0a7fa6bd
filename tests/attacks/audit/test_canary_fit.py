from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data_prep.copies import copied_across
from data_prep.datamodule import FULL_SCALE
from data_prep.manifest import CropsManifest
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.audit.canary_fit import (
    CROPS,
    QUIET,
    CanaryPixels,
    RunSettings,
    fit_canaries,
    write_canaries,
)
from mammo_dp.privacy.training import module as training
from mammo_dp.privacy.training import optimizer as noise
from mammo_dp.privacy.training import sampling
from mammo_dp.privacy.training.sampling import draw
from tests.privacy.training.fits import quiet

pytestmark = quiet

INSIDE = np.arange(40) % 3 > 0


def settings(
    *, model: str = "mammo_dp.DPCropClassifier", data: dict[str, Any] | None = None, **more: Any
) -> RunSettings:
    chosen: dict[str, Any] = {"target_epsilon": 8.0, "delta": 1e-3, "image_size": 32}
    return RunSettings(
        model={"class_path": model, "init_args": chosen | more},
        data={
            "class_path": "mammo_dp.DPCropsDataModule",
            "init_args": {"crops": "of patients", "rate": 0.5, "image_size": 32} | (data or {}),
        },
        max_steps=5,
    )


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No noise, and a known key."""

    def exact(values: NDArray[np.float32], *more: object) -> NDArray[np.float64]:
        return values.astype(np.float64)

    monkeypatch.setattr(noise, "noisy", exact)
    monkeypatch.setattr(training, "take_key", lambda *of: None)
    monkeypatch.setattr("mammo_dp.privacy.training.datamodule.new_key", lambda: 7)


@pytest.mark.parametrize(
    "found",
    [
        settings(trainable="head", clipping_norm=0.3),
        settings(trainable="head", clipping_norm=None, learning_rate=None),  # as shipped
        settings(trainable="head", clipping_norm=3.5, clipping="automatic", views=3),
        settings(trainable="head", cache_features=False, ema_decay=0.9),
        settings(trainable="all", views=2, data={"augment": "light"}),
        settings(trainable="all", gradient_method="loop", max_physical_batch=3),
        settings(trainable="head", data={"unit": "crop"}),
        settings(trainable="head", data={"train_split": "test", "num_workers": 0}),
        settings(model="mammo_dp.DPMCGAN", data={"augment": "none"}, channels=4),
        settings(model="mammo_dp.DPLatentDiffusion", clipping="automatic", pairs=2),
        settings(  # of volumes; canaries lie in the plane
            model="mammo_dp.DPLatentDiffusion", data={"depth": 4}, spatial_dims=3, depth=4
        ),
    ],
)
@pytest.mark.usefixtures("silent")
def test_each_drawn_canary_moves_its_own_weight_by_one_clipping_norm(found: RunSettings) -> None:
    seen = fit_canaries(found, INSIDE, noise=1.0)
    expected = np.zeros((5, 40))
    numbers = np.flatnonzero(INSIDE)
    for step in range(5):
        chosen = draw(7, step, sampling.UNITS).random(len(numbers)) < 0.5
        expected[step, numbers[chosen]] = 1
    assert 0 < expected.sum() < expected.size / 2
    np.testing.assert_allclose(seen.products, expected, atol=2e-3)
    np.testing.assert_allclose(seen.again, expected[2:4], atol=2e-3)
    assert (seen.accounted.steps, seen.accounted.sampling_rate) == (5, 0.5)


def test_parts_of_a_resumed_fit_have_noise_of_their_own() -> None:
    seen = fit_canaries(settings(trainable="head"), INSIDE, noise=1.0)
    rows = np.concatenate([seen.products, seen.again])[:, ~INSIDE]
    alike = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(alike).max() < 0.99
    assert not np.allclose(seen.products[2], seen.again[0])


def test_patients_have_several_crops_as_many_as_are_declared(tmp_path: Path) -> None:
    assert settings().crops_per_canary == CROPS > 1
    assert settings(data={"unit": "crop"}).crops_per_canary == 1
    assert settings(data={"crops_per_patient": 2}).crops_per_canary == 2
    manifest = write_canaries(tmp_path, INSIDE, crops=CROPS, image_size=8, split="val")
    units = manifest.units(manifest.rows("val"), "patient")
    assert [len(rows) for rows in units] == [CROPS] * int(INSIDE.sum())
    for number, rows in zip(np.flatnonzero(INSIDE), units, strict=True):
        for row in rows:
            assert np.flatnonzero(manifest.image(row) > FULL_SCALE * QUIET).tolist() == [number]


def test_no_crop_of_a_canary_is_a_copy_of_another(tmp_path: Path) -> None:
    manifest = write_canaries(tmp_path, INSIDE, crops=CROPS, image_size=32, split="train")
    assert copied_across(manifest, manifest.units(manifest.rows(), "crop")) == []


def test_more_canaries_than_pixels_are_refused() -> None:
    with pytest.raises(AttackError, match="65 canaries in crops of 8 px"):
        fit_canaries(settings(data={"image_size": 8}), np.ones(65, bool), noise=1.0)
    with pytest.raises(ValueError, match="canaries=65"):
        CanaryPixels(img_size=8, canaries=65)


def test_the_model_reads_pixels() -> None:
    net = CanaryPixels(img_size=4, canaries=5, loudness=50.0)
    images = torch.full((3, 1, 4, 4), -1.0)
    images[0, 0, 0, 2] = 1.0
    images[1, 0, 1, 0] = 0.5
    images[2, 0, 3, 3] = 1.0  # not read
    images[2, 0, 0, 0] = -0.1  # dark
    expected = torch.zeros(3, 5)
    expected[0, 2], expected[1, 4] = 50.0, 25.0
    assert torch.equal(net.forward_features(images), expected)
    assert torch.equal(net(images), torch.zeros(3, 1))


def test_no_crop_of_the_run_is_read(
    make_cohort: Callable[..., CropsManifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    private = make_cohort()
    read = CropsManifest.read
    folders: list[str] = []

    def watched(folder: str | Path) -> CropsManifest:
        folders.append(str(folder))
        return read(folder)

    monkeypatch.setattr(CropsManifest, "read", watched)
    found = settings(trainable="head", data={"crops": str(private.folder)})
    fit_canaries(found, INSIDE, noise=1.0)
    assert folders
    assert str(private.folder) not in folders
