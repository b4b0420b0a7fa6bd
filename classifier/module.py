# SPDX-License-Identifier: Apache-2.0
"""``CropClassifier``: crops to malignancy logits, on Lightning, without differential privacy."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from classifier import evaluate
from classifier.backbones import (
    Trainable,
    build,
    head,
    image_shape,
    keep_frozen_in_eval,
    select_trainable,
    slices_of,
)
from classifier.features import FeaturesSeal, cached_features, rank_zero_first
from classifier.predictions import FILE_NAME, Predictions, write_predictions
from classifier.stress import AS_THEY_ARE, write_stress
from classifier.token_transformer import TokenTransformer
from classifier.weights import LoadedWeights, load_weights, model_of
from data_prep.datamodule import CropBatch, CropsDataModule
from data_prep.errors import DataError, TrainingError


class CropClassifier(lightning.LightningModule):
    """A timm transformer that scores crops; a logit above 0 means malignant.

    The weights after the last step are the product; no epoch is chosen by validation. Subclasses
    that train in another way keep :meth:`losses` and :meth:`configure_optimizers`.

    Where only the head trains, on crops as they are, features of the frozen body are computed once
    and kept in ``features`` below the trainer's root folder; they are as private as the crops. Of
    ``crop_tokens`` more may train: then what its public network sees is kept.

    Args:
        backbone: timm's name of the model, with a tag where ``weights`` are of another tag than
            timm's default; null takes it, its arguments and image size from ``weights``, which then
            are a checkpoint of ours.
        backbone_args: Further arguments of the model, such as ``{depth: 6}``.
        image_size: Edge of the images, in pixels.
        trainable: What trains; frozen parts stay in evaluation mode.
        last_blocks: Number of blocks for ``trainable: last_blocks``.
        lora_rank: Rank of the adapters for ``trainable: lora``.
        weights: What to start from: a checkpoint of ours, a file of timm or of the model's authors,
            ``hub`` (timm fetches them) or ``package`` (an installed package of weights, see the
            extra ``imagenet``). Mean and deviation that they expect go into the first layer.
        optimizer: ``adamw``, or ``descent``: plain steps at one rate.
        learning_rate: Largest learning rate, > 0.
        weight_decay: Weight decay of matrices; norms, biases and embeddings have none.
        warmup_steps: For ``adamw``: steps of linear warm-up, >= 0; then the rate follows a cosine
            to 0.
        malignant_weight: Weight of a malignant crop in the loss, > 0, where a benign one has 1; the
            larger of the two is brought to 1, so that no gradient grows. Probabilities are then
            those of a population whose malignant crops are so many times as frequent.
        prior: Share of malignant crops, in ``(0, 1)``, that is assumed before training: its
            log-odds are added to the bias of the head. None assumes what the weights assume. Like
            ``malignant_weight`` a constant: labels are never counted.

    Attributes:
        net: The timm model.
        initial_weights: What ``weights`` loaded; ``None`` for a random start and
            after ``load_from_checkpoint``.
        features_seal: Seal of kept features; ``None`` leaves them unsealed.
        seen: Which stages behind the weights saw patients of the evaluated split, in sentences for
            ``metrics.json``; whoever knows the lineage sets it.
        perhaps_seen: Of which stages nobody knows it.
        scores_features: Whether :meth:`forward` makes of features what it makes of their crops.
    """

    features_seal: FeaturesSeal | None = None
    scores_features = True
    seen = perhaps_seen = ""
    training_metrics = frozenset({"train_loss"})  # logged from training crops alone

    def __init__(
        self,
        *,
        backbone: str | None = "vit_tiny_patch16_224",
        backbone_args: dict[str, Any] | None = None,
        image_size: int = 128,
        trainable: Trainable = "all",
        last_blocks: int = 1,
        lora_rank: int = 8,
        weights: str | None = None,
        optimizer: Literal["adamw", "descent"] = "adamw",
        learning_rate: float = 5e-4,
        weight_decay: float = 0.05,
        warmup_steps: int = 50,
        malignant_weight: float = 1.0,
        prior: float | None = None,
    ) -> None:
        super().__init__()
        # A checkpoint holds its weights: reloading it needs neither the file nor the hub.
        self.save_hyperparameters(ignore=["weights"])
        if backbone is None:
            found = model_of(weights)
            backbone, backbone_args, image_size = (
                found.backbone,
                found.backbone_args,
                found.image_size,
            )
            self.hparams.update(found.as_settings())
        if not learning_rate > 0 or weight_decay < 0 or warmup_steps < 0:
            raise ValueError(
                f"{learning_rate=}, {weight_decay=}, {warmup_steps=}. "
                "Give a rate above 0, and the others not below 0."
            )
        if not 0 < malignant_weight < math.inf or (prior is not None and not 0 < prior < 1):
            raise ValueError(
                f"malignant_weight: {malignant_weight}, prior: {prior}. Give a weight above 0, and "
                "a share between 0 and 1 or none."
            )
        self.class_weights = tuple(w / max(1.0, malignant_weight) for w in (1.0, malignant_weight))
        self.optimizer_name: str = optimizer
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.net: nn.Module = build(backbone, image_size=image_size, backbone_args=backbone_args)
        self.initial_weights: LoadedWeights | None = None
        if weights is not None:
            self.initial_weights = load_weights(self.net, weights, backbone=backbone)
        if prior is not None:
            with torch.no_grad():
                head(self.net).bias.add_(math.log(prior / (1 - prior)))
        select_trainable(self.net, trainable, last_blocks, lora_rank)
        self._scored: dict[int, list[tuple[CropBatch, Tensor]]] = {}  # by loader

    def train(self, mode: bool = True) -> Self:
        """Sets the mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        keep_frozen_in_eval(self.net)
        return self

    def setup(self, stage: str) -> None:
        """Checks that the net takes crops of the shape of the data, before compute is spent.

        Raises:
            DataError: If it does not.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, CropsDataModule):
            return
        crops = data.train_dataset if stage == "fit" else data.evaluate_dataset
        if (slices := slices_of(self.net)) != crops.depth:
            taken = "crops in the plane" if slices is None else f"volumes of {slices} slices"
            held = "crops in the plane" if crops.depth is None else f"{crops.depth} slices"
            raise DataError(
                f"{type(self).__name__}: takes {taken}, but the data are {held}. Set "
                "data.init_args.depth and `slices` in model.init_args.backbone_args to one value, "
                "or neither; crop_measurements and crop_features know slices."
            )
        wanted, size = self.hparams.get("image_size"), crops.image_size
        if size != wanted and not self._takes(size):
            raise DataError(
                f"{type(self).__name__}: image_size={wanted}, but the crops have {size} pixels "
                "along an edge. Set data.init_args.image_size and model.init_args.image_size to "
                "one value."
            )

    @torch.no_grad()
    def _takes(self, size: int) -> bool:
        """Whether the net scores images with an edge of so many pixels."""
        mode = self.training
        try:
            shape = image_shape(self.net, size)
            self.eval().net(torch.zeros(1, *shape, device=self.device))
        except (AssertionError, RuntimeError, ValueError):  # the words of timm and torch for it
            return False
        finally:
            self.train(mode)
        return True

    def on_fit_start(self) -> None:
        """Computes or finds the features of a frozen body, or of the frozen part of one."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, CropsDataModule) or not (views := self.kept_views(data)):
            return
        with rank_zero_first(self.trainer.strategy):
            features = cached_features(
                self.net,
                data.manifest,
                data.train_rows,
                folder=Path(self.trainer.default_root_dir) / "features",
                image_size=data.image_size,
                augment=data.augment,
                views=views,
                seal=self.features_seal,
                maps=self.keeps_maps,
            )
        data.use_features(features)

    def kept_views(self, data: CropsDataModule) -> int:
        """Views of each training crop whose features can be kept; 0 where they change.

        Args:
            data: What the fit trains on.
        """
        return int((self.trains_head_only or self.keeps_maps) and data.augment == "none")

    def on_train_start(self) -> None:
        """Freezes the modes of frozen parts; before, Lightning would warn of what is meant."""
        keep_frozen_in_eval(self.net)

    def forward(self, image: Tensor) -> Tensor:
        """Scores images.

        Args:
            image: Shape ``(B, 1, H, W)``, in ``[-1, 1]``; ``(B, K, 1, H, W)`` for K views;
                ``(B, 1, slices, H, W)`` for a net that takes volumes; or what was kept of K
                views: maps ``(B, K, C, h, w)``, or features ``(B, K, d)``, which
                only pass the head.

        Returns:
            Logits, shape ``(B,)``, or ``(B, K)`` for views and what was kept of them.
        """
        if image.ndim == 5 and slices_of(self.net) is None:
            return self.forward(image.flatten(0, 1)).view(image.shape[:2])
        scores: Tensor = head(self.net)(image) if image.ndim == 3 else self.net(image)
        return scores.squeeze(-1)

    def losses(self, batch: CropBatch) -> Tensor:
        """Weighted binary cross-entropy of each crop, mean over its views where it has several.

        Returns:
            Shape ``(B,)``.
        """
        return self.label_losses(self(batch.image), batch.malignant)

    def label_losses(self, logits: Tensor, malignant: Tensor) -> Tensor:
        """As :meth:`losses`, of logits ``(B,)`` or ``(B, K)`` of K views and labels ``(B,)``."""
        logits = logits if logits.ndim == 2 else logits[:, None]
        target = malignant[:, None].to(logits.dtype).expand_as(logits)
        found = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
        return found * found.new_tensor(self.class_weights)[malignant]

    def training_step(self, batch: CropBatch, batch_idx: int) -> Tensor:
        """Mean loss of a batch."""
        loss = self.losses(batch).mean()
        self.log("train_loss", loss, batch_size=len(batch.row))
        return loss

    def validation_step(self, batch: CropBatch, batch_idx: int) -> None:
        """Scores a batch."""
        self._score(batch)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val_loss`` and, where both classes are there, ``val_auroc``."""
        scored = self._collect()
        if self.trainer.sanity_checking or not len(scored.row):
            return
        signed = scored.logit * (1 - 2 * scored.malignant)
        self.log("val_loss", float(np.logaddexp(0, signed).mean()), sync_dist=True)
        if len(set(scored.malignant.tolist())) == 2:
            value = evaluate.auroc(scored.malignant, scored.logit)
            self.log("val_auroc", value, prog_bar=True, sync_dist=True)

    def on_test_start(self) -> None:
        """Refuses several devices, which would score padded copies of crops.

        Raises:
            TrainingError: If there are several.
        """
        if self.trainer.world_size > 1:
            raise TrainingError(
                f"test: {self.trainer.world_size} devices. A crop must be scored once; "
                "use --trainer.devices 1."
            )

    def test_step(self, batch: CropBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Scores a batch."""
        self._score(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Writes ``predictions.csv`` and ``metrics.json`` into the trainer's root folder.

        Where the data module gives distorted crops too, ``stress.json`` and ``stress.csv`` instead.

        Raises:
            LabelError: If the split has one class only.
            ValueError: If a logit is not finite.
        """
        folder, data = Path(self.trainer.default_root_dir), self.trainer.datamodule  # type: ignore[attr-defined]
        split = getattr(data, "evaluate_split", "unknown")
        if distortions := getattr(data, "distortions", ()):
            names = (AS_THEY_ARE, *distortions)
            scored = {name: self._collect(loader) for loader, name in enumerate(names)}
            for one in write_stress(
                folder, scored, split=split, seen=self.seen, perhaps=self.perhaps_seen
            ):
                self.print(one)
            self._say_who_was_seen()
            return
        predictions = self._collect()
        write_predictions(folder / FILE_NAME, predictions)
        metrics = evaluate.write_metrics(
            folder / evaluate.FILE_NAME,
            predictions,
            split=split,
            seen=self.seen,
            perhaps=self.perhaps_seen,
        )
        self.log("test_auroc", metrics.auroc.value)
        area = metrics.auroc
        self.print(
            f"{folder / evaluate.FILE_NAME}: AUROC {area.value:.3f} [{area.low:.3f}, "
            f"{area.high:.3f}], interval over {metrics.patients} patients; {metrics.crops} crops "
            f"of {split}."
        )
        self._say_who_was_seen()

    def _say_who_was_seen(self) -> None:
        """Prints which stages behind the weights saw the patients of a measurement."""
        if self.seen:
            self.print(f"This is no measure of new patients. {self.seen}")
        if self.perhaps_seen:
            self.print(f"Nobody knows whether these are new patients: {self.perhaps_seen}")

    def on_predict_start(self) -> None:
        """Refuses several devices, as :meth:`on_test_start`."""
        self.on_test_start()

    def predict_step(self, batch: CropBatch, batch_idx: int) -> Tensor:
        """Scores a batch.

        Returns:
            Logits, shape ``(B,)``.
        """
        return self._score(batch)

    def on_predict_epoch_end(self) -> None:
        """Writes ``predictions.csv`` into the trainer's root folder; labels are the manifest's."""
        folder = Path(self.trainer.default_root_dir)
        write_predictions(folder / FILE_NAME, self._collect())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Trainable parameters, matrices apart from norms, biases and embeddings."""
        return parameter_groups(self.net, self.weight_decay)

    @property
    def trains_head_only(self) -> bool:
        """Whether the body stays as it is, so that its features can be kept."""
        own = {id(p) for p in head(self.net).parameters()}
        return {id(p) for p in self.net.parameters() if p.requires_grad} == own

    @property
    def keeps_maps(self) -> bool:
        """Whether what a public network in the net sees can be kept, while what follows trains."""
        return isinstance(self.net, TokenTransformer) and not self.trains_head_only

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with warm-up and a cosine over all steps of the fit, or plain descent."""
        groups = self.parameter_groups()
        if self.optimizer_name == "descent":
            return {"optimizer": SGD(groups, lr=self.learning_rate)}
        optimizer = AdamW(groups, lr=self.learning_rate)
        schedule = warmup_cosine(optimizer, self.warmup_steps, total_steps(self.trainer))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _score(self, batch: CropBatch, loader: int = 0) -> Tensor:
        logits: Tensor = self(batch.image)
        if logits.ndim == 2:  # of kept features, of the one view that there is
            logits = logits.squeeze(1)
        scored = (batch._replace(image=torch.empty(0)), logits.detach())
        self._scored.setdefault(loader, []).append(scored)
        return logits

    def _collect(self, loader: int = 0) -> Predictions:
        """What was scored of a loader since the last call."""
        scored = self._scored.pop(loader, [])

        def column(values: Iterable[Tensor]) -> Any:  # noqa: ANN401  an array of any type
            parts = [value.cpu() for value in values]
            return torch.cat(parts).numpy() if parts else np.empty(0, np.int64)

        return Predictions(
            row=column(batch.row for batch, _ in scored),
            patient=column(batch.unit for batch, _ in scored),
            malignant=column(batch.malignant for batch, _ in scored),
            logit=column(logits.double() for _, logits in scored),
        )


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Splits trainable parameters into those with weight decay and those without.

    Args:
        net: A timm model, which may name parameters that must not decay.
        weight_decay: Decay of matrices and convolutions.
    """
    exempt: Sequence[str] = tuple(getattr(net, "no_weight_decay", tuple)())
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            (free if parameter.ndim < 2 or name in exempt else decayed).append(parameter)
    groups = [(decayed, weight_decay), (free, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]


def total_steps(trainer: lightning.Trainer) -> int:
    """Optimizer steps of a fit.

    Raises:
        TrainingError: If the fit has no end.
    """
    steps = trainer.max_steps if trainer.max_steps > 0 else trainer.estimated_stepping_batches
    if not math.isfinite(steps):
        raise TrainingError("trainer: neither max_steps nor max_epochs is set. Set one of them.")
    return int(steps)


def warmup_cosine(optimizer: Optimizer, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Learning rate that rises linearly for some steps, then falls to 0 along a cosine."""

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / max(1, warmup_steps))
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / max(1, total_steps))))

    return LambdaLR(optimizer, factor)
