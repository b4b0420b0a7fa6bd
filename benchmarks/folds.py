# SPDX-License-Identifier: Apache-2.0
"""Private heads over folds of the training patients, and on val: fits, scores and tables of them.

Every number is of a private fit through Lightning, as ``mammo-dp fit`` with
``configs/classifier/dp_finetune.yaml`` makes it: each patient in every step, noise for the epsilon
asked for, with the entropy of the system. Features of the crops are given. What the folds are is
fixed by a seed; noise differs from run to run.
"""

import csv
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import data_prep  # noqa: F401  declares what torchvision lacks before timm is imported

# isort: split
import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from torch import Tensor, nn

from classifier.backbones import head
from classifier.intervals import auroc_interval
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.training.classifier import DPCropClassifier
from mammo_dp.privacy.training.datamodule import DPCropsDataModule

CONFIG = Path(__file__).parents[1] / "configs" / "classifier" / "dp_finetune.yaml"
COLUMNS = ("epsilon", "evaluated_on", "repeat", "fold", "draw", "patients", "auroc", "low", "high")
Fit = dict[str, str]
Scores = Callable[[Sequence[int]], NDArray[np.float64]]  # of crops, by their rows
Train = Callable[[float, Sequence[int]], Scores]  # at an epsilon, on the crops of these rows


@dataclass(frozen=True, kw_only=True)  # jsonargparse reads defaults from __dict__
class Folds:
    """Which fits make a table.

    Attributes:
        epsilons: Of each fit, per patient, at the delta of the configuration.
        count: Folds of a repeat.
        repeats: Partitions of the patients.
        draws: Fits for each fold and epsilon, which differ in their noise.
        val_fits: Fits on all of train for each epsilon, >= 2, scored on val.
        seed: Of the partitions.
    """

    epsilons: tuple[float, ...] = (1.0, 6.0, 60.0)
    count: int = 5
    repeats: int = 5
    draws: int = 2
    val_fits: int = 5
    seed: int = 0

    def held_out(self, patients: Sequence[str]) -> Iterator[tuple[int, int, frozenset[str]]]:
        """Repeat, fold and the patients that it holds out; each patient once in a repeat."""
        everyone = sorted(set(patients))
        for repeat in range(self.repeats):
            order = np.random.default_rng([self.seed, repeat]).permutation(len(everyone))
            for fold in range(self.count):
                yield repeat, fold, frozenset(everyone[i] for i in order[fold :: self.count])

    def jobs(self, manifest: CropsManifest) -> Iterator[tuple[Fit, list[int], list[int]]]:
        """Name of each fit, the rows that train and those that are scored.

        No patient has crops among both.
        """
        train, val = manifest.require_classes("train"), manifest.require_classes("val")
        patient = {row: manifest.crops[row].patient for row in train}
        parts: list[tuple[str, int, int, list[int], list[int], int]]
        parts = [("val", 0, 0, train, val, self.val_fits)]
        for repeat, fold, held in self.held_out([*patient.values()]):
            rows = [row for row in train if patient[row] not in held]
            others = [row for row in train if patient[row] in held]
            parts.append(("fold", repeat, fold, rows, others, self.draws))
        for on, repeat, fold, rows, others, draws in parts:
            for epsilon in self.epsilons:
                for draw in range(draws):
                    values = (f"{epsilon:g}", on, str(repeat), str(fold), str(draw))
                    yield dict(zip(COLUMNS, values, strict=False)), rows, others


ALL = Folds()


