# SPDX-License-Identifier: Apache-2.0
"""Settings of a private fit under which the stated guarantee would not hold."""

from collections.abc import Collection
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies import SingleDeviceStrategy

from mammo_dp.privacy import strategy
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.monitors import monitors_of
from mammo_dp.privacy.sampling import key_name
from mammo_dp.privacy.strategy import DPDDPStrategy

_PRECISIONS = ("32-true", "bf16-mixed")


def refuse_trainer(trainer: Trainer) -> None:
    """Checks a trainer before it spends compute or starts further processes.

    Args:
        trainer: The trainer of a private fit, before the fit or within it.

    Raises:
        PrivacyError: Naming every setting that would break the guarantee.
    """
    precision = trainer.precision
    # The tuners among them take steps that they then erase from the account.
    selecting = [str(monitor) for monitor in monitors_of(trainer)]
    averaging = [
        type(callback).__name__  # measures batches anew, for normalisation layers
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging)
    ]
    refusals = (
        (
            trainer.max_steps < 1,
            f"max_steps={trainer.max_steps}: the number of steps defines what is spent. Set "
            "trainer.max_steps.",
        ),
        (
            not isinstance(trainer.strategy, SingleDeviceStrategy | DPDDPStrategy),
            f"strategy={type(trainer.strategy).__name__} on {trainer.world_size} device(s): ranks "
            "draw apart, and raw gradients are averaged before any unit is clipped, or weights "
            f"are held in parts. Set trainer.strategy to {strategy.NAME} (--trainer.strategy "
            f"{strategy.NAME}), or trainer.devices to 1 and trainer.strategy to auto.",
        ),
        (
            precision not in _PRECISIONS,
            f"precision={precision}: loss scaling skips steps by the data, and reduced "
            f"weights break the clip. Choose {' or '.join(_PRECISIONS)}.",
        ),
        (
            trainer.accumulate_grad_batches != 1,
            f"accumulate_grad_batches={trainer.accumulate_grad_batches}: two draws would be "
            "booked as one. Leave it at 1 and raise the data's rate.",
        ),
        (
            trainer.gradient_clip_val is not None,
            f"gradient_clip_val={trainer.gradient_clip_val}: clips sums, not patients. Leave "
            "it unset; the model's clipping_norm clips.",
        ),
        (
            bool(selecting or averaging),
            f"{', '.join([*selecting, *averaging])}: stops, selects or tunes by private metrics. "
            "Remove it; the weights of the last step are released, or their average by ema_decay. "
            "To choose among fits at a known cost, use `mammo-dp privacy select`.",
        ),
    )
    if found := [message for refused, message in refusals if refused]:
        raise PrivacyError("trainer: " + " ".join(found))


def refuse_other_size(before: int | None, now: int | None) -> None:
    """Refuses to resume a fit with another divisor, as one statement is about all of its steps.

    Args:
        before: Declared number of units of the first steps; ``None`` if the true one divided.
        now: That of the steps to come.

    Raises:
        PrivacyError: If they differ.
    """
    if before != now:
        raise PrivacyError(
            f"account: the first steps ran with public_size {before}, now {now}. Resume with the "
            "settings of the first start, or start a new run."
        )


def refuse_used_key(data: Any, earlier: Collection[str]) -> None:  # noqa: ANN401  any data module
    """Checks that a resumed fit draws and adds noise under a key of its own.

    Steps after the last checkpoint are taken twice. With equal noise their difference would be the
    difference of the exact sums. A fixed seed repeats it on purpose; the statement of such a run is
    infinite.

    Args:
        data: Data module with the key.
        earlier: Names of the keys of earlier starts.

    Raises:
        PrivacyError: If the key was used before.
    """
    if getattr(data, "insecure_seed", None) is None and key_name(data.key) in earlier:
        raise PrivacyError(
            f"data: {type(data).__name__} resumes with the key of an earlier start, so draws and "
            "noise would repeat. Take mammo_dp.privacy.sampling.new_key() at each start."
        )
