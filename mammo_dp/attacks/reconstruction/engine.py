# SPDX-License-Identifier: Apache-2.0
"""What a client returns: clipped sums and noise by the code that trains, for any server's model.

The client keeps its promise whatever model it is sent: the gradients of a patient's crops are
averaged, clipped to ``clipping_norm`` and summed, and noise of ``noise_multiplier *
clipping_norm`` is added. The server sends the same model in each of ``steps`` rounds.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import SGD

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.training.gradients.methods import build, candidates, refuse_layers
from mammo_dp.privacy.training.gradients.units import Clip
from mammo_dp.privacy.training.optimizer import PrivateOptimizer

Losses = Callable[[CropBatch], Tensor]
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
    booked = iter(range(steps))
    optimizer = PrivateOptimizer(
        SGD(list(named.values()), lr=0.0),  # a round ends at the weights that the server sends
        noise_multiplier=noise_multiplier,
        clipping_norm=clipping_norm,
        expected_units=1.0,
        key=key,
        account=lambda: next(booked),
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
