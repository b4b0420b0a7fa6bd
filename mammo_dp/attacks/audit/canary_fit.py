# SPDX-License-Identifier: Apache-2.0
"""Repeats the fit of a run with canaries in place of its patients.

Data module, feature cache, classifier, clip, sampler, noise and account are those of the run, by
its ``config.yaml``. Only what would hide the canaries is replaced: the crops, by crops with one
bright pixel each; the body, by one that reads pixels (``canary_pixels``); the optimizer, by plain
gradient descent, whose update shows the noisy sum; and augmentation is off. A canary patient has
several crops, so that grouping and clip count. The fit is interrupted and resumed half-way.
"""

import math
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser
from numpy.typing import NDArray
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor

from classifier.linear import LinearOnFeatures
from data_prep.crop_image import save_crop_image
from data_prep.datamodule import FULL_SCALE, CropsDataModule
from data_prep.manifest import Crop, CropsManifest, Split
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.audit.canaries import WhiteBoxObserver
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.training.classifier import DPCropClassifier
from mammo_dp.privacy.training.module import DPTraining

default_cfgs = generate_default_cfgs(
    {"canary_pixels.untrained": {"classifier": "head", "input_size": (1, 32, 32), "num_classes": 1}}
)
QUIET = 0.5  # grey values up to here are 0 to the model


class CanaryPixels(LinearOnFeatures):
    """Scores crops by one linear layer on their first pixels; dark ones are 0.

    A crop that is dark but for pixel i has a gradient on weight i alone.

    Args:
        img_size: Edge of the crops, in pixels.
        in_chans: Channels, 1.
        num_classes: Logits, 1.
        canaries: Pixels that are read, row by row, at most ``img_size ** 2``.
        loudness: Feature of a white pixel, > 0; far above the clipping norm.

    Raises:
        ValueError: If there are fewer pixels, or several channels.
    """

    def __init__(
        self,
        img_size: int = 32,
        in_chans: int = 1,
        num_classes: int = 1,
        canaries: int = 1024,
        loudness: float = 100.0,
    ) -> None:
        if in_chans != 1 or not 1 <= canaries <= img_size**2:
            raise ValueError(f"{in_chans=}, {canaries=}. Give 1 channel and 1 to {img_size**2}.")
        super().__init__(canaries, num_classes, bias=False)
        self.loudness = loudness

    def forward_features(self, image: Tensor) -> Tensor:
        """Brightness of the pixels that are read, beyond ``QUIET``, shape ``(B, canaries)``."""
        grey = (image.flatten(1)[:, : self.num_features] + 1) / 2
        return (grey - QUIET).clamp_min(0) * (self.loudness / (1 - QUIET))


@register_model
def canary_pixels(pretrained: bool = False, **arguments: Any) -> CanaryPixels:
    """The model under timm's name; see :class:`CanaryPixels` for its arguments."""
    net: CanaryPixels = build_model_with_cfg(CanaryPixels, "canary_pixels", pretrained, **arguments)
    return net


