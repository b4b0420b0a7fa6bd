# SPDX-License-Identifier: Apache-2.0
"""White-box canaries: made-up patients with unique gradients, and their scores from noisy sums.

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
from torch import Tensor, nn
from torch.optim import SGD

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.statistics import likelihood_ratios
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.training.module import DPTraining
from mammo_dp.privacy.training.optimizer import PrivateOptimizer
from mammo_dp.privacy.training.sampling import PoissonSampling


class WhiteBoxObserver(Callback):
    """Reads the noisy sums of a private fit off its weights, as an adversary who sees them would.

    Needs plain SGD, whose update is the learning rate times the noisy mean gradient. Noisy sums are
    what the account covers: the epsilon of the run bounds what they reveal.

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

    Source: the canary of Nasr et al. 2023, arXiv 2302.07956.
    """
    ratios = likelihood_ratios(
        products, 1.0, noise_multiplier=noise_multiplier, sampling_rate=sampling_rate
    )
    return np.asarray(ratios.sum(axis=0))


def scores_of_mechanism(
    mechanism: Mechanism, *, inside: int, canaries: int, key: int
) -> NDArray[np.float64]:
    """Runs the steps of a mechanism on canaries alone and scores them; trains no model.

    Sampling and noise come from the code that trains, so success at the bound shows that they are
    what is accounted.

    Args:
        mechanism: Noise, sampling rate and steps.
        inside: Canaries that take part; they stand first.
        canaries: All canaries.
        key: 256 bits of sampling and noise, see :func:`mammo_dp.privacy.training.sampling.new_key`.

    Returns:
        Scores, shape ``(canaries,)``, as :func:`canary_scores` gives them.
    """
    weights = nn.Parameter(torch.zeros(canaries))
    accounted = iter(range(mechanism.steps))
    optimizer = PrivateOptimizer(
        SGD([weights], lr=1.0),
        noise_multiplier=mechanism.noise_multiplier,
        clipping_norm=1.0,
        expected_units=1.0,
        key=key,
        account=lambda: next(accounted),
    )
    sampling = PoissonSampling(
        unit="patient",
        rows_of=tuple((row,) for row in range(inside)),
        rate=mechanism.sampling_rate,
    )
    scores: NDArray[np.float64] = np.zeros(canaries)
    for step in range(mechanism.steps):
        total = torch.zeros(canaries)
        total[torch.from_numpy(sampling.sample(key, step))] = 1.0
        optimizer.take({weights: total})
        optimizer.step()
        assert weights.grad is not None
        scores += likelihood_ratios(
            weights.grad.double().numpy(),
            1.0,
            noise_multiplier=mechanism.noise_multiplier,
            sampling_rate=mechanism.sampling_rate,
        )
    return scores
