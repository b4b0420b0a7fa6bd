# SPDX-License-Identifier: Apache-2.0
"""AUROC of private heads over folds of the training patients, and on val; for results.md.

    $ python benchmarks/crossvalidate.py --crops data/real \
        --weights runs/pretrain/checkpoints/last.ckpt --out runs/folds

Every number is of a private fit through Lightning, as ``mammo-dp fit`` with
``configs/classifier/dp_finetune.yaml`` makes it: each patient in every step, noise for the epsilon
asked for, with the entropy of the system. Features of the crops are computed once. What the folds
are is fixed by ``--seed``; noise differs from run to run. ``fits.csv`` keeps each fit as soon as it
is made, so the same command resumes where it was stopped.

The table is a look at all patients, for research: no epsilon covers it.
"""

import csv
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import data_prep  # noqa: F401  declares what torchvision lacks before timm is imported

# isort: split
import lightning
import numpy as np
import torch
import yaml
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from classifier.backbones import head
from classifier.features import cached_features
from classifier.intervals import auroc_interval
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.training.classifier import DPCropClassifier
from mammo_dp.privacy.training.datamodule import DPCropsDataModule

CONFIG = Path(__file__).parents[1] / "configs" / "classifier" / "dp_finetune.yaml"
Fit = dict[str, str]
COLUMNS = ("epsilon", "evaluated_on", "repeat", "fold", "draw", "patients", "auroc", "low", "high")


class GivenFeatures(Callback):
    """Hands features that were computed before to the data module of a fit."""

    def __init__(self, features: Tensor) -> None:
        self.features = features

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401  of Lightning
        trainer.datamodule.use_features(self.features)


def folds(
    patients: Sequence[str], *, count: int, repeats: int, seed: int
) -> Iterator[tuple[int, int, frozenset[str]]]:
    """Repeat, fold and the patients that it holds out; each patient once in a repeat."""
    everyone = sorted(set(patients))
    for repeat in range(repeats):
        order = np.random.default_rng([seed, repeat]).permutation(len(everyone))
        for fold in range(count):
            yield repeat, fold, frozenset(everyone[i] for i in order[fold::count])


def scores(
    manifest: CropsManifest,
    features: Tensor,
    rows: Sequence[int],
    others: Sequence[int],
    *,
    config: Mapping[str, Any],
    weights: str,
    epsilon: float,
) -> np.ndarray[Any, Any]:
    """Scores of other crops by a head that was trained on some with privacy.

    Args:
        manifest: Table of all crops.
        features: Shape ``(len(manifest.crops), 1, d)``.
        rows: Crops that train.
        others: Crops that are scored; no patient has crops among both.
        config: Of ``dp_finetune.yaml``.
        weights: Checkpoint of ``pretrain.yaml`` or ``pretrain_measurements.yaml``.
        epsilon: Of the fit, per patient.

    Returns:
        Logits, shape ``(len(others),)``.
    """
    chosen = config["model"]["init_args"] | {"weights": weights, "target_epsilon": epsilon}
    model = DPCropClassifier(**chosen, cache_features=False)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "images").symlink_to((manifest.folder / "images").resolve())
        part = [replace(manifest.crops[row], split="train") for row in rows]
        CropsManifest.write(folder, part)
        data = DPCropsDataModule(folder, **config["data"]["init_args"])
        model.print = lambda *_, **__: None  # type: ignore[method-assign]  # the rate, each time
        trainer = lightning.Trainer(
            **config["trainer"],
            default_root_dir=folder,
            callbacks=[GivenFeatures(features[list(rows)])],
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, data)
    with torch.no_grad():
        found: np.ndarray[Any, Any] = head(model.net)(features[list(others), 0])[:, 0].numpy()
    return found


def table(fits: Sequence[Fit]) -> str:
    """Markdown: a row for each epsilon."""
    lines = [
        "| epsilon | folds of train | deviation of repeats | val [95 %] | deviation of fits |",
        "| --- | --- | --- | --- | --- |",
    ]
    for epsilon in epsilons_of(fits):
        by_fold = areas_of(fits, epsilon)
        names = sorted({repeat for repeat, _ in by_fold})
        repeats = [
            np.mean([area for (repeat, _), area in by_fold.items() if repeat == name])
            for name in names
        ]
        val = np.array(
            [
                [float(fit[end]) for end in ("auroc", "low", "high")]
                for fit in fits
                if fit["evaluated_on"] == "val" and float(fit["epsilon"]) == epsilon
            ]
        )
        value, low, high = val.mean(0)
        spread = f"{np.std(repeats, ddof=1):.3f}" if len(repeats) > 1 else ""
        lines.append(
            f"| {epsilon:g} | {np.mean(repeats):.3f} | {spread} "
            f"| {value:.3f} [{low:.3f}, {high:.3f}] | {val[:, 0].std(ddof=1):.3f} |"
        )
    return "\n".join(lines)


