# SPDX-License-Identifier: Apache-2.0
"""White-box canaries: patients whose gradients nobody else has, looked for in every update.

Threat model (rung 1 of the ladder, and what privacy accounting assumes): the adversary plants one
patient whose clipped gradient is ``C e_i``, one coordinate of the released weights at the clipping
norm; sees the weights after every step; knows optimizer, noise multiplier, sampling rate and number
of steps; knows neither who is drawn nor the noise. It asks whether the patient is in the cohort.

No adversary does better against a Poisson-subsampled Gaussian, so its success lies on the curve of
the accountant: below it, if sampling, clip or noise protect more than is stated; above it, if they
protect less. Canaries on different coordinates do not disturb one another, and those left out see
only noise, so one run gives as many trials as there are coordinates.
"""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import SGD

from mammo_dp.attacks.signals import AttackError
from mammo_dp.privacy.training.module import DPTraining
from mammo_dp.privacy.training.optimizer import PrivateOptimizer


class WhiteBoxObserver(Callback):
    """Reads the noisy sums of a private fit off its weights, as an adversary who sees them would.

    Needs plain SGD, whose update is the learning rate times the noisy mean gradient. Noisy sums are
    what the account covers: the epsilon of the run bounds what they betray.

    Args:
        parameter: Name of the parameter whose coordinates carry canaries, such as ``net.weight``.

    Attributes:
        updates: The rows of :attr:`products`, one per step, as far as the fit has come.
    """

    def __init__(self, parameter: str) -> None:
        self.parameter = parameter
        self._before = torch.empty(0)
        self._scale = 0.0
        self.updates: list[NDArray[np.float64]] = []

    @property
    def products(self) -> NDArray[np.float64]:
        """Products of noisy sums with ``e_i / C``, shape ``(steps, coordinates)``.

        One of a step that drew the canary is normal around 1, any other around 0, both with the
        noise multiplier as standard deviation.
        """
        return np.stack(self.updates)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Remembers the weights and what turns their change into a sum.

        Raises:
            AttackError: If the change of the weights would not show the noisy gradient.
        """
        private = trainer.optimizers[0]
        if not isinstance(pl_module, DPTraining) or not isinstance(private, PrivateOptimizer):
            raise AttackError(
                f"{type(pl_module).__name__}: does not train privately, so there is no claim to "
                "audit. Observe the fit of a DPTraining."
            )
        settings = private.param_groups[0]
        if (
            not isinstance(private.original_optimizer, SGD)
            or settings["momentum"]
            or settings["weight_decay"]
            or len(private.param_groups) > 1
        ):
            raise AttackError(
                f"{type(private.original_optimizer).__name__}: weights change by more than the "
                "gradient of their step. Audit with SGD, one parameter group, without momentum "
                "and weight decay; the noise is the same for every optimizer."
            )
        self._scale = pl_module.sampling.expected_units / settings["lr"] / pl_module.clipping_norm
        self._before = self._weights(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *outputs: Any
    ) -> None:
        """Takes what the step changed."""
        self.updates.append(((self._before - self._weights(pl_module)) * self._scale).numpy())

    def _weights(self, module: LightningModule) -> Tensor:
        return module.get_parameter(self.parameter).detach().double().flatten().cpu()


def canary_scores(
    products: NDArray[np.float64], *, noise_multiplier: float, sampling_rate: float
) -> NDArray[np.float64]:
    """Log-likelihood ratio of "in the cohort" against "not", for each canary.

    Args:
        products: See :attr:`WhiteBoxObserver.products`, shape ``(steps, canaries)``.
        noise_multiplier: As stated, > 0.
        sampling_rate: As stated, in ``(0, 1]``.

    Returns:
        Scores, shape ``(canaries,)``; by Neyman and Pearson no test of the products does better.

    Source: ``sum_t log(1 - q + q exp((2 s_t - 1) / (2 sigma^2)))``, the privacy loss of
    Poisson-subsampled Gaussian noise; with the canary of Nasr et al. 2023, arXiv 2302.07956.
    """
    drawn = np.log(sampling_rate) + (2 * products - 1) / (2 * noise_multiplier**2)
    if sampling_rate == 1:
        return np.asarray(drawn.sum(axis=0))
    return np.asarray(np.logaddexp(np.log1p(-sampling_rate), drawn).sum(axis=0))
