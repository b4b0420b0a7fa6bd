# SPDX-License-Identifier: Apache-2.0
"""How far apart two crops are: as coarse patterns of grey, and in fixed measurements.

Neither space is fitted to a patient. Both take a crop for the same however it is turned or
mirrored, as generators are trained on crops in all eight symmetries of the square.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.crop_set import watched
from data_prep.datamodule import FULL_SCALE
from data_prep.descriptors import describe
from data_prep.duplicates import THUMBNAIL, thumbnail
from data_prep.manifest import CropsManifest
from data_prep.symmetries import SYMMETRIES, symmetric

Space = Literal["pixels", "features"]
SPACES: tuple[Space, ...] = get_args(Space)
Vectors = NDArray[np.float32]
Distances = NDArray[np.float32]
_BATCH = 64
_CLIP = 5.0  # standard deviations: one odd measurement would else be the whole distance


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """Crops of one source, as points of both spaces.

    Attributes:
        pixels: Grey patterns of mean 0 and length 1, shape ``(N, THUMBNAIL**2)``.
        features: Fixed measurements, see :mod:`data_prep.descriptors`, shape ``(N, d)``.
        malignant: Shape ``(N,)``.
    """

    pixels: Vectors
    features: Vectors
    malignant: NDArray[np.bool_]

    @classmethod
    def of_rows(cls, manifest: CropsManifest, rows: Sequence[int]) -> Self:
        """Reads crops, a few at a time.

        Raises:
            ManifestError: If an image cannot be read or the sizes differ.
        """
        patterns, measured = [], []
        starts = range(0, len(rows), _BATCH)
        for start in watched(starts, f"measure {manifest.folder.name}"):
            images = manifest.images(rows[start : start + _BATCH])
            patterns += [thumbnail(image) for image in images]
            grey = torch.from_numpy(images.astype(np.float32))[:, None] / (FULL_SCALE / 2) - 1
            measured.append(describe(grey).numpy())
        return cls(
            pixels=np.stack(patterns),
            features=np.concatenate(measured),
            malignant=np.array([manifest.crops[row].malignant for row in rows]),
        )

    def standardised(self, by: Self) -> Self:
        """Features in standard deviations of another source, clipped."""
        mean, spread = by.features.mean(0), by.features.std(0) + 1e-6
        return replace(self, features=((self.features - mean) / spread).clip(-_CLIP, _CLIP))

    def of_class(self, malignant: bool) -> Self:
        """The crops of one class."""
        own = self.malignant == malignant
        return replace(
            self,
            pixels=self.pixels[own],
            features=self.features[own],
            malignant=self.malignant[own],
        )


def distances(space: Space, one: Points, other: Points) -> Distances:
    """Distances between all crops of two sources, shape ``(N, M)``.

    In pixels the squared distance is ``2 - 2 * correlation`` in the best of the eight symmetries,
    so that brightness and contrast drop out. Measurements do not change under symmetries; their
    distance is Euclidean.

    Args:
        space: Where.
        one: ``N`` crops.
        other: ``M`` crops, standardised alike.
    """
    if space == "features":
        a, b = one.features.astype(np.float64), other.features.astype(np.float64)
        squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        apart: Distances = np.sqrt(squares.clip(0)).astype(np.float32)
        return apart
    grid = other.pixels.reshape(-1, THUMBNAIL, THUMBNAIL)
    correlation = np.full((len(one.pixels), len(other.pixels)), -1, np.float32)
    for number in range(SYMMETRIES):
        turned = symmetric(grid, number).reshape(other.pixels.shape)
        np.maximum(correlation, one.pixels @ turned.T, out=correlation)
    found: Distances = np.sqrt((2 - 2 * correlation).clip(0))
    return found
