# SPDX-License-Identifier: Apache-2.0
"""timm transformers with one logit: building them, what of them trains, and initial weights."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import timm
import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn

import classifier.measured  # noqa: F401  registers its model with timm
from classifier.lora import add_adapters, merged

Trainable = Literal["all", "last_blocks", "norm_bias", "lora", "head"]

PREFIX = "net."  # of the backbone inside our checkpoints
DERIVED = ("relative_position_index", "attn_mask")  # constants of older Swin files; timm rebuilds

log = logging.getLogger(__name__)


class WeightsError(ValueError):
    """Initial weights do not fit the model, or cannot be had; the message names the keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWeights:
    """What a model started from; lineage records it as an input.

    Attributes:
        path: File, or ``"timm:<tag>"`` for weights of the hub.
        sha256: Hash of the file, or of the tensors that came from the hub.
        loaded: Number of tensors that were taken over.
        reset: Keys of the head that stayed at their random start, since the file has another head.
        summed: Keys whose three colour channels were summed into the one grey channel. Of weights
            from the hub, where timm does it, none is listed.
        licence: Of weights of the hub, as timm states it.
    """

    path: str
    sha256: str
    loaded: int
    reset: tuple[str, ...] = ()
    summed: tuple[str, ...] = ()
    licence: str = ""


def build(
    backbone: str,
    *,
    image_size: int,
    backbone_args: Mapping[str, Any] | None = None,
    pretrained: bool = False,
) -> nn.Module:
    """Builds a timm model with one grey channel in and one logit out.

    Args:
        backbone: timm's name of the model.
        image_size: Edge of the images, in pixels; given to models that take ``img_size``.
        backbone_args: Further arguments of the model, such as ``depth``.
        pretrained: Whether to fetch timm's weights from the hub.

    Returns:
        Maps ``(B, 1, image_size, image_size)`` to ``(B, 1)``; its head is one linear layer.

    Raises:
        ValueError: If timm does not know the model, or its arguments do not fit.
        WeightsError: If the hub cannot be reached or has no weights for the model.
    """
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
    if not pretrained:
        return net
    try:
        return _create(backbone, image_size, arguments | {"pretrained": True})
    except Exception as error:  # each transport of the hub raises errors of its own
        raise WeightsError(
            f"backbone={backbone!r}: pretrained weights cannot be fetched "
            f"({type(error).__name__}: {error}). Download a timm file where there is a network "
            "and give its path as `weights`, with `pretrained: false`."
        ) from error


def _create(backbone: str, image_size: int, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        net: nn.Module = timm.create_model(backbone, img_size=image_size, **arguments)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        net = timm.create_model(backbone, **arguments)  # takes any size
    return net


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
        net: Model of :func:`build`.
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
        chosen += add_adapters(net, lora_rank)
    elif trainable != "head":
        raise ValueError(f"{trainable=}. Choose all, last_blocks, norm_bias, lora or head.")
    net.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)


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


def load_weights(net: nn.Module, path: str | Path) -> LoadedWeights:
    """Loads a checkpoint of ours or a timm file into a model, all of it or not at all.

    Adapters in a file of ours are added to the weights they adapt. Then every key must match by
    name and shape, with two exceptions for files that are not ours: the head may differ and then
    stays at its random start, and a colour patch embedding is summed over its channels, which gives
    the colour model's response to a grey image.

    Args:
        net: Model of :func:`build`; unchanged if the file does not fit.
        path: Lightning checkpoint whose state dict has keys ``net.*``, or a flat state dict
            (``.pth``, ``.safetensors``).

    Raises:
        WeightsError: Naming missing, unexpected and mismatched keys and the remedy.
    """
    state, ours = _read_state(Path(path))
    own: dict[str, Tensor] = net.state_dict()
    prefix = _head_prefix(net)
    summed, reset = [], []
    if not ours:
        state = {key: value for key, value in state.items() if not key.endswith(DERIVED)}
        for key, value in state.items():
            if value.ndim == 4 and own.get(key, value).shape[1:2] == (1,) and value.shape[1] == 3:
                state[key] = adapt_input_conv(1, value)
                summed.append(key)
        if any(_shape(state, key) != _shape(own, key) for key in own if key.startswith(prefix)):
            state = {key: value for key, value in state.items() if not key.startswith(prefix)}
            reset = [key for key in own if key.startswith(prefix)]
    expected = {key: value for key, value in own.items() if key not in reset}
    _check_fit(state, expected, where=f"{path}", model=type(net).__name__)
    net.load_state_dict(state, strict=False)  # complete but for the head, see above
    if reset:
        log.warning("%s: another head; %s start at random.", path, ", ".join(reset))
    with Path(path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return LoadedWeights(
        path=str(path), sha256=digest, loaded=len(state), reset=tuple(reset), summed=tuple(summed)
    )


def hub_weights(net: nn.Module) -> LoadedWeights:
    """Describes the weights that ``build(..., pretrained=True)`` fetched."""
    settings: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]  # of timm models
    state: dict[str, Tensor] = net.state_dict()
    reset = tuple(key for key in state if key.startswith(_head_prefix(net)))
    fetched = {key: value for key, value in state.items() if key not in reset}
    return LoadedWeights(
        path=f"timm:{settings['architecture']}.{settings['tag']}",
        sha256=state_sha256(fetched),
        loaded=len(fetched),
        reset=reset,
        licence=str(settings.get("license") or ""),
    )


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _head_prefix(net: nn.Module) -> str:
    layer = head(net)
    return "".join(f"{name}." for name, module in net.named_modules() if module is layer)


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None


def _read_state(path: Path) -> tuple[dict[str, Tensor], bool]:
    """State dict of the backbone in a file, and whether the file is a checkpoint of ours."""
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file. Give the path of a checkpoint.") from error
    except Exception as error:  # torch raises errors of many types for foreign bytes
        raise WeightsError(
            f"{path}: cannot be read as weights ({type(error).__name__}: {str(error)[:200]}). "
            "Give a Lightning checkpoint of this project, or a timm state dict."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else None
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path}: holds no state dict. Give a checkpoint with named tensors.")
    ours = any(key.startswith(PREFIX) for key in state)
    return merged({key.removeprefix(PREFIX): value for key, value in state.items()}), ours


def _check_fit(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: str, model: str
) -> None:
    """Raises unless the two have the same keys and shapes."""
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    mismatched = [
        f"{key} {_shape(state, key)} instead of {_shape(expected, key)}"
        for key in expected
        if key in state and _shape(state, key) != _shape(expected, key)
    ]
    if not (missing or unexpected or mismatched):
        return
    fitting = len(expected) - len(missing) - len(mismatched)
    parts = [
        f"{name}: {', '.join(keys[:8])}" + (f" and {len(keys) - 8} more" * (len(keys) > 8))
        for name, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("mismatched", mismatched),
        )
        if keys
    ]
    remedy = "Build the backbone, backbone_args and image_size that the file was made with."
    if any("pos_embed" in key for key in mismatched):
        remedy = "pos_embed belongs to another image_size or patch_size: use the file's own."
    raise WeightsError(
        f"{where}: {fitting or 'none'} of {len(expected)} tensors of {model} fit. "
        f"{'; '.join(parts)}. {remedy}"
    )
