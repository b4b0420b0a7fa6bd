# SPDX-License-Identifier: Apache-2.0
"""What an adversary knows about mammograms before it sees an update: a Gaussian over images.

Fitted on images of nobody in the cohort: phantoms, another cohort, released synthetic crops.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mammo_dp.attacks.bounds.gaussian_prior import expected_mse
from mammo_dp.attacks.signals import AttackError

Vectors = NDArray[np.float64]  # shape (images, pixels)
_FEWEST = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianPrior:
    """Normal images: ``N(m, V diag(lam) V^T + rho (I - V V^T))``.

    Attributes:
        mean: ``m``, shape ``(pixels,)``.
        directions: ``V``, orthonormal columns, shape ``(pixels, directions)``.
        variances: ``lam``, variance along each direction, >= 0, shape ``(directions,)``.
        rest: ``rho``, variance along every other direction, >= 0.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]
    variances: NDArray[np.float64]
    rest: float

    @classmethod
    def fit(cls, images: NDArray[np.float64]) -> Self:
        """Takes directions from every other image and variances from those between.

        Variances along directions that were fitted to the same images would be too large, and the
        rest too small: there are fewer images than pixels.

        Args:
            images: Shape ``(images, edge, edge)``, in ``[0, 1]``, of nobody under attack.

        Raises:
            AttackError: For fewer than 8 images.
        """
        if len(images) < _FEWEST:
            raise AttackError(
                f"prior: {len(images)} images. Give a folder with at least {_FEWEST}; hundreds "
                "make a good prior."
            )
        rows = images.reshape(len(images), -1)
        mean = rows.mean(axis=0)
        first, second = rows[::2] - mean, rows[1::2] - mean
        pixels = rows.shape[1]
        values, vectors = np.linalg.eigh(first @ first.T)
        kept = values > 1e-9 * values.max()
        kept[: max(0, len(values) - pixels // 2)] = False  # leaves directions to the rest
        directions = first.T @ (vectors[:, kept] / np.sqrt(values[kept]))
        projected = second @ directions
        energy = np.einsum("ij,ij->", second, second) - np.einsum("ij,ij->", projected, projected)
        rest = max(0.0, float(energy)) / len(second) / (pixels - directions.shape[1])
        return cls(
            mean=mean,
            directions=directions,
            variances=(projected**2).mean(axis=0),
            rest=rest,
        )

    def most_likely(self, seen: Vectors, noise: NDArray[np.float64]) -> Vectors:
        """Posterior mean, which is also the mode, of images seen through white noise.

        Args:
            seen: Images plus noise, shape ``(images, pixels)``.
            noise: Variance of the noise of each image's pixels, >= 0, shape ``(images,)``.

        Source: design of this project; the linear estimator of least mean squared error for a
        prior with this mean and covariance, whatever its shape.
        """
        v = np.asarray(noise, np.float64)[:, None]
        away = seen - self.mean
        along = away @ self.directions
        outside = away - along @ self.directions.T
        return np.asarray(
            self.mean
            + (along * _kept(self.variances, v)) @ self.directions.T
            + outside * _kept(np.array(self.rest), v)
        )

    def expected_mse(self, noise: float) -> float:
        """``E[MSE]`` of :meth:`most_likely` for images that the prior is right about.

        Args:
            noise: Variance of the noise of each pixel, > 0; infinite for no observation.
        """
        return expected_mse(
            self.variances, residual=self.rest, pixels=len(self.mean), variance=noise
        )


def _kept(variance: NDArray[np.float64], noise: NDArray[np.float64] | float) -> Vectors:
    """Share of what was seen that is believed; all of it where nothing disturbs."""
    total = np.asarray(variance + noise)
    return np.asarray(np.divide(variance, total, out=np.ones_like(total), where=total > 0))
