# SPDX-License-Identifier: Apache-2.0
"""Gives the features of a body mean 0 and deviation 1 on public crops, without changing its scores.

A private head clips and adds noise of one size in every direction. It wastes its budget on features
that share a large offset or differ in scale.
"""

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

from classifier.backbones import head
from classifier.features import body_features


class StandardiseError(ValueError):
    """Features cannot be standardised; the message says why and what to choose."""


@torch.no_grad()
def standardise(net: nn.Module, images: Tensor | Iterable[Tensor]) -> None:
    """Folds mean and deviation of the features into the last norm, and their inverse into the head.

    They are statistics of the crops without noise: of phantoms or synthetic crops they cost what
    those cost, of patients the whole guarantee.

    Args:
        net: Model of :func:`classifier.backbones.build`; changed in place.
        images: Shape ``(N, 1, H, W)``, in ``[-1, 1]``, ``N >= 2``, or batches of them.

    Raises:
        StandardiseError: If the features are no multiple of the affine part of a last norm.
    """
    batches = iter(torch.split(images, 64) if isinstance(images, Tensor) else images)
    some = next(batches, torch.empty(0))
    before = body_features(net, chain([some], batches))
    if len(before) < 2:
        raise StandardiseError(
            f"standardise: {len(before)} crops have no deviation. Give at least 2."
        )
    mean, deviation = before.mean(0), before.std(0).clamp_min(1e-6)
    norm, layer = last_norm(net), head(net)
    kept = [(p, p.clone()) for p in (norm.weight, norm.bias, layer.weight, layer.bias)]
    mean, deviation = mean.to(layer.weight.device), deviation.to(layer.weight.device)
    layer.bias.add_(layer.weight[0] @ mean)
    layer.weight.mul_(deviation)
    norm.weight.div_(deviation)
    norm.bias.sub_(mean).div_(deviation)
    expected = (before[: len(some)] - mean.cpu()) / deviation.cpu()
    if not torch.allclose(body_features(net, some), expected, atol=1e-2, rtol=1e-2):
        for parameter, value in kept:
            parameter.copy_(value)
        raise StandardiseError(
            f"standardise: features of {type(net).__name__} do not scale with its last norm. "
            "Choose standardise: false, or a ViT or Swin."
        )


def last_norm(net: nn.Module) -> nn.LayerNorm:
    """The norm whose gain and offset reach the head through nothing but a choice or mean of tokens.

    Raises:
        StandardiseError: If there is none.
    """
    for name in ("fc_norm", "norm"):
        found = getattr(net, name, None)
        if isinstance(found, nn.LayerNorm) and found.elementwise_affine:
            return found
    raise StandardiseError(
        f"standardise: {type(net).__name__} has no `norm` or `fc_norm` with gain and offset. "
        "Choose standardise: false, or a ViT or Swin."
    )
