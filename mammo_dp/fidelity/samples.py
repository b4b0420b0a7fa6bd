# SPDX-License-Identifier: Apache-2.0
"""Crops of one source as arrays, and the numbers of each class that all sources can give."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from data_prep.datamodule import FULL_SCALE, CropsDataset
from data_prep.manifest import FILE_NAME, CropsManifest, Split

Images = NDArray[np.float32]
Rows = NDArray[np.int64]
PerClass = tuple[int, int]  # benign, malignant


class FidelityError(ValueError):
    """The comparison would not measure what it claims; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Crops of one source.

    Attributes:
        images: Shape ``(N, size, size)``, values in ``[0, 1]``.
        malignant: Shape ``(N,)``, 1 for malignant.
        patient: Shape ``(N,)``, an integer per patient; a synthetic crop is one of its own.
    """

    images: Images
    malignant: Rows
    patient: Rows

    @classmethod
    def of_manifest(cls, manifest: CropsManifest, split: Split | None = None) -> Self:
        """Loads one split, or all crops.

        Raises:
            FidelityError: If a class is missing: most measures are taken within classes.
            ManifestError: If an image cannot be read or the sizes differ.
        """
        rows = manifest.rows(split)
        unit = CropsDataset.unit_of(manifest)
        malignant = np.array([manifest.crops[row].malignant for row in rows], np.int64)
        if len(set(malignant.tolist())) < 2:
            where = f"split {split!r} holds" if split else "it holds"
            raise FidelityError(
                f"{manifest.folder / FILE_NAME}: {where} {len(rows)} crops, {malignant.sum()} of "
                "them malignant. Both classes are needed; choose another split or folder."
            )
        return cls(
            images=(manifest.images(rows) / FULL_SCALE).astype(np.float32),
            malignant=malignant,
            patient=np.array([unit[row] for row in rows], np.int64),
        )

    def __len__(self) -> int:
        return len(self.malignant)

    @property
    def per_class(self) -> PerClass:
        """Numbers of benign and of malignant crops."""
        malignant = int(self.malignant.sum())
        return len(self) - malignant, malignant

    @property
    def patients(self) -> int:
        """Number of patients, or of synthetic crops."""
        return len(np.unique(self.patient))

    def take(self, rows: Rows) -> Self:
        """Some crops, in the given order."""
        return type(self)(
            images=self.images[rows], malignant=self.malignant[rows], patient=self.patient[rows]
        )


def smallest(counts: Sequence[PerClass]) -> PerClass:
    """Numbers of each class that every source can give."""
    return min(benign for benign, _ in counts), min(malignant for _, malignant in counts)


def draw(malignant: Rows, counts: PerClass, rng: np.random.Generator) -> Rows:
    """Rows of that many crops of each class, drawn without replacement.

    Args:
        malignant: Shape ``(N,)``, 0 or 1.
        counts: Numbers to draw, each at most what there is.
        rng: Source of randomness.

    Returns:
        Benign rows, then malignant ones, each in random order.
    """
    parts = [
        rng.choice(np.flatnonzero(malignant == label), count, replace=False)
        for label, count in enumerate(counts)
    ]
    return np.concatenate(parts)
