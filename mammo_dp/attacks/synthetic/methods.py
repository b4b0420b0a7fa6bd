# SPDX-License-Identifier: Apache-2.0
"""Membership attacks on a set of synthetic crops: distances in two spaces, and one signal per crop.

Each attack is a function of distances alone, so it runs in any space. An adversary asks for crops
of one class at a time, since a generator is told the class.

The spaces are coarse patterns of grey and fixed descriptors. Neither is fitted to a patient. Both
treat a crop as the same however it is turned or mirrored, as generators are trained on crops in all
eight symmetries of the square.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import logsumexp

from data_prep.datamodule import FULL_SCALE
from data_prep.descriptors.targets import describe
from data_prep.duplicates import THUMBNAIL, thumbnail
from data_prep.manifest import CropsManifest
from data_prep.progress import watched
from data_prep.symmetries import SYMMETRIES, symmetric
from mammo_dp.attacks.membership.results import Attack

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


Signal = NDArray[np.float64]
_TINY = 1e-6  # distance of exact copies, which has no logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What adversaries see of the ``n`` crops that they ask about, all of one class.

    Attributes:
        released: Distances to the released synthetic crops, shape ``(n, m)``.
        others: Distances to one another, shape ``(n, n)``, infinite within a patient.
        reference: Distances to crops that do not depend on the cohort, shape ``(n, k)``, or none.
    """

    released: Distances
    others: Distances
    reference: Distances | None = None


def nearest(seen: Seen) -> Signal:
    """Closeness to the nearest released crop.

    Source: Chen et al. 2020, GAN-Leaks, arXiv 1909.03935, full black-box attack.
    """
    closeness: Signal = -seen.released.min(1).astype(np.float64)
    return closeness


def calibrated(seen: Seen) -> Signal:
    """Closeness to the nearest released crop less that to the nearest reference crop.

    Source: Chen et al. 2020, GAN-Leaks, arXiv 1909.03935, attack calibration.
    """
    closeness: Signal = nearest(seen) + _reference(seen).min(1)
    return closeness


def density_ratio(seen: Seen) -> Signal:
    """Logarithm of the density of released crops over that of reference crops.

    Both densities are Gaussian kernel estimates of one width, the median distance to the nearest
    reference crop, so that their normalisations cancel.

    Source: van Breugel et al. 2023, DOMIAS, arXiv 2302.12580, with kernel estimates; the width is
    ours.
    """
    reference = _reference(seen)
    width = max(float(np.median(reference.min(1))), _TINY)

    def log_density(distances: Distances) -> Signal:
        exponent = -((distances.astype(np.float64) / width) ** 2) / 2
        found: Signal = logsumexp(exponent, axis=1) - np.log(distances.shape[1])
        return found

    return log_density(seen.released) - log_density(reference)


def monte_carlo(seen: Seen) -> Signal:
    """Share of released crops within the median of all distances to the nearest one, in [0, 1].

    Source: Hilprecht et al. 2019, PoPETs 2019(4):232, Monte Carlo attack with the median heuristic.
    """
    radius = np.median(seen.released.min(1))
    share: Signal = (seen.released <= radius).mean(1)
    return share


def authenticity(seen: Seen) -> Signal:
    """Logarithm of the distance to the nearest crop of another patient over that to the released.

    Above 0 a released crop is nearer than any other patient: it is not authentic.

    Source: Alaa et al. 2022, arXiv 2102.08921, whose comparison is turned into a score of the real
    crop; the patient is left out whole, and members and others are compared with one population.
    """
    to_others, to_released = (
        np.maximum(distances.min(1).astype(np.float64), _TINY)
        for distances in (seen.others, seen.released)
    )
    ratio: Signal = np.log(to_others / to_released)
    return ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One attack, in any space.

    Attributes:
        name: For tables.
        knows: What the adversary holds, a clause of the threat model.
        score: What the signal of a crop is.
        signal: Maps what is seen to one value per crop, shape ``(n,)``.
        needs_reference: Whether there is none without reference crops.
    """

    name: str
    knows: str
    score: str
    signal: Callable[[Seen], Signal]
    needs_reference: bool = False

    def in_space(self, space: Space) -> Attack:
        """The attack as it is scored and reported."""
        where = (
            "grey patterns of 32 px, over the eight symmetries of the square"
            if space == "pixels"
            else "fixed measurements that no symmetry changes, scaled by the released set"
        )
        return Attack(
            name=f"{self.name}, {space}",
            threat_model=(
                f"Released samples only: the adversary holds {self.knows}; it has no generator "
                "and trains nothing."
            ),
            score=(
                f"Mean over the crops of a unit of {self.score}, among crops of the class; "
                f"distances between {where}; high means member."
            ),
        )


_ONE_PERSON = "crops of one person and the synthetic set"
_EVERYBODY = "crops of everybody it asks about, and the synthetic set"
_AND_REFERENCE = ", and a second set that does not depend on the cohort"
METHODS = (
    Method(
        name="nearest-sample",
        knows=_ONE_PERSON,
        score="minus the distance to the nearest released crop",
        signal=nearest,
    ),
    Method(
        name="nearest-sample calibrated",
        knows=_ONE_PERSON + _AND_REFERENCE,
        score="the distance to the nearest reference crop minus that to the nearest released crop",
        signal=calibrated,
        needs_reference=True,
    ),
    Method(
        name="density-ratio",
        knows=_EVERYBODY + _AND_REFERENCE,
        score="the logarithm of the density of released crops over that of reference crops",
        signal=density_ratio,
        needs_reference=True,
    ),
    Method(
        name="monte-carlo",
        knows=_EVERYBODY,
        score=(
            "the share of released crops within the median, over all crops asked about, of the "
            "distance to the nearest one"
        ),
        signal=monte_carlo,
    ),
    Method(
        name="authenticity",
        knows=_EVERYBODY,
        score=(
            "the logarithm of the distance to the nearest crop of another patient over that to "
            "the nearest released crop"
        ),
        signal=authenticity,
    ),
)


def methods(*, with_reference: bool) -> tuple[Method, ...]:
    """The attacks that are possible."""
    return tuple(one for one in METHODS if with_reference or not one.needs_reference)


def _reference(seen: Seen) -> Distances:
    if seen.reference is None:
        raise ValueError("reference is None. Give distances to crops that no member influenced.")
    return seen.reference