CONFIG = "config.yaml"
CROPS = 3  # of a canary patient
ORIGIN = "canaries"
_DIMMER = 2**12  # grey levels between crops of one canary
_PARAMETER = "net.head.weight"
_SETTLED = 0.5  # largest logit that noise may give a canary: its gradient stays loud
_REPLAYED = 2  # steps of the second start from the same state
# Of a private model that is no classifier: what its loop was told.
_LOOP = ("delta", "clipping_norm", "max_physical_batch", "gradient_method", "clipping")
_TARGETS = "target_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What an adversary sees of a fit with canaries, and what the fit says about itself.

    Attributes:
        products: Products of each update with each canary's direction, in clipping norms, shape
            ``(updates, canaries)``, see :attr:`mammo_dp.attacks.audit.canaries.WhiteBoxObserver`.
        again: The same of the first updates after another start from the same saved state.
        inside: Whether each canary took part, shape ``(canaries,)``.
        accounted: What the fit accounted.
    """

    products: NDArray[np.float64]
    again: NDArray[np.float64]
    inside: NDArray[np.bool_]
    accounted: Mechanism


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Settings of a private fit, as its ``config.yaml`` holds them.

    Attributes:
        model: Class and arguments of the model.
        data: Class and arguments of the data module.
        max_steps: Steps of the fit.
    """

    model: Mapping[str, Any]
    data: Mapping[str, Any]
    max_steps: int

    @classmethod
    def read(cls, run: Path) -> "RunSettings":
        """Settings of a run.

        Raises:
            AttackError: If the folder does not hold those of a private fit.
        """
        path = run / CONFIG
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
            found = cls(
                model=config["model"], data=config["data"], max_steps=config["trainer"]["max_steps"]
            )
            found.data["init_args"]["crops"]
            issued = issubclass(_class(found.model), DPTraining)
        except (OSError, yaml.YAMLError, KeyError, TypeError, ImportError, AttributeError) as error:
            raise AttackError(
                f"{path}: holds no settings of a fit on a folder of crops ({error!r}). Give the "
                "run folder of a fit, where its classes can be imported."
            ) from error
        if not issued:
            raise AttackError(
                f"{path}: {found.model['class_path']} does not train privately, so there is no "
                "claim to audit. Give the run of a DPCropClassifier, DPMCGAN or DPLatentDiffusion."
            )
        return found

    @property
    def image_size(self) -> int:
        """Edge of the canaries' crops, in pixels."""
        return int(
            self.data["init_args"].get("image_size") or self.model["init_args"]["image_size"]
        )

    @property
    def crops_per_canary(self) -> int:
        """Crops of a canary: several where patients are drawn, as many as are declared."""
        data = self.data["init_args"]
        return (
            1 if data.get("unit") == "crop" else min(CROPS, data.get("crops_per_patient") or CROPS)
        )

    def model_with_canaries(self, inside: int, canaries: int, noise: float) -> dict[str, Any]:
        """The model on pixels, with plain descent.

        The rate keeps logits below ``_SETTLED`` for the whole fit, drawn canaries and five standard
        deviations of noise counted.

        Args:
            inside: Canaries that take part.
            canaries: All canaries.
            noise: Noise multiplier as stated.
        """
        own = dict(self.model["init_args"])
        if not issubclass(_class(self.model), DPCropClassifier):
            own = {
                name: value
                for name, value in own.items()
                if name in _LOOP or name.startswith(_TARGETS)
            } | {"views": 1, "ema_decay": None, "cache_features": False}
            path = "mammo_dp.DPCropClassifier"
        else:
            path = self.model["class_path"]
            own["cache_features"] = (
                own.get("cache_features", True) and own.get("trainable") == "head"
            )
        data = self.data["init_args"]
        # One that follows from features cannot here, and any will do: noise grows with it.
        norm, steps = own.get("clipping_norm") or 1.0, self.max_steps
        loudness = 100.0 * max(1.0, norm)
        units = data.get("public_size") or inside
        most = norm * (steps + 5 * noise * math.sqrt(steps)) / (data.get("rate", 1.0) * units)
        return {
            "class_path": path,
            "init_args": own
            | {
                "backbone": canary_pixels.__name__,
                "backbone_args": {"canaries": canaries, "loudness": loudness},
                "image_size": self.image_size,
                "trainable": "head",
                "clipping_norm": norm,
                "weights": None,
                "optimizer": "descent",
                "learning_rate": _SETTLED / loudness / most,
                "weight_decay": 0.0,
            },
        }

    def data_with_canaries(self, folder: Path) -> dict[str, Any]:
        """The data module on the canaries' crops, without augmentation."""
        own = dict(self.data["init_args"]) | {"crops": str(folder)}
        if issubclass(_class(self.data), CropsDataModule):
            own |= {"augment": "none", "depth": None}  # they lie in the plane
        return {"class_path": self.data["class_path"], "init_args": own}


def write_canaries(
    folder: Path, inside: NDArray[np.bool_], *, crops: int, image_size: int, split: Split
) -> CropsManifest:
    """Writes crops of the canaries that take part: dark but for the pixel of their canary.

    The dark has a texture of its own in each crop, so that none is a copy of another; the model
    does not see it. Pixels of one canary differ in brightness only, so that gradients of its crops
    point the same way. Canaries alternate between benign and malignant.

    Args:
        folder: New folder of a manifest.
        inside: Whether each canary takes part, shape ``(canaries,)``.
        crops: Crops of each.
        image_size: Edge of the crops, in pixels; ``image_size ** 2`` canaries have room.
        split: Split that they stand in.
    """
    rows = []
    for number in np.flatnonzero(inside).tolist():
        for view in range(crops):
            texture = np.random.default_rng((number, view)).random((image_size, image_size))
            pixels = (FULL_SCALE * 0.9 * QUIET * texture).astype(np.uint16)
            pixels[divmod(number, image_size)] = FULL_SCALE - view * _DIMMER
            file = f"images/{number:05d}_{view}.png"
            rows.append(
                Crop(
                    file=file,
                    patient_id=f"C{number:05d}",
                    lesion_id="1",
                    image_id=f"{number}-{view}",
                    malignant=bool(number % 2),
                    split=split,
                    origin=ORIGIN,
                    label_source="phantom",
                    crop_rule="as-is",
                    sha256=save_crop_image(folder / file, pixels),
                )
            )
    return CropsManifest.write(folder, rows)


