# SPDX-License-Identifier: Apache-2.0
"""AUROC of private heads on one body over folds of the training patients, and on val.

    $ python benchmarks/crossvalidate.py --crops data/real \
        --weights runs/pretrain/checkpoints/last.ckpt --out runs/folds

The fits are those of ``benchmarks/folds.py``. Features of the crops are computed once;
``fits.csv`` keeps each fit as soon as it is made, so the same command resumes where it was stopped.

The table is a look at all patients, for research: no epsilon covers it.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from folds import (
    ALL,
    Fit,
    Folds,
    Scores,
    areas_of,
    crossvalidated,
    difference,
    epsilons_of,
    on_val,
    private_head,
    quiet,
    read,
    scores_of,
    settings,
)
from jsonargparse import auto_cli

from classifier.backbones import head
from classifier.features import cached_features
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.training.classifier import DPCropClassifier
from mammo_dp.runs import run_folder


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
        spread = f"{np.std(repeats, ddof=1):.3f}" if len(repeats) > 1 else ""
        val = on_val(fits, epsilon)
        value, low, high = val.mean(0)
        lines.append(
            f"| {epsilon:g} | {np.mean(repeats):.3f} | {spread} "
            f"| {value:.3f} [{low:.3f}, {high:.3f}] | {val[:, 0].std(ddof=1):.3f} |"
        )
    return "\n".join(lines)


def differences(fits: Sequence[Fit], others: Sequence[Fit]) -> str:
    """Markdown: mean difference over the folds that both have, with its standard error."""
    lines = ["| epsilon | difference | standard error | folds |", "| --- | --- | --- | --- |"]
    for epsilon in sorted({*epsilons_of(fits)} & {*epsilons_of(others)}):
        mean, error, folds = difference(fits, others, epsilon)
        lines.append(f"| {epsilon:g} | {mean:+.3f} | {error:.3f} | {folds} |")
    return "\n".join(lines)


def main(
    *, crops: str, weights: str, out: str, folds: Folds = ALL, compare: str | None = None
) -> None:
    """Fits, scores, and prints the table.

    Args:
        crops: Folder of prepared crops with the splits train and val.
        weights: Checkpoint of ``pretrain.yaml`` or ``pretrain_measurements.yaml``.
        out: Folder for features and ``fits.csv``; private.
        folds: Which fits are made.
        compare: ``out`` of other weights with the same seed; differences over the folds follow.
    """
    quiet()
    inputs = {"data": Path(crops), "weights": Path(weights)}
    with run_folder(out, command="crossvalidate", config=asdict(folds), inputs=inputs):
        manifest = CropsManifest.read(crops)
        net = DPCropClassifier(**settings()["model"]["init_args"] | {"weights": weights}).net
        features = cached_features(
            net,
            manifest,
            range(len(manifest.crops)),
            folder=Path(out) / "features",
            image_size=settings()["data"]["init_args"]["image_size"],
            augment="none",
        )[:, 0]

        def train(epsilon: float, rows: Sequence[int]) -> Scores:
            start = head(net)
            layer = private_head(manifest, features, rows, start=start, epsilon=epsilon)
            return scores_of(layer, features)

        fits = crossvalidated(Path(out) / "fits.csv", manifest, train, folds)
    print(table(fits))
    if compare is not None:
        print(differences(fits, read(Path(compare) / "fits.csv")))


if __name__ == "__main__":
    auto_cli(main)
