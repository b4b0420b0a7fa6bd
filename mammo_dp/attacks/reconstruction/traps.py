# SPDX-License-Identifier: Apache-2.0
"""Traps in a classifier that are planted before a batch of patients passes it.

Threat model: the server chooses the weights of a classifier and sees one update of a batch. It has
images of others, which tell it how bright images are, but does not know who is in the batch; loss,
clip and noise are the client's. It divides rows, or differences of rows, by those of their biases,
which undoes any clip, and gets one candidate per row.

Each original is compared with its best candidate. That flatters the attack: the same number of
images of others, matched in the same way, shows by how much.

Source: Fowl et al. 2021, arXiv 2110.13057; Boenisch et al. 2021, arXiv 2112.02918; the caveat,
Ziller et al. 2024, arXiv 2312.04590, who match the same way.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.reconstruction.quality import Images, Quality, ncc, psnr
from mammo_dp.attacks.reconstruction.updates import (
    FirstLayer,
    cross_entropy,
    mean_update,
    one_crop_each,
)

Trap = Literal["imprint", "trap_weights"]
_CERTAIN_DB = 40.0
_QUIET = 1e-6  # of the last layer: logits stay near 0, where every loss has a gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class Trapped:
    """What was read from one batch.

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


def _best(originals: Images, candidates: Images) -> Images:
    """The candidate that correlates most with each original; black ones if there is none."""
    if not len(candidates):
        return np.zeros_like(originals)
    chosen = [
        candidates[ncc(np.broadcast_to(one, candidates.shape), candidates).argmax()]
        for one in originals
    ]
    return np.stack(chosen)


def small_classifier(edge: int, rows: int) -> nn.Sequential:
    """A usual classifier of whole images with one hidden layer, in which a trap can be planted."""
    return nn.Sequential(FirstLayer(edge), nn.Linear(edge**2, rows), nn.ReLU(), nn.Linear(rows, 1))


def plant(net: nn.Module, reference: Images, trap: Trap, *, batch: int, seed: int = 0) -> nn.Linear:
    """Sets malicious weights in a classifier, and freezes all but the trap.

    Args:
        net: A classifier whose first trainable layer is linear on whole images, followed by ReLU
            and a linear layer to one logit; it expects images of the reference's edge.
        reference: Images of others, which say where images like these lie, shape
            ``(images, edge, edge)``.
        trap: ``imprint``: rows share one question, the brightness, and fire above different
            levels, so that a difference of neighbours holds the images between two levels.
            ``trap_weights``: rows ask different questions, each fires for one image in ``batch``.
        batch: Images that the server expects in a batch, > 0.
        seed: Seed of the questions of ``trap_weights``.

    Returns:
        The layer that carries the trap.

    Raises:
        AttackError: If the model has no such layers.

    Source: Fowl et al. 2021, arXiv 2110.13057; Boenisch et al. 2021, arXiv 2112.02918, with the
    scale of each row set by the reference.
    """
    if trap not in get_args(Trap):
        raise AttackError(f"{trap=}. Give one of {', '.join(get_args(Trap))}.")
    known = torch.from_numpy(reference.reshape(len(reference), -1)).float()
    layer, last = _layers(net, known.shape[1])
    rows, pixels = layer.weight.shape
    with torch.no_grad():
        if trap == "imprint":
            levels = (torch.arange(rows) + 0.5) / rows
            layer.weight.fill_(1 / pixels)
            layer.bias.copy_(-torch.quantile(known.mean(dim=1), levels))
        else:
            drawn = np.random.default_rng(seed)
            sizes = torch.from_numpy(np.abs(drawn.standard_normal((rows, pixels)))).float()
            negative = torch.from_numpy(
                drawn.permuted(np.tile(np.arange(pixels) < pixels // 2, (rows, 1)), axis=1)
            )
            against, in_favour = sizes * negative, sizes * ~negative
            ratios = (known @ against.T) / (known @ in_favour.T).clamp(min=1e-12)
            scale = torch.quantile(ratios, 1 / max(2, batch), dim=0)
            layer.weight.copy_(scale[:, None] * in_favour - against)
            layer.weight /= math.sqrt(pixels)
            layer.bias.zero_()
        last.weight.fill_(_QUIET)
        if last.bias is not None:
            last.bias.zero_()
    for p in net.parameters():
        p.requires_grad_(False)
    for p in layer.parameters():
        p.requires_grad_(True)
    return layer


def _layers(net: nn.Module, pixels: int) -> tuple[nn.Linear, nn.Linear]:
    leaves = [module for module in net.modules() if not list(module.children())]
    start = next((i for i, m in enumerate(leaves) if list(m.parameters())), len(leaves))
    match leaves[start:]:
        case [nn.Linear() as layer, nn.ReLU(), nn.Linear(out_features=1) as last] if (
            layer.in_features == pixels and layer.bias is not None
        ):
            return layer, last
    found = ", ".join(type(module).__name__ for module in leaves[start : start + 3]) or "nothing"
    raise AttackError(
        f"{type(net).__name__}: is not imprintable: it starts with {found}. A trap needs Linear on "
        f"all {pixels} pixels with a bias, ReLU, and Linear to one logit. Give such a model; a "
        "malicious server would put these layers in front of any other."
    )
