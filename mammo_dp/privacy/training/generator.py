# SPDX-License-Identifier: Apache-2.0
"""The private generator: ``DPMCGAN``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from data_prep.datamodule import CropBatch
from data_prep.errors import TrainingError
from gan.augment import augment, parse_policy
from gan.checkpoint import Checkpoint
from gan.conditions import Conditions
from gan.generator import Generator, averaged
from gan.losses import Loss, adversarial_loss, generator_loss, mode_seeking
from gan.module import SAMPLE_COLUMNS
from gan.projected import PooledDiscriminator
from gan.samples import write_sheet
from mammo_dp.privacy.accounting.budget import PrivacyBudget
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.module import DPTraining
from mammo_dp.privacy.training.sampling import VIEWS, draw
from mammo_dp.projected import public_network

MALIGNANT_PRIOR = 0.5  # of generated crops; fixed, so that the classes of a draw stay unknown
CLASSES = Conditions()  # malignancy alone
JUDGING, MAKING, STANDARD = 0, 1, 2  # streams of public randomness
STANDARDS = 128  # generated crops that features are standardised on


class DPMCGAN(DPTraining):
    """The generator of an ``MCGAN``, trained with privacy for each patient of its training data.

    Only the discriminator sees real crops, and only in private steps: the gradient of its loss on
    the real crops of a patient is clipped and the sum gets noise; the gradient on generated crops
    is added after that. The generator learns from the discriminator after each private step: that
    is free of privacy, as are its samples.

    Noise grows with the root of the number of trained weights. So the discriminator sees crops
    through a fixed network of public images and trains one linear layer alone
    (:class:`gan.projected.PooledDiscriminator`). The extra ``imagenet`` brings the network's
    weights; without it they are random, which the log says, and crops come out worse.

    Generated crops are fixed in number, and their classes come from a fixed prior. Copied from a
    draw, one patient would change two terms of a step. ``seed`` and the number of the step
    determine them and their distortion. Real crops are distorted under the secret key, row by row,
    so that nobody's presence changes how another's crops are seen. Features are standardised on
    crops of the generator's start.

    That only the real half is clipped and noisy, per patient, is ours. Bie et al. 2023, arXiv
    2302.02936, take many private steps before each update of the generator; one layer has learned
    from a step what there is to learn, and with one update a step crops come nearer to real ones.

    Args:
        target_epsilon: Epsilon per unit at ``delta``, > 0; of a neighbour whose data are blanked
            (zero-out), or who is absent (add-or-remove) if the data have a ``public_size``. For
            this run; what earlier stages spent on the same patients comes on top.
        delta: Probability that the bound of epsilon fails, below 1 / units.
        clipping_norm: Largest L2 norm of one unit's gradient, > 0.
        image_size: Edge of the crops, in pixels, a power of two, ``>= 16``.
        channels: Feature channels at the full resolution, doubling with each halving.
        latent: Length of the latent vector.
        conditions: Must be empty: malignancy is the only condition.
        weights: Checkpoint of an MCGAN whose generator to start from, trained on phantoms.
        loss: ``"hinge"`` or ``"non-saturating"``.
        diversity: Weight of the penalty on equal pictures for different latent vectors; 0 leaves it
            out.
        public_size: Edge of the crops that the public network sees, in pixels.
        stages: Stages of it that the discriminator sees, from fine to coarse, as
            :class:`classifier.public.PublicNet` counts them; each has 3,072 trained weights.
        augmentations: What the discriminator sees distorted, names separated by commas.
        generator_rate: Learning rate of the generator.
        discriminator_rate: Learning rate of the discriminator.
        momentum: First coefficient of both Adams; the second is 0.99.
        average_decay: Decay of the averaged generator per update, in ``[0, 1)``.
        fakes: Generated crops per step, ``>= 1``, fixed without a look at the data; best about as
            many as real ones are expected.
        sample_every_steps: Private steps between sample sheets, ``>= 1``; the last has one too.
        max_physical_batch: Real crops in one pass, > 0; changes only speed and memory.
        seed: Of generated crops, their classes and their distortion; public.

    Attributes:
        initial_weights: Those of the public network; None if they are random.
    """

    def __init__(
        self,
        *,
        target_epsilon: float,
        delta: float = 1e-4,
        clipping_norm: float = 1.0,
        image_size: int = 128,
        channels: int = 8,
        latent: int = 128,
        conditions: Sequence[str] = (),
        weights: str | None = None,
        loss: Loss = "hinge",
        diversity: float = 0.1,
        public_size: int = 64,
        stages: Sequence[int] = (1, 2, 4, 6),
        augmentations: str = "flip,translation,brightness,contrast",
        generator_rate: float = 1e-4,
        discriminator_rate: float = 1e-4,
        momentum: float = 0.0,
        average_decay: float = 0.99,
        fakes: int = 64,
        sample_every_steps: int = 100,
        max_physical_batch: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if conditions:
            raise PrivacyError(
                f"conditions={list(conditions)}: how frequent they are is known from the patients "
                "only, and a prior of them costs budget. Leave conditions empty."
            )
        if not 0 <= average_decay < 1 or diversity < 0:
            raise ValueError(
                f"{average_decay=}, {diversity=}. Give a decay from 0 to below 1, a weight >= 0."
            )
        if min(fakes, sample_every_steps) < 1:
            raise ValueError(f"{fakes=}, {sample_every_steps=}. Give 1 or more.")
        parse_policy(augmentations)
        conditions, stages = [], list(stages)  # as a checkpoint keeps them
        self.save_hyperparameters(ignore=["weights"])
        self.image_size = image_size
        self.loss: Loss = loss
        self.diversity = diversity
        self.augmentations = augmentations
        self.rates = (discriminator_rate, generator_rate)
        self.momentum = momentum
        self.fakes = fakes
        self.sample_every_steps = sample_every_steps
        self.seed = seed
        self.generator = Generator(image_size, channels, latent)
        if weights is not None:
            Checkpoint.read(weights).start(self.generator)
        # oneDNN and cuDNN are faster this way
        self.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = averaged(self.generator, average_decay)
        network, self.initial_weights = public_network(
            public_size, stages, without="so crops will be further from real ones"
        )
        self.discriminator = PooledDiscriminator(network, network.public.channels, CLASSES.width)
        self.configure_privacy(
            PrivacyBudget(delta=delta, epsilon=target_epsilon),
            clipping_norm=clipping_norm,
            max_physical_batch=max_physical_batch,
        )
        with torch.no_grad():
            *_, crops = self._fakes(self._public_rng(STANDARD), STANDARDS)
        self.discriminator.standardise(crops)

    @property
    def net(self) -> nn.Module:  # type: ignore[override]  # of DPTraining, which only reads it
        """The discriminator: the one network that learns from real crops."""
        return self.discriminator

    def forward(self, latent: Tensor, noise: Tensor, condition: Tensor) -> Tensor:
        """Crops of the averaged generator, see :meth:`gan.generator.Generator.forward`."""
        crops: Tensor = self.average(latent, noise, condition)
        return crops

    def configure_callbacks(self) -> Sequence[Callback] | Callback:
        """Checks the trainer before anything else.

        Raises:
            PrivacyError: Naming every setting that would break the guarantee.
            TrainingError: For several devices.
        """
        callbacks = super().configure_callbacks()
        if self.trainer.training and self.trainer.world_size > 1:
            raise TrainingError(
                f"DPMCGAN: {self.trainer.world_size} devices. Each would train a generator of its "
                "own, and rounding would drive them apart. Use --trainer.devices 1."
            )
        return callbacks

    def setup(self, stage: str) -> None:
        """Checks data and layers, and calibrates the noise, before compute is spent.

        Raises:
            PrivacyError: Naming what would break the guarantee.
            TrainingError: If the crops have another size, or several views.
        """
        super().setup(stage)
        if stage == "fit" and self.image_shape() != (1, self.image_size, self.image_size):
            raise TrainingError(
                f"DPMCGAN: crops of shape {self.image_shape()}, but image_size={self.image_size}. "
                "Set data.init_args.image_size and model.init_args.image_size to one value, and "
                "take one view of a crop: the model distorts crops itself."
            )

    def configure_optimizers(self) -> list[Optimizer]:
        """Adam behind noise for the discriminator, then Adam for the generator."""
        discriminator, generator = (
            Adam([p for p in net.parameters() if p.requires_grad], lr, betas=(self.momentum, 0.99))
            for net, lr in zip((self.discriminator, self.generator), self.rates, strict=True)
        )
        return [self.privatise(discriminator), generator]

    def losses(self, batch: CropBatch) -> Tensor:
        """Loss of the discriminator on real crops, each distorted by its own secret draw.

        Returns:
            Shape ``(B,)``.
        """
        key, step, device = self._datamodule.key, self.accounted_steps, batch.image.device
        seen = []
        for crop, row in zip(batch.image[:, None], batch.row.tolist(), strict=True):
            seed = int(draw(key, step, VIEWS, row).integers(2**63))
            rng = torch.Generator(device).manual_seed(seed)
            seen.append(augment(crop, self.augmentations, rng))
        logits = self.discriminator(torch.cat(seen), CLASSES.of_classes(batch.malignant))
        return adversarial_loss(logits, self.loss)

    def public_gradients(self) -> Mapping[nn.Parameter, Tensor]:
        """Mean gradient of the discriminator's loss on generated crops."""
        rng = self._public_rng(JUDGING)
        with torch.no_grad():
            _, condition, fakes = self._fakes(rng, self.fakes)
            seen = augment(fakes, self.augmentations, rng)
        loss = adversarial_loss(-self.discriminator(seen, condition), self.loss).mean()
        trained = [p for p in self.discriminator.parameters() if p.requires_grad]
        return dict(zip(trained, torch.autograd.grad(loss, trained), strict=True))

    def training_step(self, batch: CropBatch, batch_idx: int) -> None:
        """One private step of the discriminator, then one of the generator."""
        super().training_step(batch, batch_idx)
        self._update_generator()
        if self.accounted_steps % self.sample_every_steps == 0:
            self._write_samples()

    def on_train_end(self) -> None:
        """Writes the last sample sheet."""
        self._write_samples()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the account, the network's name, and the crop rule for generated crops."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["crop_rule"] = self._datamodule.manifest.crops[0].crop_rule
        checkpoint["public_network"] = self._network_name

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores account and weights of a run that resumes.

        Raises:
            PrivacyError: As :meth:`mammo_dp.privacy.training.module.DPTraining.on_load_checkpoint`.
            TrainingError: If the discriminator saw crops through another network.
        """
        super().on_load_checkpoint(checkpoint)
        before, now = checkpoint.get("public_network"), self._network_name
        if self._trainer is not None and self.trainer.training and before != now:
            raise TrainingError(
                f"DPMCGAN: the fit began with a public network of {before}, and here it is of "
                f"{now}. Resume where the extra `imagenet` is installed as it was at the start."
            )

    @property
    def _network_name(self) -> str:
        return "random weights" if self.initial_weights is None else self.initial_weights.path

    def _update_generator(self) -> None:
        """Post-processing: a step against the discriminator as it is."""
        rng = self._public_rng(MAKING)
        latents, condition, fakes = self._fakes(rng, self.fakes)
        logits = self.discriminator(augment(fakes, self.augmentations, rng), condition)
        loss = generator_loss(logits, self.loss)
        loss = loss + self.diversity * mode_seeking(fakes, latents, condition)
        params = list(self.generator.parameters())
        for p, gradient in zip(params, torch.autograd.grad(loss, params), strict=True):
            p.grad = gradient
        optimizers: Any = self.optimizers()
        optimizers[1].optimizer.step()  # past Lightning's counter: max_steps are private steps
        optimizers[1].optimizer.zero_grad()
        self.average.update_parameters(self.generator)

    def _fakes(self, rng: torch.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Latent vectors, conditions, and the crops that the generator makes of them."""
        size = self.image_size
        latents = torch.randn(count, self.generator.latent, generator=rng, device=self.device)
        noise = torch.randn(count, 1, size, size, generator=rng, device=self.device)
        uniform = torch.rand(count, generator=rng, device=self.device)
        condition = CLASSES.of_classes(uniform < MALIGNANT_PRIOR)
        return latents, condition, self.generator(latents, noise, condition)

    def _public_rng(self, stream: int) -> torch.Generator:
        """Randomness of this step that holds no secret; the same on all ranks."""
        words = np.random.SeedSequence([self.seed, self.accounted_steps, stream])
        return torch.Generator(self.device).manual_seed(int(words.generate_state(1)[0]))

    @torch.no_grad()
    def _write_samples(self) -> None:
        """A row of benign crops, then the same latent vectors malignant."""
        if not self.trainer.is_global_zero:
            return
        rng = torch.Generator().manual_seed(self.seed)
        size = self.image_size
        latents = torch.randn(SAMPLE_COLUMNS, self.generator.latent, generator=rng)
        noise = torch.randn(SAMPLE_COLUMNS, 1, size, size, generator=rng)
        condition = CLASSES.of_classes(torch.arange(2).repeat_interleave(SAMPLE_COLUMNS))
        parts = (torch.cat([latents, latents]), torch.cat([noise, noise]), condition)
        folder = Path(self.trainer.default_root_dir) / "samples"
        write_sheet(
            folder / f"step_{self.accounted_steps:06d}.png",
            self(*(part.to(self.device) for part in parts)),
            SAMPLE_COLUMNS,
        )
