# SPDX-License-Identifier: Apache-2.0
"""Statistics of two sets of crops: distances, overlap, diversity within a class, spectra."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from mammo_dp.fidelity.samples import FidelityError, Images, Samples

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
        base: NDArray[np.float64] = x @ y.T / x.shape[1] + 1
        return base * base * base  # NumPy's power is many times slower

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


KERNEL = 7  # pixels; the usual 11 does not fit the coarsest of five scales of 128 px
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first
_BATCH = 64


def scales(size: int) -> tuple[float, ...]:
    """Weights of the scales that fit an image of that edge, with sum 1: all five at 112 px or more.

    Raises:
        FidelityError: If not even one fits.
    """
    fitting = [w for number, w in enumerate(_WEIGHTS) if size // 2**number >= KERNEL]
    if not fitting:
        raise FidelityError(f"Crops of {size} px are smaller than the {KERNEL} px of MS-SSIM.")
    return tuple(weight / sum(fitting) for weight in fitting)


def pair_similarity(samples: Samples, *, pairs: int, seed: int) -> NDArray[np.float64]:
    """MS-SSIM of disjoint random pairs of one class each, at most one crop of a patient.

    Within a class no patient appears twice, so its pairs are independent, and a plain bootstrap of
    pairs is valid but for patients with crops of both classes.

    Args:
        samples: Crops of one source.
        pairs: Most pairs of each class.
        seed: Seed of the pairs.

    Returns:
        Shape ``(P,)``, in ``[0, 1]``; 1 for equal crops.

    Source: Wang, Simoncelli and Bovik 2003; as a measure of collapse Odena et al. 2017, arXiv
    1610.09585.
    """
    rng = np.random.default_rng(seed)
    one, other = [], []
    for label in (0, 1):
        rows = rng.permutation(np.flatnonzero(samples.malignant == label))
        _, first = np.unique(samples.patient[rows], return_index=True)
        rows = rows[np.sort(first)]
        count = min(pairs, len(rows) // 2)
        one.append(rows[:count])
        other.append(rows[count : 2 * count])
    a, b = (
        torch.from_numpy(samples.images[np.concatenate(rows)])[:, None] for rows in (one, other)
    )
    betas = scales(samples.images.shape[-1])
    found = [
        multiscale_structural_similarity_index_measure(
            x,
            y,
            gaussian_kernel=False,
            kernel_size=KERNEL,
            reduction="none",
            data_range=1.0,
            betas=betas,
            normalize="relu",
        )
        for x, y in zip(torch.split(a, _BATCH), torch.split(b, _BATCH), strict=True)
    ]
    return torch.cat([part.reshape(-1) for part in found]).double().numpy()


Floats = NDArray[np.float64]
# (vertical, horizontal) in quarter cycles per pixel; (1, 1) stands for both diagonals.
GRID = {
    "(1/2, 1/2)": (2, 2),
    "(1/2, 0)": (2, 0),
    "(0, 1/2)": (0, 2),
    "(1/2, 1/4)": (2, 1),
    "(1/4, 1/2)": (1, 2),
    "(1/4, 1/4)": (1, 1),
    "(1/4, 0)": (1, 0),
    "(0, 1/4)": (0, 1),
}
SLOPE_BAND = (3 / 128, 39 / 128)  # cycles per pixel
_SMALLEST = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectra:
    """What is kept of the power spectrum of each crop.

    Attributes:
        peak: Power at each frequency of ``GRID``, shape ``(N, 8)``.
        around: Mean power at 3 and 4 bins from it, shape ``(N, 8)``.
        slope: Exponent beta of the power law over ``SLOPE_BAND``, shape ``(N,)``.
    """

    peak: Floats
    around: Floats
    slope: Floats

    def grid_index(self, rows: NDArray[np.int64]) -> Floats:
        """Mean power of some crops on the grid over that around it, shape ``(8,)``.

        1 for a smooth spectrum; a grid or lines of that period stand out.
        """
        index: Floats = self.peak[rows].mean(0) / self.around[rows].mean(0)
        return index


def spectra(images: Images) -> Spectra:
    """Power spectra of crops, their mean removed, under a Hann window.

    Without the window the jump between opposite edges puts power on both axes, which looks like
    lines.

    Args:
        images: Shape ``(N, size, size)``, ``size`` a multiple of 4, at least 32.

    Raises:
        FidelityError: For another size, at which a frequency lies between bins.
    """
    size = images.shape[-1]
    if size % 4 or size < _SMALLEST:
        raise FidelityError(
            f"Crops of {size} px have no bins at a quarter cycle per pixel with room around them. "
            f"Prepare them at a multiple of 4, at least {_SMALLEST}."
        )
    window = np.hanning(size + 1)[:-1]
    offset = np.arange(-4, 5)
    distance = np.maximum(np.abs(offset)[:, None], np.abs(offset))
    ring = distance >= 3
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    shell = np.round(radius * size).astype(int).ravel()
    frequency = np.arange(shell.max() + 1) / size
    band = (frequency >= SLOPE_BAND[0]) & (frequency <= SLOPE_BAND[1])
    members = np.bincount(shell)
    peak, around, slope = [], [], []
    for image in images:
        grey = image - image.mean(dtype=float)
        power = np.abs(np.fft.fft2(grey * window[:, None] * window)) ** 2
        at_peak, beside = [], []
        for vertical, horizontal in GRID.values():
            y = vertical * size // 4
            # the diagonals of a quarter cycle differ, (1/4, 1/4) and (1/4, -1/4)
            places = {horizontal * size // 4, -horizontal * size // 4 % size}
            patches = [power[np.ix_((y + offset) % size, (x + offset) % size)] for x in places]
            at_peak.append(np.mean([patch[4, 4] for patch in patches]))
            beside.append(np.mean([patch[ring].mean() for patch in patches]))
        peak.append(at_peak)
        around.append(beside)
        radial = np.bincount(shell, power.ravel()) / members
        fit = np.polyfit(np.log(frequency[band]), np.log(radial[band] + 1e-12), 1)
        slope.append(-fit[0])
    return Spectra(peak=np.array(peak), around=np.array(around), slope=np.array(slope))
