# SPDX-License-Identifier: Apache-2.0
"""``CropPretraining``: pre-training, without patients, of features that a private head can use.

A private head clips and adds noise of one size in every direction. Features that share a large
offset or differ in scale waste its budget, so the features of the body are standardised on public
crops: mean 0 and deviation 1, without a change of its scores.
"""

import logging
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classifier.backbones import head
from classifier.features import body_features, public_maps
from classifier.fixed_features import FixedFeatures
from classifier.module import CropClassifier
from classifier.token_transformer import TokenTransformer
from classifier.whitened import WhitenedFeatures
from data_prep.datamodule import CropBatch, CropsDataModule
from data_prep.descriptors.targets import COUNT, describe
from data_prep.progress import watched
from data_prep.symmetries import symmetric


class StandardiseError(ValueError):
    """Features cannot be standardised; the message says why and what to choose."""


@torch.no_grad()
def standardise(net: nn.Module, images: Tensor | Iterable[Tensor]) -> None:
    """Folds mean and deviation of the features into the last norm, and their inverse into the head.

    They are statistics of the crops without noise: of phantoms or synthetic crops they cost what
    those cost, of patients the whole guarantee.

    Args:
        net: Model of :func:`classifier.backbones.build`; changed in place.
        images: Shape ``(N, 1, H, W)``, in ``[-1, 1]``, ``N >= 2``, or batches of them.

    Raises:
        StandardiseError: If the features are no multiple of the affine part of a last norm.
    """
    batches = iter(torch.split(images, 64) if isinstance(images, Tensor) else images)
    some = next(batches, torch.empty(0))
    before = body_features(net, chain([some], batches))
    if len(before) < 2:
        raise StandardiseError(
            f"standardise: {len(before)} crops have no deviation. Give at least 2."
        )
    mean, deviation = before.mean(0), before.std(0).clamp_min(1e-6)
    norm, layer = last_norm(net), head(net)
    kept = [(p, p.clone()) for p in (norm.weight, norm.bias, layer.weight, layer.bias)]
    mean, deviation = mean.to(layer.weight.device), deviation.to(layer.weight.device)
    layer.bias.add_(layer.weight[0] @ mean)
    layer.weight.mul_(deviation)
    norm.weight.div_(deviation)
    norm.bias.sub_(mean).div_(deviation)
    expected = (before[: len(some)] - mean.cpu()) / deviation.cpu()
    if not torch.allclose(body_features(net, some), expected, atol=1e-2, rtol=1e-2):
        for parameter, value in kept:
            parameter.copy_(value)
        raise StandardiseError(
            f"standardise: features of {type(net).__name__} do not scale with its last norm. "
            "Choose standardise: false, or a ViT or Swin."
        )


def last_norm(net: nn.Module) -> nn.LayerNorm:
    """The norm whose gain and offset reach the head through nothing but a choice or mean of tokens.

    Raises:
        StandardiseError: If there is none.
    """
    for name in ("fc_norm", "norm"):
        found = getattr(net, name, None)
        if isinstance(found, nn.LayerNorm) and found.elementwise_affine:
            return found
    raise StandardiseError(
        f"standardise: {type(net).__name__} has no `norm` or `fc_norm` with gain and offset. "
        "Choose standardise: false, or a ViT or Swin."
    )


@torch.no_grad()
def teach_head(layer: nn.Linear, features: Tensor, malignant: Tensor) -> None:
    """Fits a head on features of public crops, from zero, by the steps of a fit without privacy.

    Args:
        layer: The head; changed in place.
        features: Shape ``(crops, d)``, of length ``sqrt(d)``.
        malignant: Shape ``(crops,)``.
    """
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    target = malignant.to(features)
    for _ in range(_STEPS):  # the rates of configs/classifier/baseline.yaml
        residual = torch.sigmoid(layer(features)[:, 0]) - target
        layer.weight.sub_(residual @ features, alpha=_RATE / len(target))
        layer.bias.sub_(residual.mean(), alpha=_RATE)


_BATCH = 64  # crops in one pass
_STEPS, _RATE = 32, 0.625

log = logging.getLogger(__name__)


