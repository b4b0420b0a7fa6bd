# SPDX-License-Identifier: Apache-2.0
"""Adversarial losses as functions of logits; a logit above 0 means real."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Loss = Literal["hinge", "non-saturating"]


def discriminator_loss(real: Tensor, fake: Tensor, loss: Loss) -> Tensor:
    """How far the discriminator is from telling real from generated crops.

    Args:
        real: Logits of real crops, shape ``(R,)``.
        fake: Logits of generated crops, shape ``(F,)``.
        loss: ``"hinge"`` (Lim and Ye 2017, arXiv 1705.02894) or ``"non-saturating"``, the binary
            cross-entropy (Goodfellow et al. 2014, arXiv 1406.2661).

    Returns:
        Scalar, ``>= 0``; the sum of the mean over real and the mean over generated crops.
    """
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, loss: Loss) -> Tensor:
    """How far the generator is from convincing the discriminator.

    Args:
        fake: Logits of generated crops, shape ``(F,)``.
        loss: As for :func:`discriminator_loss`.

    Returns:
        Scalar; without lower bound for ``"hinge"``.
    """
    return -fake.mean() if loss == "hinge" else F.softplus(-fake).mean()


def gradient_penalty(judge: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Mean squared slope of the logit at real crops, called R1.

    Args:
        judge: Maps crops ``(B, 1, H, W)`` to logits ``(B,)``, row by row.
        real: Crops as the discriminator sees them, shape ``(B, 1, H, W)``.

    Returns:
        Scalar, ``>= 0``; to be weighted by ``gamma / 2``.

    Source: Mescheder et al. 2018, arXiv 1801.04406, eq. 9.
    """
    real = real.detach().requires_grad_()
    (slope,) = torch.autograd.grad(judge(real).sum(), real, create_graph=True)
    return slope.square().flatten(1).sum(dim=1).mean()
