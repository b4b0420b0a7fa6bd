# SPDX-License-Identifier: Apache-2.0
"""Clipped sums per unit: one unit moves the sum of gradients by at most the clipping norm.

A unit's gradient is the mean over its crops and their views; it is clipped as one vector. Two
methods give the same sums: one backward pass per unit, exact for every module that does not mix
samples, and Opacus' hooks, whose rows of gradients are added up per unit before the clip.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, Protocol

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.errors import PrivacyError

Losses = Callable[[CropBatch], Tensor]  # loss of each row, shape (B,), mean over its views
Method = Literal["loop", "opacus"]

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_TOLERANCE = 1e-4  # of the self-check, relative; float32 methods differ by about 1e-6


class ClippedSums(Protocol):
    """Adds the clipped gradients of the units of a batch to running sums."""

    def accumulate(
        self, losses: Losses, batch: CropBatch, sums: Sequence[Tensor], clipping_norm: float
    ) -> None:
        """Adds ``sum_u g_u min(1, C / ||g_u||)``; a unit with a non-finite gradient adds nothing.

        Args:
            losses: Loss of each row.
            batch: Rows of a unit are adjacent; may be empty.
            sums: One per trainable parameter of the net, float32; changed in place.
            clipping_norm: ``C``, > 0.
        """


class LoopSums:
    """One backward pass per unit: memory of ordinary training, exact with dropout too.

    Args:
        net: Model whose trainable parameters are summed over, in their order.
        max_physical_batch: Images, views included, in one forward pass; larger units are cut,
            which leaves their mean gradient as it is.
    """

    def __init__(self, net: nn.Module, max_physical_batch: int) -> None:
        self.params = [p for p in net.parameters() if p.requires_grad]
        self.max_physical_batch = max_physical_batch

    def accumulate(
        self, losses: Losses, batch: CropBatch, sums: Sequence[Tensor], clipping_norm: float
    ) -> None:
        """See :class:`ClippedSums`."""
        start = 0
        for size in unit_sizes(batch):
            unit = _rows(batch, start, start + size)
            start += size
            gradient = self._mean_gradient(losses, unit)
            norm = math.sqrt(
                sum(float(torch.linalg.vector_norm(g, dtype=torch.float64)) ** 2 for g in gradient)
            )
            if math.isfinite(norm):
                for total, part in zip(sums, gradient, strict=True):
                    total.add_(part, alpha=clipping_norm / max(norm, clipping_norm))

    def _mean_gradient(self, losses: Losses, unit: CropBatch) -> list[Tensor]:
        size = len(unit.row)
        step = max(1, self.max_physical_batch // views_of(unit))
        total: list[Tensor] = []
        for start in range(0, size, step):
            loss = losses(_rows(unit, start, start + step)).sum() / size
            with torch.autocast(loss.device.type, enabled=False):
                parts = torch.autograd.grad(
                    loss, self.params, allow_unused=True, materialize_grads=True
                )
            total = [a + b for a, b in zip(total, parts, strict=True)] if total else list(parts)
        return total


class HookSums:
    """Opacus' hooks: gradients of all rows in one backward pass, added up per unit.

    Fast where rows are small, as for a linear head. The hooks stay on the net until
    :meth:`close`; its state-dict keys are not touched.

    Args:
        net: Model whose trainable parameters are summed over, in their order.
        max_physical_batch: Images, views included, in one pass; units are never cut.
    """

    def __init__(self, net: nn.Module, max_physical_batch: int) -> None:
        self.params = [p for p in net.parameters() if p.requires_grad]
        self.max_physical_batch = max_physical_batch
        # Validation has named every layer before; buffers of frozen parts do no harm.
        self.hooks = GradSampleHooks(net, loss_reduction="sum", strict=False)
        self.hooks.disable_hooks()

    def close(self) -> None:
        """Takes the hooks off."""
        self.hooks.cleanup()

    def accumulate(
        self, losses: Losses, batch: CropBatch, sums: Sequence[Tensor], clipping_norm: float
    ) -> None:
        """See :class:`ClippedSums`."""
        limit = self.max_physical_batch if batch.image.ndim > 3 else len(batch.row) * 2**16
        self.hooks.enable_hooks()
        try:
            with _hooks_on_leaves():
                for piece in whole_units(batch, limit):
                    loss = losses(piece).sum()
                    with torch.autocast(loss.device.type, enabled=False):
                        loss.backward()  # type: ignore[no-untyped-call]
                        self._clip(piece, sums, clipping_norm)
        finally:
            self.hooks.disable_hooks()

    @torch.no_grad()
    def _clip(self, piece: CropBatch, sums: Sequence[Tensor], clipping_norm: float) -> None:
        # Linear layers add up the views of features; views of images are rows of their own.
        views = views_of(piece) if piece.image.ndim == 5 else 1
        sizes = torch.tensor(unit_sizes(piece), device=piece.row.device)
        unit = torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes * views)
        means: list[tuple[Tensor, Tensor]] = []
        squares = torch.zeros(len(sizes), dtype=torch.float64, device=sizes.device)
        for p, total in zip(self.params, sums, strict=True):
            rows: Tensor | None = getattr(p, "grad_sample", None)
            p.grad_sample = p.grad = None  # type: ignore[attr-defined]  # where Opacus puts them
            if rows is None:
                continue
            if len(rows) != len(unit):
                raise PrivacyError(
                    f"gradients: {len(rows)} rows for {len(unit)} images. A layer moves samples "
                    "off the first axis, as windowed attention does. Use gradient_method: loop."
                )
            mean = torch.zeros(len(sizes), *p.shape, device=p.device)
            mean.index_add_(0, unit, rows.float())
            mean = mean.flatten(1) / sizes[:, None]
            means.append((mean, total))
            squares += torch.linalg.vector_norm(mean, dim=1, dtype=torch.float64).square()
        norms = squares.sqrt()
        finite = norms.isfinite()
        factors = (clipping_norm / norms.clamp(min=clipping_norm)).float()[finite]
        for mean, total in means:
            total += (factors @ mean[finite]).view_as(total)


def build(net: nn.Module, method: Literal["auto", "loop", "opacus"], limit: int) -> ClippedSums:
    """Chooses how sums are computed; ``"auto"`` takes hooks for one linear layer, else the loop."""
    return (HookSums if chosen(net, method) == "opacus" else LoopSums)(net, limit)


def chosen(net: nn.Module, method: Literal["auto", "loop", "opacus"]) -> Method:
    """The method that ``"auto"`` stands for, for this net and trainable set."""
    if method != "auto":
        return method
    training = [
        module
        for module in net.modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    ]
    return "opacus" if [type(module) for module in training] == [nn.Linear] else "loop"


def refuse_layers(net: nn.Module, method: Method) -> None:
    """Refuses layers whose gradients belong to no single unit, all at once.

    Args:
        net: Model in the modes it trains in.
        method: How sums are computed.

    Raises:
        PrivacyError: Naming every offending layer.
    """
    mixing = [
        f"{name} ({type(module).__name__})"
        for name, module in net.named_modules()
        if (isinstance(module, _BATCH_NORMS) and (module.training or module.running_mean is None))
        or (isinstance(module, _INSTANCE_NORMS) and module.track_running_stats and module.training)
    ]
    if mixing:
        raise PrivacyError(
            f"{', '.join(mixing)}: batch statistics mix patients and are kept without noise, so no "
            "gradient belongs to one patient. Use GroupNorm or LayerNorm, or freeze the body and "
            "train the head."
        )
    if method != "opacus":
        return
    refused = []
    for name, module in net.named_modules():
        if not any(p.requires_grad for p in module.parameters(recurse=False)):
            continue
        validator = ModuleValidator.VALIDATORS.get(type(module))
        errors = [str(error) for error in validator(module)] if validator else []
        if list(module.buffers(recurse=False)):
            errors.append("trainable layer with buffers")
        refused += [f"{name} ({type(module).__name__}: {error})" for error in errors]
    if refused:
        raise PrivacyError(
            f"{', '.join(refused)}: Opacus has no gradients per sample for these layers. "
            "Use gradient_method: loop."
        )


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


def whole_units(batch: CropBatch, limit: int) -> Iterator[CropBatch]:
    """Cuts a batch into pieces of whole units.

    Args:
        batch: Rows of a unit are adjacent.
        limit: Images per piece, views included; a unit that is larger stays whole.
    """
    start = stop = 0
    for size in unit_sizes(batch):
        if stop > start and (stop + size - start) * views_of(batch) > limit:
            yield _rows(batch, start, stop)
            start = stop
        stop += size
    if stop > start:
        yield _rows(batch, start, stop)


def self_check(
    net: nn.Module, method: ClippedSums, losses: Losses, image_shape: Sequence[int]
) -> None:
    """Compares a method with single-row backward passes, on noise images of no patient.

    Two batches of different length, once as units of one row and once as one unit: this finds rows
    that are not samples and layers that mix samples.

    Args:
        net: The model as it will train.
        method: What will compute the sums.
        losses: Loss of each row.
        image_shape: Shape of one row of ``CropBatch.image``.

    Raises:
        PrivacyError: If the sums differ by more than 1e-4.
    """
    params = [p for p in net.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    with _without_dropout(net, keep=isinstance(method, HookSums)), _hooks_on_leaves():
        for size in (2, 3):
            images = torch.randn(size, *image_shape, generator=generator).to(params[0].device)
            label = torch.arange(size, device=images.device)
            for unit in (label, torch.zeros_like(label)):
                batch = CropBatch(images, label % 2, label, unit)
                rows = [
                    torch.autograd.grad(
                        losses(_rows(batch, row, row + 1)).sum(),
                        params,
                        allow_unused=True,
                        materialize_grads=True,
                    )
                    for row in range(size)
                ]
                flat = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows]).double()
                units = flat if unit is label else flat.mean(0, keepdim=True)
                norms = torch.linalg.vector_norm(units, dim=1, keepdim=True)
                clip = float(norms.median())
                expected = (units * (clip / norms.clamp(min=clip))).sum(0)
                sums = [torch.zeros_like(p) for p in params]
                method.accumulate(losses, batch, sums, clip)
                found = torch.cat([s.flatten() for s in sums]).double()
                error = float((found - expected).norm() / max(float(norms.max()), 1e-12))
                if not error <= _TOLERANCE:
                    raise PrivacyError(
                        f"gradients: {type(method).__name__} is off by {error:.1e} from single "
                        f"backward passes on {type(net).__name__}. A layer mixes samples or its "
                        "rule is wrong; use gradient_method: loop, or train the head only."
                    )


@contextmanager
def _hooks_on_leaves() -> Iterator[None]:
    """Silences what torch tells about hooks of layers whose inputs need no gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        yield


@contextmanager
def _without_dropout(net: nn.Module, *, keep: bool) -> Iterator[None]:
    """Evaluation mode; with ``keep`` only for modules without parameters, as hooks need."""
    modes = {module: module.training for module in net.modules()}
    try:
        for module in modes:
            if not keep or not list(module.parameters()):
                module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _rows(batch: CropBatch, start: int, stop: int) -> CropBatch:
    return CropBatch(*(column[start:stop] for column in batch))
