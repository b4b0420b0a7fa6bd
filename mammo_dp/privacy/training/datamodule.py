# SPDX-License-Identifier: Apache-2.0
"""Data as differential privacy needs them: whole units, drawn by Poisson sampling."""

import secrets
from collections.abc import Sequence
from functools import cached_property
from numbers import Integral
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data_prep.datamodule import (
    CropBatch,
    CropItem,
    CropsDataModule,
    CropsDataset,
    collate_crops,
    seed_worker,
)
from data_prep.errors import ManifestError
from data_prep.identity import normalised, require_told_apart
from data_prep.manifest import CropsManifest, Split, Unit
from data_prep.transforms import Augmentation
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.module import DPTraining
from mammo_dp.privacy.training.sampling import PoissonSampling, PoissonUnitSampler, new_key


class ViewedCrops(CropsDataset):
    """Training crops that come in whole draws, each crop in fresh views.

    Args:
        manifest: Table and folder of the crops.
        rows: Rows of the manifest that train.
        views: 1 gives the crop as it is, K > 1 gives K augmented views of it.
        unit: What ``CropBatch.unit`` numbers.
        image_size: Edge of the images, in pixels; ``None`` keeps the size on disk.
        depth: Slices of volumes; ``None`` for crops in the plane.
        augment: Augmentation of the views.
        repeatable: Whether views come from one seeded stream, for tests: a unit's presence then
            changes the views of those drawn after it, by more than the clipping norm.
    """

    def __init__(
        self,
        manifest: CropsManifest,
        rows: Sequence[int],
        *,
        views: int,
        unit: Unit,
        image_size: int | None,
        depth: int | None = None,
        augment: Augmentation,
        repeatable: bool = False,
    ) -> None:
        super().__init__(
            manifest,
            rows,
            image_size=image_size,
            depth=depth,
            augment=augment if views > 1 else "none",
            seed=torch.initial_seed() % 2**32,
        )
        self.views = views
        self.unit = unit
        self.repeatable = repeatable
        self.position = {row: index for index, row in enumerate(self.rows)}

    def __getitems__(self, rows: Sequence[int]) -> CropBatch:
        """One draw.

        Args:
            rows: Rows of the manifest, those of a unit adjacent; may be empty.

        Returns:
            Images of shape ``(B, 1, H, W)``, or ``(B, K, 1, H, W)`` for several views; of volumes
            with a depth before the height.
        """
        items = [self._item(self.position[row]) for row in rows]
        batch = collate_crops(items, self.image_size, self.depth)
        return batch if self.unit == "patient" else batch._replace(unit=batch.row)

    def _item(self, index: int) -> CropItem:
        if self.views == 1:
            return self[index]
        if self.depth is not None:  # their images have the shape of several views
            raise PrivacyError(
                f"views={self.views}, depth={self.depth}: volumes are trained on in one view or as "
                "features of a frozen body. Set model.init_args.views to 1, or trainable to head."
            )
        views = []
        for _ in range(self.views):
            if not self.repeatable:  # independent of every other crop's views
                self.transform.set_random_seed(secrets.randbits(32))
            views.append(self[index])
        return views[0]._replace(image=torch.stack([view.image for view in views]))


class FeatureRows(Dataset[CropItem]):
    """Training crops as features of a frozen body; no image is touched.

    Args:
        crops: The crops, in the order of the features.
        features: Shape ``(len(crops), K, d)``, or ``(len(crops), K, 1, 1, d)`` for views that pass
            a net one by one; float32.
    """

    def __init__(self, crops: ViewedCrops, features: Tensor) -> None:
        self.crops = crops
        self.features = features
        rows = torch.tensor(crops.rows)
        malignant = [int(crops.manifest.crops[row].malignant) for row in crops.rows]
        unit = torch.tensor(crops.unit_of(crops.manifest))[rows]
        self.columns = (torch.tensor(malignant), rows, unit if crops.unit == "patient" else rows)

    def __len__(self) -> int:
        return len(self.features)

    def __getitems__(self, rows: Sequence[int]) -> CropBatch:
        """One draw, as :meth:`ViewedCrops.__getitems__`, with features of shape ``(B, K, d)``."""
        index = torch.tensor([self.crops.position[row] for row in rows], dtype=torch.int64)
        return CropBatch(self.features[index], *(column[index] for column in self.columns))