def quiet() -> None:
    """Silences what Lightning says of each fit."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


@cache
def settings() -> dict[str, Any]:
    """The configuration of every fit: ``model``, ``data`` and ``trainer``."""
    read: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    return read


def private_head(
    manifest: CropsManifest,
    features: Tensor,
    rows: Sequence[int],
    *,
    start: nn.Linear,
    epsilon: float,
    **recipe: Any,
) -> nn.Linear:
    """A head that was trained with privacy on the features of some crops.

    Args:
        manifest: Table of all crops.
        features: Shape ``(len(manifest.crops), d)``, each of length ``sqrt(d)``.
        rows: Crops that train.
        start: Head that the fit starts from, of ``d`` features.
        epsilon: Of the fit, per patient.
        recipe: Arguments of the model that differ from the configuration.
    """
    size = settings()["data"]["init_args"]["image_size"]
    # Any body whose features have that length: it computes none of those that are given.
    body = {"backbone": "crop_measurements", "backbone_args": {"components": start.in_features}}
    chosen = settings()["model"]["init_args"] | body | {"image_size": size} | recipe
    model = DPCropClassifier(**chosen | {"target_epsilon": epsilon}, cache_features=False)
    head(model.net).load_state_dict(start.state_dict())
    model.print = lambda *_, **__: None  # type: ignore[method-assign]  # the rate, each time
    with tempfile.TemporaryDirectory() as folder:
        data = DPCropsDataModule(folder, **settings()["data"]["init_args"])
        part = tuple(replace(manifest.crops[row], split="train") for row in rows)
        data.manifest = _UnreadManifest(manifest.folder, part, manifest.sha256)
        trainer = lightning.Trainer(
            **settings()["trainer"],
            default_root_dir=folder,
            callbacks=[_GivenFeatures(features[list(rows)][:, None])],
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, data)
    return head(model.net)


def scores_of(layer: nn.Linear, features: Tensor) -> Scores:
    """Logits of crops by a head, asked for by their rows."""

    def scores(rows: Sequence[int]) -> NDArray[np.float64]:
        with torch.no_grad():
            found: NDArray[np.float64] = layer(features[list(rows)])[:, 0].double().numpy()
        return found

    return scores


def crossvalidated(path: Path, manifest: CropsManifest, train: Train, folds: Folds) -> list[Fit]:
    """AUROC of each fit, from a file where earlier calls noted it, or made now and noted there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    fits = read(path)
    done = [tuple(fit[name] for name in COLUMNS[:5]) for fit in fits]
    jobs = list(folds.jobs(manifest))
    for name, rows, others in jobs:
        if tuple(name.values()) in done:
            continue
        scores = train(float(name["epsilon"]), rows)(others)
        crops = [manifest.crops[row] for row in others]
        patients = [crop.patient for crop in crops]
        area = auroc_interval([crop.malignant for crop in crops], scores, patients)
        values = (*name.values(), str(len(set(patients))), *(f"{end:.4f}" for end in area))
        fits.append(dict(zip(COLUMNS, values, strict=True)))
        with path.open("a", encoding="utf-8") as file:
            file.write(",".join(values) + "\n")
        print(f"{path.stem}, {len(fits)} of {len(jobs)}: {', '.join(values)}", flush=True)
    return fits


def read(path: Path) -> list[Fit]:
    """Fits that were noted in a file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def epsilons_of(fits: Sequence[Fit]) -> list[float]:
    """Each epsilon once, in order."""
    return sorted({float(fit["epsilon"]) for fit in fits})


def areas_of(fits: Sequence[Fit], epsilon: float) -> dict[tuple[str, str], float]:
    """AUROC by repeat and fold, the mean over draws of noise."""
    found: dict[tuple[str, str], list[float]] = {}
    for fit in fits:
        if fit["evaluated_on"] == "fold" and float(fit["epsilon"]) == epsilon:
            found.setdefault((fit["repeat"], fit["fold"]), []).append(float(fit["auroc"]))
    return {fold: float(np.mean(areas)) for fold, areas in found.items()}


def on_val(fits: Sequence[Fit], epsilon: float) -> NDArray[np.float64]:
    """AUROC on val and the ends of its interval, shape ``(fits, 3)``."""
    return np.array(
        [
            [float(fit[end]) for end in ("auroc", "low", "high")]
            for fit in fits
            if fit["evaluated_on"] == "val" and float(fit["epsilon"]) == epsilon
        ]
    )


def difference(
    fits: Sequence[Fit], others: Sequence[Fit], epsilon: float
) -> tuple[float, float, int]:
    """Mean difference of AUROC over the folds that both have, its standard error, and how many."""
    one, two = areas_of(fits, epsilon), areas_of(others, epsilon)
    found = np.array([one[fold] - two[fold] for fold in sorted(one.keys() & two.keys())])
    return float(found.mean()), float(found.std(ddof=1) / np.sqrt(len(found))), len(found)


class _UnreadManifest(CropsManifest):
    """A table whose images nobody looks at, since their features are given."""

    def stacked(self, rows: Sequence[int]) -> NDArray[np.uint16]:
        """Black images of one pixel, shape ``(len(rows), 1, 1)``."""
        return np.zeros((len(rows), 1, 1), np.uint16)


class _GivenFeatures(Callback):
    """Hands features that were computed before to the data module of a fit."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401  of Lightning
        trainer.datamodule.use_features(self.features)
