# SPDX-License-Identifier: Apache-2.0
"""Traps in a classifier that a batch of patients passes, as published; here with the DP engine.

Threat model: the server chooses the weights of a classifier and sees one update of a batch. It has
images of others, which tell it how bright images are, but does not know who is in the batch; loss,
clip and noise are the client's. It divides rows, or differences of rows, by those of their biases,
which undoes any clip, and gets one candidate per row.

Each original is compared with its best candidate. That flatters: the same number of images of
others, matched in the same way, says how much.

Source: Fowl et al. 2021, arXiv 2110.13057; Boenisch et al. 2021, arXiv 2112.02918; the caveat,
Ziller et al. 2024, arXiv 2312.04590, who match the same way.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data_prep.datamodule import CropBatch
from mammo_dp.attacks.reconstruction.engine import Losses, mean_update
from mammo_dp.attacks.reconstruction.isolated import one_crop_each
from mammo_dp.attacks.reconstruction.quality import Images, Quality, ncc, psnr
from mammo_dp.attacks.reconstruction.server import Trap, plant, small_classifier

_CERTAIN_DB = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trapped:
    """What one batch gave away.

    Attributes:
        quality: Of the best candidate for each original.
        recovered: Share of originals whose best candidate has a PSNR of at least 40 dB.
        blind: Quality of the best among as many images of others.
        candidates: How many there were to choose from.
    """

    quality: Quality
    recovered: float
    blind: Quality
    candidates: int


def spring(
    images: Images,
    malignant: NDArray[np.int64],
    reference: Images,
    kind: Trap,
    *,
    noise_multiplier: float,
    rows: int,
    key: int,
) -> Images:
    """Sends a trap and reads one update of a batch.

    Args:
        images: One image per patient of the batch, shape ``(batch, edge, edge)``, in ``[0, 1]``.
        malignant: Labels, shape ``(batch,)``.
        reference: Images of others at the same size.
        kind: Which trap.
        noise_multiplier: Standard deviation of the noise / clipping norm, >= 0.
        rows: Rows of the trap; twice the batch is usual.
        key: 256 bits of the client's noise.

    Returns:
        Candidates, one per row that fired, shape ``(candidates, edge, edge)``, any range.

    Raises:
        AttackError: If the model is not imprintable.
    """
    net = small_classifier(images.shape[-1], rows)
    plant(net, reference, kind, batch=len(images))
    update = mean_update(
        net,
        cross_entropy(net),
        one_crop_each(images)._replace(malignant=torch.from_numpy(malignant)),
        noise_multiplier=noise_multiplier,
        key=key,
    )
    weight, bias = (update[f"1.{name}"].double().numpy() for name in ("weight", "bias"))
    if kind == "imprint":
        weight, bias = -np.diff(weight, axis=0, append=0), -np.diff(bias, append=0)
    fired = np.abs(bias) > 1e-6 * np.abs(bias).max()
    return np.asarray((weight[fired] / bias[fired, None]).reshape(-1, *images.shape[1:]))


def match(originals: Images, candidates: Images, others: Images, *, seed: int = 0) -> Trapped:
    """Compares each original with its best candidate, and with the best of images of others.

    Args:
        originals: Shape ``(batch, edge, edge)``, in ``[0, 1]``.
        candidates: What was read, shape ``(candidates, edge, edge)``; may be empty.
        others: Images of nobody in the batch, as many as rows were read.
        seed: Seed of the bootstrap.
    """
    best, blind = _best(originals, candidates), _best(originals, others)
    return Trapped(
        quality=Quality.of(originals, best, seed=seed),
        recovered=float((psnr(originals, best) >= _CERTAIN_DB).mean()),
        blind=Quality.of(originals, blind, seed=seed),
        candidates=len(candidates),
    )


def cross_entropy(net: nn.Module) -> Losses:
    """The loss that a client trains a classifier with."""

    def losses(batch: CropBatch) -> Tensor:
        logits = net(batch.image).squeeze(1)
        return nn.functional.binary_cross_entropy_with_logits(
            logits, batch.malignant.to(logits.dtype), reduction="none"
        )

    return losses


def _best(originals: Images, candidates: Images) -> Images:
    """The candidate that correlates most with each original; black ones if there is none."""
    if not len(candidates):
        return np.zeros_like(originals)
    chosen = [
        candidates[ncc(np.broadcast_to(one, candidates.shape), candidates).argmax()]
        for one in originals
    ]
    return np.stack(chosen)
