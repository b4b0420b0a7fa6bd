# SPDX-License-Identifier: Apache-2.0
"""Models that a malicious server sends: their gradients hold images."""

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from data_prep.datamodule import CropBatch
from mammo_dp.attacks.reconstruction.quality import Images
from mammo_dp.attacks.signals import AttackError

Trap = Literal["imprint", "trap_weights"]
_QUIET = 1e-6  # of the last layer: logits stay near 0, where every loss has a gradient


class FirstLayer(nn.Module):
    """Averages images down and takes out what the server does not want to pay for; no weights.

    Args:
        resolution: Edge of the result, in pixels.
        centre: Whether the mean of each image is taken out.
        offset: Image that is taken out, shape ``(resolution^2,)``; none for a black one.
        gain: Scale of the result, > 0; a large one keeps gradients above any clipping norm.
    """

    offset: Tensor

    def __init__(
        self,
        resolution: int,
        *,
        centre: bool = False,
        offset: Tensor | None = None,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.resolution, self.centre, self.gain = resolution, centre, gain
        nothing = torch.zeros(resolution**2)
        self.register_buffer("offset", nothing if offset is None else offset)

    def forward(self, image: Tensor) -> Tensor:
        """Images of shape ``(B, 1, H, W)``, in ``[-1, 1]``, to ``(B, resolution^2)``."""
        grey = (image + 1) / 2
        small = nn.functional.avg_pool2d(grey, image.shape[-1] // self.resolution).flatten(1)
        if self.centre:
            small = small - small.mean(dim=1, keepdim=True)
        return self.gain * (small - self.offset)


class IsolatingNet(nn.Module):
    """A model whose gradient is the image of each target, on rows of its own.

    Args:
        first: Layer that images pass first.
        targets: Patients that are told apart.
        rows: Rows that answer to one target.
        bias: Whether each row has a bias, whose gradient tells by what the image is scaled.
    """

    def __init__(
        self, first: FirstLayer, *, targets: int, rows: int = 1, bias: bool = False
    ) -> None:
        super().__init__()
        self.first = first
        self.targets = targets
        self.rows = nn.Linear(first.resolution**2, targets * rows, bias=bias)

    def forward(self, image: Tensor) -> Tensor:
        """Answers of each target's rows, added up, shape ``(B, targets)``."""
        answers: Tensor = self.rows(self.first(image))
        return answers.view(len(image), self.targets, -1).sum(dim=2)

    def losses(self, batch: CropBatch) -> Tensor:
        """The answer to the target of each row."""
        answers: Tensor = self(batch.image)
        return answers.gather(1, batch.unit[:, None]).squeeze(1)


def small_classifier(edge: int, rows: int) -> nn.Sequential:
    """An innocent classifier of whole images that can be imprinted: one hidden layer."""
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
