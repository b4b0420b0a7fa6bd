# SPDX-License-Identifier: Apache-2.0
"""Rung 3: a malicious server that chooses model and weights but knows nothing about mammograms.

It makes a linear layer with ``M`` rows and summed output, whose gradient is the image in each row.
The rescaled mean of the noisy rows, over the ``K`` steps that it can align, is the image plus
normal noise of variance ``v = sigma^2 ||x||^2 / K`` per pixel: unbiased, of least variance.

An assumption about the adversary, no guarantee, and where ``n sigma^2 / K > 1`` no bound at all:
there a blank image has a smaller error. The target is alone on its rows with one view of one crop;
means over views and crops only blur.

Source: Ziller, Riess et al. 2024, arXiv 2402.12861, re-derived; ``K > 1``, correlation and the
mixture are derived here.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import digamma, gammainc
from scipy.stats import binom, gamma, nct

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.bounds.identification import require_probability
from mammo_dp.privacy.accounting.account import Mechanism


@dataclass(frozen=True, slots=True, kw_only=True)
class FromScratch:
    """Reconstruction of one image from noisy observations: its error and its correlation.

    Attributes:
        pixels: ``n``, pixels that the server's first layer keeps, >= 3.
        noise_multiplier: ``sigma``, > 0.
        observations: ``K``, aligned noisy observations of the image, > 0; see
            :func:`clipped_observations` and :func:`observations_in_weights` for other cases.
        mean_square: ``||x||^2 / n`` of the image, > 0. A dark image is the worst case for errors.
        spread: Standard deviation ``s`` of its pixels; ``sqrt(mean_square)`` if not given, which
            an image of mean 0 attains: the worst case for correlations.
    """

    pixels: int
    noise_multiplier: float
    observations: float = 1.0
    mean_square: float = 1.0
    spread: float | None = None

    def __post_init__(self) -> None:
        """Refuses values that describe no image.

        Raises:
            AttackError: For a value outside its range.
        """
        largest = math.sqrt(self.mean_square) if self.mean_square > 0 else 0.0
        for name, value, holds, allowed in (
            ("pixels", self.pixels, self.pixels >= 3, "at least 3"),
            ("noise_multiplier", self.noise_multiplier, self.noise_multiplier > 0, "above 0"),
            ("observations", self.observations, self.observations > 0, "above 0"),
            ("mean_square", self.mean_square, self.mean_square > 0, "above 0"),
            (
                "spread",
                self.spread,
                self.spread is None or 0 < self.spread <= largest * (1 + 1e-9),
                f"above 0, at most the root of mean_square, {largest:g}",
            ),
        ):
            if not holds:
                raise AttackError(f"{name}={value}. Give a value {allowed}.")

    @property
    def variance(self) -> float:
        """``v``, variance of the noise per pixel; also the expected squared error."""
        return self.noise_multiplier**2 * self.pixels * self.mean_square / self.observations

    @property
    def bounds_anything(self) -> bool:
        """Whether the error is below that of a blank image: ``n sigma^2 / K <= 1``."""
        return self.variance <= self.mean_square

    @property
    def mean_ncc(self) -> float:
        """Expected correlation with the image, about ``s / sqrt(s^2 + v)``."""
        spread = self._spread
        return spread / math.hypot(spread, math.sqrt(self.variance))

    def mse_at_most(self, error: float) -> float:
        """Probability of a mean squared error of at most ``error``, >= 0."""
        return float(gammainc(self.pixels / 2, self.pixels * error / (2 * self.variance)))

    def mean_psnr(self, data_range: float = 1.0) -> float:
        """Expected peak signal-to-noise ratio, in decibels, not that of the expected error."""
        half = self.pixels / 2
        log_error = digamma(half) - math.log(half) + math.log(self.variance)
        return float(10 / math.log(10) * (2 * math.log(data_range) - log_error))

    def ncc_at_least(self, correlation: float) -> float:
        """Probability of a correlation of at least ``correlation``, in ``(-1, 1)``.

        Raises:
            AttackError: For a correlation outside its range.
        """
        if not -1 < correlation < 1:
            raise AttackError(f"{correlation=}. Give a value between -1 and 1.")
        freedom = self.pixels - 2
        threshold = correlation * math.sqrt(freedom / (1 - correlation**2))
        signal = self._spread * math.sqrt(self.pixels / self.variance)
        return float(nct.sf(threshold, freedom, signal))

    @property
    def _spread(self) -> float:
        return math.sqrt(self.mean_square) if self.spread is None else self.spread


def expected_observations(mechanism: Mechanism) -> float:
    """``K`` of a server that recognises every step of the target: ``q T``."""
    return mechanism.sampling_rate * mechanism.steps


def observations_in_weights(mechanism: Mechanism) -> float:
    """``K`` of an attacker who sees the final weights alone: ``q^2 T``.

    Plain gradient descent adds up ``q T`` copies of the image and the noise of all ``T`` steps.
    """
    return mechanism.sampling_rate**2 * mechanism.steps


def clipped_observations(
    observations: float, *, rows: int, norm: float, clipping_norm: float
) -> float:
    """``K`` if the gradient of ``rows`` rows may be shorter than the clipping norm ``C``.

    From ``M >= (C / ||x||)^2`` rows on the clip is active and nothing is lost; fewer rows leave
    noise of variance ``sigma^2 C^2 / M``.

    Args:
        observations: ``K`` with the clip active, > 0.
        rows: ``M``, >= 1.
        norm: ``||x||``, > 0.
        clipping_norm: ``C``, > 0.
    """
    return observations * min(1.0, rows * (norm / clipping_norm) ** 2)


def mse_at_most(view: FromScratch, mechanism: Mechanism, error: float) -> float:
    """Probability of an error of at most ``error`` if the target is sampled at random.

    Args:
        view: The image; its observations are those of one sampled step.
        mechanism: Steps and sampling rate; its noise is ignored for that of ``view``.
        error: Mean squared error, >= 0.

    Returns:
        ``sum_k Bin(k; T, q) P(MSE <= error | k)``; a target that is never sampled is never hit.
    """
    drawn = np.arange(1, mechanism.steps + 1)
    probability = binom.pmf(drawn, mechanism.steps, mechanism.sampling_rate)
    scaled = drawn * view.pixels * error / (2 * view.variance)
    return float(probability @ gammainc(view.pixels / 2, scaled))


def noise_for(view: FromScratch, *, error: float, probability: float) -> float:
    """Noise multiplier at which an error of at most ``error`` has a given probability.

    Args:
        view: The image and the observations; its noise is ignored.
        error: Mean squared error, > 0.
        probability: In ``(0, 1)``.

    Raises:
        AttackError: For a probability outside its range or an error that is not above 0.
    """
    require_probability("probability", probability)
    if not error > 0:
        raise AttackError(f"{error=}. Give a mean squared error above 0.")
    quantile = float(gamma.ppf(probability, view.pixels / 2))
    return math.sqrt(view.observations * error / (2 * view.mean_square * quantile))
