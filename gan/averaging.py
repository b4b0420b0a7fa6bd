# SPDX-License-Identifier: Apache-2.0
"""The averaged generator: what is evaluated, released and drawn from."""

from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from gan.generator import Generator


def averaged(generator: Generator, most: float) -> AveragedModel:
    """An exponential average of a generator's weights that no optimizer moves.

    Args:
        generator: Followed by ``update_parameters``.
        most: Largest decay per update, in ``[0, 1)``; smaller ones come first.

    Source: Yazici et al. 2019, arXiv 1806.04498 (averaging of generators).
    """

    def average(mean: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
        return mean.lerp(current, 1 - decay_of(int(updates), most))

    model = AveragedModel(generator, avg_fn=average)
    model.requires_grad_(False)
    return model


def decay_of(updates: int, most: float) -> float:
    """Decay of the average after some updates, from 0.1 up to ``most``.

    >>> decay_of(0, 0.999), decay_of(90, 0.999), decay_of(10**6, 0.999)
    (0.1, 0.91, 0.999)
    """
    return min(most, (1 + updates) / (10 + updates))
