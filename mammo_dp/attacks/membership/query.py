# SPDX-License-Identifier: Apache-2.0
"""What a released classifier says about crops: the signal of the black-box attacks."""

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from classifier.released import ReleasedClassifier
from data_prep.datamodule import CropsDataset, collate_crops
from data_prep.manifest import CropsManifest, Split
from mammo_dp.attacks.scoring import Attack
from mammo_dp.attacks.signals import AttackError, Signals

LOSS_THRESHOLD = Attack(
    name="loss-threshold",
    threat_model=(
        "Black-box membership: the adversary holds labelled crops of one person, queries the "
        "released classifier and reads its probabilities; it sees no update and no other patient "
        "and trains no model of its own."
    ),
    score=(
        "Mean over the crops of a unit of log(p_y / (1 - p_y)), the logit-scaled confidence of the "
        "true label; high means member."
    ),
)


def query(
    released: ReleasedClassifier,
    manifest: CropsManifest,
    member_split: Split,
    nonmember_split: Split,
) -> Signals:
    """Asks the model about each crop of two splits, without augmentation.

    Raises:
        AttackError: If a logit is not finite.
    """
    model, calibration = released.model, released.calibration
    columns: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("row", "patient", "member", "malignant", "signal")
    }
    for split in (member_split, nonmember_split):
        rows = manifest.rows(split)
        dataset = CropsDataset(manifest, rows, image_size=model.hparams["image_size"])
        collate = partial(collate_crops, image_size=dataset.image_size)
        with torch.inference_mode():
            for batch in DataLoader(dataset, 64, collate_fn=collate):
                logit = model(batch.image).double().numpy()
                if not np.isfinite(logit).all():
                    raise AttackError(
                        f"{type(model).__name__}: logits of split {split!r} are not finite. The "
                        "model has diverged; train it again."
                    )
                if calibration is not None:
                    logit = calibration(logit)
                malignant = batch.malignant.numpy()
                columns["row"].append(batch.row.numpy())
                columns["patient"].append(batch.unit.numpy())
                columns["member"].append(np.full(len(logit), split == member_split))
                columns["malignant"].append(malignant)
                # log(p_y / (1 - p_y)) of a sigmoid is the logit with the label's sign
                columns["signal"].append(np.where(malignant == 1, logit, -logit))
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Signals(columns={LOSS_THRESHOLD.name: joined.pop("signal")}, **joined)
