# SPDX-License-Identifier: Apache-2.0
"""Book-keeping: clipped sums of all units from one forward and one backward pass."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.gradients.rules import recording
from mammo_dp.privacy.gradients.tape import Tape
from mammo_dp.privacy.gradients.units import Clip, Losses, samples_of, whole_units


class BookKeepingSums:
    """One forward and one backward pass for all units; norms and sums from what they leave behind.

    For a linear head on features this is the closed form: the gradient of a unit is the sum of
    outer products of features and logit gradients.

    Args:
        net: Model whose trainable parameters are summed over, in their order; each trainable layer
            has a rule, see :func:`mammo_dp.privacy.gradients.rules.unruled`.
        max_physical_batch: Images, views included, in one pass; units are never cut.
    """

    def __init__(self, net: nn.Module, max_physical_batch: int) -> None:
        self.net = net
        self.params = [p for p in net.parameters() if p.requires_grad]
        self.max_physical_batch = max_physical_batch
        self.tape = Tape()

    def close(self) -> None:
        """Nothing to undo: layers run by their rules during a pass only."""

    def accumulate(
        self, losses: Losses, batch: CropBatch, sums: Sequence[Tensor], clip: Clip
    ) -> None:
        """See :class:`mammo_dp.privacy.gradients.units.ClippedSums`."""
        by_parameter: dict[Tensor, Tensor] = dict(zip(self.params, sums, strict=True))
        try:
            for piece, sizes in whole_units(batch, self.max_physical_batch):
                samples = samples_of(piece)
                self.tape.start([size * samples for size in sizes], piece.row.device)
                share = torch.tensor([1 / size for size in sizes for _ in range(size)])
                with recording(self.net, self.tape):
                    loss = losses(piece) @ share.to(piece.row.device)
                    with torch.autocast(loss.device.type, enabled=False):
                        loss.backward()  # type: ignore[no-untyped-call]
                        self.tape.clip_into(by_parameter, clip)
        finally:
            self.tape.clear()
            for p in self.params:
                p.grad = None
