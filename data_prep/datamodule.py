# SPDX-License-Identifier: Apache-2.0
"""Crops as batches: ``CropsDataModule`` and the typed batch that every model reads."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import NamedTuple, Self

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from data_prep.distortions import distorted
from data_prep.errors import DataError, LabelError
from data_prep.manifest import FILE_NAME, CropsManifest, Split
from data_prep.transforms import Augmentation, pipeline

FULL_SCALE = 65535  # of 16-bit grey: no crop holds NaN or infinity


class CropItem(NamedTuple):
    """One crop.

    Attributes:
        image: Shape ``(1, H, W)``, or ``(1, D, H, W)`` of a volume, float32 in ``[-1, 1]``; or
            ``(views, d)`` features.
        malignant: 1 for malignant, 0 for benign.
        row: Row in ``crops.csv``.
        unit: Position of the patient in the manifest, see :meth:`CropsDataset.unit_of`.
    """

    image: Tensor
    malignant: int
    row: int
    unit: int


class CropBatch(NamedTuple):
    """Crops of one step; ``B`` may be 0.

    Attributes:
        image: Shape ``(B, 1, H, W)``, or ``(B, 1, D, H, W)`` of volumes, float32 in ``[-1, 1]``;
            or ``(B, views, d)`` features.
        malignant: Shape ``(B,)``, int64, 1 for malignant.
        row: Shape ``(B,)``, int64, row in ``crops.csv``: the key of every score.
        unit: Shape ``(B,)``, int64, the patient; rows of one unit are adjacent.
    """

    image: Tensor
    malignant: Tensor
    row: Tensor
    unit: Tensor


def collate_crops(
    items: Sequence[CropItem], image_size: int = 0, depth: int | None = None
) -> CropBatch:
    """Stacks crops so that those of one unit are adjacent, otherwise in the given order.

    Args:
        items: Crops of one size; may be empty, as Poisson draws can be.
        image_size: Edge of the images of an empty batch, in pixels.
        depth: Slices of the volumes of an empty batch; none for crops in the plane.
    """
    empty = (image_size, image_size) if depth is None else (depth, image_size, image_size)
    units = [item.unit for item in items]
    first = {unit: i for i, unit in reversed(list(enumerate(units)))}
    items = sorted(items, key=lambda item: first[item.unit])
    images = [item.image for item in items]

    def column(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64)

    return CropBatch(
        torch.stack(images) if images else torch.empty(0, 1, *empty),
        column([item.malignant for item in items]),
        column([item.row for item in items]),
        column([item.unit for item in items]),
    )


class CropsDataset(Dataset[CropItem]):
    """Crops of some rows of a manifest, held in memory as 16-bit numbers.

    Args:
        manifest: Table and folder of the crops.
        rows: Rows of the manifest; an item's index is a position in this list.
        image_size: Edge of the images, in pixels; ``None`` keeps the size on disk.
        depth: Slices of volumes; ``None`` for crops in the plane.
        augment: Pipeline, see :func:`data_prep.transforms.pipeline`.
        seed: Start of the augmentation in this process; workers use :func:`seed_worker`.

    Attributes:
        features: What a model makes of each crop, shape ``(len(rows), views, d)``; where they are
            set, items hold them in place of images.

    Raises:
        ManifestError: If an image cannot be read, the sizes differ, or the table has not that
            depth.
    """

    def __init__(
        self,
        manifest: CropsManifest,
        rows: Sequence[int],
        *,
        image_size: int | None = None,
        depth: int | None = None,
        augment: Augmentation = "none",
        seed: int | None = None,
    ) -> None:
        manifest.require_depth(depth)
        self.manifest = manifest
        self.rows = tuple(rows)
        self.depth = depth
        self.pixels: NDArray[np.uint16] = manifest.stacked(self.rows)
        self.image_size = image_size or self.pixels.shape[-1]
        self.transform = pipeline(augment, max(1, self.image_size), seed=seed)
        self.features: Tensor | None = None
        self._unit = self.unit_of(manifest)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image: ``(1, H, W)``, or ``(1, D, H, W)`` of a volume."""
        plane = (self.image_size, self.image_size)
        return (1, *plane) if self.depth is None else (1, self.depth, *plane)

    @staticmethod
    def unit_of(manifest: CropsManifest) -> tuple[int, ...]:
        """Position of each row's patient among the patients of the whole manifest.

        Patients count in order of first appearance; a synthetic crop counts as one of its own.
        """
        units = manifest.units(manifest.rows(), "patient")
        position = {row: unit for unit, rows in enumerate(units) for row in rows}
        return tuple(position[row] for row in range(len(manifest.crops)))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> CropItem:
        row = self.rows[index]
        malignant = int(self.manifest.crops[row].malignant)
        if self.features is not None:
            return CropItem(self.features[index], malignant, row, self._unit[row])
        pixels = model_input(self.pixels[index], self.transform)
        return CropItem(pixels, malignant, row, self._unit[row])

    def distorted(self, name: str) -> Self:
        """The same crops, distorted in place of augmented; they share their pixels with this set.

        Features are of crops as they are, so items of the result hold images in any case.

        Args:
            name: One of :data:`data_prep.distortions.DISTORTIONS`.
        """
        result = copy.copy(self)
        result.transform = distorted(name, self.image_size)
        result.features = None
        return result


