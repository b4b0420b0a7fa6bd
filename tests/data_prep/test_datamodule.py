# SPDX-License-Identifier: Apache-2.0
import itertools
from collections.abc import Callable

import cv2
import lightning
import numpy as np
import pytest
import torch

from data_prep.datamodule import (
    CropBatch,
    CropsDataModule,
    CropsDataset,
    collate_crops,
    seed_worker,
)
from data_prep.errors import LabelError, ManifestError
from data_prep.manifest import CropsManifest

Make = Callable[..., CropsManifest]


def module(cohort: CropsManifest, stage: str = "fit", **keywords: object) -> CropsDataModule:
    data = CropsDataModule(str(cohort.folder), **keywords)  # type: ignore[arg-type]
    data.setup(stage)
    return data


def images(data: CropsDataModule) -> torch.Tensor:
    batches: list[CropBatch] = [*data.train_dataloader()]
    return torch.cat([batch.image[batch.row.argsort()] for batch in batches])


def test_pixels_are_scaled_to_minus_one_and_one(cohort: CropsManifest) -> None:
    data = module(cohort, evaluate_split="train")
    loader = data.test_dataloader()
    assert not isinstance(loader, list)
    batch: CropBatch = next(iter(loader))
    for image, row in zip(batch.image, batch.row.tolist(), strict=True):
        expected = cohort.image(row).astype(np.float64) / 65535 * 2 - 1
        np.testing.assert_allclose(image[0], expected, atol=1e-6)
    assert batch.image.dtype == torch.float32
    assert batch.image.shape == (len(data.evaluate_rows), 1, 32, 32)


def test_a_batch_names_label_row_and_patient(cohort: CropsManifest) -> None:
    data = module(cohort, batch_size=4)
    patients = list(dict.fromkeys(crop.patient_id for crop in cohort.crops))
    seen: list[int] = []
    for batch in data.train_dataloader():
        for malignant, row, unit in zip(*(c.tolist() for c in batch[1:]), strict=True):
            assert malignant == cohort.crops[row].malignant
            assert patients[unit] == cohort.crops[row].patient_id
            seen.append(row)
    assert sorted(seen) == cohort.rows("train")


def test_rows_of_a_unit_are_adjacent_and_keep_their_order(cohort: CropsManifest) -> None:
    dataset = CropsDataset(cohort, cohort.rows("train"))
    batch = collate_crops([dataset[i] for i in range(len(dataset))])
    units = batch.unit.tolist()
    changes = sum(a != b for a, b in itertools.pairwise(units))
    assert changes == len(set(units)) - 1
    for unit in set(units):
        rows = batch.row[batch.unit == unit].tolist()
        assert rows == sorted(rows)


def test_an_empty_batch_has_the_right_shapes(cohort: CropsManifest) -> None:
    collate = module(cohort, image_size=16).train_dataloader().collate_fn
    assert collate is not None
    batch: CropBatch = collate([])
    assert batch.image.shape == (0, 1, 16, 16)
    assert [c.shape for c in batch[1:]] == [(0,)] * 3
    assert {c.dtype for c in batch[1:]} == {torch.int64}


def test_synthetic_crops_are_units_of_their_own(make_cohort: Make) -> None:
    manifest = make_cohort(origin="phantom", crops=5)
    assert CropsDataset.unit_of(manifest) == (0, 1, 2, 3, 4)


def test_units_do_not_depend_on_the_split(cohort: CropsManifest) -> None:
    dataset = CropsDataset(cohort, cohort.rows("val"))
    patients = list(dict.fromkeys(crop.patient_id for crop in cohort.crops))
    for i, row in enumerate(cohort.rows("val")):
        assert patients[dataset[i].unit] == cohort.crops[row].patient_id


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_repeats_under_a_seed_and_not_otherwise(
    cohort: CropsManifest, workers: int
) -> None:
    def epoch(seed: int) -> torch.Tensor:
        lightning.seed_everything(seed, verbose=False)
        return images(module(cohort, augment="light", batch_size=32, num_workers=workers))

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))


