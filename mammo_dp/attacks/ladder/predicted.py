# SPDX-License-Identifier: Apache-2.0
"""What a Gaussian prior would make of updates if it were right about the images: rung 4."""

from dataclasses import dataclass

import numpy as np

from mammo_dp.attacks.reconstruction.prior import GaussianPrior
from mammo_dp.attacks.reconstruction.quality import Images, ncc

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
    """Draws images from a prior and reads them through the noise that they would meet.

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
    """Images from a prior, and what its owner makes of their noisy observations.

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
