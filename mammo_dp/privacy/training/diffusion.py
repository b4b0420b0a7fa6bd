# SPDX-License-Identifier: Apache-2.0
"""The private diffusion: ``DPLatentDiffusion``."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam

from classifier.features import cached_features, rank_zero_first
from classifier.lora import LoRALinear, merged
from data_prep.datamodule import CropBatch, CropsDataModule
from gan.diffusion.module import LatentDiffusion
from gan.diffusion.networks import Codec, train_only
from gan.diffusion.settings import DiffusionError
from mammo_dp.privacy.accounting.budget import PrivacyBudget
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.seals import SealedFeatures
from mammo_dp.privacy.training.gradients.methods import GradientMethod
from mammo_dp.privacy.training.gradients.units import Clipping
from mammo_dp.privacy.training.module import DPTraining
from mammo_dp.privacy.training.sampling import VIEWS, draw

ATTENTION_LAYERS = ("to_q", "to_k", "to_v", "out_proj")  # of MONAI's attention


class DPLatentDiffusion(DPTraining, LatentDiffusion):  # type: ignore[misc]  # its steps return no loss
    """A ``LatentDiffusion`` fine-tuned with differential privacy for each patient of its data.

    It starts from a diffusion of phantoms, whose codec and its scale stay as they are. Codes of the
    patients' crops are computed once and kept, sealed, in ``features`` below the run folder; they
    are private. The loss of a crop is its mean over several pairs of time and noise, so that
    the clip meets a gradient with little noise of its own. Pairs are drawn under the secret key,
    row by row, so that nobody's presence changes those of another.

    What trains decides how long the noise is beside the signal: the linear part alone, a few
    hundred weights, is the default. Times are uniform from ``earliest_time`` to 1, whatever the
    data.

    Source: several pairs inside the clip, Dockhorn et al. 2022, arXiv 2210.09929; attention alone,
    Daum et al. 2024, arXiv 2407.16405, where the unit is an image.

    Args:
        target_epsilon: Epsilon per unit at ``delta``, > 0; of a neighbour whose data are blanked
            (zero-out), or who is absent (add-or-remove) if the data have a ``public_size``. For
            this run; what earlier stages spent on the same patients comes on top.
        delta: Probability that the bound of epsilon fails, below 1 / units.
        clipping_norm: Largest L2 norm of one unit's gradient, > 0.
        clipping: ``flat`` shortens gradients that are longer, ``automatic`` scales every gradient
            to about this length.
        trainable: ``linear``, mean and correlations of codes beside the U-Net, ``attention`` with
            its norms and output, ``lora``, adapters of attention, ``norm_bias``, norms and biases
            of the U-Net, or ``all`` of it, attributes' tokens included.
        lora_rank: Rank of the adapters, >= 1; they are added to their layers at the end of the fit.
        pairs: Pairs of time and noise of each crop in a step, >= 1. With augmented data, each pair
            has a view of its own, drawn once.
        earliest_time: Times are uniform from here to 1, pure noise; in ``[0, 1)``.
        learning_rate: Of Adam, > 0.
        ema_decay: Largest decay of the average of weights that is released; none releases the last.
        gradient_method: ``auto`` takes the fastest that fits the model, ``book_keeping`` or
            ``loop``; ``opacus`` is there to compare. Changes only speed.
        max_physical_batch: Pairs in one pass, > 0; changes only speed and memory.
        diffusion: Further arguments of :class:`gan.diffusion.module.LatentDiffusion`.
    """

    def __init__(
        self,
        *,
        target_epsilon: float,
        delta: float = 1e-4,
        clipping_norm: float = 1.0,
        clipping: Clipping = "flat",
        trainable: Literal["linear", "attention", "lora", "norm_bias", "all"] = "linear",
        lora_rank: int = 4,
        pairs: int = 4,
        earliest_time: float = 0.3,
        learning_rate: float = 3e-3,
        ema_decay: float | None = 0.95,
        gradient_method: GradientMethod = "auto",
        max_physical_batch: int = 64,
        **diffusion: Any,
    ) -> None:
        if min(lora_rank, pairs) < 1:
            raise PrivacyError(f"{lora_rank=}, {pairs=}. Give 1 or more.")
        super().__init__(
            trainable=trainable,  # type: ignore[arg-type]  # one word more than without privacy
            views=pairs,
            earliest_time=earliest_time,
            learning_rate=learning_rate,
            average_decay=None,  # that of private steps is released
            **diffusion,
        )
        self.lora_rank = lora_rank
        self.configure_privacy(
            PrivacyBudget(delta=delta, epsilon=target_epsilon),
            clipping_norm=clipping_norm,
            clipping=clipping,
            gradient_method=gradient_method,
            max_physical_batch=max_physical_batch,
            ema_decay=ema_decay,
        )

    def choose_trainable(self) -> None:
        """Freezes what ``trainable`` leaves out; puts adapters in.

        Raises:
            DiffusionError: If the word is unknown.
        """
        if self.trainable == "lora":
            train_only(self.net, add_adapters(self.net, self.lora_rank))
        else:
            super().choose_trainable()

    def configure_optimizers(self) -> Any:  # noqa: ANN401  of Lightning's many forms
        """Adam behind noise."""
        trained = [p for p in self.net.parameters() if p.requires_grad]
        return self.privatise(Adam(trained, lr=self.learning_rate))

    def scale_codes(self, data: CropsDataModule) -> None:
        """Refuses to measure the scale of codes on patients.

        Raises:
            DiffusionError: Always.
        """
        raise DiffusionError(
            "weights: are missing. A private fit measures no scale of codes on its patients. Give "
            "the checkpoint of a LatentDiffusion of phantoms as --model.init_args.weights."
        )

    def codes(self, data: CropsDataModule) -> Tensor:
        """Codes of the training crops from the cache, one for each pair."""
        views = 1 if data.augment == "none" else self.views
        with rank_zero_first(self.trainer.strategy):
            found = cached_features(
                CodeBody(self.codec, self.settings.latent_size, self.settings.depth),
                data.manifest,
                data.train_rows,
                folder=Path(self.trainer.default_root_dir) / "features",
                image_size=data.image_size,
                augment=data.augment,
                views=views,
                seal=SealedFeatures(),
            )
        return found.expand(-1, self.views, -1)

    def rows(self, codes: Tensor, conditions: Tensor) -> Tensor:
        """Flat codes and conditions as several views of an image, which pass the net one by one.

        Returns:
            Shape ``(N, pairs, 1, 1, latent + columns)``.
        """
        return super().rows(codes, conditions)[:, :, None, None]

    def losses(self, batch: CropBatch) -> Tensor:
        """Mean squared error of each crop, mean over its pairs of time and noise.

        Args:
            batch: With images of shape ``(B, pairs, 1, 1, latent + columns)``.

        Returns:
            Shape ``(B,)``.
        """
        key, step, device = self._datamodule.key, self.accounted_steps, batch.image.device
        shape = (self.views, self.settings.latent_size)
        times, noises = [], []
        for row in batch.row.tolist():
            rng = draw(key, step, VIEWS, row)
            part = (np.arange(self.views) + rng.random(self.views)) / self.views
            times.append(torch.from_numpy(part).float())
            noises.append(torch.from_numpy(rng.standard_normal(shape, np.float32)))
        time = self.earliest_time + (1 - self.earliest_time) * torch.cat(times).to(device)
        flat = batch.image.flatten(0, 1).flatten(1)
        losses = self.velocity_losses(flat, time, torch.cat(noises).to(device))
        return losses.view(-1, self.views).mean(1)

    def on_train_batch_end(self, outputs: Any, batch: CropBatch, batch_idx: int) -> None:  # noqa: ANN401
        """Nothing: private steps keep their own average."""

    def on_fit_end(self) -> None:
        """Leaves the weights that are released in the net; writes a sheet of samples."""
        super().on_fit_end()
        fold_adapters(self.net)
        self.write_samples()


class CodeBody(nn.Module):
    """A codec as the cache of features takes a network: codes are what a head would see.

    Args:
        codec: Encodes crops.
        latent_size: Numbers in a code.
        slices: Of volumes; none for crops in the plane.
    """

    def __init__(self, codec: Codec, latent_size: int, slices: int | None) -> None:
        super().__init__()
        self.codec = codec
        self.slices = slices
        self.head = nn.Linear(latent_size, 1).to(codec.mean.device)

    def get_classifier(self) -> nn.Linear:
        """The head, of which only the width counts."""
        return self.head

    def forward_features(self, image: Tensor) -> Tensor:
        """Flat codes of crops ``(B, 1, H, W)`` or volumes, shape ``(B, latent)``."""
        return self.codec.encode(image).flatten(1)

    def forward_head(self, codes: Tensor, *, pre_logits: bool) -> Tensor:
        """The codes as they are."""
        return codes


def add_adapters(net: nn.Module, rank: int) -> list[nn.Parameter]:
    """Puts low-rank adapters on the linear layers of every attention of a U-Net.

    Args:
        net: Changed in place. Adapters that it has already stay.
        rank: Rank of each adapter, at least 1.

    Returns:
        The adapters' parameters.
    """
    found: list[nn.Parameter] = []
    for module in list(net.modules()):
        for name in ATTENTION_LAYERS:
            layer = getattr(module, name, None)
            if not isinstance(layer, nn.Linear):
                continue
            if not isinstance(layer, LoRALinear):
                layer = LoRALinear(layer, rank)
                setattr(module, name, layer)
            found += [*layer.lora_down.parameters(), *layer.lora_up.parameters()]
    return found


@torch.no_grad()
def fold_adapters(net: nn.Module) -> None:
    """Adds each adapter to its layer and takes it away; what the net computes stays."""
    for module in list(net.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, LoRALinear):
                bias = layer.bias is not None
                plain = nn.Linear(layer.in_features, layer.out_features, bias)
                plain.load_state_dict(merged(layer.state_dict()))
                setattr(module, name, plain.to(layer.weight.device))
