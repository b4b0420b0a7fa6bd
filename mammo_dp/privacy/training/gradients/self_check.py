# SPDX-License-Identifier: Apache-2.0
"""What is tried out on noise images before a fit: the net's side effects, and its gradients."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data_prep.datamodule import CropBatch
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.gradients.methods import Method, build, quiet_leaves
from mammo_dp.privacy.training.gradients.units import Clip, ClippedSums, Losses, rows

log = logging.getLogger(__name__)
_TOLERANCE = 1e-4  # relative; float32 methods differ by about 1e-6
_HALF_TOLERANCE = 2e-2  # of a bfloat16 forward pass, whose rounding depends on the batch


def first_that_passes(
    net: nn.Module,
    methods: Sequence[Method],
    max_physical_batch: int,
    losses: Losses,
    image_shape: Sequence[int],
) -> tuple[Method, ClippedSums]:
    """Prepares the first of some gradient methods that passes the self-check.

    Args:
        net: The model as it will train.
        methods: At least one, see :func:`mammo_dp.privacy.training.gradients.methods.candidates`.
        max_physical_batch: Images, views included, in one pass.
        losses: Loss of each row.
        image_shape: Shape of one row of ``CropBatch.image``.

    Raises:
        PrivacyError: If none passes; about the last.
    """
    for method in methods:
        sums = build(net, method, max_physical_batch)
        try:
            self_check(net, sums, losses, image_shape)
        except (
            PrivacyError,
            RuntimeError,
        ) as error:  # of operations that a method has no gradient for
            sums.close()
            if method == methods[-1]:
                raise
            log.info("gradient_method %s does not fit this model: %s", method, error)
        else:
            return method, sums
    raise ValueError("first_that_passes: no method was given.")


@torch.no_grad()
def refuse_side_effects(
    net: nn.Module,
    losses: Losses,
    image_shape: Sequence[int],
    *,
    released: nn.Module | None = None,
) -> None:
    """Refuses a net whose passes in training draw random numbers, or leave something behind.

    Torch gives out its random numbers in turn, under a seed that is public: with one unit more, the
    rows after it get other numbers, and the sum moves by more than the clipping norm. What a layer
    keeps of what it sees would be released without noise.

    Args:
        net: The model in the modes it trains in.
        losses: Loss of each row.
        image_shape: Shape of one row of ``CropBatch.image``.
        released: What is released, if that is more than the net.

    Raises:
        PrivacyError: Naming layers and buffers.
    """
    device = next(net.parameters()).device
    images = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(device)
    label = torch.arange(2, device=device)
    whole = net if released is None else released
    before, kept = _random_state(device), {n: t.clone() for n, t in _tensors(whole).items()}
    losses(CropBatch(images, label, label, label))
    if not torch.equal(before, _random_state(device)):
        raise PrivacyError(
            f"{', '.join(_dropping(net)) or type(net).__name__}: random numbers come in turn, from "
            "a public seed, so one patient would change the gradients of others. Set the rates of "
            "dropout and stochastic depth to 0, such as backbone_args: {drop_path_rate: 0.0}."
        )
    now = _tensors(whole)
    if changed := sorted(n for n in {*now, *kept} if not _equal(now.get(n), kept.get(n))):
        raise PrivacyError(
            f"{', '.join(changed)}: change with each pass and would be released without noise. "
            "Use layers and losses that keep no statistics, or freeze the body and train the head."
        )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint of a module holds."""
    return {name: t for name, t in module.state_dict().items() if isinstance(t, Tensor)}


def _equal(now: Tensor | None, before: Tensor | None) -> bool:
    return now is not None and before is not None and torch.equal(now, before)


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
        PrivacyError: If the sums differ by more than 1e-4, or 2e-2 under reduced precision.
    """
    params = [p for p in net.parameters() if p.requires_grad]
    device = params[0].device
    tolerance = _HALF_TOLERANCE if torch.is_autocast_enabled(device.type) else _TOLERANCE
    generator = torch.Generator().manual_seed(0)
    with quiet_leaves():
        for size in (2, 3):
            images = torch.randn(size, *image_shape, generator=generator).to(device)
            label = torch.arange(size, device=device)
            for unit in (label, torch.zeros_like(label)):
                batch = CropBatch(images, label % 2, label, unit)
                units = _plain(losses, batch, params)
                if unit is not label:
                    units = units.mean(0, keepdim=True)
                norms = torch.linalg.vector_norm(units, dim=1, keepdim=True)
                clip = Clip(norm=max(float(norms.median()), 1e-12))
                expected = (units * clip.factors(norms)).sum(0)
                sums = [torch.zeros_like(p) for p in params]
                method.accumulate(losses, batch, sums, clip)
                found = torch.cat([s.flatten() for s in sums]).double()
                error = float((found - expected).norm() / max(float(norms.max()), 1e-12))
                if not error <= tolerance:
                    raise PrivacyError(
                        f"gradients: {type(method).__name__} is off by {error:.1e} from single "
                        f"backward passes on {type(net).__name__}. A layer mixes samples or its "
                        "rule is wrong; use gradient_method: loop, or train the head only."
                    )


def _random_state(device: torch.device) -> Tensor:
    """Where torch's own generators stand, from which dropout draws."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _dropping(net: nn.Module) -> list[str]:
    """Layers that drop something as they train."""
    return [
        f"{name} ({type(part).__name__})"
        for name, part in net.named_modules()
        if part.training
        and type(part).__name__.startswith("Drop")
        and max(getattr(part, "p", 0.0), getattr(part, "drop_prob", 0.0)) > 0
    ]


def _plain(losses: Losses, batch: CropBatch, params: Sequence[nn.Parameter]) -> Tensor:
    """Gradient of each row by a backward pass of its own, shape ``(rows, d)``, float64."""
    found = []
    for row in range(len(batch.row)):
        loss = losses(rows(batch, row, row + 1)).sum()
        with torch.autocast(loss.device.type, enabled=False):
            parts = torch.autograd.grad(loss, params, allow_unused=True, materialize_grads=True)
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found).double()