def fit_canaries(
    settings: RunSettings, inside: NDArray[np.bool_], *, noise: float, progress: bool = False
) -> Observed:
    """Runs a run's own fit on canaries, interrupted and resumed half-way.

    Args:
        settings: Of the run.
        inside: Whether each canary takes part, shape ``(canaries,)``.
        noise: Noise multiplier as stated; sets the learning rate only.
        progress: Whether to show a bar.

    Raises:
        AttackError: If the images have fewer pixels than there are canaries.
        PrivacyError: If a check of the training loop fails.
    """
    size = settings.image_size
    if len(inside) > size**2:
        raise AttackError(
            f"{len(inside)} canaries in crops of {size} px, one pixel each. Give --canaries "
            f"{size**2} or fewer."
        )
    half = settings.max_steps // 2
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on loaders and checkpoints
        folder = Path(name)
        write_canaries(
            folder / "crops",
            inside,
            crops=settings.crops_per_canary,
            image_size=size,
            split=settings.data["init_args"].get("train_split", "train"),
        )
        config = {
            "model": settings.model_with_canaries(int(inside.sum()), len(inside), noise),
            "data": settings.data_with_canaries(folder / "crops"),
        }
        kept = folder / "resume.ckpt" if half else None

        def run(start: Path | None, stop: int | None) -> tuple[list[NDArray[np.float64]], Any]:
            observer = WhiteBoxObserver(_PARAMETER)
            callbacks: list[Callback] = [observer]
            if stop is not None:
                callbacks.append(_Interrupt(stop, None if start else kept))
            model, data = _built(config)
            with suppress(_InterruptedError):
                lightning.Trainer(
                    max_steps=settings.max_steps,
                    accelerator="cpu",
                    devices=1,
                    limit_val_batches=0,
                    use_distributed_sampler=False,
                    logger=False,
                    enable_checkpointing=False,
                    enable_progress_bar=progress,
                    enable_model_summary=False,
                    default_root_dir=folder,
                    callbacks=callbacks,
                ).fit(model, data, ckpt_path=start)
            return observer.updates, model

        updates: list[NDArray[np.float64]] = []
        if kept is not None:
            updates, _ = run(None, half)
        more, model = run(kept, None)
        again, _ = run(kept, min(half + _REPLAYED, settings.max_steps))
    sides = 1.0 - 2.0 * (np.arange(len(inside)) % 2)  # a malignant crop pulls the other way
    noisy, rate, _ = model.accountant.history[-1]
    return Observed(
        products=np.stack([*updates, *more]) * sides,
        again=np.stack(again) * sides,
        inside=inside,
        accounted=Mechanism(
            noise_multiplier=noisy, sampling_rate=rate, steps=model.accounted_steps
        ),
    )


class _InterruptedError(Exception):
    """A fit was stopped as a kill would."""


class _Interrupt(Callback):
    """Stops a fit after some of its steps.

    Args:
        step: Steps of the whole fit, earlier parts counted.
        kept: File of the state to resume from; ``None`` keeps none.
    """

    def __init__(self, step: int, kept: Path | None) -> None:
        self.step = step
        self.kept = kept

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *outputs: Any
    ) -> None:
        """Saves the state and stops."""
        if trainer.global_step >= self.step:
            if self.kept is not None:
                trainer.save_checkpoint(self.kept)
            raise _InterruptedError


def _built(config: Mapping[str, Any]) -> tuple[DPTraining, LightningDataModule]:
    """Model and data module of a configuration, as ``mammo-dp fit`` builds them."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(LightningModule, "model", subclass_mode=True)
    parser.add_lightning_class_args(LightningDataModule, "data", subclass_mode=True)
    built = parser.instantiate_classes(parser.parse_object(dict(config)))
    return built.model, built.data


def _class(chosen: Mapping[str, Any]) -> type:
    """The class that a configuration names."""
    module, _, name = chosen["class_path"].rpartition(".")
    found = getattr(import_module(module), name)
    if not isinstance(found, type):
        raise TypeError(f"{chosen['class_path']} is no class")
    return found
