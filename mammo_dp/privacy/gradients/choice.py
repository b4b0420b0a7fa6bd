# SPDX-License-Identifier: Apache-2.0
"""Which method computes the clipped sums of a net, and which layers no method can take."""

from collections.abc import Callable
from typing import Literal

from torch import nn

from data_prep.manifest import Unit
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.gradients.book_keeping import BookKeepingSums
from mammo_dp.privacy.gradients.hooks import HookSums, layers_without_rows
from mammo_dp.privacy.gradients.loop import LoopSums
from mammo_dp.privacy.gradients.rules import unruled
from mammo_dp.privacy.gradients.units import ClippedSums
from mammo_dp.privacy.gradients.vectorised import VmapSums

Method = Literal["book_keeping", "loop", "vmap", "opacus"]
GradientMethod = Literal["auto", "book_keeping", "loop", "vmap", "opacus"]

_METHODS: dict[Method, Callable[[nn.Module, int], ClippedSums]] = {
    "book_keeping": BookKeepingSums,
    "loop": LoopSums,
    "vmap": VmapSums,
    "opacus": HookSums,
}
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def build(net: nn.Module, method: Method, max_physical_batch: int) -> ClippedSums:
    """Prepares a method for the trainable parameters of a net."""
    return _METHODS[method](net, max_physical_batch)


def candidates(net: nn.Module, method: GradientMethod, unit: Unit) -> tuple[Method, ...]:
    """Methods to try, fastest first; the first that passes the self-check is taken.

    ``"auto"`` takes book-keeping where every trainable layer has a rule. Other nets take the loop,
    after ``vmap`` where units are crops, of which the loop would need one backward pass each.

    Args:
        net: Model whose trainable set is fixed.
        method: What the user asked for.
        unit: What is clipped.
    """
    if method != "auto":
        return (method,)
    if not unruled(net):
        return ("book_keeping", "loop")
    return ("vmap", "loop") if unit == "crop" else ("loop",)


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
