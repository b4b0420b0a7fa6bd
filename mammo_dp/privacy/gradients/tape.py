# SPDX-License-Identifier: Apache-2.0
"""The tape of book-keeping: what one backward pass left behind, turned into clipped sums.

A layer's gradient for one unit is either kept as it is (``rows``) or as two factors whose product
it is: inputs and output gradients of all tokens. Norms come from whichever is cheaper; a second
pass over what was kept gives the sum of the clipped gradients, without a second backward pass.

Source: book-keeping, Bu et al. 2022, arXiv 2210.00038. We reduce each layer to gradients per unit
as soon as its backward pass arrives, so that units of several crops cost no more than one crop, and
keep factors only where they are less than half as large as the gradient that they stand for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.gradients.units import Clip

Hook = Callable[[Tensor | None, Tensor], None]  # input of the layer, gradient of its output


class Tap(torch.autograd.Function):
    """Identity on a layer's output that hands the output's gradient to a hook.

    The layer runs on detached parameters, so autograd computes no gradient of them and leaves
    ``.grad`` alone; they are arguments here only so that the output needs a gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch's context has no public type
        y: Tensor,
        x: Tensor | None,
        hook: Hook,
        *parameters: Tensor,
    ) -> Tensor:
        """Passes ``y`` on; ``x`` is saved, not enclosed, so that checkpointing may drop it."""
        ctx.hook = hook
        ctx.save_for_backward(x)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        """Calls the hook; passes the gradient on to ``y``."""
        (grad,) = grads
        with torch.no_grad():
            ctx.hook(ctx.saved_tensors[0], grad)
        return grad, *[None] * (len(ctx.needs_input_grad) - 1)


def tap(y: Tensor, x: Tensor | None, hook: Hook, *parameters: Tensor) -> Tensor:
    """Applies :class:`Tap`.

    Args:
        y: Output of a layer that ran on detached parameters.
        x: Its input, if the hook needs it.
        hook: Called once by the backward pass with ``x`` and the gradient of ``y``.
        parameters: Of the layer.
    """
    tapped: Tensor = Tap.apply(y, x, hook, *parameters)  # type: ignore[no-untyped-call]
    return tapped


@dataclass(frozen=True, slots=True)
class _Kept:
    """A parameter's gradients of some units.

    Attributes:
        parameter: Whose.
        units: Which units, shape ``(U,)``.
        rows: Gradients, shape ``(U, parameter.numel())``; none where factors are kept.
        x: Inputs, shape ``(U, tokens, i)``.
        g: Output gradients, shape ``(U, tokens, o)``; the gradient is ``g^T x``.
    """

    parameter: Tensor
    units: Tensor
    rows: Tensor | None = None
    x: Tensor | None = None
    g: Tensor | None = None


