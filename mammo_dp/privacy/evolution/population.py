# SPDX-License-Identifier: Apache-2.0
"""Votes of the patients, and how noisy votes shape the next candidates.

Only the votes use patients' data. What follows from the noisy votes is post-processing and consumes
no budget.

Votes below a threshold are taken for noise; the rest decide how many places a candidate gets. The
first place keeps a winner as it is, so that later generations keep what earlier ones found;
further places hold its variations, coarse in early rounds, fine in late ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from data_prep.descriptors.voting import Floats, describe, nearest
from data_prep.manifest import CropsManifest, Split
from data_prep.progress import watched
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.simulators import Genome
from mammo_dp.privacy.training.sampling import NOISE, PoissonSampling, draw, noisy

CLASSES = 2  # benign, malignant
Histogram = NDArray[np.float64]
_FULL_SCALE = 65535  # of 16-bit grey
_AT_ONCE = 64  # crops that are described in one go
Candidates = tuple[tuple[Genome, ...], ...]  # benign, malignant; as many of each
# Images (N, size, size) in [0, 1] to a space (N, d); each row a function of its image alone, to the
# last bit, else a patient who leaves would move the votes of others at a tie.
Describe = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolution:
    """A population's course, fixed in advance; its randomness is public.

    Attributes:
        candidates: Per class, >= 1.
        rounds: Queries of the patients, >= 1.
        threshold: Votes that count as none, in standard deviations of the noise, >= 0.
        first_degree: Of the variations after the first round, in ``(0, 1]``.
        last_degree: After the last round, of the released crops, in ``(0, first_degree]``.
        seed: Of draws and variations, >= 0; noise never comes from it.
    """

    candidates: int
    rounds: int
    threshold: float
    first_degree: float
    last_degree: float
    seed: int

    def __post_init__(self) -> None:
        """Refuses what is no course.

        Raises:
            PrivacyError: Naming each value outside its range.
        """
        ranges = (
            ("candidates", self.candidates >= 1, "1 or more"),
            ("rounds", self.rounds >= 1, "1 or more"),
            ("threshold", self.threshold >= 0, "0 or more noise deviations"),
            ("first_degree", 0 < self.first_degree <= 1, "above 0, at most 1"),
            (
                "last_degree",
                0 < self.last_degree <= self.first_degree,
                "above 0, at most first_degree",
            ),
            ("seed", self.seed >= 0, "0 or more"),
        )
        if wrong := [
            f"{name}={getattr(self, name)} (give {allowed})"
            for name, holds, allowed in ranges
            if not holds
        ]:
            raise PrivacyError(f"evolution: {', '.join(wrong)}.")

    def degree(self, after: int) -> float:
        """Degree of the variations after a round, counted from 0: falls linearly."""
        return float(np.linspace(self.first_degree, self.last_degree, self.rounds)[after])

    def first(self) -> Candidates:
        """The candidates of the first round."""
        return tuple(
            tuple(
                Genome.fresh(self._random(0, malignant, place), malignant=bool(malignant))
                for place in range(self.candidates)
            )
            for malignant in range(CLASSES)
        )

    def following(self, candidates: Candidates, weights: Histogram, *, after: int) -> Candidates:
        """The candidates of the next round.

        Args:
            candidates: Those that were voted on.
            weights: From :meth:`weights`, shape ``(2, K)``.
            after: Number of the round in which they were, from 0.
        """
        return tuple(
            self._descendants(of_class, weights[malignant], after, malignant)
            for malignant, of_class in enumerate(candidates)
        )

    def weights(self, votes: Histogram, noise_multiplier: float) -> Histogram:
        """Shares of the next generation.

        Args:
            votes: Noisy votes, shape ``(2, K)``.
            noise_multiplier: Standard deviation of their noise.

        Returns:
            Shape ``(2, K)``, >= 0, each row adds up to 1; equal shares in a class where no
            candidate passes the threshold.
        """
        passed = np.maximum(votes - self.threshold * noise_multiplier, 0.0)
        passed[~passed.any(axis=1)] = 1.0
        shares: Histogram = passed / passed.sum(axis=1, keepdims=True)
        return shares

    def released(self, candidates: Candidates, weights: Histogram, number: int) -> Genome:
        """Genome of one released crop: a variation of a winner of the last round.

        Args:
            candidates: Those of the last round.
            weights: Their shares, shape ``(2, K)``.
            number: Of the crop, from 0; odd ones are malignant. It alone fixes the genome.
        """
        malignant = number % CLASSES
        rng = self._random(self.rounds, malignant, number)
        parent = int(rng.choice(self.candidates, p=weights[malignant]))
        return candidates[malignant][parent].varied(rng, degree=self.last_degree)

    def _descendants(
        self, candidates: Sequence[Genome], weights: NDArray[np.float64], after: int, malignant: int
    ) -> tuple[Genome, ...]:
        degree = self.degree(after)
        parents = in_proportion(weights, self.candidates, self._random(after + 1, malignant, 0))
        return tuple(
            candidates[parent].varied(self._random(after + 1, malignant, 1 + place), degree=degree)
            if place and parent == parents[place - 1]
            else candidates[parent]
            for place, parent in enumerate(parents)
        )

    def _random(self, *place: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=place))


def in_proportion(shares: NDArray[np.float64], places: int, rng: np.random.Generator) -> list[int]:
    """Gives out places by systematic resampling.

    Each gets its share of the places, rounded up or down at random, which adds less randomness than
    the paper's draws with replacement.

    Args:
        shares: Shape ``(K,)``, >= 0, sum 1.
        places: How many there are, >= 1.
        rng: Source of randomness.

    Returns:
        ``places`` positions in ``[0, K)``, ascending.
    """
    marks = (rng.random() + np.arange(places)) / places
    found: list[int] = np.searchsorted(np.cumsum(shares), marks, side="right").tolist()
    last = int(np.flatnonzero(shares)[-1])  # rounding may leave the sum just below a mark
    return [min(one, last) for one in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Electorate:
    """Those who vote: patients of one split, by what is known of their crops.

    Attributes:
        crops: Descriptions of crops, shape ``(n, d)``.
        malignant: Class of each crop, shape ``(n,)``.
        patient: Position of each crop's patient, shape ``(n,)``, in ``[0, patients)``.
        sampling: The same patients as they are accounted: each joins each round.
    """

    crops: Floats
    malignant: NDArray[np.bool_]
    patient: NDArray[np.int64]
    sampling: PoissonSampling

    @classmethod
    def of_manifest(
        cls,
        manifest: CropsManifest,
        split: Split,
        *,
        public_size: int | None = None,
        described: Describe = describe,
    ) -> Self:
        """Describes the crops of a split, which must hold both classes.

        Args:
            manifest: Table of crops.
            split: Whose patients vote.
            public_size: Declared number of patients, > 0; ``None`` if the true number is public.
            described: The space of the votes. Whatever it is, a patient's votes have length 1.

        Raises:
            LabelError: If the split is empty or has one class only.
        """
        manifest.require_classes(split)
        sampling = PoissonSampling.from_manifest(
            manifest, split, unit="patient", rate=1.0, public_size=public_size
        )
        rows = [row for unit in sampling.rows_of for row in unit]
        found = []
        for start in watched(range(0, len(rows), _AT_ONCE), "Describing crops"):
            images = manifest.images(rows[start : start + _AT_ONCE])
            found.append(described((images / _FULL_SCALE).astype(np.float32)))
        return cls(
            crops=np.concatenate(found),
            malignant=np.array([manifest.crops[row].malignant for row in rows]),
            patient=np.repeat(np.arange(sampling.units), [len(unit) for unit in sampling.rows_of]),
            sampling=sampling,
        )

    def votes(self, candidates: Floats) -> Histogram:
        """The exact histogram: private, never to be stored or shown.

        Each crop names the nearest candidate of its class; a patient's names, counted, are scaled
        to length 1. Shares that add up to 1 would have at most that length, and less of it the
        more a patient's crops differ: the same noise would hide less signal.

        Args:
            candidates: Descriptions, shape ``(2, K, d)``, benign first.

        Returns:
            Shape ``(2, K)``.
        """
        choice = np.empty(len(self.crops), np.int64)
        for malignant in range(CLASSES):
            of_class = self.malignant == malignant
            choice[of_class] = nearest(self.crops[of_class], candidates[malignant])
        shape = (self.sampling.units, *candidates.shape[:2])
        places = np.ravel_multi_index((self.patient, self.malignant.astype(int), choice), shape)
        named = np.bincount(places, minlength=math.prod(shape)).reshape(shape)
        length = np.sqrt(np.square(named).sum(axis=(1, 2), keepdims=True))
        histogram: Histogram = (named / length).sum(axis=0)
        return histogram


def with_noise(votes: Histogram, *, noise_multiplier: float, key: int, step: int) -> Histogram:
    """What leaves the patients' data: votes and Gaussian noise.

    Args:
        votes: Exact histogram, shape ``(2, K)``.
        noise_multiplier: Standard deviation of the noise, > 0; a patient's vote has length 1.
        key: 256 bits, fresh in each process, see
            :func:`mammo_dp.privacy.training.sampling.new_key`.
        step: Accounted rounds before this one, >= 0.

    Raises:
        PrivacyError: For a noise multiplier that hides nothing.
    """
    if not noise_multiplier > 0:
        raise PrivacyError(f"{noise_multiplier=}: the votes would be public. Give a value above 0.")
    return noisy(votes, noise_multiplier, draw(key, step, NOISE))
