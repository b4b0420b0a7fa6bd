# SPDX-License-Identifier: Apache-2.0
"""Rung 4: what the malicious server gains from a Gaussian prior on images. A prediction, no bound.

With images ``N(m, V diag(lam) V^T + rho (I - V V^T))`` and noise of variance ``v`` per pixel, the
posterior mean is the best guess, and its error is known if the prior is right. A better prior, such
as a diffusion model, goes further (Schwethelm et al. 2024, arXiv 2403.07588).

Derived here.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from mammo_dp.attacks.signals import AttackError


def expected_mse(eigenvalues: ArrayLike, *, residual: float, pixels: int, variance: float) -> float:
    """Expected squared error per pixel of the posterior mean, if the prior is right.

    Args:
        eigenvalues: Variances ``lam`` along the principal directions, shape ``(k,)``, >= 0.
        residual: Variance ``rho`` along each of the other ``n - k`` directions, >= 0.
        pixels: ``n``, >= k.
        variance: Variance ``v`` of the noise per pixel, > 0; infinite for no observation.

    Returns:
        ``(1 / n) sum_i lam_i v / (lam_i + v)``, in squared grey values.

    Raises:
        AttackError: For a negative variance or more directions than pixels.
    """
    values = np.asarray(eigenvalues, np.float64)
    if values.ndim != 1 or len(values) > pixels or (values < 0).any():
        raise AttackError(
            f"eigenvalues: shape {values.shape} for {pixels} pixels. Give at most one per pixel, "
            "none negative."
        )
    if residual < 0 or not variance > 0:
        raise AttackError(f"{residual=}, {variance=}. Give a residual from 0 and noise above 0.")
    left = pixels - len(values)
    return float((_left(values, variance).sum() + left * _left(residual, variance)) / pixels)


def _left(prior: ArrayLike, variance: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Variance that remains along a direction, ``lam v / (lam + v)``."""
    values = np.asarray(prior, np.float64)
    return np.asarray(values if math.isinf(variance) else values * variance / (values + variance))