@pytest.mark.parametrize("workers", [0, 2])
def test_each_epoch_and_each_worker_augments_anew(make_cohort: Make, workers: int) -> None:
    manifest = make_cohort(origin="phantom", crops=8)
    data = module(manifest, augment="light", batch_size=1, num_workers=workers)
    data.train_dataset.pixels[:] = data.train_dataset.pixels[0]  # only augmentation differs
    first, second = images(data), images(data)
    different = {image.numpy().tobytes() for image in [*first, *second]}
    assert len(different) > 12  # repeated epochs or workers leave at most 8


def test_seed_worker_outside_a_worker_is_refused() -> None:
    with pytest.raises(TypeError, match="CropsDataset"):
        seed_worker(0)


def test_a_training_split_with_one_class_is_refused(make_cohort: Make) -> None:
    manifest = make_cohort(patients=2, crops=2)
    with pytest.raises(LabelError, match="'train' holds only malignant=0"):
        module(CropsManifest.write(manifest.folder, manifest.crops[:1]))


def test_fit_goes_without_an_evaluation_split_but_test_does_not(make_cohort: Make) -> None:
    manifest = make_cohort(origin="phantom", crops=4)
    assert module(manifest).val_dataloader() == []
    with pytest.raises(LabelError, match="'val' holds no crop"):
        module(manifest, "test")


def test_evaluation_loaders_agree(cohort: CropsManifest) -> None:
    data = module(cohort)
    val, test = data.val_dataloader(), data.test_dataloader()
    assert not isinstance(val, list)
    assert not isinstance(test, list)
    loaders = (val, test, data.predict_dataloader())
    rows = [torch.cat([batch.row for batch in loader]).sort()[0].tolist() for loader in loaders]
    assert rows == [cohort.rows("val")] * 3


def test_a_missing_folder_and_image_are_named(make_cohort: Make) -> None:
    manifest = make_cohort()
    (manifest.folder / manifest.crops[0].file).unlink()
    with pytest.raises(ManifestError, match=r"0000\.png \(crops\.csv, row 2\)"):
        module(manifest)
    with pytest.raises(ManifestError, match="nowhere"):
        CropsDataModule("nowhere").setup("fit")


def test_volumes_become_batches_of_volumes(volumes: CropsManifest) -> None:
    data = module(volumes, depth=4, evaluate_split="train", batch_size=3)
    batch: CropBatch = next(iter(data.predict_dataloader()))
    assert batch.image.shape == (3, 1, 4, 16, 16)
    for image, row in zip(batch.image, batch.row.tolist(), strict=True):
        expected = volumes.pixels(row).astype(np.float64) / 65535 * 2 - 1
        np.testing.assert_allclose(image[0], expected, atol=1e-6)
    collate = data.train_dataloader().collate_fn
    assert collate is not None
    assert collate([]).image.shape == (0, 1, 4, 16, 16)
    assert data.train_dataset.image_shape == (1, 4, 16, 16)


def test_slices_of_a_volume_are_resized_and_augmented_alike(volumes: CropsManifest) -> None:
    plain = CropsDataset(volumes, [0], depth=4, image_size=8)[0].image[0]
    small = [cv2.resize(s, (8, 8), interpolation=cv2.INTER_AREA) for s in volumes.pixels(0)]
    np.testing.assert_allclose(plain, np.stack(small) / 65535 * 2 - 1, atol=1e-4)
    dataset = CropsDataset(volumes, [0], depth=4, augment="gan", seed=0)
    slices = volumes.pixels(0) / 65535 * 2 - 1
    symmetries = [
        np.rot90(s, turn, axes=(1, 2)) for s in (slices, slices[:, ::-1]) for turn in range(4)
    ]
    seen = set()
    for _ in range(20):
        image = dataset[0].image[0].numpy()
        fits = [i for i, s in enumerate(symmetries) if np.allclose(image, s, atol=1e-6)]
        assert len(fits) == 1
        seen.add(fits[0])
    assert len(seen) > 3


def test_volumes_are_refused_unless_they_are_asked_for(
    volumes: CropsManifest, cohort: CropsManifest
) -> None:
    with pytest.raises(ManifestError, match="volumes of 4 slices, where crops in the plane"):
        module(volumes)
    with pytest.raises(ManifestError, match="crops in the plane, where volumes of 4 slices"):
        module(cohort, depth=4)
