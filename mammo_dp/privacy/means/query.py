# SPDX-License-Identifier: Apache-2.0
"""The one query of the patients: sums of features over each class, and what a class weighs.

A crop is a vector of length 1: its features, brought to one length, and a constant beside them that
counts the crop. A patient is the mean of the own crops, each of them in the half of its class and 0
in the other. A mean of vectors of length 1 is no longer than 1, so adding or removing a patient, or
blanking the patient's data, moves the sum over patients by at most 1, whatever the number and the
classes of the crops. Patients with crops of both classes divide the same length among the two.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mammo_dp.privacy.errors import PrivacyError

CLASSES = 2  # benign, malignant
LARGEST_CHANGE = 1.0  # of the sums by one patient; the clipping norm of the query
# Weight of the constant beside the features. Noise of a mean has two parts, sum / count: a larger
# constant makes counts more exact and features less. For means of length .3 of 64 features the best
# is .19, and .25 costs under a hundredth.
COUNTED = 0.25
Sums = NDArray[np.float64]


def patient_vector(features: NDArray[np.floating], malignant: NDArray[np.bool_]) -> Sums:
    """What one patient adds to the sums, of length at most :data:`LARGEST_CHANGE`.

    Args:
        features: Of the patient's crops, shape ``(n, d)``, n > 0; rows are brought to length 1, and
            a row of zeros stays one.
        malignant: Classes of the crops, shape ``(n,)``.

    Returns:
        Shape ``(2, d + 1)``, benign first; the last column counts.

    Raises:
        PrivacyError: If a feature is not finite: it would have no bounded length.
    """
    features = np.asarray(features, np.float64)
    if not np.isfinite(features).all():
        raise PrivacyError(
            "features: a crop has features that are not finite, so no length bounds them. Choose "
            "another checkpoint, or look for the damaged crop."
        )
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(length > 0, length, 1.0)
    counted = np.concatenate([unit, np.full((len(unit), 1), COUNTED)], axis=1)
    counted *= LARGEST_CHANGE / math.hypot(1, COUNTED) / len(counted)
    return np.stack([counted[malignant == label].sum(axis=0) for label in range(CLASSES)])


def exact_sums(patients: Iterable[tuple[NDArray[np.floating], NDArray[np.bool_]]]) -> Sums:
    """The sum of :func:`patient_vector` over patients: private, never to be stored or shown."""
    total: Sums = np.sum([patient_vector(*patient) for patient in patients], axis=0)
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisySums:
    """What leaves the patients' data.

    Attributes:
        sums: Shape ``(2, d + 1)``, benign first; see :func:`patient_vector`.
        noise: Standard deviation of the noise in each number, > 0.
    """

    sums: Sums
    noise: float

    def means(self) -> tuple[Sums, NDArray[np.float64]]:
        """Means of the classes, by post-processing.

        Returns:
            Means of features of length 1, shape ``(2, d)``, and the length that noise has in each,
            shape ``(2,)``.

        Raises:
            PrivacyError: If a class counts no more than its noise, so that it has no mean.
        """
        counted = self.sums[:, -1]
        if (counted <= 2 * self.noise).any():
            raise PrivacyError(
                f"means: the classes count {counted.round(2).tolist()}, their noise is "
                f"{self.noise:.2f}, so one of them has no mean. Give more patients or a larger "
                "epsilon."
            )
        weights = counted[:, None] / COUNTED
        length = self.noise * math.sqrt(self.sums.shape[1] - 1) / weights[:, 0]
        return self.sums[:, :-1] / weights, length