class ResumableLoader(DataLoader[CropItem]):
    """Tells Lightning that a run can resume at any step; the sampler takes it from the account."""

    def state_dict(self) -> dict[str, Any]:
        """Empty: the account, saved with the model, is the position."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load, see :meth:`state_dict`."""


class DPCropsDataModule(CropsDataModule):
    """Crops drawn as differential privacy needs: whole units, each with a known probability.

    Args:
        crops: Folder that holds ``crops.csv``.
        unit: What is drawn and protected: ``patient``, with all crops, or ``crop``.
        rate: Probability that a unit joins a step, in ``(0, 1]``.
        public_size: Declared number of units, > 0, fixed without a look at the data. It takes the
            place of the true number in the divisor of the noisy sum and in the statement, which
            then holds for adding or removing a unit (``add-or-remove``). Without it the number of
            units is public, and a neighbour has one unit's data blanked (``zero-out``).
        crops_per_patient: Declared largest number of crops of one patient, > 0, for ``unit: crop``:
            what a patient may rely on is stated for so many. Not used for ``unit: patient``.
        insecure_seed: Fixes draws and noise, for tests: whoever knows it can remove the noise.
        image_size: Edge of the images, in pixels; ``None`` keeps the size on disk.
        depth: Slices of each volume, for models of volumes; ``None`` takes crops in the plane.
        augment: Augmentation of training views; evaluation has none.
        train_split: Split that is trained on.
        evaluate_split: Split of the other loaders.
        batch_size: Crops per batch of the other loaders, > 0.
        num_workers: Processes that augment, >= 0.

    Attributes:
        key: 256 bits behind draws and noise, fresh at each start of a fit; the same on all ranks.
    """

    key: int

    def __init__(
        self,
        crops: str,
        *,
        unit: Unit = "patient",
        rate: float = 0.25,
        public_size: int | None = None,
        crops_per_patient: int | None = None,
        insecure_seed: int | None = None,
        image_size: int | None = None,
        depth: int | None = None,
        augment: Augmentation = "light",
        train_split: Split = "train",
        evaluate_split: Split = "val",
        batch_size: int = 32,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            crops,
            image_size=image_size,
            depth=depth,
            augment=augment,
            train_split=train_split,
            evaluate_split=evaluate_split,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        self.unit = unit
        self.rate = rate
        self.public_size = public_size
        self.crops_per_patient = crops_per_patient
        self.insecure_seed = insecure_seed
        self._features: FeatureRows | None = None

    @cached_property
    def sampling(self) -> PoissonSampling:
        """Units and rate of the training split.

        Raises:
            PrivacyError: If a patient has more crops than declared.
        """
        self.train_rows  # noqa: B018  checks both classes
        self._check_crops_per_patient()
        return PoissonSampling.from_manifest(
            self.manifest,
            self.train_split,
            unit=self.unit,
            rate=self.rate,
            public_size=self.public_size,
        )

    def _check_crops_per_patient(self) -> None:
        if self.unit == "patient" or self.crops_per_patient is None:
            return
        most = max(map(len, self.manifest.units(self.train_rows, "patient")))
        if most > self.crops_per_patient:
            raise PrivacyError(
                f"data: crops_per_patient={self.crops_per_patient}, but a patient of "
                f"{self.train_split!r} has {most} crops, and would be accounted for fewer. Declare "
                "a larger number, or prepare at most so many crops of each patient."
            )

    @cached_property
    def train_dataset(self) -> ViewedCrops:
        """Training crops; the model says how many views of each."""
        return ViewedCrops(
            self.manifest,
            self.train_rows,
            views=self._model.views,
            unit=self.unit,
            image_size=self.image_size,
            depth=self.depth,
            augment=self.augment,
            repeatable=self.insecure_seed is not None,
        )

    @property
    def _model(self) -> DPTraining:
        return _private_model(self)

    def setup(self, stage: str) -> None:
        """Loads crops; for a fit, also takes a fresh key.

        Raises:
            DataError: Naming the file, row or split that is wrong.
        """
        super().setup(stage)
        if stage == "fit":
            self.key = _fresh_key(self)
            self._features = None

    def use_features(self, features: Tensor) -> None:
        """Trains on features instead of images.

        Args:
            features: Shape ``(len(train_rows), K, d)``, of the training crops in order, or
                ``(len(train_rows), K, 1, 1, d)`` for views that pass a net one by one.
        """
        self._features = FeatureRows(self.train_dataset, features)

    def image_shape(self) -> tuple[int, ...]:
        """Shape of one training crop: features, one image, or several views."""
        if self._features is not None:
            return tuple(self._features.features.shape[1:])
        crops = self.train_dataset
        image = crops.image_shape
        return image if crops.views == 1 else (crops.views, *image)

    def train_dataloader(self) -> DataLoader[CropItem]:
        """One batch per step of the run, drawn by Poisson sampling; may be empty."""
        crops = self._features or self.train_dataset
        return ResumableLoader(
            crops,
            batch_sampler=_sampler(self._model, self.sampling, self.key),
            num_workers=self.num_workers if crops is self.train_dataset else 0,
            collate_fn=_as_is,
            worker_init_fn=seed_worker,
            pin_memory=torch.cuda.is_available(),
        )


class DPDataModule(lightning.LightningDataModule):
    """Any examples, drawn as differential privacy needs: whole patients at a known rate.

    For data that are no crops, and without ``crops.csv``. Batches are those of crops:
    ``CropBatch.image`` holds the inputs, ``malignant`` the labels, ``row`` the index in ``data``
    and ``unit`` the patient. Other loaders, such as ``val_dataloader``, come from a subclass.

    Args:
        data: Map-style dataset of pairs ``(input, label)``, such as a ``TensorDataset``: inputs
            of one shape, ``(features,)`` or ``(channels, height, width)``, each a function of its
            patient alone, without random augmentation; labels are numbers.
        patients: Patient of each example, ``len(data)`` of them, as texts or whole numbers; the
            spelling of a text does not tell patients apart.
        rate: Probability that a patient joins a step, in ``(0, 1]``.
        public_size: Declared number of patients, see :class:`DPCropsDataModule`.
        insecure_seed: Fixes draws and noise, for tests: whoever knows it can remove the noise.

    Attributes:
        sampling: Units and rate.
        key: 256 bits behind draws and noise, fresh at each start of a fit; the same on all ranks.

    Raises:
        PrivacyError: If patients and examples differ in number, or a value is outside its range.
    """

    key: int

    def __init__(
        self,
        data: Dataset[Any],
        patients: Sequence[str | int],
        *,
        rate: float = 0.25,
        public_size: int | None = None,
        insecure_seed: int | None = None,
    ) -> None:
        super().__init__()
        count = len(data)  # type: ignore[arg-type]  # map-style
        if len(patients) != count:
            raise PrivacyError(
                f"data: {count} examples of {len(patients)} patients. Name the patient of each "
                "example; one with several examples is named several times."
            )
        self.data = data
        self.insecure_seed = insecure_seed
        rows: dict[str, list[int]] = {}
        names = [_patient_name(patient, row) for row, patient in enumerate(patients)]
        try:
            require_told_apart(("data", name, f"example {row}") for row, name in enumerate(names))
        except ManifestError as error:
            raise PrivacyError(f"data: {error}") from error
        for row, name in enumerate(names):
            rows.setdefault(normalised(name), []).append(row)
        self.sampling = PoissonSampling(
            unit="patient",
            rows_of=tuple(map(tuple, rows.values())),
            rate=rate,
            public_size=public_size,
        )

    def setup(self, stage: str) -> None:
        """Checks an example and, for a fit, takes a fresh key.

        Raises:
            PrivacyError: If the shape of an input is not one that a row can have.
        """
        if stage == "fit":
            if len(shape := self.image_shape()) not in (1, 3):
                raise PrivacyError(
                    f"data: an input has shape {shape}. Give (features,) or (channels, height, "
                    "width); let the network reshape others."
                )
            self.key = _fresh_key(self)

    def image_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.data[0][0].shape)

    def train_dataloader(self) -> DataLoader[CropItem]:
        """One batch per step of the run, drawn by Poisson sampling; may be empty."""
        return ResumableLoader(
            _Draws(self.data, self.sampling, self.image_shape()),
            batch_sampler=_sampler(_private_model(self), self.sampling, self.key),
            collate_fn=_as_is,
        )


