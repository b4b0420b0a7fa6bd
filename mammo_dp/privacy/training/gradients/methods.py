# SPDX-License-Identifier: Apache-2.0
"""Methods that compute clipped sums: which a net can use, the loop, and Opacus' hooks."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.gradients.book_keeping import BookKeepingSums, unruled
from mammo_dp.privacy.training.gradients.units import (
    Clip,
    ClippedSums,
    Losses,
    add_clipped_rows,
    rows,
    samples_of,
    unit_sizes,
    views_of,
    whole_units,
)


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
        """See :class:`mammo_dp.privacy.training.gradients.units.ClippedSums`."""
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


class HookSums:
    """Rows of gradients from Opacus' hooks, added up per unit before the clip.

    The hooks stay on the net until :meth:`close`; its state-dict keys are not touched.

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
        self, losses: Losses, batch: CropBatch, sums: Sequence[Tensor], clip: Clip
    ) -> None:
        """See :class:`mammo_dp.privacy.training.gradients.units.ClippedSums`."""
        self.hooks.enable_hooks()
        try:
            with quiet_leaves():
                for piece, sizes in whole_units(batch, self.max_physical_batch):
                    loss = losses(piece).sum()
                    with torch.autocast(loss.device.type, enabled=False):
                        loss.backward()  # type: ignore[no-untyped-call]
                        add_clipped_rows(self._taken(sums), sizes, samples_of(piece), clip)
        finally:
            self.hooks.disable_hooks()

    def _taken(self, sums: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Takes the rows from where Opacus puts them; an unused parameter has none."""
        taken = []
        for p, total in zip(self.params, sums, strict=True):
            single: Tensor | None = getattr(p, "grad_sample", None)
            p.grad_sample = p.grad = None  # type: ignore[attr-defined]
            if single is not None:
                taken.append((single, total))
        return taken


def layers_without_rows(net: nn.Module) -> list[str]:
    """Trainable layers for which Opacus has no gradients per sample, each with its reason."""
    refused = []
    for name, module in net.named_modules():
        if not any(p.requires_grad for p in module.parameters(recurse=False)):
            continue
        validator = ModuleValidator.VALIDATORS.get(type(module))
        errors = [str(error) for error in validator(module)] if validator else []
        if list(module.buffers(recurse=False)):
            errors.append("trainable layer with buffers")
        refused += [f"{name} ({type(module).__name__}: {error})" for error in errors]
    return refused


@contextmanager
def quiet_leaves() -> Iterator[None]:
    """Silences what torch tells about hooks of layers whose inputs need no gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Full backward hook is firing")
        yield


Method = Literal["book_keeping", "loop", "opacus"]
GradientMethod = Literal["auto", "book_keeping", "loop", "opacus"]
_METHODS: dict[Method, Callable[[nn.Module, int], ClippedSums]] = {
    "book_keeping": BookKeepingSums,
    "loop": LoopSums,
    "opacus": HookSums,
}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def build(net: nn.Module, method: Method, max_physical_batch: int) -> ClippedSums:
    """Prepares a method for the trainable parameters of a net."""
    return _METHODS[method](net, max_physical_batch)


def candidates(net: nn.Module, method: GradientMethod) -> tuple[Method, ...]:
    """Methods to try, fastest first; the first that passes the self-check is taken.

    ``"auto"`` takes book-keeping where every trainable layer has a rule, and the loop elsewhere.

    Args:
        net: Model whose trainable set is fixed.
        method: What the user asked for.
    """
    if method != "auto":
        return (method,)
    return ("loop",) if unruled(net) else ("book_keeping", "loop")


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
    if method == "book_keeping" and (found := unruled(net)):
        raise PrivacyError(
            f"{', '.join(found)}: book-keeping has no rule for these layers. Use gradient_method: "
            "auto or loop."
        )
    if method == "opacus" and (found := layers_without_rows(net)):
        raise PrivacyError(
            f"{', '.join(found)}: Opacus has no gradients per sample for these layers. Use "
            "gradient_method: auto or loop."
        )