def model_input(
    pixels: NDArray[np.uint16], transform: Callable[..., Mapping[str, NDArray[np.float32]]]
) -> Tensor:
    """A crop, or a volume, as models get it.

    Args:
        pixels: Shape ``(size, size)``, or ``(depth, size, size)``, values in ``[0, 65535]``.
        transform: A :func:`data_prep.transforms.pipeline`, which resizes and may augment; all
            slices of a volume alike, as they are the channels of one image to it.

    Returns:
        Shape ``(1, image_size, image_size)``, or ``(1, depth, image_size, image_size)``, float32
        in ``[-1, 1]``.
    """
    planes = pixels[None] if pixels.ndim == 2 else pixels
    grey = np.ascontiguousarray(planes.transpose(1, 2, 0), np.float32) / FULL_SCALE
    image = transform(image=grey)["image"].clip(0, 1) * 2 - 1
    slices = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
    return torch.from_numpy(slices if pixels.ndim == 2 else slices[None])


def seed_worker(worker: int) -> None:
    """Gives a loader's worker its own augmentation; otherwise forked workers repeat one another.

    Torch draws the worker's seed anew for each epoch, from the generator of ``seed_everything``.
    """
    info = get_worker_info()
    if info is None or not isinstance(info.dataset, CropsDataset):
        raise TypeError(f"seed_worker({worker}): only for loaders of a CropsDataset.")
    info.dataset.transform.set_random_seed(info.seed % 2**32)