class _Draws(Dataset[CropItem]):
    """Examples of drawn patients as batches."""

    def __init__(
        self, data: Dataset[Any], sampling: PoissonSampling, shape: tuple[int, ...]
    ) -> None:
        self.data = data
        self.shape = shape
        self.unit_of = {row: unit for unit, rows in enumerate(sampling.rows_of) for row in rows}

    def __len__(self) -> int:
        return len(self.unit_of)

    def __getitems__(self, rows: Sequence[int]) -> CropBatch:
        examples = [self.data[row] for row in rows]
        inputs = [torch.as_tensor(example[0]) for example in examples]
        return CropBatch(
            torch.stack(inputs) if inputs else torch.empty(0, *self.shape),
            torch.tensor([_plain(example[1]) for example in examples]),
            torch.tensor(rows, dtype=torch.int64),
            torch.tensor([self.unit_of[row] for row in rows], dtype=torch.int64),
        )


def _patient_name(patient: object, row: int) -> str:
    """The text that names the patient of an example.

    Raises:
        PrivacyError: For what tells nobody apart, such as NaN, which differs from itself.
    """
    number = isinstance(patient, Integral) and not isinstance(patient, bool)
    if not (number or isinstance(patient, str)):
        raise PrivacyError(
            f"data: the patient of example {row} is a {type(patient).__name__}. Give texts or "
            "whole numbers, such as column.tolist(), and leave out whose patient is unknown."
        )
    if not normalised(name := str(patient)):
        raise PrivacyError(
            f"data: the patient of example {row} has no letter and no digit. Name the patient of "
            "each example."
        )
    return name