def differences(fits: Sequence[Fit], others: Sequence[Fit]) -> str:
    """Markdown: mean difference over the folds that both have, with its standard error."""
    lines = ["| epsilon | difference | standard error | folds |", "| --- | --- | --- | --- |"]
    for epsilon in sorted({*epsilons_of(fits)} & {*epsilons_of(others)}):
        one, two = areas_of(fits, epsilon), areas_of(others, epsilon)
        found = np.array([one[fold] - two[fold] for fold in sorted(one.keys() & two.keys())])
        error = found.std(ddof=1) / np.sqrt(len(found))
        lines.append(f"| {epsilon:g} | {found.mean():+.3f} | {error:.3f} | {len(found)} |")
    return "\n".join(lines)


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


def read(path: Path) -> list[Fit]:
    """Fits that were noted in a file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main(
    *,
    crops: str,
    weights: str,
    out: str,
    epsilons: tuple[float, ...] = (1.0, 6.0, 60.0),
    count: int = 5,
    repeats: int = 5,
    draws: int = 2,
    val_fits: int = 5,
    seed: int = 0,
    compare: str | None = None,
) -> None:
    """Fits, scores, and prints the table.

    Args:
        crops: Folder of prepared crops with the splits train and val.
        weights: Checkpoint of ``pretrain.yaml`` or ``pretrain_measurements.yaml``.
        out: Folder for features and ``fits.csv``; private.
        epsilons: Of each fit, per patient, at the delta of the configuration.
        count: Folds of a repeat.
        repeats: Partitions of the patients.
        draws: Fits for each fold and epsilon, which differ in their noise.
        val_fits: Fits on all of train for each epsilon, >= 2, scored on val.
        seed: Of the partitions.
        compare: ``out`` of other weights with the same seed; differences over the folds follow.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    manifest = CropsManifest.read(crops)
    train, val = manifest.require_classes("train"), manifest.require_classes("val")
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    net = DPCropClassifier(**config["model"]["init_args"] | {"weights": weights}).net
    every = [*range(len(manifest.crops))]
    size = config["data"]["init_args"]["image_size"]
    features = cached_features(
        net, manifest, every, folder=Path(out) / "features", image_size=size, augment="none"
    )
    path = Path(out) / "fits.csv"
    if not path.exists():
        path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    fits = read(path)
    done = {tuple(fit[name] for name in COLUMNS[:5]) for fit in fits}

    jobs: list[tuple[tuple[str, ...], list[int], list[int]]] = []
    for epsilon in epsilons:
        for draw in range(val_fits):
            jobs.append(((f"{epsilon:g}", "val", "0", "0", str(draw)), train, val))
    partition = folds(
        [manifest.crops[row].patient for row in train], count=count, repeats=repeats, seed=seed
    )
    for repeat, fold, held in partition:
        rows = [row for row in train if manifest.crops[row].patient not in held]
        others = [row for row in train if manifest.crops[row].patient in held]
        for epsilon in epsilons:
            for draw in range(draws):
                numbers = (str(repeat), str(fold), str(draw))
                jobs.append(((f"{epsilon:g}", "fold", *numbers), rows, others))
    for name, rows, others in jobs:
        if name in done:
            continue
        how = {"config": config, "weights": weights, "epsilon": float(name[0])}
        found = scores(manifest, features, rows, others, **how)
        crops_of = [manifest.crops[row] for row in others]
        patients = [crop.patient for crop in crops_of]
        area = auroc_interval([crop.malignant for crop in crops_of], found, patients)
        values = (*name, str(len(set(patients))), *(f"{end:.4f}" for end in area))
        fits.append(dict(zip(COLUMNS, values, strict=True)))
        with path.open("a", encoding="utf-8") as file:
            file.write(",".join(values) + "\n")
        print(f"{len(fits)} of {len(jobs)}: {', '.join(values)}", flush=True)
    print(table(fits))
    if compare is not None:
        print(differences(fits, read(Path(compare) / "fits.csv")))


if __name__ == "__main__":
    auto_cli(main)
