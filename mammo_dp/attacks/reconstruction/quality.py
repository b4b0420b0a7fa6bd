# SPDX-License-Identifier: Apache-2.0
"""How near a reconstruction is to its original: MSE, PSNR, NCC, SSIM, with intervals."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from classifier.evaluate import Estimate, resampled_counts

Images = NDArray[np.float64]  # shape (images, edge, edge); originals lie in [0, 1]
PerImage = NDArray[np.float64]  # shape (images,)
MOST_PSNR = 120.0  # dB, of equal images
_WINDOW = 7  # pixels of a mean in SSIM


def mse(originals: Images, guesses: Images) -> PerImage:
    """Mean squared error of each image, >= 0."""
    return np.asarray(((originals - guesses) ** 2).mean(axis=(1, 2)))


def psnr(originals: Images, guesses: Images) -> PerImage:
    """Peak signal-to-noise ratio in dB, for a data range of 1; at most ``MOST_PSNR``."""
    return np.asarray(-10 * np.log10(np.maximum(mse(originals, guesses), 10 ** (-MOST_PSNR / 10))))


def ncc(originals: Images, guesses: Images) -> PerImage:
    """Normalised cross-correlation, in ``[-1, 1]``; 0 where one of the images is constant.

    Blind to brightness and contrast, so it says what can be seen rather than how grey it is.
    """
    own, other = (i - i.mean(axis=(1, 2), keepdims=True) for i in (originals, guesses))
    product = np.einsum("nij,nij->n", own, other)
    norms = np.sqrt(np.einsum("nij,nij->n", own, own) * np.einsum("nij,nij->n", other, other))
    return np.asarray(np.divide(product, norms, out=np.zeros_like(product), where=norms > 1e-12))


def ssim(originals: Images, guesses: Images) -> PerImage:
    """Structural similarity, at most 1, of means over 7 x 7 pixels, or what fits a smaller image.

    Source: Wang et al. 2004, IEEE TIP 13(4), constants .01 and .03, data range 1, uniform window,
    sample covariances.
    """
    edge = originals.shape[-1]
    window = min(_WINDOW, edge - 1 + edge % 2)  # odd
    inner = slice(window // 2, edge - window // 2)

    def mean(of: Images) -> Images:
        return np.asarray(uniform_filter(of, (0, window, window))[:, inner, inner])

    sample = window**2 / (window**2 - 1)
    a, b = mean(originals), mean(guesses)
    aa = sample * (mean(originals**2) - a**2)
    bb = sample * (mean(guesses**2) - b**2)
    ab = sample * (mean(originals * guesses) - a * b)
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * a * b + c1) * (2 * ab + c2) / ((a**2 + b**2 + c1) * (aa + bb + c2))
    return np.asarray(values.mean(axis=(1, 2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Means over patients, one image each, with percentile intervals from resampled patients.

    Attributes:
        mse: Mean squared error, >= 0.
        psnr: In dB, data range 1.
        ncc: In ``[-1, 1]``; 1 is the original up to brightness and contrast.
        ssim: At most 1.
    """

    mse: Estimate
    psnr: Estimate
    ncc: Estimate
    ssim: Estimate

    @classmethod
    def of(
        cls,
        originals: Images,
        guesses: Images,
        *,
        resamples: int = 1000,
        seed: int = 0,
        level: float = 0.95,
    ) -> Self:
        """Compares images pairwise.

        Args:
            originals: One image per patient, in ``[0, 1]``.
            guesses: Same shape, any range.
            resamples: Bootstrap resamples of patients.
            seed: Seed of the bootstrap.
            level: Coverage of the intervals.
        """
        count = len(originals)
        weights = resampled_counts(count, resamples, np.random.default_rng(seed)) / count

        def estimate(values: PerImage) -> Estimate:
            low, high = np.quantile(weights @ values, [(1 - level) / 2, (1 + level) / 2])
            value = float(values.mean())
            return Estimate(value, min(float(low), value), max(float(high), value))

        return cls(
            mse=estimate(mse(originals, guesses)),
            psnr=estimate(psnr(originals, guesses)),
            ncc=estimate(ncc(originals, guesses)),
            ssim=estimate(ssim(originals, guesses)),
        )
