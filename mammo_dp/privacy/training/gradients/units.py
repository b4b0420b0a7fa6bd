# SPDX-License-Identifier: Apache-2.0
"""Batches as units, and the clip: what every gradient method shares."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.errors import PrivacyError

Losses = Callable[[CropBatch], Tensor]  # loss of each row, shape (B,), mean over its views
Clipping = Literal["flat", "automatic"]
_STABILITY = 0.01  # of automatic clipping, the value of the paper


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """How a unit's gradient is scaled; no scaled gradient is longer than ``norm``.

    Attributes:
        norm: Clipping norm C, > 0.
        rule: ``"flat"`` scales by ``min(1, C / ||g||)``; ``"automatic"`` by ``C / (||g|| + 0.01)``,
            so that small gradients count as much as large ones and C only scales the step.

    Source: automatic clipping, Bu et al. 2022, arXiv 2206.07136.
    """

    norm: float
    rule: Clipping = "flat"

    def factors(self, norms: Tensor) -> Tensor:
        """Scale of each gradient.

        Args:
            norms: Norms of gradients, >= 0, any shape; may hold NaN and infinity.
        """
        if self.rule == "automatic":
            return self.norm / (norms + _STABILITY)
        return self.norm / norms.clamp(min=self.norm)


class ClippedSums(Protocol):
    """Adds the clipped gradients of the units of a batch to running sums."""

    def accumulate(
        self, losses: Losses, batch: CropBatch, sums: Sequence[Tensor], clip: Clip
    ) -> None:
        """Adds the clipped gradient of each unit; one that is not finite adds nothing.

        Args:
            losses: Loss of each row.
            batch: Rows of a unit are adjacent; may be empty.
            sums: One per trainable parameter of the net, float32; changed in place.
            clip: Clip of each unit's mean gradient.
        """

    def close(self) -> None:
        """Leaves the net as it was."""


def unit_sizes(batch: CropBatch) -> list[int]:
    """Rows of each unit, in order.

    Raises:
        PrivacyError: If a unit's rows are apart: it would be clipped twice.
    """
    units, counts = torch.unique_consecutive(batch.unit, return_counts=True)
    if len(set(units.tolist())) < len(units):
        raise PrivacyError("batch: rows of one unit are apart. Collate them side by side.")
    return [int(count) for count in counts.tolist()]


def views_of(batch: CropBatch) -> int:
    """Views of each row: images ``(B, K, 1, H, W)`` and features ``(B, K, d)`` carry several."""
    return batch.image.shape[1] if batch.image.ndim in (3, 5) else 1


def samples_of(batch: CropBatch) -> int:
    """Samples per row that pass the net one by one: views of images do, those of features do not.

    A layer that sees ``(B, K, d)`` adds up the gradients of the K views of a row by itself.
    """
    return batch.image.shape[1] if batch.image.ndim == 5 else 1


def rows(batch: CropBatch, start: int, stop: int) -> CropBatch:
    """Rows of a batch."""
    return CropBatch(*(column[start:stop] for column in batch))


def whole_units(batch: CropBatch, limit: int) -> Iterator[tuple[CropBatch, list[int]]]:
    """Cuts a batch into pieces of whole units.

    Args:
        batch: Rows of a unit are adjacent.
        limit: Images per piece, views included; a unit that is larger stays whole. Features of a
            frozen body are small: they are cut at 65,536 times as many.

    Yields:
        Piece, and the rows of each of its units.
    """
    if batch.image.ndim == 3:
        limit *= 2**16
    start = stop = 0
    sizes: list[int] = []
    for size in unit_sizes(batch):
        if sizes and (stop + size - start) * views_of(batch) > limit:
            yield rows(batch, start, stop), sizes
            start, sizes = stop, []
        stop += size
        sizes.append(size)
    if sizes:
        yield rows(batch, start, stop), sizes


@torch.no_grad()
def add_clipped_rows(
    gradients: Sequence[tuple[Tensor, Tensor]], sizes: Sequence[int], samples: int, clip: Clip
) -> None:
    """Adds the clipped mean gradient of each unit to sums, from gradients of single samples.

    Args:
        gradients: Per parameter its rows, shape ``(samples, *p.shape)``, and its sum, shape
            ``p.shape``, which is changed in place. A unit's samples are adjacent.
        sizes: Rows of each unit.
        samples: Samples of each row.
        clip: Clip of each unit's gradient.

    Raises:
        PrivacyError: If there are not as many rows as samples.
    """
    if not gradients:
        return
    device = gradients[0][0].device
    counts = torch.tensor(sizes, device=device)
    unit = torch.arange(len(sizes), device=device).repeat_interleave(counts * samples)
    means: list[tuple[Tensor, Tensor]] = []
    squares = torch.zeros(len(sizes), dtype=torch.float64, device=device)
    for single, total in gradients:
        if len(single) != len(unit):
            raise PrivacyError(
                f"gradients: {len(single)} rows for {len(unit)} samples. A layer moves samples "
                "off the first axis, as windowed attention does. Use gradient_method: loop."
            )
        mean = torch.zeros(len(sizes), *total.shape, device=device)
        mean = mean.index_add_(0, unit, single.float()).flatten(1) / counts[:, None]
        means.append((mean, total))
        squares += torch.linalg.vector_norm(mean, dim=1, dtype=torch.float64).square()
    norms = squares.sqrt()
    finite = norms.isfinite()
    factors = clip.factors(norms[finite]).float()
    for mean, total in means:
        total += (factors @ mean[finite]).view_as(total)
