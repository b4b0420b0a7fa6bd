# SPDX-License-Identifier: Apache-2.0
"""Precision, recall, density and coverage: which part of one set lies near the other."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mammo_dp.fidelity.distances import Features

NEIGHBOURS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """How two sets of features lie to one another; a ball reaches to the k-th nearest neighbour.

    Attributes:
        precision: Share of synthetic samples in the ball of some real one, in ``[0, 1]``.
        recall: Share of real samples in the ball of some synthetic one, in ``[0, 1]``.
        density: Mean number of real balls that a synthetic sample lies in, over k; 1 for equal
            laws, unbounded above.
        coverage: Share of real samples whose ball holds a synthetic one, in ``[0, 1]``; for equal
            laws and numbers about ``1 - 2 ** -k``.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def overlap(real: Features, synthetic: Features, k: int = NEIGHBOURS) -> Overlap:
    """Compares two sets of equal size by balls around their samples.

    Args:
        real: Shape ``(N, d)``.
        synthetic: Shape ``(N, d)``.
        k: Neighbour that a ball reaches to, itself not counted, in ``[1, N)``.

    Raises:
        ValueError: For unequal numbers, at which the four measures do not compare, or another k.

    Source: precision and recall Kynkäänniemi et al. 2019, arXiv 1904.06991; density and coverage
    Naeem et al. 2020, arXiv 2002.09797.
    """
    if len(real) != len(synthetic) or not 1 <= k < len(real):
        raise ValueError(
            f"overlap: {len(real)} real and {len(synthetic)} synthetic samples, {k=}. "
            "Give equal numbers, more than k."
        )
    across = squared_distances(real, synthetic)
    real_reach = _reach(real, k)[:, None]
    in_real_ball = across <= real_reach
    return Overlap(
        precision=float(in_real_ball.any(0).mean()),
        recall=float((across <= _reach(synthetic, k)[None]).any(1).mean()),
        density=float(in_real_ball.sum(0).mean() / k),
        coverage=float(in_real_ball.any(1).mean()),
    )


def squared_distances(one: Features, other: Features) -> NDArray[np.float64]:
    """Squared Euclidean distances, shape ``(N, M)``, never negative."""
    centre = one.mean(0)  # distances of far-away clouds would cancel otherwise
    a, b = one - centre, other - centre
    squares: NDArray[np.float64] = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.maximum(squares, 0, out=squares)


def _reach(features: Features, k: int) -> NDArray[np.float64]:
    """Squared distance of each sample to its k-th nearest other one."""
    squares = squared_distances(features, features)
    np.fill_diagonal(squares, np.inf)
    reach: NDArray[np.float64] = np.partition(squares, k - 1, axis=1)[:, k - 1]
    return reach
