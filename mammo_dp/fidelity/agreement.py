# SPDX-License-Identifier: Apache-2.0
"""Malignancy agreement: areas under the curve of several classifiers on the same patients."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from classifier.evaluate import Estimate, resampled_weights
from mammo_dp.fidelity.halves import LEVEL
from mammo_dp.fidelity.samples import Rows

Floats = NDArray[np.float64]


def resampled_aurocs(
    malignant: Rows,
    patient: Rows,
    by_seed: Mapping[str, Sequence[Floats]],
    *,
    draws: int,
    seed: int,
) -> dict[str, Floats]:
    """AUROC of several classifiers on the same resamples of patients.

    A resample draws patients of the test crops and, for each classifier, as many of its seeds, both
    with replacement, and averages over the seeds drawn. All classifiers see the same patients, so
    differences of two rows are paired.

    Args:
        malignant: Labels of the test crops, shape ``(N,)``.
        patient: Their patients, shape ``(N,)``.
        by_seed: Scores of the test crops by each seed of a classifier, each of shape ``(N,)``.
        draws: Number of resamples; those with one class only are left out.
        seed: Start of the draws.

    Returns:
        For each classifier the value on the crops as they are, mean over seeds, and then the values
        of the resamples.
    """
    rng = np.random.default_rng(seed)
    counts = resampled_weights(patient, draws, rng)
    ill, benign = malignant == 1, malignant == 0
    counts = counts[(counts[:, ill].sum(1) > 0) & (counts[:, benign].sum(1) > 0)]
    weights = np.concatenate([np.ones((1, len(malignant))), counts])
    found = {}
    for name, seeds in by_seed.items():
        areas = np.stack(
            [_weighted_auroc(score[ill], score[benign], weights, ill) for score in seeds]
        )
        drawn = rng.integers(len(seeds), size=(len(seeds), areas.shape[1]))
        drawn[:, 0] = np.arange(len(seeds))
        found[name] = np.take_along_axis(areas, drawn, axis=0).mean(0)
    return found


def with_interval(values: Floats) -> Estimate:
    """The first value, with the central interval of the others."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(values[0]), float(low), float(high))


def _weighted_auroc(
    ill: Floats, benign: Floats, weights: Floats, is_ill: NDArray[np.bool_]
) -> Floats:
    """AUROC for each row of weights ``(R, N)``; ties count half."""
    wins = (ill[:, None] > benign) + 0.5 * (ill[:, None] == benign)
    up, down = weights[:, is_ill], weights[:, ~is_ill]
    area: Floats = ((up @ wins) * down).sum(1) / (up.sum(1) * down.sum(1))
    return area
