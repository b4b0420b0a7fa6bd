# SPDX-License-Identifier: Apache-2.0
"""Book-keeping: clipped sums of gradients per unit from one backward pass.

Each kind of layer has a rule that replaces its ``forward`` while a private pass runs, and hands the
layer's inputs and output gradients to a tape. Parameters never move: the keys of the state dict,
the order of parameters and the states of optimizers stay timm's. Rules match exact types, since a
subclass may use the same parameters in another way.

On the tape, a layer's gradient for one unit is either kept as it is (``rows``) or as two factors
whose product it is: inputs and output gradients of all tokens. Norms come from whichever is
cheaper; a second pass over what was kept gives the sum of the clipped gradients, without a second
backward pass.

Source: book-keeping, Bu et al. 2022, arXiv 2210.00038. We reduce each layer to gradients per unit
as soon as its backward pass arrives, so that units of several crops cost no more than one crop, and
keep factors only where they are less than half as large as the gradient that they stand for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.layers.layer_scale import LayerScale
from timm.layers.norm import LayerNorm as TimmLayerNorm
from timm.models.swin_transformer import WindowAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.gradients.units import Clip, Losses, samples_of, whole_units

Rule = Callable[..., Tensor]
Hook = Callable[[Tensor | None, Tensor], None]  # input of the layer, gradient of its output


class BookKeepingSums:
    """One forward and one backward pass for all units; norms and sums from what they leave behind.

    For a linear head on features this is the closed form: the gradient of a unit is the sum of
    outer products of features and logit gradients.

    Args:
        net: Model whose trainable parameters are summed over, in their order; each trainable layer
            has a rule, see :func:`mammo_dp.privacy.training.gradients.book_keeping.unruled`.
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
        """See :class:`mammo_dp.privacy.training.gradients.units.ClippedSums`."""
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


def unruled(net: nn.Module) -> list[str]:
    """Names and types of trainable layers without a rule."""
    return [
        f"{name or 'net'} ({type(module).__name__})"
        for name, module in net.named_modules()
        if trains(module) and not _has_rule(module)
    ]


def trains(module: nn.Module) -> bool:
    """Whether a parameter of the module itself, not of its parts, is trainable."""
    return any(p.requires_grad for p in module.parameters(recurse=False))


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


@contextmanager
def recording(net: nn.Module, tape: Tape) -> Iterator[None]:
    """Runs trainable layers by their rules; gradients of a backward pass go to the tape.

    Args:
        net: Model in which every trainable layer has a rule.
        tape: Has been started for the samples of the pass.
    """
    windowed = {
        part
        for module in net.modules()
        if type(module) is WindowAttention
        for part in module.modules()
    }
    replaced = [module for module in net.modules() if trains(module)]
    try:
        for module in replaced:
            rule = partial(RULES[type(module)], module, tape)
            # Windows of an image are adjacent: seen from the image, they are tokens.
            if module in windowed and type(module) is not WindowAttention:
                rule = partial(rule, windows=True)
            module.__dict__["forward"] = rule
        yield
    finally:
        for module in replaced:
            module.__dict__.pop("forward", None)


def linear(layer: nn.Linear, tape: Tape, x: Tensor, *, windows: bool = False) -> Tensor:
    """``nn.Linear`` on any number of token axes."""

    def hook(x: Tensor | None, g: Tensor) -> None:
        g = _tokens(g, tape, windows)
        if x is not None:
            tape.outer(layer.weight, _tokens(x, tape, windows), g)
        tape.row(layer.bias, g.sum(1, dtype=torch.float32))

    y = F.linear(x, layer.weight.detach(), _constant(layer.bias))
    return tap(y, x if layer.weight.requires_grad else None, hook, *layer.parameters(recurse=False))


def layer_norm(layer: nn.LayerNorm, tape: Tape, x: Tensor, *, windows: bool = False) -> Tensor:
    """``nn.LayerNorm`` over the last axis."""

    def hook(x: Tensor | None, g: Tensor) -> None:
        if x is not None:
            scaled = g * F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
            tape.row(layer.weight, _tokens(scaled, tape, windows).sum(1, dtype=torch.float32))
        tape.row(layer.bias, _tokens(g, tape, windows).sum(1, dtype=torch.float32))

    y = F.layer_norm(
        x, layer.normalized_shape, _constant(layer.weight), _constant(layer.bias), layer.eps
    )
    return tap(y, x if _trains(layer.weight) else None, hook, *layer.parameters(recurse=False))


def group_norm(layer: nn.GroupNorm, tape: Tape, x: Tensor) -> Tensor:
    """``nn.GroupNorm`` of ``(B, C, ...)``."""

    def hook(x: Tensor | None, g: Tensor) -> None:
        if x is not None:
            scaled = g * F.group_norm(x, layer.num_groups, eps=layer.eps)
            tape.row(layer.weight, scaled.flatten(2).sum(2, dtype=torch.float32))
        tape.row(layer.bias, g.flatten(2).sum(2, dtype=torch.float32))

    y = F.group_norm(x, layer.num_groups, _constant(layer.weight), _constant(layer.bias), layer.eps)
    return tap(y, x if _trains(layer.weight) else None, hook, *layer.parameters(recurse=False))


