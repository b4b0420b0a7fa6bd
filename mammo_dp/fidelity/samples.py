# SPDX-License-Identifier: Apache-2.0
"""Crops of one source as arrays, and random halves of them, from which intervals come.

A bootstrap with replacement repeats crops, and a repeated crop is its own nearest neighbour:
precision, recall, coverage and Fréchet distance would all be wrong. Random halves (of the patients
on the real side, of the crops on the other) hold no copy, and the spread of a statistic over halves
estimates the standard error of the same statistic on the whole, without a factor (the delete-half
jackknife: Shao and Wu 1989, Annals of Statistics 17:1176). A half and the other half are disjoint
by patient, so they also give the real-versus-real bound at the very same number of crops. A half of
a source of more crops is cut into parts of that number, over which the statistic is averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from classifier.evaluate import Estimate
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
        """Loads one split, or all crops; of volumes the middle slices.

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
            images=(manifest.planes(rows) / FULL_SCALE).astype(np.float32),
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


LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """Draws of two patient-disjoint halves of the real crops.

    Attributes:
        per_class: Benign and malignant crops in each half, the same in all draws.
        one: Rows of the half that all sources are compared with, one array per draw.
        other: Rows of the other half, whose comparison with ``one`` is the bound.
    """

    per_class: PerClass
    one: tuple[Rows, ...]
    other: tuple[Rows, ...]

    @property
    def crops(self) -> int:
        """Crops in each half."""
        return sum(self.per_class)


def real_halves(
    real: Samples, available: Sequence[PerClass], *, draws: int, least: int, seed: int
) -> Halves:
    """Random halves of the patients, as equal in their classes as pairing makes them.

    Patients with equal numbers of benign and malignant crops are paired at random; of each pair one
    goes to either half.

    Args:
        real: Crops of the cohort.
        available: Crops of each class that each synthetic source has.
        draws: Number of draws, > 1.
        least: Crops of each class that the measures need in a half.
        seed: Start of the draws.

    Raises:
        FidelityError: If a half would hold fewer than ``least`` crops of a class.
    """
    rng = np.random.default_rng(seed)
    masks = [_balanced_half(real, rng) for _ in range(draws)]
    found = [
        (int((half & (real.malignant == 0)).sum()), int((half & (real.malignant == 1)).sum()))
        for mask in masks
        for half in (mask, ~mask)
    ]
    per_class = smallest([*found, *((b // 2, m // 2) for b, m in available)])
    if min(per_class) < least:
        raise FidelityError(
            f"A half holds {per_class[0]} benign and {per_class[1]} malignant crops; the measures "
            f"need {least} of each. Give more crops: the real ones are {real.per_class}, the "
            f"sources have {list(available)} (benign, malignant)."
        )

    def trimmed(mask: NDArray[np.bool_]) -> Rows:
        rows = np.flatnonzero(mask)
        return rows[draw(real.malignant[rows], per_class, rng)]

    return Halves(
        per_class=per_class,
        one=tuple(trimmed(mask) for mask in masks),
        other=tuple(trimmed(~mask) for mask in masks),
    )


def synthetic_parts(source: Samples, halves: Halves, *, seed: int) -> tuple[tuple[Rows, ...], ...]:
    """For each draw a half of a source, in parts of as many crops as a half of the real ones has.

    A statistic depends on the number of crops, so it is taken of each part, and their mean counts.
    All crops have their say, and the spread over draws is that of the mean over all of them.

    Args:
        source: At least twice as many crops of each class as a half of the real ones has.
        halves: Draws of the real side.
        seed: Start of the draws.

    Returns:
        One tuple of disjoint parts per draw, each of ``halves.per_class`` crops.
    """
    rng = np.random.default_rng(seed)
    pairs = zip(source.per_class, halves.per_class, strict=True)
    parts = min(here // (2 * wanted) for here, wanted in pairs)
    benign, malignant = halves.per_class
    found = []
    for _ in halves.one:
        rows = draw(source.malignant, (parts * benign, parts * malignant), rng)
        by_class = np.split(rows, [parts * benign])
        pieces = [np.split(own, parts) for own in by_class]
        found.append(tuple(np.concatenate(piece) for piece in zip(*pieces, strict=True)))
    return tuple(found)


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Mean and central interval of values of one statistic over draws.

    Args:
        values: Shape ``(draws,)``; draws where the statistic is undefined (NaN) are left out.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return Estimate(np.nan, np.nan, np.nan)
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(values.mean()), float(low), float(high))


def _balanced_half(real: Samples, rng: np.random.Generator) -> NDArray[np.bool_]:
    """A random half of the patients, as a mask on crops."""
    _, unit = np.unique(real.patient, return_inverse=True)
    counts = np.stack([np.bincount(unit, real.malignant == c) for c in (0, 1)], axis=1)
    order = np.lexsort((rng.random(len(counts)), counts[:, 0], counts[:, 1]))
    chosen = np.zeros(len(counts), bool)
    places = np.arange(0, len(order), 2)
    places += rng.integers(2, size=len(places))
    chosen[order[places[places < len(order)]]] = True
    return chosen[unit]