class Tape:
    """Gradients of one backward pass, per unit.

    Attributes:
        samples: Samples in this pass; the first axis of every layer, unless it has windows.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._groups: list[tuple[int, Tensor, Tensor | None]] = []
        self._kept: list[_Kept] = []
        self._squares = torch.zeros(0)
        self._seen: set[int] = set()

    def start(self, sizes: Sequence[int], device: torch.device) -> None:
        """Begins a pass.

        Args:
            sizes: Samples of each unit; a unit's samples are adjacent.
            device: Where the pass runs.
        """
        self.clear()
        self.samples = sum(sizes)
        self._squares = torch.zeros(len(sizes), dtype=torch.float64, device=device)
        counts = torch.tensor(sizes)
        ends = counts.cumsum(0)
        for size in sorted(set(sizes)):
            units = (counts == size).nonzero().flatten()
            rows = (ends[units, None] - size + torch.arange(size)).flatten()
            whole = len(units) == len(sizes)
            self._groups.append((size, units.to(device), None if whole else rows.to(device)))

    def clear(self) -> None:
        """Forgets the pass."""
        self.samples = 0
        self._groups, self._kept, self._seen = [], [], set()

    def row(self, parameter: Tensor | None, rows: Tensor) -> None:
        """Records gradients of single samples.

        Args:
            parameter: Whose; one that does not train is left out.
            rows: Shape ``(samples, *parameter.shape)``.
        """
        if parameter is None or not parameter.requires_grad:
            return
        self._register(parameter, rows)
        flat = rows.flatten(1).float()
        for size, units, index in self._groups:
            part = flat if index is None else flat[index]
            part = part if size == 1 else part.view(len(units), size, -1).sum(1)
            self._add(units, part.square().sum(1))
            self._kept.append(_Kept(parameter, units, rows=part))

    def outer(self, parameter: Tensor, x: Tensor, g: Tensor) -> None:
        """Records gradients that are sums of outer products over tokens.

        Args:
            parameter: Whose, with ``o * i`` values; one that does not train is left out.
            x: Inputs, shape ``(samples, tokens, i)``.
            g: Output gradients, shape ``(samples, tokens, o)``.
        """
        if not parameter.requires_grad:
            return
        self._register(parameter, x)
        for _, units, index in self._groups:
            xs, gs = ((t if index is None else t[index]).float() for t in (x, g))
            xs, gs = (t.reshape(len(units), -1, t.shape[-1]) for t in (xs, gs))
            tokens, i, o = xs.shape[1], xs.shape[2], gs.shape[2]
            if 2 * tokens * (i + o) < i * o:  # in float64, a product costs twice as much
                wide = gs.double(), xs.double()
                gram = torch.bmm(wide[0], wide[0].mT).mul_(torch.bmm(wide[1], wide[1].mT))
                # Terms of both signs. Rounded to float32, tokens that nearly cancel would hide a
                # gradient that is far longer than the clipping norm.
                self._add(units, gram.sum((1, 2)).clamp(min=0))
                self._kept.append(_Kept(parameter, units, x=xs, g=gs))
            else:
                rows = torch.bmm(gs.mT, xs)
                short = torch.linalg.vector_norm(rows, dim=2)  # long sums in float32 lose digits
                self._add(units, short.double().square().sum(1))
                self._kept.append(_Kept(parameter, units, rows=rows.flatten(1)))

    def _register(self, parameter: Tensor, rows: Tensor) -> None:
        if id(parameter) in self._seen:
            raise PrivacyError(
                f"gradients: a parameter of shape {tuple(parameter.shape)} is used twice in one "
                "pass, so its two gradients would be clipped apart. Use gradient_method: loop."
            )
        if len(rows) != self.samples:
            raise PrivacyError(
                f"gradients: {len(rows)} rows for {self.samples} samples. A layer moves samples "
                "off the first axis. Use gradient_method: loop."
            )
        self._seen.add(id(parameter))

    def _add(self, units: Tensor, squares: Tensor) -> None:
        self._squares.index_add_(0, units, squares.double())

    @torch.no_grad()
    def clip_into(self, sums: Mapping[Tensor, Tensor], clip: Clip) -> None:
        """Adds the clipped gradient of each unit to sums, and forgets the pass.

        Args:
            sums: By trainable parameter; what the pass did not use stays as it is.
            clip: Clip of each unit's gradient; one that is not finite adds nothing.

        Raises:
            PrivacyError: If a parameter was used outside of its layer.
        """
        if any(p.grad is not None for p in sums):
            raise PrivacyError(
                "gradients: a parameter is used outside of its own layer, past the clip. Use "
                "gradient_method: loop."
            )
        norms = self._squares.sqrt()
        finite = norms.isfinite()
        factors = torch.where(finite, clip.factors(norms), 0).float()
        all_finite = bool(finite.all())
        for kept in self._kept:
            factor, ok = factors[kept.units], finite[kept.units]
            total = sums[kept.parameter]
            if kept.rows is not None:
                rows = kept.rows if all_finite else kept.rows[ok]  # 0 * nan is nan
                total += (factor[ok] @ rows).view_as(total)
            else:
                assert kept.x is not None
                assert kept.g is not None
                x, g = (kept.x, kept.g) if all_finite else (kept.x[ok], kept.g[ok])
                weighted = (g * factor[ok, None, None]).flatten(0, 1)
                total += (weighted.mT @ x.flatten(0, 1)).view_as(total)
        self.clear()