def convolution(layer: nn.Conv2d | nn.Conv3d, tape: Tape, x: Tensor) -> Tensor:
    """``nn.Conv2d`` or ``nn.Conv3d`` without groups: a linear layer on patches."""

    def hook(x: Tensor | None, g: Tensor) -> None:
        if x is not None:
            tape.outer(layer.weight, _patches(x, layer), g.flatten(2).mT)
        tape.row(layer.bias, g.flatten(2).sum(2, dtype=torch.float32))

    convolve: Any = F.conv2d if isinstance(layer, nn.Conv2d) else F.conv3d
    y = convolve(
        x,
        layer.weight.detach(),
        _constant(layer.bias),
        layer.stride,
        layer.padding,
        layer.dilation,
    )
    return tap(y, x if layer.weight.requires_grad else None, hook, *layer.parameters(recurse=False))


def layer_scale(layer: LayerScale, tape: Tape, x: Tensor) -> Tensor:
    """Timm's ``LayerScale``: one factor per channel."""

    def hook(x: Tensor | None, g: Tensor) -> None:
        assert x is not None
        tape.row(layer.gamma, (g * x).flatten(1, -2).sum(1, dtype=torch.float32))

    return tap(x * layer.gamma.detach(), x, hook, *layer.parameters(recurse=False))


def per_sample(net: nn.Module, tape: Tape, x: Tensor, *rest: object) -> Tensor:
    """A ViT's own parameters, such as the class token: one copy per sample while it runs.

    They have shape ``(1, tokens, channels)`` and are only broadcast over samples. The model's own
    code runs; it finds the copies under the names of the parameters.
    """
    names = []
    for name, p in net.named_parameters(recurse=False):
        if p.requires_grad:
            copies = p.detach().expand(len(x), *p.shape[1:])
            net.__dict__[name] = tap(copies, None, _row_hook(tape, p), p)
            names.append(name)
    try:
        y: Tensor = type(net).forward(net, x, *rest)
    finally:
        for name in names:
            del net.__dict__[name]
    return y


def window_attention(
    layer: WindowAttention, tape: Tape, x: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Swin's attention in windows, with its table of relative position biases.

    Args:
        layer: timm's module; its linear layers have rules of their own.
        tape: Knows how many images the windows come from.
        x: Shape ``(images * windows, area, channels)``.
        mask: Shape ``(windows, area, area)``, 0 or about -100.
    """
    table, area = layer.relative_position_bias_table, layer.window_area
    index: Tensor = layer.get_buffer("relative_position_index").flatten()

    def hook(_: Tensor | None, g: Tensor) -> None:  # (images * windows, heads, area, area)
        per_image = g.view(tape.samples, -1, *g.shape[1:]).sum(1, dtype=torch.float32)
        rows = per_image.new_zeros(tape.samples, *table.shape)
        tape.row(table, rows.index_add_(1, index, per_image.flatten(2).mT))

    heads = layer.num_heads
    qkv: Tensor = layer.qkv(x)
    q, k, v = qkv.view(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
    scores = (q * layer.scale) @ k.mT
    bias = table.detach()[index].view(area, area, -1).permute(2, 0, 1)
    scores = tap(scores + bias, None, hook, table)
    if mask is not None:
        scores = (scores.view(-1, len(mask), heads, area, area) + mask[:, None]).flatten(0, 1)
    attended = layer.attn_drop(layer.softmax(scores)) @ v
    y: Tensor = layer.proj_drop(layer.proj(attended.transpose(1, 2).flatten(2)))
    return y


RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: linear,
    nn.LayerNorm: layer_norm,
    TimmLayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
    nn.Conv2d: convolution,
    nn.Conv3d: convolution,
    LayerScale: layer_scale,
    VisionTransformer: per_sample,
    WindowAttention: window_attention,
}


def _has_rule(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        plain = module.groups == 1 and module.padding_mode == "zeros"
        return type(module) in RULES and plain and not isinstance(module.padding, str)
    if isinstance(module, nn.LayerNorm):
        return type(module) in RULES and len(module.normalized_shape) == 1
    if isinstance(module, VisionTransformer):
        own = [p for p in module.parameters(recurse=False) if p.requires_grad]
        broadcast = all(p.ndim == 3 and len(p) == 1 for p in own)
        return type(module) in RULES and broadcast and not module.dynamic_img_size
    return type(module) in RULES


def _row_hook(tape: Tape, parameter: Tensor) -> Callable[[Tensor | None, Tensor], None]:
    return lambda _, g: tape.row(parameter, g[:, None])


def _tokens(t: Tensor, tape: Tape, windows: bool) -> Tensor:
    """All token axes as one: ``(samples, tokens, channels)``."""
    if windows:
        return t.reshape(tape.samples, -1, t.shape[-1])
    return t.flatten(1, -2) if t.dim() > 2 else t[:, None]


def _patches(x: Tensor, layer: nn.Conv2d | nn.Conv3d) -> Tensor:
    """What each output position of a layer sees.

    Args:
        x: Shape ``(B, C, H, W)``, or ``(B, C, D, H, W)``.
        layer: Whose kernel, padding, stride and dilation.

    Returns:
        Shape ``(B, positions, C * kernel)``, in the order of the flattened weight.
    """
    padding = layer.padding
    assert not isinstance(padding, str)
    if isinstance(layer, nn.Conv2d):
        return F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride).mT
    windows = F.pad(x, [edge for edge in reversed(padding) for _ in ("before", "after")])
    for axis, (size, stride, apart) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True), 2
    ):  # `F.unfold` takes images only
        windows = windows.unfold(axis, (size - 1) * apart + 1, stride)[..., ::apart]
    order = windows.permute(0, 2, 3, 4, 1, 5, 6, 7)  # samples, positions, channels, kernel
    return order.reshape(len(x), -1, layer.weight[0].numel())


def _constant(p: Tensor | None) -> Tensor | None:
    return None if p is None else p.detach()


def _trains(p: Tensor | None) -> bool:
    return p is not None and p.requires_grad
