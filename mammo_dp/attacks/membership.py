# SPDX-License-Identifier: Apache-2.0
"""Membership inference on a released classifier by a loss threshold, and `attack membership`.

Threat model (rung 5 of the ladder): the adversary holds labelled crops of one person, queries the
released model with them and reads its probabilities. It sees neither updates nor other patients,
trains nothing and knows no more than that members were fitted and others were not.

Source: Yeom et al. 2018, arXiv 1709.01604, with the logit-scaled confidence of Carlini et al. 2022,
arXiv 2112.03570, averaged over the crops of a patient, since the patient is what is protected.
"""

import inspect
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from classifier.module import CropClassifier
from data_prep.datamodule import CropsDataset, collate_crops
from data_prep.manifest import CropsManifest, Split
from mammo_dp.attacks.scoring import (
    Attack,
    bounds_of,
    require_patients,
    require_two_groups,
    score,
    statement_about,
    write_result,
)
from mammo_dp.attacks.signals import AttackError, Signals, read_signals, write_signals
from mammo_dp.runs import close_run, open_run

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
SCORES = "scores.csv"
ATTACK = "attack.json"
_CHECKPOINT = Path("checkpoints") / "last.ckpt"


def membership(
    *,
    run: str,
    crops: str,
    out: str | None = None,
    member_split: Split = "train",
    nonmember_split: Split = "val",
    resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Attacks the classifier of a run and compares the success with the bounds of its statement.

    Writes ``scores.csv`` (signals, private data) and ``attack.json`` (aggregates). An interrupted
    attack scores the saved signals again and does not query the model twice.

    Args:
        run: Folder of a classifier run; its ``checkpoints/last.ckpt`` is attacked.
        crops: Folder of the crops that the run was trained on.
        out: Folder of the result; ``attack_membership`` in the run's folder if not given.
        member_split: Split that the run was trained on.
        nonmember_split: Split that no stage of the run was trained on.
        resamples: Bootstrap resamples of patients, at least 100.
        seed: Seed of the bootstrap and of the random baseline.
    """
    require_two_groups(member_split, nonmember_split, resamples)
    folder = Path(run)
    target = Path(out) if out else folder / "attack_membership"
    record = open_run(
        target,
        command="attack membership",
        config={
            "run": run,
            "crops": crops,
            "member_split": member_split,
            "nonmember_split": nonmember_split,
            "resamples": resamples,
        },
        inputs={
            "checkpoint": folder / _CHECKPOINT,
            "data": Path(crops),
            "privacy": folder / "privacy.json",
        },
        seed=seed,
    )
    if record.is_finished:
        return
    manifest = CropsManifest.read(crops)
    statement = statement_about(folder / "privacy.json", manifest, member_split, nonmember_split)
    if (target / SCORES).exists():
        signals = read_signals(target / SCORES)
    else:
        model = load_classifier(folder / _CHECKPOINT)
        signals = query(model, manifest, member_split, nonmember_split)
        write_signals(target / SCORES, signals)
    result = score(
        signals,
        LOSS_THRESHOLD,
        unit=statement["unit"],
        bounds=bounds_of(statement),
        resamples=resamples,
        seed=seed,
    )
    result |= {"member_split": member_split, "nonmember_split": nonmember_split}
    write_result(target / ATTACK, result, manifest)
    close_run(record)


def load_classifier(checkpoint: Path) -> CropClassifier:
    """The released classifier, whichever way it was trained, in evaluation mode.

    Raises:
        AttackError: If the checkpoint holds another kind of model.
    """
    stored = torch.load(checkpoint, map_location="cpu", weights_only=True)
    known = inspect.signature(CropClassifier.__init__).parameters
    hyper = {k: v for k, v in stored.get("hyper_parameters", {}).items() if k in known}
    model = CropClassifier(**(hyper | {"pretrained": False, "weights": None}))
    weights = {k: v for k, v in stored["state_dict"].items() if k.startswith("net.")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if missing or unexpected:
        raise AttackError(
            f"{checkpoint}: is no crop classifier: missing {missing[:3]}, unexpected "
            f"{unexpected[:3]}. Give the run of a CropClassifier or DPCropClassifier."
        )
    return model.eval()


def query(
    model: CropClassifier, manifest: CropsManifest, member_split: Split, nonmember_split: Split
) -> Signals:
    """Asks the model about each crop of two splits, without augmentation.

    Raises:
        AttackError: If a split is empty or holds crops without a patient, or a logit is not
            finite.
    """
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in Signals.__slots__}
    for split in (member_split, nonmember_split):
        rows = manifest.rows(split)
        require_patients(manifest, rows, split)
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
                malignant = batch.malignant.numpy()
                columns["row"].append(batch.row.numpy())
                columns["patient"].append(batch.unit.numpy())
                columns["member"].append(np.full(len(logit), split == member_split))
                columns["malignant"].append(malignant)
                # log(p_y / (1 - p_y)) of a sigmoid is the logit with the label's sign
                columns["signal"].append(np.where(malignant == 1, logit, -logit))
    return Signals(**{name: np.concatenate(parts) for name, parts in columns.items()})
