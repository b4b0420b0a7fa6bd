# SPDX-License-Identifier: Apache-2.0
"""``LatentDiffusion``: learns to denoise codes of crops, and draws crops."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
import torch
from torch import Tensor

from data_prep.datamodule import CropBatch, CropsDataModule
from data_prep.manifest import Crop
from gan.diffusion.autoencoder import (
    codes_of,
    crops_of,
    keep_crop_rule,
    measure_scale,
    refuse_shape,
)
from gan.diffusion.checkpoint import DiffusionCheckpoint
from gan.diffusion.networks import (
    Denoiser,
    Spectrum,
    attention_parameters,
    codec_of,
    draw_crops,
    linear_parameters,
    norm_bias_parameters,
    train_only,
)
from gan.diffusion.schedule import noised, velocity
from gan.diffusion.settings import DiffusionError, DiffusionSettings
from gan.generator import averaged
from gan.samples import write_sheet

SAMPLE_COLUMNS = 8
FORGOTTEN = 0.1  # share of attributes that a training step does without


class LatentDiffusion(lightning.LightningModule):
    """Learns to generate crops, or volumes, of a malignancy and of further attributes.

    A diffusion on codes of crops: the network sees a code with noise and predicts what is noise
    (:mod:`gan.diffusion.schedule`). Codes are whitened crops, or those of a trained autoencoder,
    which stays as it is. What whitens is measured on the training crops of the first fit, and is a
    constant of all that start from it. Attributes are tokens that the network attends to; one that
    is missing has a token of its own, and a share of the known ones is forgotten while it trains,
    so that crops can be asked for without.

    Trained without differential privacy: a classifier that sees its samples has no finite epsilon
    for the patients of the training crops. So train it on phantoms; ``DPLatentDiffusion`` takes it
    on to patients.

    All training crops are encoded once, at the start. Noise, times and what is forgotten in a step
    depend on ``seed`` and ``global_step`` alone. The average of weights is the product; its decay
    warms up as ``(1 + n) / (10 + n)``.

    Args:
        weights: Checkpoint to start from: of a diffusion, or of a ``CropAutoencoder``, which a
            first fit with ``encoder_channels`` needs.
        spatial_dims: 2 for crops, 3 for volumes.
        image_size: Edge of crops, and of the slices of volumes, in pixels.
        depth: Slices of a volume; none for crops.
        encoder_channels: Of the autoencoder, see ``CropAutoencoder``; None whitens crops.
        latent_channels: Channels of the codes of an autoencoder.
        block: Edge of the blocks of whitened pixels that become channels; ``>= 2``.
        channels: Feature channels of each level of the U-Net; each but the first halves all edges.
        attention_levels: Which levels attend to themselves and to the attributes.
        head_channels: Channels of a head of attention.
        token_width: Length of an attribute's token.
        conditions: Attributes beside malignancy that crops can be asked for, among ``density``,
            ``shape``, ``margin``, ``view`` and ``size_share``, the longer edge of the mass in edges
            of the crop.
        trainable: ``all`` of the network, ``attention`` with its norms and output, ``norm_bias``,
            or ``linear``, the mean and the correlations of codes beside the U-Net.
        views: 1 trains on the crops as they are, V > 1 on V augmented views of each, drawn once.
        earliest_time: Times of the noise are uniform from here to 1, pure noise; in ``[0, 1)``.
            Above 0, fine detail stays as it is in ``weights``.
        learning_rate: Of Adam, ``> 0``.
        average_decay: Largest decay of the average of weights, in ``[0, 1)``; none keeps none.
        sample_steps: Steps that draw a crop, ``>= 1``.
        seed: Of noise, times and what is forgotten.

    Source: Rombach et al. 2021, arXiv 2112.10752; attributes as tokens, Daum et al. 2024, arXiv
    2407.16405.
    """

    def __init__(
        self,
        *,
        weights: str | None = None,
        spatial_dims: int = 2,
        image_size: int = 64,
        depth: int | None = None,
        encoder_channels: Sequence[int] | None = None,
        latent_channels: int = 4,
        block: int = 4,
        channels: Sequence[int] = (32, 64, 64),
        attention_levels: Sequence[bool] = (False, True, True),
        head_channels: int = 16,
        token_width: int = 32,
        conditions: Sequence[str] = (),
        trainable: Literal["all", "attention", "norm_bias", "linear"] = "all",
        views: int = 1,
        earliest_time: float = 0.0,
        learning_rate: float = 3e-4,
        average_decay: float | None = 0.999,
        sample_steps: int = 25,
        seed: int = 0,
    ) -> None:
        super().__init__()
        # as a checkpoint keeps them
        encoder_channels = None if encoder_channels is None else list(encoder_channels)
        channels, attention_levels = list(channels), list(attention_levels)
        conditions = list(conditions)
        if min(views, sample_steps) < 1 or not learning_rate > 0 or not 0 <= earliest_time < 1:
            raise DiffusionError(
                f"{views=}, {sample_steps=}, {learning_rate=}, {earliest_time=}. Give 1 or more, "
                "a rate above 0, and a time from 0 to below 1."
            )
        if average_decay is not None and not 0 <= average_decay < 1:
            raise DiffusionError(f"{average_decay=}. Give a number from 0 to below 1, or none.")
        self.save_hyperparameters(ignore=["weights"])
        self.settings = DiffusionSettings(
            spatial_dims=spatial_dims,
            image_size=image_size,
            depth=depth,
            encoder_channels=encoder_channels,
            latent_channels=latent_channels,
            block=block,
            channels=channels,
            attention_levels=attention_levels,
            head_channels=head_channels,
            token_width=token_width,
            conditions=conditions,
        )
        self.conditions = self.settings.attributes
        self.trainable: str = trainable
        self.views = views
        self.earliest_time = earliest_time
        self.learning_rate = learning_rate
        self.sample_steps = sample_steps
        self.seed = seed
        self.codec = codec_of(self.settings).requires_grad_(False)
        self.net = Denoiser(self.settings)
        self.starts_from: Literal["nothing", "autoencoder", "diffusion"] = "nothing"
        if weights is not None:
            start = DiffusionCheckpoint.read(weights)
            start.start(self.codec, self.net)
            self.starts_from = "diffusion" if start.holds_net else "autoencoder"
        self.average = None if average_decay is None else averaged(self.net, average_decay)

    def setup(self, stage: str) -> None:
        """Freezes what shall not train.

        Raises:
            DiffusionError: If ``trainable`` is unknown.
        """
        super().setup(stage)
        if stage == "fit":
            self.choose_trainable()

    def choose_trainable(self) -> None:
        """Freezes what ``trainable`` leaves out.

        Raises:
            DiffusionError: If the word is unknown.
        """
        if self.trainable == "all":
            chosen = list(self.net.parameters())
        elif self.trainable == "attention":
            chosen = attention_parameters(self.net)
        elif self.trainable == "norm_bias":
            chosen = norm_bias_parameters(self.net)
        elif self.trainable == "linear":
            chosen = linear_parameters(self.net)
        else:
            raise DiffusionError(
                f"trainable={self.trainable!r}. Choose all, attention, norm_bias or linear; a "
                "private fit also takes lora."
            )
        train_only(self.net, chosen)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Crops of the averaged network, see :meth:`gan.diffusion.networks.Sampler.forward`."""
        return draw_crops(
            self.codec,
            self.average or self.net,
            self.settings,
            latent,
            condition,
            steps=self.sample_steps,
        )

    def configure_optimizers(self) -> Any:  # noqa: ANN401  of Lightning's many forms
        """Adam."""
        trained = [p for p in self.net.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=self.learning_rate)

    def on_fit_start(self) -> None:
        """Encodes all training crops, each beside its condition.

        Raises:
            DiffusionError: If the crops have another shape, or there is no trained autoencoder.
        """
        data = crops_of(self)
        refuse_shape(data, self.settings)
        if self.starts_from == "nothing":
            self.scale_codes(data)
        codes = self.codes(data).flatten(2)
        crops = [data.manifest.crops[row] for row in data.train_rows]
        known = self.known(crops)[:, None].expand(-1, codes.shape[1], -1)
        data.use_features(self.rows(codes, known))

    def scale_codes(self, data: CropsDataModule) -> None:
        """Measures what whitens where no checkpoint has it.

        Raises:
            DiffusionError: If an autoencoder is to be trained first.
        """
        if not isinstance(self.codec, Spectrum):
            raise DiffusionError(
                "weights: are missing. With encoder_channels, give the checkpoint of a "
                "CropAutoencoder, or of a diffusion to continue, as --model.init_args.weights."
            )
        measure_scale(self.codec, data, self.views)

    def known(self, crops: Sequence[Crop]) -> Tensor:
        """Conditions of the training crops, shape ``(N, columns)``.

        Raises:
            ConditionError: If an attribute is known of no crop, and was not learned before.
        """
        if self.starts_from == "diffusion":
            return self.conditions.known_of(crops)
        return self.conditions.of_crops(crops)

    def codes(self, data: CropsDataModule) -> Tensor:
        """Codes of the training crops, shape ``(N, views, channels, ...)``."""
        return codes_of(self.codec, data, self.views)

    def rows(self, codes: Tensor, conditions: Tensor) -> Tensor:
        """What a batch holds in place of images: flat codes, each followed by its condition.

        Args:
            codes: Shape ``(N, views, latent)``.
            conditions: Shape ``(N, views, columns)``.
        """
        return torch.cat([codes, conditions], dim=2)

    def velocity_losses(
        self, rows: Tensor, time: Tensor, noise: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """Mean squared error of the predicted velocity, for each code by itself.

        Args:
            rows: Codes and conditions, shape ``(B, latent + columns)``, see :meth:`rows`.
            time: Shape ``(B,)``, in ``[0, 1]``.
            noise: Standard normal, shape ``(B, latent)``.
            rng: Forgets attributes; none keeps all.

        Returns:
            Shape ``(B,)``, in units of the variance of codes.
        """
        size = self.settings.latent_size
        codes, condition = rows[:, :size], rows[:, size:]
        if rng is not None:
            condition = self.conditions.forgetful(condition, FORGOTTEN, rng)
        codes, noise = (part.reshape(-1, *self.settings.latent_shape) for part in (codes, noise))
        predicted: Tensor = self.net(noised(codes, noise, time), time, condition)
        return (predicted - velocity(codes, noise, time)).square().flatten(1).mean(1)

    def training_step(self, batch: CropBatch, batch_idx: int) -> Tensor | None:
        """Loss of a batch, one view, time and noise for each crop."""
        rng = self._rng()
        count, views = batch.image.shape[:2]
        view = torch.randint(views, (count,), generator=rng, device=self.device)
        rows = batch.image[torch.arange(count, device=self.device), view]
        uniform = torch.rand(count, generator=rng, device=self.device)
        time = self.earliest_time + (1 - self.earliest_time) * uniform
        shape = (count, self.settings.latent_size)
        noise = torch.randn(shape, generator=rng, device=self.device)
        loss = self.velocity_losses(rows, time, noise, rng).mean()
        self.log("loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=count)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: CropBatch, batch_idx: int) -> None:  # noqa: ANN401
        """Moves the average of weights."""
        if self.average is not None:
            self.average.update_parameters(self.net)

    def on_train_end(self) -> None:
        """Writes a sheet of samples."""
        if self.average is not None:
            self.write_samples()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the crop rule of the training data, for the manifest of generated crops."""
        super().on_save_checkpoint(checkpoint)
        keep_crop_rule(self, checkpoint)

    @torch.no_grad()
    def write_samples(self) -> None:
        """A row of benign crops, then malignant ones of the same latent vectors."""
        if not self.trainer.is_global_zero or self.settings.spatial_dims != 2:
            return
        rng = torch.Generator().manual_seed(self.seed)
        latent = torch.randn(SAMPLE_COLUMNS, self.settings.latent_size, generator=rng)
        condition = self.conditions.of_classes(torch.arange(2).repeat_interleave(SAMPLE_COLUMNS))
        crops = self(torch.cat([latent, latent]).to(self.device), condition.to(self.device))
        folder = Path(self.trainer.default_root_dir) / "samples"
        write_sheet(folder / "last.png", crops, SAMPLE_COLUMNS)

    def _rng(self) -> torch.Generator:
        """Randomness of this step and process."""
        words = np.random.SeedSequence([self.seed, 1 + self.global_step, self.global_rank])
        return torch.Generator(self.device).manual_seed(int(words.generate_state(1)[0]))
