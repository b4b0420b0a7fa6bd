# SPDX-License-Identifier: Apache-2.0
"""Rules of book-keeping: how each kind of layer runs while its gradients go to a tape.

A rule replaces the ``forward`` of one module while a private pass runs. Parameters never move: the
keys of the state dict, the order of parameters and the states of optimizers stay timm's. Rules
match exact types, since a subclass may use the same parameters in another way.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from timm.layers.layer_scale import LayerScale
from timm.layers.norm import LayerNorm as TimmLayerNorm
from timm.models.swin_transformer import WindowAttention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from mammo_dp.privacy.gradients.tape import Tape, tap

Rule = Callable[..., Tensor]


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


def conv2d(layer: nn.Conv2d, tape: Tape, x: Tensor) -> Tensor:
    """``nn.Conv2d`` without groups: a linear layer on patches."""
    padding = layer.padding
    assert not isinstance(padding, str)

    def hook(x: Tensor | None, g: Tensor) -> None:
        if x is not None:
            patches = F.unfold(x, layer.kernel_size, layer.dilation, padding, layer.stride)
            tape.outer(layer.weight, patches.mT, g.flatten(2).mT)
        tape.row(layer.bias, g.flatten(2).sum(2, dtype=torch.float32))

    y = F.conv2d(
        x,
        layer.weight.detach(),
        _constant(layer.bias),
        layer.stride,
        padding,
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
    nn.Conv2d: conv2d,
    LayerScale: layer_scale,
    VisionTransformer: per_sample,
    WindowAttention: window_attention,
}


def _has_rule(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        plain = module.groups == 1 and module.padding_mode == "zeros"
        return type(module) is nn.Conv2d and plain and not isinstance(module.padding, str)
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


def _constant(p: Tensor | None) -> Tensor | None:
    return None if p is None else p.detach()


def _trains(p: Tensor | None) -> bool:
    return p is not None and p.requires_grad
