# SPDX-License-Identifier: Apache-2.0
"""The noisy updates of clients, and models whose gradients hold images.

Clipped sums and noise come from the code that trains, whatever model a server sends: the gradients
of a patient's crops are averaged, clipped to ``clipping_norm`` and summed, and noise of
``noise_multiplier * clipping_norm`` is added. The server sends the same model in each round.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import SGD

from data_prep.datamodule import CropBatch
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.reconstruction.quality import Images
from mammo_dp.privacy.training.gradients.methods import build, candidates, refuse_layers
from mammo_dp.privacy.training.gradients.units import Clip
from mammo_dp.privacy.training.optimizer import PrivateOptimizer

Losses = Callable[[CropBatch], Tensor]
LEAST_PX = 3  # edge of the smallest images that have a structure to compare
_IMAGES_AT_ONCE = 64


def mean_update(
    net: nn.Module,
    losses: Losses,
    batch: CropBatch,
    *,
    noise_multiplier: float,
    key: int,
    steps: int = 1,
    clipping_norm: float = 1.0,
) -> dict[str, Tensor]:
    """Mean over rounds of the noisy sums of one batch.

    Args:
        net: The server's model; its weights are the same in each round.
        losses: Loss of each row, shape ``(B,)``, by ``net``.
        batch: Crops of the patients that take part in every round; rows of one are adjacent.
        noise_multiplier: Standard deviation of the noise / clipping norm, >= 0; 0 is no noise.
        key: 256 bits of the client's noise, see :func:`mammo_dp.privacy.training.sampling.new_key`.
        steps: Rounds, > 0.
        clipping_norm: Largest L2 norm of one patient's gradient, > 0.

    Returns:
        By parameter name, shape as the parameter, float32.

    Raises:
        PrivacyError: If a layer mixes patients, so that no client would train it privately.
    """
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    method = candidates(net, "auto")[0]
    refuse_layers(net, method)
    sums = {p: torch.zeros_like(p, dtype=torch.float32) for p in named.values()}
    clipped = build(net, method, _IMAGES_AT_ONCE)
    try:
        clipped.accumulate(losses, batch, list(sums.values()), Clip(norm=clipping_norm))
    finally:
        clipped.close()
    accounted = iter(range(steps))
    optimizer = PrivateOptimizer(
        SGD(list(named.values()), lr=0.0),  # a round ends at the weights that the server sends
        noise_multiplier=noise_multiplier,
        clipping_norm=clipping_norm,
        expected_units=1.0,
        key=key,
        account=lambda: next(accounted),
    )
    seen = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in named.items()}
    for _ in range(steps):
        optimizer.take(sums)
        optimizer.step()
        for name, p in named.items():
            assert p.grad is not None
            seen[name] += p.grad
    optimizer.zero_grad(set_to_none=True)
    return {name: total / steps for name, total in seen.items()}


class FirstLayer(nn.Module):
    """Averages images down and subtracts what the server knows already; no weights.

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


def cross_entropy(net: nn.Module) -> Losses:
    """The loss by which a client trains a classifier."""

    def losses(batch: CropBatch) -> Tensor:
        logits = net(batch.image).squeeze(1)
        return nn.functional.binary_cross_entropy_with_logits(
            logits, batch.malignant.to(logits.dtype), reduction="none"
        )

    return losses


def one_crop_each(images: Images) -> CropBatch:
    """A batch of as many patients as images, in order."""
    rows = torch.arange(len(images))
    pixels = torch.from_numpy(images).float()[:, None] * 2 - 1
    return CropBatch(pixels, torch.zeros_like(rows), rows, rows)


def pooled(images: NDArray[np.float64], resolution: int) -> Images:
    """Images averaged down to a resolution, as the server's first layer does.

    Raises:
        AttackError: If the resolution does not divide the edge.
    """
    edge = images.shape[-1]
    if resolution < LEAST_PX or edge % resolution:
        raise AttackError(
            f"resolution={resolution}: images of {edge} px cannot be averaged to it. Give a "
            f"divisor of {edge}, at least {LEAST_PX}."
        )
    side = edge // resolution
    blocks = images.reshape(len(images), resolution, side, resolution, side)
    return np.asarray(blocks.mean(axis=(2, 4)), np.float64)