def _plain(label: float | Tensor) -> float:
    """The number that a label is, an integer where it is one."""
    number: float = label.item() if isinstance(label, Tensor) else label
    return number


def _sampler(model: DPTraining, sampling: PoissonSampling, key: int) -> PoissonUnitSampler:
    """Draws the steps that the model's account still lacks."""
    return PoissonUnitSampler(
        sampling,
        steps=model.trainer.max_steps,
        key=key,
        done=lambda: model.accounted_steps,
        rank=model.trainer.global_rank,
        world_size=model.trainer.world_size,
    )


def _fresh_key(data: "DPCropsDataModule | DPDataModule") -> int:
    if data.insecure_seed is not None and data.insecure_seed < 0:
        raise PrivacyError(f"insecure_seed={data.insecure_seed}. Give 0 or more, in tests alone.")
    key = new_key() if data.insecure_seed is None else data.insecure_seed
    shared: int = key if data.trainer is None else data.trainer.strategy.broadcast(key)
    return shared


def _private_model(data: lightning.LightningDataModule) -> DPTraining:
    model = data.trainer.lightning_module if data.trainer is not None else None
    if not isinstance(model, DPTraining):
        raise PrivacyError(
            f"data: {type(data).__name__} feeds {type(model).__name__}. Use it with a "
            "DPCropClassifier, a DPMCGAN or another DPTraining; a model without DP takes "
            "mammo_dp.CropsDataModule."
        )
    return model


def _as_is(batch: CropBatch | list[Any]) -> CropBatch | list[Any]:
    """The batch that ``__getitems__`` made."""
    return batch
