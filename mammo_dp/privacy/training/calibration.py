# SPDX-License-Identifier: Apache-2.0
"""``DPCalibration``: slope and intercept of a released classifier's logits, fitted with privacy.

A calibration looks at patients like any other training. So it is one: a private fit of two numbers,
with an account, a statement and a lineage of its own. On other patients than those of the
classifier, these get a guarantee of their own and the classifier's stays; on the same, both add up.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import SGD

from classifier.module import CropClassifier, warmup_cosine
from mammo_dp.privacy.accounting.budget import PrivacyBudget
from mammo_dp.privacy.training.module import DPTraining

_AT_ONCE = 64  # crops in one pass
_CURVATURE = 0.2  # p (1 - p), for probabilities between .28 and .72
_LARGEST = 1.0  # logits that noise alone may move the intercept by


class CalibrationError(ValueError):
    """A calibration would be noise; the message says how much and what would help."""


class DPCalibration(DPTraining, CropClassifier):  # type: ignore[misc]  # its steps return no loss
    """A finished classifier whose logits get a slope and an intercept, privately.

    Gradient descent on the log-likelihood of the labels, from slope 1 and intercept 0, with a
    standard normal prior on the distance from there: few patients or much noise change little.
    The prior looks at no patient, and needs no clip and no noise. Whole cohorts are meant to join
    each step (a rate of 1): two numbers want few, exact steps.

    Args:
        target_epsilon: Epsilon per unit at ``delta``, > 0.
        delta: Probability that the bound of epsilon fails, below 1 / units.
        clipping_norm: Largest L2 norm of one unit's gradient, > 0.
        learning_rate: First learning rate, > 0; it follows a cosine to 0.
        classifier: Arguments of the :class:`classifier.module.CropClassifier` that ``weights`` is
            a checkpoint of.

    Source: Platt 1999, Probabilistic outputs for support vector machines; the prior, and the
    privacy, are ours.
    """

    scores_features = False  # they would pass for logits

    def __init__(
        self,
        *,
        target_epsilon: float = 1.0,
        delta: float = 1e-4,
        clipping_norm: float = 1.0,
        learning_rate: float = 1.0,
        **classifier: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **classifier)
        self.net.requires_grad_(False)
        self.net.calibration = nn.Linear(1, 1)  # keys: classifier.released.CALIBRATION
        nn.init.ones_(self.net.calibration.weight)
        nn.init.zeros_(self.net.calibration.bias)
        self.configure_privacy(
            PrivacyBudget(delta=delta, epsilon=target_epsilon), clipping_norm=clipping_norm
        )

    def setup(self, stage: str) -> None:
        """Refuses to spend on what would be noise, from public numbers alone.

        Raises:
            CalibrationError: If noise would move the intercept by more than one logit.
        """
        super().setup(stage)
        if stage != "fit":
            return
        units = self.sampling.stated_units
        moved = noise_of_intercept(
            self.noise_multiplier * self.clipping_norm,
            units=units,
            learning_rate=self.learning_rate,
            steps=self.trainer.max_steps,
        )
        if moved > _LARGEST:
            raise CalibrationError(
                f"{units} {self.sampling.unit}s at {self.budget.target}: noise alone would move "
                f"the intercept by {moved:.1f} logits, so the probabilities would mean nothing. "
                "Take more patients or a larger target, or leave the run as it is."
            )

    def forward(self, image: Tensor) -> Tensor:
        """Calibrated logits.

        Args:
            image: Shape ``(B, 1, H, W)``, in ``[-1, 1]``; or logits that are not calibrated yet,
                shape ``(B, 1, 1)``.

        Returns:
            Shape ``(B,)``, or ``(B, 1)`` for logits.
        """
        calibration: nn.Linear = self.net.calibration  # type: ignore[assignment]  # set above
        logits = image if image.ndim == 3 else super().forward(image)[:, None]
        fitted: Tensor = calibration(logits).squeeze(-1)
        return fitted

    def on_fit_start(self) -> None:
        """Asks the classifier about each crop once; from here on only logits are used."""
        data = self._datamodule
        crops = data.dataset(data.train_rows)
        logits = []
        with torch.no_grad():
            for start in range(0, len(crops), _AT_ONCE):
                rows = range(start, min(start + _AT_ONCE, len(crops)))
                images = torch.stack([crops[row].image for row in rows]).to(self.device)
                logits.append(super().forward(images).float().cpu())
        data.use_features(torch.cat(logits)[:, None, None])
        super().on_fit_start()

    def public_gradients(self) -> Mapping[nn.Parameter, Tensor]:
        """Of the prior, over the stated number of units: it counts as one unit would."""
        slope, intercept = (p for p in self.net.parameters() if p.requires_grad)
        units = self.sampling.stated_units
        return {slope: (slope.detach() - 1) / units, intercept: intercept.detach() / units}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Gradient descent behind noise."""
        trained = [p for p in self.net.parameters() if p.requires_grad]
        private = self.privatise(SGD(trained, lr=self.learning_rate))
        schedule = warmup_cosine(private, 0, self.trainer.max_steps)
        return {"optimizer": private, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def noise_of_intercept(noise: float, *, units: int, learning_rate: float, steps: int) -> float:
    """Standard deviation of the fitted intercept that noise alone causes.

    Descent on a parabola with the curvature of a logistic loss, under the same rates.

    Args:
        noise: Standard deviation of the noise of a summed gradient.
        units: Units that join each step.
        learning_rate: The first; it follows a cosine to 0.
        steps: Number of steps.

    Returns:
        In logits, >= 0.
    """
    variance, curvature = 0.0, _CURVATURE + 1 / units  # the prior counts as one unit
    for step in range(steps):
        rate = learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        variance = (1 - rate * curvature) ** 2 * variance + (rate * noise / units) ** 2
    return math.sqrt(variance)
