# SPDX-License-Identifier: Apache-2.0
"""Diversity within a class: how alike two crops of one class are, by MS-SSIM."""

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from mammo_dp.fidelity.samples import FidelityError, Samples

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
