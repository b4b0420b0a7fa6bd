# SPDX-License-Identifier: Apache-2.0
"""``CropPretraining``: bodies that learn without patients what a private head can use."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from classifier.backbones import head
from classifier.fixed_features import FixedFeatures
from classifier.module import CropClassifier
from classifier.standardise import last_norm, standardise
from data_prep.crop_set import watched
from data_prep.datamodule import CropBatch, CropsDataModule
from data_prep.descriptors import COUNT, describe

log = logging.getLogger(__name__)


class CropPretraining(CropClassifier):
    """A crop classifier whose features also measure the crop.

    The label of a phantom says little about real masses, and a body that learns nothing else
    forgets the rest of the image. So the first features learn fixed measurements of the very crop
    that the body sees, each shifted and scaled as on the training crops; the others are free.

    A fixed body (``crop_features``, ``crop_measurements``) need not be taught: the fit finds the
    principal components of its numbers on the training crops as they are, then its head learns the
    label. It takes ``measure: 0``, ``standardise: false`` and ``trainable: head``.

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
        if isinstance(self.net, FixedFeatures):
            if measure or standardise or not self.trains_head_only:
                raise ValueError(
                    f"{measure=}, {standardise=}: this body is fixed. Give measure: 0, "
                    "standardise: false and trainable: head."
                )
            log.info("Fixed body: %s.", self.net.words)

    def on_fit_start(self) -> None:
        """Measures the training crops as they are, or learns how their measurements vary."""
        super().on_fit_start()
        if isinstance(self.net, FixedFeatures):
            self._whiten(self.net)
        if self.measure:
            found = torch.cat([describe(image) for image in self._crops()])
            self._mean, self._deviation = found.mean(0), found.std(0).clamp_min(1e-6)

    def kept_views(self, data: CropsDataModule) -> int:
        """0: the body trains, or is whitened once the fit has started."""
        return 0

    def training_step(self, batch: CropBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of the label, and the error of the measurements."""
        if batch.image.ndim == 3:  # features of a fixed body
            return super().training_step(batch, batch_idx)
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

    @torch.no_grad()
    def _whiten(self, body: FixedFeatures) -> None:
        """Finds the components of the training crops, and what the head then sees of each crop."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by every fit of ours
        batches = -(-len(data.train_rows) // body.images_at_once)
        crops = zip(
            watched(range(batches), "Reading crops"), self._crops(body.images_at_once), strict=True
        )
        numbers = torch.cat([body.numbers(batch).cpu() for _, batch in crops])
        body.whiten(numbers.to(self.device))
        if data.augment == "none":
            data.use_features(body.features(numbers.to(self.device)).cpu()[:, None])

    def on_fit_end(self) -> None:
        """Standardises the features; a fit that is resumed after its last step does so too."""
        super().on_fit_end()
        if self.standardise:
            standardise(self.net, self._crops())

    def _crops(self, at_once: int = 64) -> Iterator[Tensor]:
        """The training crops as they are, batch by batch."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by every fit of ours
        crops = data.dataset(data.train_rows)
        for start in range(0, len(crops), at_once):
            rows = range(start, min(start + at_once, len(crops)))
            yield torch.stack([crops[row].image for row in rows]).to(self.device)
