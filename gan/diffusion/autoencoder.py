# SPDX-License-Identifier: Apache-2.0
"""``CropAutoencoder``: the first stage of a latent diffusion, and how it trains."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.nn import functional as F

from data_prep.datamodule import CropBatch, CropsDataModule
from data_prep.progress import watched
from gan.diffusion.checkpoint import DiffusionCheckpoint
from gan.diffusion.networks import Autoencoder, Codec
from gan.diffusion.settings import CodecSettings, DiffusionError
from gan.samples import write_sheet

AT_ONCE = 32  # crops in one pass that needs no gradient
SHEET_COLUMNS = 8


class CropAutoencoder(lightning.LightningModule):
    """Learns to turn crops, or volumes, into small codes and back.

    Trained without differential privacy, so on phantoms or public crops. At its end the mean and
    the standard deviation of the codes of its training crops are kept with the weights: the fixed
    scale by which a diffusion sees codes, whatever it is trained on.

    The loss is the mean absolute error in grey values, plus a small penalty that keeps codes near a
    standard normal distribution.

    Args:
        spatial_dims: 2 for crops, 3 for volumes.
        image_size: Edge of crops, and of the slices of volumes, in pixels.
        depth: Slices of a volume; none for crops.
        encoder_channels: Feature channels of each level; each but the first halves all edges.
        latent_channels: Channels of the codes.
        weights: Checkpoint of an autoencoder of equal sizes to start from.
        divergence_weight: Weight of the penalty, a Kullback-Leibler divergence in nats, ``>= 0``.
        learning_rate: Of Adam, ``> 0``.

    Source: Kingma and Welling 2013, arXiv 1312.6114; a small penalty, Rombach et al. 2021, arXiv
    2112.10752.
    """

    def __init__(
        self,
        *,
        spatial_dims: int = 2,
        image_size: int = 64,
        depth: int | None = None,
        encoder_channels: Sequence[int] = (8, 16, 32),
        latent_channels: int = 4,
        weights: str | None = None,
        divergence_weight: float = 1e-6,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        encoder_channels = list(encoder_channels)  # as a checkpoint keeps it
        if divergence_weight < 0 or not learning_rate > 0:
            raise DiffusionError(
                f"{divergence_weight=}, {learning_rate=}. Give a weight >= 0 and a rate above 0."
            )
        self.save_hyperparameters(ignore=["weights"])
        self.settings = CodecSettings(
            spatial_dims=spatial_dims,
            image_size=image_size,
            depth=depth,
            encoder_channels=encoder_channels,
            latent_channels=latent_channels,
        )
        self.divergence_weight = divergence_weight
        self.learning_rate = learning_rate
        self.codec = Autoencoder(self.settings)
        if weights is not None:
            DiffusionCheckpoint.read(weights).start(self.codec)

    def forward(self, image: Tensor) -> Tensor:
        """Crops after a passage through their codes, shape and range as ``image``."""
        return self.codec.decode(self.codec.encode(image))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)

    def on_fit_start(self) -> None:
        """Refuses crops of another shape before compute is spent.

        Raises:
            DiffusionError: Naming both shapes.
        """
        refuse_shape(crops_of(self), self.settings)

    def training_step(self, batch: CropBatch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        mean, deviation = self.codec.distribution(batch.image)
        code = mean + deviation * torch.randn_like(mean)
        error = F.l1_loss(self.codec.decode_raw(code), batch.image)
        variance = deviation.square()
        divergence = 0.5 * (mean.square() + variance - variance.log() - 1).flatten(1).sum(1).mean()
        self.log("error", error, on_step=False, on_epoch=True, prog_bar=True)
        return error + self.divergence_weight * divergence

    def validation_step(self, batch: CropBatch, batch_idx: int) -> None:
        """Measures the mean absolute error of held-out crops, where there are some."""
        error = F.l1_loss(self(batch.image), batch.image)
        self.log("val_error", error, prog_bar=True, batch_size=len(batch.image))

    @torch.no_grad()
    def on_train_end(self) -> None:
        """Measures the scale of codes; shows crops above what becomes of them."""
        data = crops_of(self)
        measure_scale(self.codec, data)
        if self.trainer.is_global_zero and self.settings.spatial_dims == 2:
            plain = data.dataset(data.train_rows[:SHEET_COLUMNS])
            shown = torch.stack([plain[index].image for index in range(len(plain))])
            passed = self(shown.to(self.device)).cpu()
            folder = Path(self.trainer.default_root_dir) / "samples"
            write_sheet(folder / "autoencoder.png", torch.cat([shown, passed]), len(shown))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the crop rule of the training data."""
        keep_crop_rule(self, checkpoint)


def crops_of(module: lightning.LightningModule) -> CropsDataModule:
    """The crops that a module is fitted to.

    Raises:
        DiffusionError: If the data are no crops.
    """
    data = getattr(module.trainer, "datamodule", None)
    if not isinstance(data, CropsDataModule):
        raise DiffusionError(
            f"data: {type(data).__name__} holds no crops. Use mammo_dp.CropsDataModule, or "
            "mammo_dp.DPCropsDataModule for a private fit."
        )
    return data


def refuse_shape(data: CropsDataModule, settings: CodecSettings) -> None:
    """Refuses crops of another shape than the networks take.

    Raises:
        DiffusionError: Naming both.
    """
    if settings.image_shape != (found := data.train_dataset.image_shape):
        held, taken = (" x ".join(map(str, shape[1:])) for shape in (found, settings.image_shape))
        raise DiffusionError(
            f"data: images of {held}, but the model takes {taken} "
            f"(spatial_dims={settings.spatial_dims}). Set image_size, and the depth of volumes, to "
            "one value in data.init_args and model.init_args; crops need spatial_dims 2, volumes 3."
        )


def keep_crop_rule(module: lightning.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Keeps the crop rule of the training data, for the manifest of generated crops."""
    data = getattr(module.trainer, "datamodule", None)
    if isinstance(data, CropsDataModule):
        checkpoint["crop_rule"] = data.manifest.crops[0].crop_rule


@torch.no_grad()
def measure_scale(codec: Codec, data: CropsDataModule, views: int = 1) -> None:
    """Sets the scale of a codec to that of the training crops, or of several views of each."""
    codec.set_scale(codes_of(codec, data, views, scaled=False).flatten(0, 1))


@torch.no_grad()
def codes_of(codec: Codec, data: CropsDataModule, views: int = 1, *, scaled: bool = True) -> Tensor:
    """Codes of the training crops, in their order.

    Args:
        codec: Encodes, on its device.
        data: Whose ``train_rows``; its augmentation makes the views, if there are several.
        views: 1 gives the crop as it is, V > 1 gives V augmented views of it.
        scaled: False gives what is not scaled yet.

    Returns:
        Shape ``(N, views, channels, ...)``, on the CPU.
    """
    crops = data.dataset(data.train_rows, augment=data.augment if views > 1 else "none")
    device = codec.mean.device
    found = []
    for start in watched(range(0, len(crops) * views, AT_ONCE), "Encoding crops"):
        items = range(start, min(start + AT_ONCE, len(crops) * views))
        images = torch.stack([crops[item // views].image for item in items]).to(device)
        found.append((codec.encode(images) if scaled else codec.raw(images)).float().cpu())
    codes = torch.cat(found)
    return codes.view(len(crops), views, *codes.shape[1:])
