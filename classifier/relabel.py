# SPDX-License-Identifier: Apache-2.0
"""``relabel``: the class of each synthetic crop is what a trained classifier says, or it goes.

A generator that learned from few patients draws convincing masses long before it knows which of
them are malignant. A classifier of the same patients knows more; labelled by it, the crops pass its
knowledge on to whoever trains on them. Classes are halves of the ranking, so a classifier that is
too sure or too careful labels as well as a calibrated one. Of a generator that does know the
classes, the crops on which both agree are the better part, see docs/generators.md.

Source: knowledge distillation, Hinton et al. 2015, arXiv 1503.02531, with generated crops as the
transfer set.
"""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from classifier.backbones import slices_of
from classifier.module import CropClassifier
from classifier.released import load_classifier
from data_prep.crop_set import print_counts
from data_prep.datamodule import CropsDataset, collate_crops
from data_prep.errors import LabelError
from data_prep.manifest import FILE_NAME, CropsManifest
from data_prep.progress import watched

_BATCH = 64
Disagreement = Literal["relabel", "drop"]


def relabel(
    *,
    crops: str,
    checkpoint: str,
    out: str,
    malignant_share: float = 0.5,
    disagreement: Disagreement = "relabel",
) -> None:
    """Copies synthetic crops; those that a classifier finds most suspicious become malignant.

    Whose data trained the classifier stands in the statement of the new crops, beside whose data
    trained the generator.

    Args:
        crops: Folder of synthetic crops.
        checkpoint: Checkpoint of a classifier, in its run folder.
        out: Folder of the relabelled crops.
        malignant_share: Share of crops that the classifier calls malignant, in ``(0, 1)``.
        disagreement: What becomes of crops whose class is another one: ``relabel`` gives them the
            classifier's, ``drop`` leaves them out.

    Raises:
        LabelError: If crops belong to patients, whose labels are known, or a share or a logit makes
            no labels, or no crop of one class is left.
    """
    manifest = CropsManifest.read(crops)
    if not 0 < malignant_share < 1:
        raise LabelError(f"{malignant_share=}. Give a share between 0 and 1.")
    if own := sum(not crop.is_synthetic for crop in manifest.crops):
        raise LabelError(
            f"{manifest.folder / FILE_NAME}: {own} crops belong to patients, whose labels are "
            "known. Give a folder of synthetic crops."
        )
    malignant = most_suspicious(logits(load_classifier(checkpoint), manifest), malignant_share)
    given = np.array([crop.malignant for crop in manifest.crops])
    stays = np.ones_like(given) if disagreement == "relabel" else given == malignant
    if not 0 < malignant[stays].sum() < stays.sum():
        raise LabelError(
            f"{manifest.folder / FILE_NAME}: generator and classifier agree on "
            f"{malignant[stays].sum()} malignant crops of {stays.sum()}. Give more crops, or "
            "--disagreement relabel."
        )
    folder = Path(out)
    kept = [
        replace(crop, malignant=bool(label), label_source="classifier")
        for crop, label, one in zip(manifest.crops, malignant, stays, strict=True)
        if one
    ]
    for crop in watched(kept, "copying"):
        (folder / crop.file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(manifest.folder / crop.file, folder / crop.file)
    relabelled = CropsManifest.write(folder, kept)
    done = "changed" if disagreement == "relabel" else "not shared, and their crops left out"
    print(f"{(given != malignant).sum():,} of {len(given):,} labels {done}")
    print_counts(relabelled, Counter(), merged=0)


def most_suspicious(logits: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """Marks the share of crops with the largest logits, at least one and not all.

    Raises:
        LabelError: If there are fewer than two crops or a logit is not finite.

    >>> most_suspicious(np.array([0.1, 2.0, -1.0, 0.5]), 0.5)
    array([False,  True, False,  True])
    """
    if len(logits) < 2 or not np.isfinite(logits).all():
        raise LabelError(
            f"{len(logits)} crops, {np.isfinite(logits).sum()} with a finite logit. Give at least "
            "two crops, and a classifier that has not diverged."
        )
    count = min(max(round(share * len(logits)), 1), len(logits) - 1)
    marked = np.zeros(len(logits), dtype=bool)
    marked[np.argsort(-logits, kind="stable")[:count]] = True
    return marked


@torch.inference_mode()
def logits(model: CropClassifier, manifest: CropsManifest) -> NDArray[np.float64]:
    """What a classifier says of each crop, shape ``(len(manifest.crops),)``, in their order."""
    rows = range(len(manifest.crops))
    scored = []
    for start in watched(rows[::_BATCH], "labelling"):  # never all crops in memory
        part = CropsDataset(
            manifest,
            rows[start : start + _BATCH],
            image_size=model.hparams["image_size"],
            depth=slices_of(model.net),
        )
        batch = collate_crops([part[index] for index in range(len(part))])
        scored.append(model(batch.image).double().numpy())
    return np.concatenate(scored)
