# SPDX-License-Identifier: Apache-2.0
"""Rung 4: a Gaussian prior over images, and what a malicious server gains from it.

The prior is what an adversary knows about mammograms before it sees an update. It is fitted to
images of nobody in the cohort: phantoms, another cohort, released synthetic crops. With images
``N(m, V diag(lam) V^T + rho (I - V V^T))`` and noise of variance ``v`` per pixel, the posterior
mean is the best guess, and its error is known if the prior is right. That is a prediction, no
bound: a better prior, such as a diffusion model, goes further (Schwethelm et al. 2024, arXiv
2403.07588). Derived in this project.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.reconstruction.quality import Images, ncc


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
    """Weight of an observation in the posterior mean; 1 where there is no noise."""
    total = np.asarray(variance + noise)
    return np.asarray(np.divide(variance, total, out=np.ones_like(total), where=total > 0))


_DRAWS = 200  # images from the prior; a share is then known to .035


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """Means over images that are drawn from the prior itself; no bound on anybody.

    Attributes:
        ncc: Correlation with the image.
        read: Share of images whose correlation is large enough.
    """

    ncc: float
    read: float


def predicted(
    prior: GaussianPrior, *, noise_multiplier: float, rounds: int, correlation: float, seed: int = 0
) -> Predicted:
    """Samples images from a prior and reconstructs them from noisy observations.

    Args:
        prior: What the adversary believes.
        noise_multiplier: Standard deviation of the noise / clipping norm, >= 0.
        rounds: Observations of each image, > 0.
        correlation: An image is read from this correlation on.
        seed: Of the draws.
    """
    truth, guess = prior_draws(prior, noise_multiplier, rounds, seed)
    found = ncc(truth, guess)
    return Predicted(ncc=float(found.mean()), read=float((found >= correlation).mean()))


def prior_draws(
    prior: GaussianPrior, noise_multiplier: float, rounds: int, seed: int
) -> tuple[Images, Images]:
    """Images sampled from a prior, and their posterior means from noisy observations.

    The server takes the prior's mean out, so the noise follows what is left of each image.
    """
    rng = np.random.default_rng(seed)
    pixels, kept = prior.directions.shape
    rest = rng.standard_normal((_DRAWS, pixels)) * np.sqrt(prior.rest)
    rest -= (rest @ prior.directions) @ prior.directions.T
    along = rng.standard_normal((_DRAWS, kept)) * np.sqrt(prior.variances)
    away = rest + along @ prior.directions.T
    noise = noise_multiplier**2 * (away**2).sum(axis=1) / rounds
    seen = prior.mean + away + np.sqrt(noise)[:, None] * rng.standard_normal(away.shape)
    edge = round(np.sqrt(pixels))
    shape = (_DRAWS, edge, edge)
    return (prior.mean + away).reshape(shape), prior.most_likely(seen, noise).reshape(shape)


def best_hit(images: Images, known: Images, correlation: float) -> float:
    """``kappa(eta)``: largest share of images that one known image hits, within ``(0, 1)``.

    Args:
        images: Under attack, shape ``(images, edge, edge)``.
        known: Of others, same edge.
        correlation: An image is hit from this correlation on.

    Source: Balle et al. 2022, arXiv 2201.04845; known images stand for what an adversary knows.
    """

    def hits(one: Images) -> float:
        return float((ncc(images, np.broadcast_to(one, images.shape)) >= correlation).mean())

    most = max(hits(one) for one in known)
    return min(max(most, 1 / (1 + len(images))), len(images) / (1 + len(images)))
