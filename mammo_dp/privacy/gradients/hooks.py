# SPDX-License-Identifier: Apache-2.0
"""Opacus' hooks: gradients of all samples in one backward pass, for comparison."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from opacus.grad_sample import GradSampleHooks
from opacus.validators import ModuleValidator
from torch import Tensor, nn

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.gradients.units import (
    Clip,
    Losses,
    add_clipped_rows,
    samples_of,
    whole_units,
)


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
        """See :class:`mammo_dp.privacy.gradients.units.ClippedSums`."""
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
