# SPDX-License-Identifier: Apache-2.0
"""How patients vote: the only place of Private Evolution that looks at their crops.

One query is one histogram over the candidates of both classes. A patient's part of it has length 1
in the Euclidean sense, whatever the number of crops, so blanking a patient, or leaving one out,
moves the histogram by at most 1, and Gaussian noise of standard deviation ``sigma`` makes it a
Gaussian mechanism with noise multiplier ``sigma`` and sampling rate 1.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import CropsManifest, Split
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.descriptor import Floats, describe, nearest
from mammo_dp.privacy.sampling import NOISE, PoissonSampling, draw, noisy

CLASSES = 2  # benign, malignant
Histogram = NDArray[np.float64]
_FULL_SCALE = 65535  # of 16-bit grey
_AT_ONCE = 256  # crops that are described in one go


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
        cls, manifest: CropsManifest, split: Split, *, public_size: int | None = None
    ) -> Self:
        """Describes the crops of a split, which must hold both classes.

        Args:
            manifest: Table of crops.
            split: Whose patients vote.
            public_size: Declared number of patients, > 0; ``None`` if the true number is public.

        Raises:
            LabelError: If the split is empty or has one class only.
        """
        manifest.require_classes(split)
        sampling = PoissonSampling.from_manifest(
            manifest, split, unit="patient", rate=1.0, public_size=public_size
        )
        rows = [row for unit in sampling.rows_of for row in unit]
        described = []
        for start in range(0, len(rows), _AT_ONCE):
            images = manifest.images(rows[start : start + _AT_ONCE])
            described.append(describe((images / _FULL_SCALE).astype(np.float32)))
        return cls(
            crops=np.concatenate(described),
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
        key: 256 bits, fresh in each process, see :func:`mammo_dp.privacy.sampling.new_key`.
        step: Accounted rounds before this one, >= 0.

    Raises:
        PrivacyError: For a noise multiplier that hides nothing.
    """
    if not noise_multiplier > 0:
        raise PrivacyError(f"{noise_multiplier=}: the votes would be public. Give a value above 0.")
    return noisy(votes, noise_multiplier, draw(key, step, NOISE))
