# SPDX-License-Identifier: Apache-2.0
"""Opacus' optimizer on clipped sums that are given, with noise from a cryptographic generator."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.sampling import NOISE, draw, noisy

_SERIAL = 2**16  # values for which threads do not pay


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]  # opacus is untyped
    """Turns clipped sums into noisy means and steps an ordinary optimizer with them.

    The gradient is ``(S + noise_multiplier * clipping_norm * N(0, I)) / expected_units + P``, for
    every parameter, also for those that the forward pass did not use, and also after an empty draw.
    ``P`` is a gradient that no unit has a part in; it is 0 for most models.

    The noise comes from a stream cipher under a 256-bit key, see
    :func:`mammo_dp.privacy.training.sampling.noisy`. Opacus draws from torch's CPU generator, which
    reduces every seed to 32 bits: all its noise can be tried out. It is drawn on the CPU, each
    parameter from a stream of its own, on as many threads as torch has; their number changes no
    value.

    Args:
        optimizer: What applies the gradient.
        noise_multiplier: Standard deviation / clipping norm, > 0.
        clipping_norm: Largest L2 norm of one unit's part of the sums, > 0.
        expected_units: Units that join a step on average, the fixed divisor.
        key: 256 bits, see :func:`mammo_dp.privacy.training.sampling.new_key`.
        account: Accounts for one step and returns its number, from 0; raises beyond the budget.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        noise_multiplier: float,
        clipping_norm: float,
        expected_units: float,
        key: int,
        account: Callable[[], int],
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=clipping_norm,
            expected_batch_size=expected_units,
            loss_reduction="mean",
        )
        self.key = key
        self.account = account
        self._public: Mapping[nn.Parameter, Tensor] = {}

    @property
    def grad_samples(self) -> list[Tensor]:
        """What the next step will use: clipped sums instead of rows per sample."""
        return [p.summed_grad for p in self.params]

    @property
    def accumulated_iterations(self) -> int:
        """One: sums of a draw are complete before the step."""
        return 1

    def take(
        self,
        sums: Mapping[nn.Parameter, Tensor],
        public: Mapping[nn.Parameter, Tensor] = MappingProxyType({}),
    ) -> None:
        """Hands over the clipped sums of one draw.

        Args:
            sums: One per parameter; zeros after an empty draw.
            public: ``P``, for some or all parameters: a gradient that no unit has a part in.

        Raises:
            PrivacyError: If they are not those of the parameters that this optimizer steps.
        """
        if {id(p) for p in sums} != {id(p) for p in self.params}:
            raise PrivacyError(
                f"optimizer: sums of {len(sums)} parameters for {len(self.params)} that train. "
                "Give the optimizer all trainable parameters and no other."
            )
        for p, total in sums.items():
            p.summed_grad = total  # type: ignore[attr-defined]  # where Opacus keeps it
        self._public = public

    def clip_and_accumulate(self) -> None:
        """Only checks that sums were handed over: they come clipped.

        Raises:
            PrivacyError: If they were not, or were used before.
        """
        if any(total is None for total in self.grad_samples):
            raise PrivacyError("optimizer: no sums for this step. Hand them over with take().")

    @torch.no_grad()
    def add_noise(self) -> None:
        """Accounts for the step, then adds its noise and drops the sums."""
        step = self.account()
        scale = self.noise_multiplier * self.max_grad_norm

        def gradient(index: int) -> Tensor:
            exact = self.params[index].summed_grad.cpu().numpy()
            return torch.from_numpy(noisy(exact, scale, draw(self.key, step, NOISE, index))).float()

        indices = range(len(self.params))
        if sum(p.numel() for p in self.params) < _SERIAL:
            gradients = [gradient(index) for index in indices]
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                gradients = list(pool.map(gradient, indices))
        for p, found in zip(self.params, gradients, strict=True):
            p.grad = found.to(p.device)
            p.summed_grad = None

    @torch.no_grad()
    def scale_grad(self) -> None:
        """Divides the noisy sums by the expected units, then adds and drops what is public."""
        super().scale_grad()
        for p, gradient in self._public.items():
            assert p.grad is not None
            p.grad += gradient
        self._public = {}
