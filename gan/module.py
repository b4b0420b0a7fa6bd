# SPDX-License-Identifier: Apache-2.0
"""``MCGAN``: a malignancy-conditioned generator, its discriminator, and how they train."""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from data_prep.datamodule import CropBatch, CropsDataModule
from gan.augment import augment, parse_policy
from gan.losses import (
    Loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mode_seeking,
)
from gan.networks import CLASSES, Discriminator, Generator, Normalisation
from gan.samples import write_sheet

MALIGNANT_PRIOR = 0.5  # public; a share counted from the crops would be a fact about the cohort
SAMPLE_COLUMNS = 8
R1_EVERY = 4  # steps; the lazy penalty of Karras et al. 2020, arXiv 1912.04958, appendix B


class MCGAN(lightning.LightningModule):
    """Learns to generate benign and malignant crops.

    Trained without differential privacy: a classifier that sees its samples has no finite epsilon
    for the patients of the training crops.

    One batch is one update of the discriminator and one of the generator. ``global_step`` and
    ``max_steps`` count batches: only the generator's update goes through Lightning's counter.
    Latent vectors, labels and augmentation of a step depend on ``seed`` and ``global_step`` alone,
    so that a resumed run continues as if it had not stopped, given the same batches.

    The averaged generator is the product: sample sheets and ``generate`` use it. Its decay warms up
    as ``(1 + n) / (10 + n)`` (Yazici et al. 2019, arXiv 1806.04498, for averaging).

    Args:
        image_size: Edge of the crops, in pixels, a power of two, ``>= 16``.
        channels: Feature channels at the full resolution, doubling with each halving.
        latent: Length of the latent vector.
        loss: ``"hinge"`` or ``"non-saturating"``.
        r1: Weight ``gamma`` of the gradient penalty on real crops; 0 leaves it out.
        diversity: Weight of the penalty on equal pictures for different latent vectors; 0 leaves it
            out.
        normalisation: Of the discriminator; per-row gradients need ``"group"`` or ``"none"``.
        augmentations: What the discriminator sees distorted, names separated by commas.
        generator_rate: Learning rate of the generator.
        discriminator_rate: Learning rate of the discriminator.
        momentum: First coefficient of Adam; the second is 0.99.
        average_decay: Decay of the averaged generator per step, in ``[0, 1)``.
        sample_every_epochs: Epochs between sample sheets; the last epoch always has one.
        seed: Of latent vectors, labels and augmentation.
    """

    fixed_latents: Tensor
    fixed_noise: Tensor

    def __init__(
        self,
        *,
        image_size: int = 128,
        channels: int = 8,
        latent: int = 128,
        loss: Loss = "hinge",
        r1: float = 0.0,
        diversity: float = 0.1,
        normalisation: Normalisation = "spectral",
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
        if r1 < 0 or diversity < 0 or sample_every_epochs < 1:
            raise ValueError(
                f"{r1=}, {diversity=}, {sample_every_epochs=}. Give weights >= 0 and epochs >= 1."
            )
        parse_policy(augmentations)
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.image_size = image_size
        self.loss: Loss = loss
        self.r1 = r1
        self.diversity = diversity
        self.augmentations = augmentations
        self.rates = (generator_rate, discriminator_rate)
        self.momentum = momentum
        self.sample_every_epochs = sample_every_epochs
        self.seed = seed
        self.generator = Generator(image_size, channels, latent)
        self.discriminator = Discriminator(image_size, channels, normalisation)
        for net in (self.generator, self.discriminator):  # oneDNN and cuDNN are faster this way
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def average(averaged: Tensor, current: Tensor, updates: Tensor | int) -> Tensor:
            return averaged.lerp(current, 1 - decay_of(int(updates), average_decay))

        self.average = AveragedModel(self.generator, avg_fn=average)
        self.average.requires_grad_(False)
        rng = torch.Generator().manual_seed(seed)
        shape = (SAMPLE_COLUMNS, 1, image_size, image_size)
        self.register_buffer("fixed_latents", torch.randn(SAMPLE_COLUMNS, latent, generator=rng))
        self.register_buffer("fixed_noise", torch.randn(shape, generator=rng))

    def forward(self, latent: Tensor, noise: Tensor, malignant: Tensor) -> Tensor:
        """Crops of the averaged generator, see :meth:`gan.networks.Generator.forward`."""
        crops: Tensor = self.average(latent, noise, malignant)
        return crops

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Adam for the generator, then for the discriminator."""
        return [
            torch.optim.Adam(net.parameters(), lr=rate, betas=(self.momentum, 0.99))
            for net, rate in zip((self.generator, self.discriminator), self.rates, strict=True)
        ]

    def on_fit_start(self) -> None:
        """Refuses what would fail late.

        Raises:
            ValueError: For a precision that the steps do not support.
        """
        if self.trainer.precision not in ("32-true", "bf16-mixed"):
            raise ValueError(
                f"MCGAN: precision={self.trainer.precision!r}. Latent vectors are float32 and "
                "losses are not scaled. Use 32-true or bf16-mixed."
            )

    def training_step(self, batch: CropBatch, batch_idx: int) -> None:
        """One update of the discriminator, then one of the generator, on the same fakes.

        Args:
            batch: One or more crops of ``image_size``.
            batch_idx: Unused; the position is ``global_step``.

        Raises:
            ValueError: If the crops have another size.
        """
        if batch.image.shape[1:] != (1, self.image_size, self.image_size):
            raise ValueError(
                f"MCGAN: crops of shape {tuple(batch.image.shape[1:])}, but "
                f"image_size={self.image_size}. Set "
                "data.init_args.image_size and model.init_args.image_size to one value."
            )
        optimizers: Any = self.optimizers()
        counted, uncounted = optimizers[0], optimizers[1].optimizer
        rng = self._rng()
        count = len(batch.image)
        latents = torch.randn(count, self.generator.latent, generator=rng, device=self.device)
        labels = (torch.rand(count, generator=rng, device=self.device) < MALIGNANT_PRIOR).long()
        noise = torch.randn(batch.image.shape, generator=rng, device=self.device)
        fakes = self.generator(latents, noise, labels)
        discriminator = self._update_discriminator(uncounted, batch, fakes.detach(), labels, rng)
        generator = self._update_generator(counted, fakes, latents, labels, rng)
        self.average.update_parameters(self.generator)
        self.log_dict(
            {"generator_loss": generator, "discriminator_loss": discriminator},
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=count,
        )

    def validation_step(self, batch: CropBatch, batch_idx: int) -> None:
        """Measures nothing: a generator has no loss on held-out crops.

        Lightning asks for the step wherever the data have an evaluation split; set
        ``limit_val_batches: 0`` to save the time.
        """

    def on_train_epoch_end(self) -> None:
        """Writes a sample sheet every ``sample_every_epochs`` epochs."""
        if (self.current_epoch + 1) % self.sample_every_epochs == 0:
            self._write_samples(self.current_epoch + 1)

    def on_train_end(self) -> None:
        """Writes the last sample sheet."""
        self._write_samples(self.current_epoch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the crop rule of the training data, for the manifest of generated crops."""
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, CropsDataModule):
            checkpoint["crop_rule"] = data.manifest.crops[0].crop_rule

    @torch.no_grad()
    def samples(self) -> Tensor:
        """Crops of the fixed latents: a row of benign ones, then the same latents malignant.

        Returns:
            Shape ``(2 * SAMPLE_COLUMNS, 1, image_size, image_size)``, values in ``(-1, 1)``.
        """
        labels = torch.arange(CLASSES, device=self.device).repeat_interleave(SAMPLE_COLUMNS)
        latents, noise = (torch.cat([x] * CLASSES) for x in (self.fixed_latents, self.fixed_noise))
        crops: Tensor = self(latents, noise, labels)
        return crops

    def _update_discriminator(
        self,
        optimizer: torch.optim.Optimizer,
        batch: CropBatch,
        fakes: Tensor,
        labels: Tensor,
        rng: torch.Generator,
    ) -> Tensor:
        real = augment(batch.image, self.augmentations, rng)
        seen = torch.cat([real, augment(fakes, self.augmentations, rng)])
        logits = self.discriminator(seen, torch.cat([batch.malignant, labels]))
        loss = discriminator_loss(logits[: len(real)], logits[len(real) :], self.loss)
        penalised = loss
        if self.r1 and self.global_step % R1_EVERY == 0:
            slope = gradient_penalty(lambda crops: self.discriminator(crops, batch.malignant), real)
            penalised = loss + self.r1 / 2 * R1_EVERY * slope
        optimizer.zero_grad()
        self.manual_backward(penalised)
        optimizer.step()
        return loss.detach()

    def _update_generator(
        self,
        optimizer: LightningOptimizer,
        fakes: Tensor,
        latents: Tensor,
        labels: Tensor,
        rng: torch.Generator,
    ) -> Tensor:
        self.discriminator.requires_grad_(False)
        logits = self.discriminator(augment(fakes, self.augmentations, rng), labels)
        loss = generator_loss(logits, self.loss)
        optimizer.zero_grad()
        self.manual_backward(loss + self.diversity * mode_seeking(fakes, latents, labels))
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


def decay_of(updates: int, most: float) -> float:
    """Decay of the average after some updates, from 0.1 up to ``most``.

    >>> decay_of(0, 0.999), decay_of(90, 0.999), decay_of(10**6, 0.999)
    (0.1, 0.91, 0.999)
    """
    return min(most, (1 + updates) / (10 + updates))
