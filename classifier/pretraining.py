# SPDX-License-Identifier: Apache-2.0
"""``CropPretraining``: bodies that learn without patients what a private head can use."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from classifier.backbones import head
from classifier.measured import MeasuredCrops
from classifier.module import CropClassifier
from classifier.standardise import last_norm, standardise
from data_prep.datamodule import CropBatch, CropsDataModule
from data_prep.descriptors import COUNT, describe


class CropPretraining(CropClassifier):
    """A crop classifier whose features also measure the crop.

    The label of a phantom says little about real masses, and a body that learns nothing else
    forgets the rest of the image. So the first features learn fixed measurements of the very crop
    that the body sees, each shifted and scaled as on the training crops; the others are free.

    A body of fixed measurements (``crop_measurements``) need not be taught: the fit finds their
    principal components on the training crops as they are, then its head learns the label. It
    takes ``measure: 0`` and ``standardise: false``.

    The weights have the keys of a :class:`classifier.module.CropClassifier`, which starts from them
    by ``weights``. Nothing here is private: a fit on patients costs their whole guarantee.

    Args:
        measure: Weight of the mean squared error of the measurements, >= 0, beside the
            cross-entropy of the label.
        standardise: Whether to give all features mean 0 and deviation 1 on the training crops after
            the last step; scores stay as they are.
        classifier: Further arguments of :class:`classifier.module.CropClassifier`.

    Raises:
        ValueError: If ``measure`` is negative, the body has fewer features than measurements, or no
            last norm to be standardised by.
    """

    def __init__(
        self, *, measure: float = 1.0, standardise: bool = True, **classifier: Any
    ) -> None:
        super().__init__(**classifier)
        features = head(self.net).in_features
        if measure < 0:
            raise ValueError(f"{measure=}. Give a weight of at least 0.")
        if measure and features < COUNT:
            raise ValueError(
                f"{measure=}: the body has {features} features for {COUNT} measurements. "
                f"Choose a body with at least {COUNT}, or measure: 0."
            )
        if standardise:
            last_norm(self.net)  # refuses a body without one now, not after the last step
        self.measure = measure
        self.standardise = standardise

    def on_fit_start(self) -> None:
        """Measures the training crops as they are, or learns how their measurements vary."""
        super().on_fit_start()
        if isinstance(self.net, MeasuredCrops):
            self.net.whiten(self._crops())
        if self.measure:
            found = torch.cat([describe(image) for image in self._crops()])
            self._mean, self._deviation = found.mean(0), found.std(0).clamp_min(1e-6)

    def kept_views(self, data: CropsDataModule) -> int:
        """0: the body trains, or is whitened once the fit has started."""
        return 0

    def training_step(self, batch: CropBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of the label, and the error of the measurements."""
        tokens = self.net.forward_features(batch.image)  # type: ignore[operator]  # of timm models
        features: Tensor = self.net.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        logits = head(self.net)(features).squeeze(-1)
        loss = F.binary_cross_entropy_with_logits(logits, batch.malignant.to(logits.dtype))
        self.log("train_loss", loss, batch_size=len(batch.row))
        if not self.measure:
            return loss
        wanted = (describe(batch.image) - self._mean) / self._deviation
        error = F.mse_loss(features[:, :COUNT].float(), wanted)
        self.log("measure_loss", error, prog_bar=True, batch_size=len(batch.row))
        return loss + self.measure * error

    def on_fit_end(self) -> None:
        """Standardises the features; a fit that is resumed after its last step does so too."""
        super().on_fit_end()
        if self.standardise:
            standardise(self.net, self._crops())

    def _crops(self) -> Iterator[Tensor]:
        """The training crops as they are, batch by batch."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by every fit of ours
        crops = data.dataset(data.train_rows)
        for start in range(0, len(crops), 64):
            rows = range(start, min(start + 64, len(crops)))
            yield torch.stack([crops[row].image for row in rows]).to(self.device)
