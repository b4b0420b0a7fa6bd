# SPDX-License-Identifier: Apache-2.0
"""``MCGAN``: a conditional generator, its discriminator, and how they train."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from data_prep.datamodule import CropBatch, CropsDataModule
from data_prep.errors import DataError, TrainingError
from gan.augment import augment, parse_policy
from gan.checkpoint import Checkpoint
from gan.conditions import Conditions, other_class
from gan.discriminator import Discriminator
from gan.generator import Generator, averaged
from gan.losses import (
    Loss,
    class_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mode_seeking,
)
from gan.matching import Matching
from gan.monitor import Monitor, SampleCheck
from gan.projected import ProjectedDiscriminator
from gan.samples import write_sheet

log = logging.getLogger(__name__)

SAMPLE_COLUMNS = 8
FORGOTTEN = 0.1  # share of attributes that a training step does without
R1_EVERY = 4  # steps; the lazy penalty of Karras et al. 2020, arXiv 1912.04958, appendix B


class MCGAN(lightning.LightningModule):
    """Learns to generate crops of a malignancy and, where they are known, of further attributes.

    Trained without differential privacy: a classifier that sees its samples has no finite epsilon
    for the patients of the training crops.

    One batch is one update of the discriminator and one of the generator. ``global_step`` and
    ``max_steps`` count batches: only the generator's update goes through Lightning's counter.
    Generated crops are asked for under the conditions of the batch; a share of the attributes is
    forgotten, so that crops can be asked for without. Latent vectors, what is forgotten, and the
    augmentation of a step depend on ``seed`` and ``global_step`` alone, so that a resumed run
    continues as if it had not stopped, given the same batches.

    The averaged generator is the product: sample sheets and ``generate`` use it. Its decay warms up
    as ``(1 + n) / (10 + n)`` (Yazici et al. 2019, arXiv 1806.04498, for averaging).

    With each sample sheet crops are compared with real ones (:mod:`gan.monitor`): ``distance``,
    ``diversity`` and ``copying`` are logged, and warnings say what looks wrong.

    Args:
        image_size: Edge of the crops, in pixels, a power of two, ``>= 16``.
        channels: Feature channels at the full resolution, doubling with each halving.
        latent: Length of the latent vector.
        conditions: Attributes beside malignancy that crops can be asked for, among ``density``,
            ``shape``, ``margin``, ``view`` and ``size_share``, the longer edge of the mass in edges
            of the crop; each must be known of some training crop.
        weights: Checkpoint of an MCGAN of equal networks to start from.
        loss: ``"hinge"`` or ``"non-saturating"``.
        r1: Weight ``gamma`` of the gradient penalty on real crops; 0 leaves it out.
        diversity: Weight of the penalty on equal pictures for different latent vectors; 0 leaves it
            out.
        class_weight: Weight of the discriminator's classification of crops
            (:func:`gan.losses.class_loss`); 0 leaves it out. Without it the weak difference between
            benign and malignant masses is learned late. It costs no pass.
        matching: Weight of the difference between fixed measurements of generated and of training
            crops, class by class (:mod:`gan.matching`); 0 leaves it out.
        separability: AUROC between generated classes that no classifier exceeds, above 0.5, at most
            1 (:class:`gan.generator.Generator`).
        augmentations: What the discriminator sees distorted, names separated by commas.
        generator_rate: Learning rate of the generator.
        discriminator_rate: Learning rate of the discriminator.
        momentum: First coefficient of Adam; the second is 0.99.
        average_decay: Decay of the averaged generator per step, in ``[0, 1)``.
        sample_every_epochs: Epochs between sample sheets; the last epoch always has one.
        seed: Of latent vectors, noise, forgotten attributes and augmentation.
    """

    # Logged from training crops alone; copying compares them with the evaluation crops.
    training_metrics = frozenset(
        {"generator_loss", "discriminator_loss", "distance", "diversity", "mismatch"}
    )
    fixed_latents: Tensor
    fixed_noise: Tensor

    def __init__(
        self,
        *,
        image_size: int = 128,
        channels: int = 8,
        latent: int = 128,
        conditions: Sequence[str] = (),
        weights: str | None = None,
        loss: Loss = "hinge",
        r1: float = 0.0,
        diversity: float = 0.1,
        class_weight: float = 0.4,
        matching: float = 0.0,
        separability: float = 1.0,
        augmentations: str = "flip,translation,brightness,contrast,cutout",
        generator_rate: float = 1e-4,
        discriminator_rate: float = 4e-4,
        momentum: float = 0.0,
        average_decay: float = 0.999,
        sample_every_epochs: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 <= average_decay < 1:
            raise ValueError(f"{average_decay=}. Give a number from 0 to below 1.")
        if min(r1, diversity, class_weight, matching) < 0 or sample_every_epochs < 1:
            raise ValueError(
                f"{r1=}, {diversity=}, {class_weight=}, {matching=}, {sample_every_epochs=}. Give "
                "weights >= 0 and epochs >= 1."
            )
        parse_policy(augmentations)
        self.conditions = Conditions(tuple(conditions))
        conditions = list(conditions)  # as a checkpoint keeps it
        self.save_hyperparameters(ignore=["weights"])
        self.automatic_optimization = False
        self.image_size = image_size
        self.loss: Loss = loss
        self.r1 = r1
        self.diversity = diversity
        self.class_weight = class_weight
        self.matching = matching
        self.augmentations = augmentations
        self.rates = (generator_rate, discriminator_rate)
        self.momentum = momentum
        self.sample_every_epochs = sample_every_epochs
        self.seed = seed
        columns = self.conditions.width
        self.generator = Generator(image_size, channels, latent, columns, separability)
        self.discriminator = Discriminator(image_size, channels, columns)
        if weights is not None:
            Checkpoint.read(weights).start(self.generator, self.discriminator)
        for net in (self.generator, self.discriminator):  # oneDNN and cuDNN are faster this way
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = averaged(self.generator, average_decay)
        self.matched = Matching(image_size) if matching else None
        self.projected: ProjectedDiscriminator | None = None
        rng = torch.Generator().manual_seed(seed)
        shape = (SAMPLE_COLUMNS, 1, image_size, image_size)
        self.register_buffer("fixed_latents", torch.randn(SAMPLE_COLUMNS, latent, generator=rng))
        self.register_buffer("fixed_noise", torch.randn(shape, generator=rng))

    def forward(self, latent: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
        """Crops of the averaged generator, see :meth:`gan.generator.Generator.forward`."""
        crops: Tensor = self.average(latent, noise, condition)
        return crops

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generator, then for the discriminator."""
        discriminators = list(self.discriminator.parameters())
        if self.projected is not None:
            discriminators += [p for p in self.projected.parameters() if p.requires_grad]
        parts = (list(self.generator.parameters()), discriminators)
        return [
            torch.optim.Adam(part, lr=rate, betas=(self.momentum, 0.99))
            for part, rate in zip(parts, self.rates, strict=True)
        ]

    def on_fit_start(self) -> None:
        """Refuses what would fail late, and looks up the attributes of the training crops.

        Raises:
            ConditionError: If an attribute is known of no training crop.
            TrainingError: For a precision that the steps do not support.
        """
        if self.trainer.precision not in ("32-true", "bf16-mixed"):
            raise TrainingError(
                f"MCGAN: precision={self.trainer.precision!r}. Latent vectors are float32 and "
                "losses are not scaled. Use 32-true or bf16-mixed."
            )
        data: CropsDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        crops = [data.manifest.crops[row] for row in data.train_rows]
        known = self.conditions.of_crops(crops)
        self._asked = torch.zeros(len(data.manifest.crops), self.conditions.width)
        self._asked[data.train_rows] = known
        self._asked = self._asked.to(self.device)
        self._monitor = Monitor.of_data(data, self.seed)
        if self.matched is not None:
            plain = data.dataset(data.train_rows)
            items = [plain[index] for index in range(len(plain))]
            self.matched.take_real(
                torch.stack([item.image for item in items]).to(self.device),
                torch.tensor([item.malignant for item in items], device=self.device),
            )

    def training_step(self, batch: CropBatch, batch_idx: int) -> None:
        """One update of the discriminator, then one of the generator, on the same fakes.

        Args:
            batch: One or more crops of ``image_size``.
            batch_idx: Unused; the position is ``global_step``.

        Raises:
            DataError: If the crops have another size.
        """
        if batch.image.shape[1:] != (1, self.image_size, self.image_size):
            raise DataError(
                f"MCGAN: crops of shape {tuple(batch.image.shape[1:])}, but "
                f"image_size={self.image_size}. Set "
                "data.init_args.image_size and model.init_args.image_size to one value."
            )
        optimizers: Any = self.optimizers()
        counted, uncounted = optimizers[0], optimizers[1].optimizer
        rng = self._rng()
        count = len(batch.image)
        latents = torch.randn(count, self.generator.latent, generator=rng, device=self.device)
        asked = self.conditions.forgetful(self._asked[batch.row], FORGOTTEN, rng)
        noise = torch.randn(batch.image.shape, generator=rng, device=self.device)
        fakes = self.generator(latents, noise, asked)
        maps = None
        if self.projected is not None:
            maps = self.projected.read(augment(fakes, self.augmentations, rng))
        discriminator = self._update_discriminator(
            uncounted, batch.image, fakes.detach(), asked, maps, rng
        )
        generator = self._update_generator(
            counted, fakes, latents, asked, batch.malignant, maps, rng
        )
        self.average.update_parameters(self.generator)
        self.log_dict(
            {"generator_loss": generator, "discriminator_loss": discriminator},
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=count,
        )

    def on_train_epoch_end(self) -> None:
        """Writes a sample sheet, and looks at samples, every ``sample_every_epochs`` epochs."""
        if (self.current_epoch + 1) % self.sample_every_epochs == 0:
            self._write_samples(self.current_epoch + 1)
            found = self.check_samples()
            measured = {"distance": found.distance, "diversity": found.diversity}
            if self.matched is not None:
                measured["mismatch"] = float(self.matched.distance())
            if found.copying is not None:
                measured["copying"] = found.copying
            self.log_dict(measured, rank_zero_only=True)
            for warning in found.warnings:
                log.warning("Epoch %d: %s", self.current_epoch + 1, warning)

    def on_train_end(self) -> None:
        """Writes the last sample sheet."""
        self._write_samples(self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the crop rule of the training data, for the manifest of generated crops."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, CropsDataModule):
            checkpoint["crop_rule"] = data.manifest.crops[0].crop_rule

    @torch.no_grad()
    def check_samples(self) -> SampleCheck:
        """Compares crops, asked for under the classes of training crops, with real ones."""
        rng = torch.Generator().manual_seed(self.seed)
        malignant = self._monitor.malignant
        asked = self.conditions.of_classes(malignant)
        latents = torch.randn(len(asked), self.generator.latent, generator=rng)
        noise = torch.randn(len(asked), *self.fixed_noise.shape[1:], generator=rng)
        crops = [
            self(*(part.to(self.device) for part in parts)).float().cpu()
            for parts in zip(*(torch.split(x, 32) for x in (latents, noise, asked)), strict=True)
        ]
        return self._monitor.check(torch.cat(crops), malignant)

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Crops of the fixed latents: a row of benign ones, then the same latents malignant.

        Returns:
            Shape ``(2 * SAMPLE_COLUMNS, 1, image_size, image_size)``, values in ``(-1, 1)``.
        """
        labels = torch.arange(2, device=self.device).repeat_interleave(SAMPLE_COLUMNS)
        condition = self.conditions.of_classes(labels)
        latents, noise = (torch.cat([x, x]) for x in (self.fixed_latents, self.fixed_noise))
        crops: Tensor = self(latents, noise, condition)
        return crops

    def _update_discriminator(
        self,
        optimizer: torch.optim.Optimizer,
        real: Tensor,
        fakes: Tensor,
        condition: Tensor,
        maps: Sequence[Tensor] | None,
        rng: torch.Generator,
    ) -> Tensor:
        real = augment(real, self.augmentations, rng)
        seen = torch.cat([real, augment(fakes, self.augmentations, rng)])
        features = self.discriminator.describe(seen)
        asked = torch.cat([condition, condition])
        logits = self.discriminator.score(features, asked)
        loss = discriminator_loss(logits[: len(real)], logits[len(real) :], self.loss)
        opinion = logits - self.discriminator.score(features, other_class(asked))
        classes = class_loss(opinion[: len(real)], opinion[len(real) :])
        penalised = loss + self.class_weight * classes
        if self.r1 and self.global_step % R1_EVERY == 0:
            slope = gradient_penalty(lambda crops: self.discriminator(crops, condition), real)
            penalised = penalised + self.r1 / 2 * R1_EVERY * slope
        if self.projected is not None and maps is not None:
            penalised = penalised + self.projected.discriminator_loss(
                real, maps, condition, self.loss, self.class_weight
            )
        optimizer.zero_grad()
        self.manual_backward(penalised)
        optimizer.step()
        return loss.detach()

    def _update_generator(
        self,
        optimizer: LightningOptimizer,
        fakes: Tensor,
        latents: Tensor,
        condition: Tensor,
        malignant: Tensor,
        maps: Sequence[Tensor] | None,
        rng: torch.Generator,
    ) -> Tensor:
        self.discriminator.requires_grad_(False)
        logits = self.discriminator(augment(fakes, self.augmentations, rng), condition)
        loss = generator_loss(logits, self.loss)
        penalised = loss + self.diversity * mode_seeking(fakes, latents, condition)
        if self.matched is not None:
            penalised = penalised + self.matching * self.matched(fakes, malignant)
        if self.projected is not None and maps is not None:
            self.projected.heads.requires_grad_(False)
            penalised = penalised + self.projected.generator_loss(maps, condition, self.loss)
            self.projected.heads.requires_grad_(True)
        optimizer.zero_grad()
        self.manual_backward(penalised)
        optimizer.step()
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def _rng(self) -> torch.Generator:
        """Randomness of this step and process."""
        words = np.random.SeedSequence([self.seed, 1 + self.global_step, self.global_rank])
        return torch.Generator(self.device).manual_seed(int(words.generate_state(1)[0]))

    def _write_samples(self, epoch: int) -> None:
        if self.trainer.is_global_zero:
            folder = Path(self.trainer.default_root_dir) / "samples"
            write_sheet(folder / f"epoch_{epoch:04d}.png", self.samples(), SAMPLE_COLUMNS)