class CropPretraining(CropClassifier):
    """A crop classifier whose features also measure the crop.

    The label of a phantom says little about real masses, and a body that learns nothing else
    forgets the rest of the image. So the first features learn fixed measurements of the very crop
    that the body sees, each shifted and scaled as on the training crops; the others are free.

    A fixed body (``crop_features``, ``crop_measurements``) need not be taught: the fit finds the
    principal components of its numbers on the training crops as they are, then its head learns the
    label. It takes ``measure: 0``, ``standardise: false`` and ``trainable: head``.

    Of ``crop_tokens`` the transformer is taught. Its numbers before whitening learn the
    measurements; after the last step the fit finds their principal components on the training
    crops, and teaches a head the label from these. Where the data have ``augment: none``, what the
    public network sees is computed once, and mirrored at random in training.

    The weights have the keys of a :class:`classifier.module.CropClassifier`, which starts from them
    by ``weights``. Nothing here is private: a fit on patients costs their whole guarantee.

    Args:
        measure: Weight of the mean squared error of the measurements, >= 0, beside the
            cross-entropy of the label.
        standardise: Whether to give all features mean 0 and deviation 1 on the training crops after
            the last step; scores stay as they are, but for those of ``crop_tokens``, which come
            from a head that is taught anew.
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
        if isinstance(self.net, WhitenedFeatures):
            features = len(self.net.mean)
        if measure < 0:
            raise ValueError(f"{measure=}. Give a weight of at least 0.")
        if measure and features < COUNT:
            raise ValueError(
                f"{measure=}: the body has {features} features for {COUNT} measurements. "
                f"Choose a body with at least {COUNT}, or measure: 0."
            )
        if standardise and not isinstance(self.net, TokenTransformer):
            last_norm(self.net)  # refuses a body without one now, not after the last step
        self.measure = measure
        self.standardise = standardise
        if isinstance(self.net, FixedFeatures) and (
            measure or standardise or not self.trains_head_only
        ):
            raise ValueError(
                f"{measure=}, {standardise=}: this body is fixed. Give measure: 0, "
                "standardise: false and trainable: head."
            )
        if isinstance(self.net, WhitenedFeatures):
            log.info("Features: %s.", self.net.words)

    def on_fit_start(self) -> None:
        """Measures the training crops as they are, or learns how their measurements vary."""
        if isinstance(self.net, WhitenedFeatures):  # before features are computed
            self.net.require_crops(len(self.trainer.datamodule.train_rows))  # type: ignore[attr-defined]
        super().on_fit_start()
        if isinstance(self.net, FixedFeatures):
            self._whiten(self.net)
        if isinstance(self.net, TokenTransformer):
            self.net.standardise_maps(self._maps(self.net).to(self.device))
        if self.measure:
            found = torch.cat([describe(image) for image in self._crops()])
            self._mean, self._deviation = found.mean(0), found.std(0).clamp_min(1e-6)
            rows = self.trainer.datamodule.train_rows  # type: ignore[attr-defined]
            self._measured = dict(zip(rows, found, strict=True))

    def kept_views(self, data: CropsDataModule) -> int:
        """1 of ``crop_tokens``; 0 where the body trains, or is whitened in the fit."""
        return super().kept_views(data) if self.keeps_maps else 0

    @property
    def keeps_maps(self) -> bool:
        """Of ``crop_tokens`` always: its components are found after the last step."""
        return isinstance(self.net, TokenTransformer)

    def training_step(self, batch: CropBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of the label, and the error of the measurements."""
        if batch.image.ndim == 3:  # features of a fixed body
            return super().training_step(batch, batch_idx)
        learned, features = self._learned(batch)
        logits = head(self.net)(features).squeeze(-1)
        loss = self.label_losses(logits, batch.malignant).mean()
        self.log("train_loss", loss, batch_size=len(batch.row))
        if not self.measure:
            return loss
        if batch.image.ndim == 5:  # of a mirrored crop they are the same
            measured = torch.stack([self._measured[row] for row in batch.row.tolist()])
        else:
            measured = describe(batch.image)
        wanted = (measured - self._mean) / self._deviation
        error = F.mse_loss(learned[:, :COUNT].float(), wanted)
        self.log("measure_loss", error, prog_bar=True, batch_size=len(batch.row))
        return loss + self.measure * error

    def _learned(self, batch: CropBatch) -> tuple[Tensor, Tensor]:
        """What learns the measurements, and what the head sees."""
        image = batch.image
        if isinstance(self.net, TokenTransformer):
            if image.ndim == 5:
                number = int(torch.randint(self.net.symmetries, ()))
                image = symmetric(image.flatten(0, 1), number)
            numbers = self.net.numbers(image)
            return numbers, self.net.features(numbers)
        tokens = self.net.forward_features(image)  # type: ignore[operator]  # of timm models
        features: Tensor = self.net.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        return features, features

    def _maps(self, net: TokenTransformer) -> Tensor:
        """What the public network sees of the training crops as they are."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by every fit of ours
        kept: Tensor | None = data.train_dataset.features
        return public_maps(net, self._crops()) if kept is None else kept[:, 0]

    @torch.no_grad()
    def _whiten(self, body: FixedFeatures) -> None:
        """Finds the components of the training crops, and what the head then sees of each crop."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by every fit of ours
        starts = watched(range(0, len(data.train_rows), _BATCH), "Reading crops")
        crops = zip(starts, self._crops(), strict=True)
        numbers = torch.cat([body.numbers(batch).cpu() for _, batch in crops])
        body.whiten(numbers.to(self.device))
        if data.augment == "none":
            data.use_features(body.features(numbers.to(self.device)).cpu()[:, None])

    def on_fit_end(self) -> None:
        """Standardises the features; a fit that is resumed after its last step does so too."""
        super().on_fit_end()
        if self.standardise and isinstance(self.net, TokenTransformer):
            self._whiten_taught(self.net)
        elif self.standardise:
            standardise(self.net, self._crops())

    @torch.no_grad()
    def _whiten_taught(self, net: TokenTransformer) -> None:
        """Finds the components of a taught body's numbers, and the label's direction in them."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by every fit of ours
        net.eval()
        maps = torch.split(self._maps(net), _BATCH)
        numbers = torch.cat([net.numbers(some.to(self.device)) for some in maps])
        net.whiten(numbers)
        crops = [data.manifest.crops[row] for row in data.train_rows]
        teach_head(head(net), net.features(numbers), torch.tensor([c.malignant for c in crops]))

    def _crops(self) -> Iterator[Tensor]:
        """The training crops as they are, batch by batch."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # set by every fit of ours
        crops = data.dataset(data.train_rows)
        for start in range(0, len(crops), _BATCH):
            rows = range(start, min(start + _BATCH, len(crops)))
            yield torch.stack([crops[row].image for row in rows]).to(self.device)
