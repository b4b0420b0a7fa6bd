# SPDX-License-Identifier: Apache-2.0
"""Fréchet and kernel distance of two sets of features."""

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

Features = NDArray[np.float64]  # (N, d)


def frechet(one: Features, other: Features) -> float:
    """Squared 2-Wasserstein distance of the Gaussians with the moments of two sets.

    It is biased upwards, the more the fewer samples: only values at equal numbers compare. With no
    more samples than dimensions a covariance is singular, so it is shrunk towards a multiple of the
    identity (Ledoit and Wolf 2004); see :func:`covariance_of`.

    Args:
        one: Shape ``(N, d)``.
        other: Shape ``(M, d)``.

    Source: Heusel et al. 2017, arXiv 1706.08500. The trace of the root of a product is taken as the
    sum of the singular values of the product of two symmetric roots, which is never complex.
    """
    mean_a, cov_a = one.mean(0), covariance_of(one)
    mean_b, cov_b = other.mean(0), covariance_of(other)
    cross = np.linalg.svd(_root(cov_a) @ _root(cov_b), compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return max(0.0, float(distance))


def kernel_distance(one: Features, other: Features) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel ``(x . y / d + 1) ** 3``.

    Its mean is 0 for equal laws at every number of samples, so single values may be negative.

    Args:
        one: Shape ``(N, d)``, ``N > 1``.
        other: Shape ``(M, d)``, ``M > 1``.

    Source: Binkowski et al. 2018, arXiv 1801.01401 (KID); all samples at once, not subsets.
    """

    def kernel(x: Features, y: Features) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (x @ y.T / x.shape[1] + 1) ** 3
        return found

    def within(x: Features) -> float:
        gram = kernel(x, x)
        return float((gram.sum() - np.trace(gram)) / (len(x) * (len(x) - 1)))

    return within(one) + within(other) - 2 * float(kernel(one, other).mean())


def covariance_of(features: Features) -> NDArray[np.float64]:
    """Sample covariance, or Ledoit and Wolf's where samples do not exceed dimensions."""
    if len(features) > features.shape[1]:
        return np.atleast_2d(np.cov(features, rowvar=False))
    shrunk: NDArray[np.float64] = ledoit_wolf(features)[0]
    return shrunk


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(matrix)
    root: NDArray[np.float64] = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root
