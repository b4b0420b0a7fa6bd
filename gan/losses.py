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
    return adversarial_loss(real, loss).mean() + adversarial_loss(-fake, loss).mean()


def adversarial_loss(logits: Tensor, loss: Loss) -> Tensor:
    """Term of each crop in :func:`discriminator_loss`.

    Args:
        logits: Of real crops, or of generated ones with the sign changed, shape ``(N,)``.
        loss: As for :func:`discriminator_loss`.

    Returns:
        Shape ``(N,)``, ``>= 0``.
    """
    return F.relu(1 - logits) if loss == "hinge" else F.softplus(-logits)


def class_loss(real: Tensor, fake: Tensor) -> Tensor:
    """How far the discriminator is from telling classes apart that generated crops do not.

    An opinion is the difference of a crop's logits under its own and under the other class: two
    logits that share everything but the class, so realness is not touched. Real crops are to be
    given their own class, generated ones the other: where both show a class alike the two pull
    equally and nothing is left, and where generated crops show it too much, which a classifier of
    real crops alone (Odena et al. 2017, arXiv 1610.09585) rewards, the generator is pushed back.
    The best opinion is ``log (r1 + f0) / (r0 + f1)`` for joint densities of real (r) and generated
    (f) crops with their classes, which is 0 for equal ones.

    Args:
        real: Opinions on real crops, shape ``(R,)``.
        fake: Opinions on generated crops, shape ``(F,)``.

    Returns:
        Scalar, ``>= 0``; log 2 without an opinion.

    Source: after the discriminative classifier of Hou et al. 2022, arXiv 2107.10060.
    """
    return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2


def generator_loss(fake: Tensor, loss: Loss) -> Tensor:
    """How far the generator is from convincing the discriminator.

    Args:
        fake: Logits of generated crops, shape ``(F,)``.
        loss: As for :func:`discriminator_loss`.

    Returns:
        Scalar; without lower bound for ``"hinge"``.
    """
    return -fake.mean() if loss == "hinge" else F.softplus(-fake).mean()


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Mean squared slope of the logit at real crops, called R1.

    Args:
        discriminator: Maps crops ``(B, 1, H, W)`` to logits ``(B,)``, row by row.
        real: Crops as the discriminator sees them, shape ``(B, 1, H, W)``.

    Returns:
        Scalar, ``>= 0``; to be weighted by ``gamma / 2``.

    Source: Mescheder et al. 2018, arXiv 1801.04406, eq. 9.
    """
    real = real.detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return slope.square().flatten(1).sum(dim=1).mean()


def mode_seeking(fakes: Tensor, latents: Tensor, condition: Tensor) -> Tensor:
    """Penalty on a generator that draws one picture for different latent vectors.

    Args:
        fakes: Shape ``(B, 1, H, W)``.
        latents: Shape ``(B, L)``, what they were drawn from.
        condition: Shape ``(B, columns)``; pairs under unequal conditions do not count.

    Returns:
        Mean over pairs of (distance of latents / distance of fakes), both mean absolute
        differences; 0 if there is no pair.

    Source: Mao et al. 2019, arXiv 1903.05628; we pair each crop with the one half a batch away.
    """
    half = len(fakes) // 2
    one, other = slice(0, half), slice(half, 2 * half)
    same = (condition[one] == condition[other]).all(1).float()
    apart = (latents[one] - latents[other]).abs().mean(1)
    change = (fakes[one] - fakes[other]).abs().mean((1, 2, 3))
    return (same * apart / (change + 1e-3)).sum() / same.sum().clamp(min=1)
