# SPDX-License-Identifier: Apache-2.0
"""A curious server that searches for an image whose gradient looks like the update.

Threat model: the server sees one update of one image by a model that was not tampered with, knows
the model and the label, and nothing about mammograms beyond that they are smooth. It is a baseline
for small models: thousands of steps per image, and worse than a server that chooses the model.

Source: Geiping et al. 2020, arXiv 2003.14053: cosine distance of gradients plus total variation,
signed Adam.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from data_prep.datamodule import CropBatch
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.reconstruction.updates import FirstLayer, Losses

SEARCH_PX, SEARCH_STEPS = 16, 150  # edge of the images, and steps, where many are searched for


def search_net() -> nn.Sequential:
    """A small smooth classifier that was not tampered with, the same on each call."""
    generator = torch.Generator().manual_seed(0)
    pixels, hidden = SEARCH_PX**2, 64
    net = nn.Sequential(
        FirstLayer(SEARCH_PX), nn.Linear(pixels, hidden), nn.Sigmoid(), nn.Linear(hidden, 1)
    )
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5)
    return net


def invert(
    net: nn.Module,
    losses: Losses,
    update: Mapping[str, Tensor],
    malignant: int,
    edge: int,
    *,
    steps: int = 1000,
    learning_rate: float = 0.05,
    smoothness: float = 1e-3,
    seed: int = 0,
) -> Tensor:
    """Searches for one image.

    Args:
        net: The model that the update belongs to; twice differentiable almost everywhere.
        losses: Loss of each row by ``net``.
        update: What the client returned, by parameter name, such as
            :func:`mammo_dp.attacks.reconstruction.updates.mean_update` gives.
        malignant: Label of the image, 0 or 1.
        edge: Edge of the image, in pixels.
        steps: Steps of the search, > 0; the learning rate falls by ten at 3/8, 5/8 and 7/8.
        learning_rate: Grey levels of ``[-1, 1]`` that a pixel moves in a step at first, > 0.
        smoothness: Weight of the total variation, >= 0.
        seed: Seed of the start.

    Returns:
        Image in ``[0, 1]``, shape ``(edge, edge)``.

    Raises:
        AttackError: If the update does not belong to the model.
    """
    named = {name: p for name, p in net.named_parameters() if p.requires_grad}
    if {name: p.shape for name, p in named.items()} != {n: u.shape for n, u in update.items()}:
        raise AttackError(
            f"inversion: an update of {sorted(update)} for a model with {sorted(named)}. Give the "
            "update of this model."
        )
    goal = torch.cat([update[name].flatten() for name in named])
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, 1, edge, edge, generator=generator).mul_(0.1).requires_grad_(True)
    optimizer = torch.optim.Adam([image], lr=learning_rate)
    decay = [steps * eighths // 8 for eighths in (3, 5, 7)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, decay)
    one = torch.zeros(1, dtype=torch.int64)
    for _ in range(steps):
        loss = losses(CropBatch(image, one + malignant, one, one)).sum()
        gradients = torch.autograd.grad(loss, list(named.values()), create_graph=True)
        found = torch.cat([gradient.flatten() for gradient in gradients])
        apart = 1 - nn.functional.cosine_similarity(found, goal, dim=0, eps=1e-12)
        total = apart + smoothness * _variation(image)
        (slope,) = torch.autograd.grad(total, image)
        image.grad = slope.sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            image.clamp_(-1, 1)
    return (image.detach()[0, 0] + 1) / 2


def _variation(image: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels."""
    across, down = image.diff(dim=3), image.diff(dim=2)
    return across.abs().mean() + down.abs().mean()