class CropsDataModule(lightning.LightningDataModule):
    """Batches of the crops of one manifest.

    With ``num_workers=0`` the augmentation is reproducible under ``seed_everything``; with workers,
    for the same number of workers.

    Args:
        crops: Folder that holds ``crops.csv``.
        image_size: Edge of the images, in pixels; ``None`` keeps the size on disk.
        depth: Slices of each volume, for models of volumes; ``None`` takes crops in the plane.
        augment: Augmentation of training crops; evaluation has none.
        train_split: Split of :meth:`train_dataloader`.
        evaluate_split: Split of the other loaders; where it holds no crop, fit does not validate.
        batch_size: Crops per batch, > 0.
        num_workers: Processes that augment, >= 0; 0 augments in the training process.

    Attributes:
        distortions: Names of distortions; :meth:`test_dataloader` gives the crops once more for
            each, see :data:`data_prep.distortions.DISTORTIONS`.

    Raises:
        DataError: For a batch without a crop, or fewer than no workers.
    """

    distortions: Sequence[str] = ()

    def __init__(
        self,
        crops: str,
        *,
        image_size: int | None = None,
        depth: int | None = None,
        augment: Augmentation = "light",
        train_split: Split = "train",
        evaluate_split: Split = "val",
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise DataError(
                f"{batch_size=}, {num_workers=}. Give a batch of 1 or more, and 0 workers or more."
            )
        self.crops = crops
        self.image_size = image_size
        self.depth = depth
        self.augment = augment
        self.train_split = train_split
        self.evaluate_split = evaluate_split
        self.batch_size = batch_size
        self.num_workers = num_workers

    @cached_property
    def manifest(self) -> CropsManifest:
        """The table of crops, read at first use."""
        return CropsManifest.read(self.crops)

    @cached_property
    def train_rows(self) -> list[int]:
        """Rows of the training split.

        Raises:
            LabelError: If the split is empty or has one class only.
        """
        return self.manifest.require_classes(self.train_split)

    @cached_property
    def evaluate_rows(self) -> list[int]:
        """Rows of the evaluation split; may be empty."""
        return self.manifest.rows(self.evaluate_split)

    @cached_property
    def train_dataset(self) -> CropsDataset:
        """Training crops, augmented."""
        return self.dataset(self.train_rows, augment=self.augment)

    @cached_property
    def evaluate_dataset(self) -> CropsDataset:
        """Evaluation crops, as they are.

        Raises:
            LabelError: If the split is empty.
        """
        if not self.evaluate_rows:
            raise LabelError(
                f"{self.manifest.folder / FILE_NAME}: split {self.evaluate_split!r} holds no crop. "
                "Choose another evaluate_split."
            )
        return self.dataset(self.evaluate_rows)

    def dataset(self, rows: Sequence[int], *, augment: Augmentation = "none") -> CropsDataset:
        """Crops of some rows of :attr:`manifest` at the size of this module."""
        return CropsDataset(
            self.manifest,
            rows,
            image_size=self.image_size,
            depth=self.depth,
            augment=augment,
            seed=torch.initial_seed() % 2**32,
        )

    def setup(self, stage: str) -> None:
        """Checks the splits that the stage needs and loads them, before compute is spent.

        Items hold images again: features are those of the model that had them set before.

        Raises:
            DataError: Naming the file, row or split that is wrong.
        """
        if stage == "fit":
            self.train_dataset.features = None
        if stage != "fit" or self.evaluate_rows:
            self.evaluate_dataset.features = None
        elif self.trainer is not None:
            self.trainer.limit_val_batches = 0  # or Lightning warns about a loader without batches

    def use_features(self, features: Tensor) -> None:
        """Trains on features instead of images.

        Args:
            features: Shape ``(len(train_rows), views, d)``, of the training crops in order.
        """
        self.train_dataset.features = features

    def train_dataloader(self) -> DataLoader[CropItem]:
        """Shuffled, augmented training crops; the last batch may be smaller."""
        return self.loader(self.train_dataset, shuffle=True)

    def val_dataloader(self) -> DataLoader[CropItem] | list[DataLoader[CropItem]]:
        """Evaluation crops, batch by batch in order of rows; none where the split is empty."""
        return self.loader(self.evaluate_dataset) if self.evaluate_rows else []

    def test_dataloader(self) -> DataLoader[CropItem] | list[DataLoader[CropItem]]:
        """Evaluation crops, batch by batch in order of rows; then those of each distortion."""
        crops = self.evaluate_dataset
        if not self.distortions:
            return self.loader(crops)
        return [self.loader(one) for one in (crops, *map(crops.distorted, self.distortions))]

    def predict_dataloader(self) -> DataLoader[CropItem]:
        """Evaluation crops, batch by batch in order of rows."""
        return self.loader(self.evaluate_dataset)

    def loader(self, dataset: CropsDataset, *, shuffle: bool = False) -> DataLoader[CropItem]:
        """Batches of ``batch_size`` crops, as :class:`CropBatch`."""
        return DataLoader(
            dataset,
            batch_size=self.batch_size,  # by keyword: Lightning builds the loader again by names
            shuffle=shuffle,
            num_workers=self.num_workers,
            collate_fn=partial(collate_crops, image_size=dataset.image_size, depth=dataset.depth),
            worker_init_fn=seed_worker,
            pin_memory=torch.cuda.is_available(),
        )
