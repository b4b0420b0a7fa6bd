# SPDX-License-Identifier: Apache-2.0
"""One backward pass per unit: the universal method and the measure of all others."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.gradients.units import Clip, Losses, rows, unit_sizes, views_of


class LoopSums:
    """One backward pass per unit, in the memory of ordinary training.

    Args:
        net: Model whose trainable parameters are summed over, in their order.
        max_physical_batch: Images, views included, in one forward pass; larger units are cut,
            which leaves their mean gradient as it is.
    """

    def __init__(self, net: nn.Module, max_physical_batch: int) -> None:
        self.params = [p for p in net.parameters() if p.requires_grad]
        self.max_physical_batch = max_physical_batch

    def close(self) -> None:
        """Nothing to undo."""

    def accumulate(
        self, losses: Losses, batch: CropBatch, sums: Sequence[Tensor], clip: Clip
    ) -> None:
        """See :class:`mammo_dp.privacy.gradients.units.ClippedSums`."""
        start = 0
        for size in unit_sizes(batch):
            unit = rows(batch, start, start + size)
            start += size
            gradient = self._mean_gradient(losses, unit)
            square = sum(
                float(torch.linalg.vector_norm(g, dtype=torch.float64)) ** 2 for g in gradient
            )
            norm = math.sqrt(square)
            if math.isfinite(norm):
                factor = float(clip.factors(torch.tensor(norm, dtype=torch.float64)))
                for total, part in zip(sums, gradient, strict=True):
                    total.add_(part, alpha=factor)

    def _mean_gradient(self, losses: Losses, unit: CropBatch) -> list[Tensor]:
        size = len(unit.row)
        step = max(1, self.max_physical_batch // views_of(unit))
        total: list[Tensor] = []
        for start in range(0, size, step):
            loss = losses(rows(unit, start, start + step)).sum() / size
            with torch.autocast(loss.device.type, enabled=False):
                parts = torch.autograd.grad(
                    loss, self.params, allow_unused=True, materialize_grads=True
                )
            total = [a + b for a, b in zip(total, parts, strict=True)] if total else list(parts)
        return total
