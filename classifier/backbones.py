# SPDX-License-Identifier: Apache-2.0
"""timm models with one logit: building them, and what of them trains."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

import timm
from torch import nn

from classifier.lora import add_adapters

Trainable = Literal["all", "last_blocks", "norm_bias", "lora", "head"]
_SIZED = "_mammo_dp_takes_image_size"  # set on models that were built for one size


def build(
    backbone: str,
    *,
    image_size: int,
    backbone_args: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Builds a timm model with one grey channel in and one logit out.

    Args:
        backbone: timm's name of the model.
        image_size: Edge of the images, in pixels; given to models that take ``img_size``.
        backbone_args: Further arguments of the model, such as ``depth``.

    Returns:
        Maps ``(B, 1, image_size, image_size)`` to ``(B, 1)``; its head is one linear layer.

    Raises:
        ValueError: If timm does not know the model, its arguments do not fit, or its patches do not
            divide the image.
    """
    for module in ("classifier.fixed_features", "classifier.token_transformer"):
        import_module(module)  # registers its models; they build others by this
    if not timm.is_model(backbone):
        near = timm.list_models(f"*{backbone.split('_')[0]}*tiny*")[:5]
        raise ValueError(
            f"backbone={backbone!r} is unknown to timm {timm.__version__}. "
            f"Choose a name of timm.list_models(), such as {', '.join(near) or 'vit_tiny_*'}."
        )
    arguments = {"in_chans": 1, "num_classes": 1, **(backbone_args or {})}
    try:
        net = _create(backbone, image_size, arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise ValueError(
            f"backbone={backbone!r} with {image_size=} and backbone_args={backbone_args!r} "
            f"cannot be built ({error}). Change the size or the arguments."
        ) from error
    head(net)
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if patch is not None and any(image_size % int(edge) for edge in _pair(patch)):
        raise ValueError(
            f"backbone={backbone!r}: patches of {_pair(patch)} px do not divide {image_size=}; "
            f"rows at the edge would be lost. Choose a multiple, such as "
            f"{max(1, image_size // _pair(patch)[0]) * _pair(patch)[0]}."
        )
    return net


def takes_image_size(net: nn.Module) -> bool:
    """Whether timm builds the model for one size of images, which ``img_size`` names."""
    return bool(getattr(net, _SIZED, False))


def slices_of(net: nn.Module) -> int | None:
    """Slices of the volumes that a model takes; none where it takes crops in the plane."""
    found = getattr(net, "slices", None)
    return found if isinstance(found, int) else None


def image_shape(net: nn.Module, image_size: int) -> tuple[int, ...]:
    """Shape of one image that a model takes, ``(1, H, W)`` or ``(1, slices, H, W)``.

    Args:
        net: Model of :func:`build`.
        image_size: Edge of the images, in pixels.
    """
    slices = slices_of(net)
    plane = (image_size, image_size)
    return (1, *plane) if slices is None else (1, slices, *plane)


def _create(backbone: str, image_size: int, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        net: nn.Module = timm.create_model(backbone, img_size=image_size, **arguments)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(backbone, **arguments)  # takes any size
    setattr(net, _SIZED, True)
    return net


def _pair(size: Any) -> tuple[int, int]:  # noqa: ANN401  as timm's models keep it
    return (int(size[0]), int(size[1])) if isinstance(size, tuple | list) else (int(size),) * 2


def head(net: nn.Module) -> nn.Linear:
    """The linear layer that turns pooled features into the logit.

    Raises:
        ValueError: If the model ends in anything else, such as two heads.
    """
    layer = net.get_classifier()  # type: ignore[operator]  # of every timm model
    if not isinstance(layer, nn.Linear) or layer.out_features != 1:
        raise ValueError(
            f"{type(net).__name__} ends in {type(layer).__name__}, not in one linear layer with "
            "one output. Choose another backbone, and no num_classes in backbone_args."
        )
    return layer


def blocks(net: nn.Module) -> list[nn.Module]:
    """Transformer blocks in order, of ViT-like (``blocks``) and Swin-like (``layers``) models.

    Raises:
        ValueError: If the model has neither.
    """
    if isinstance(found := getattr(net, "blocks", None), nn.Sequential | nn.ModuleList):
        return list(found)
    stages = list(getattr(net, "layers", ()))
    if stages and all(hasattr(stage, "blocks") for stage in stages):
        return [block for stage in stages for block in stage.blocks]
    children = ", ".join(name for name, _ in net.named_children())
    raise ValueError(
        f"{type(net).__name__} has neither `blocks` nor `layers` with `blocks`; its parts are "
        f"{children}. Choose trainable: all, norm_bias or head."
    )


def select_trainable(
    net: nn.Module, trainable: Trainable, last_blocks: int = 1, lora_rank: int = 8
) -> None:
    """Sets ``requires_grad`` of every parameter; the head always trains.

    Args:
        net: Model of :func:`build`; a public network in it (an attribute ``public``) never trains.
        trainable: ``"last_blocks"`` adds the last blocks and the final norm to the head (of Swin
            not the merging layers between them), ``"norm_bias"`` all norms and biases, ``"lora"``
            low-rank adapters of attention, which are put into the net.
        last_blocks: Number of blocks for ``"last_blocks"``, between 1 and their number.
        lora_rank: Rank of the adapters for ``"lora"``.

    Raises:
        ValueError: If the blocks cannot be found or are fewer, or ``trainable`` is unknown.
    """
    chosen: list[nn.Parameter] = list(head(net).parameters())
    if trainable == "all":
        chosen = list(net.parameters())
    elif trainable == "last_blocks":
        found = blocks(net)
        if not 1 <= last_blocks <= len(found):
            raise ValueError(f"{last_blocks=}. {type(net).__name__} has {len(found)} blocks.")
        parts = [*found[-last_blocks:], getattr(net, "norm", None), getattr(net, "fc_norm", None)]
        chosen += [p for part in parts if part is not None for p in part.parameters()]
    elif trainable == "norm_bias":
        for module in net.modules():
            is_norm = "norm" in type(module).__name__.lower()
            for name, parameter in module.named_parameters(recurse=False):
                if is_norm or name == "bias" or name.endswith("_bias"):
                    chosen.append(parameter)
    elif trainable == "lora":
        chosen += add_adapters(getattr(net, "transformer", net), lora_rank)
    elif trainable != "head":
        raise ValueError(f"{trainable=}. Choose all, last_blocks, norm_bias, lora or head.")
    net.requires_grad_(False)
    public: nn.Module | None = getattr(net, "public", None)
    frozen = set() if public is None else set(public.parameters())
    for parameter in chosen:
        parameter.requires_grad_(parameter not in frozen)


def keep_frozen_in_eval(net: nn.Module) -> None:
    """Puts every part without trainable parameters into evaluation mode, dropout included.

    If anything is frozen, so are the parts right below ``net`` that have no parameters, such as
    the dropout after the position embedding.
    """
    if all(parameter.requires_grad for parameter in net.parameters()):
        return
    bare = [child for child in net.children() if not list(child.parameters())]
    for module in [*bare, *net.modules()]:
        if not any(parameter.requires_grad for parameter in module.parameters()) and (
            module in bare or list(module.parameters())
        ):
            module.eval()


def head_prefix(net: nn.Module) -> str:
    """What the keys of the head start with, such as ``"head.fc."``."""
    layer = head(net)
    return "".join(f"{name}." for name, module in net.named_modules() if module is layer)
