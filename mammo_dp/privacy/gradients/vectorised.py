# SPDX-License-Identifier: Apache-2.0
"""Gradients of single rows by ``torch.func``: for layers without a book-keeping rule."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.gradients.units import Clip, Losses, add_clipped_rows, whole_units


class VmapSums:
    """``vmap`` of the gradient over rows, in chunks; faster than the loop where units are crops.

    Needs a model whose operations torch can vectorise; every row of a chunk holds a whole gradient.
    Runs in float32, whatever the trainer's precision.

    Args:
        net: Model whose trainable parameters are summed over, in their order.
        max_physical_batch: Images, views included, in one pass; units are never cut.
    """

    def __init__(self, net: nn.Module, max_physical_batch: int) -> None:
        self.net = net
        self.names = [name for name, p in net.named_parameters() if p.requires_grad]
        self.max_physical_batch = max_physical_batch

    def close(self) -> None:
        """Nothing to undo."""

    def accumulate(
        self, losses: Losses, batch: CropBatch, sums: Sequence[Tensor], clip: Clip
    ) -> None:
        """See :class:`mammo_dp.privacy.gradients.units.ClippedSums`."""
        whole = _Loss(self.net, losses)
        state = dict(self.net.named_parameters())
        trained = {f"net.{name}": state[name].detach() for name in self.names}

        def loss(parameters: dict[str, Tensor], *row: Tensor) -> Tensor:
            called: Tensor = torch.func.functional_call(whole, parameters, row)
            return called

        gradient = torch.func.vmap(
            torch.func.grad(loss), in_dims=(None, 0, 0, 0, 0), randomness="different"
        )
        # Fused attention has no rule under vmap, and autocast breaks some: the plain kernels in
        # float32 compute the same.
        with (
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
            torch.autocast(batch.row.device.type, enabled=False),
        ):
            for piece, sizes in whole_units(batch, self.max_physical_batch):
                found = gradient(trained, *piece)
                single = [(found[name], total) for name, total in zip(trained, sums, strict=True)]
                add_clipped_rows(single, sizes, 1, clip)


class _Loss(nn.Module):
    """Loss of one row as a module, so that ``functional_call`` may swap the net's parameters."""

    def __init__(self, net: nn.Module, losses: Losses) -> None:
        super().__init__()
        self.net = net
        self.losses = losses

    def forward(self, *row: Tensor) -> Tensor:
        """Scalar loss of one row without its first axis."""
        return self.losses(CropBatch(*(column[None] for column in row))).sum()
