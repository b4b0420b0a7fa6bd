# SPDX-License-Identifier: Apache-2.0
"""Membership inference on a released classifier by a loss threshold, and `attack membership`.

Threat model (rung 5 of the ladder): the adversary holds labelled crops of one person, queries the
released model with them and reads its probabilities. It sees neither updates nor other patients,
trains nothing and knows no more than that members were fitted and others were not.

Source: Yeom et al. 2018, arXiv 1709.01604, with the logit-scaled confidence of Carlini et al. 2022,
arXiv 2112.03570, averaged over the crops of a patient, since the patient is what is protected.
"""

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from classifier.evaluate import Estimate
from classifier.module import CropClassifier
from data_prep.datamodule import CropsDataset, collate_crops
from data_prep.manifest import FILE_NAME, CropsManifest, Split, Unit
from mammo_dp.attacks.audit import LEVEL, Audit, Bounds, audit, exceeds
from mammo_dp.attacks.signals import AttackError, Signals, read_signals, write_signals
from mammo_dp.runs import close_run, open_run, write_text_atomically

THREAT_MODEL = (
    "Black-box membership: the adversary holds labelled crops of one person, queries the released "
    "classifier and reads its probabilities; it sees no update and no other patient and trains no "
    "model of its own."
)
SCORE = (
    "Mean over the crops of a unit of log(p_y / (1 - p_y)), the logit-scaled confidence of the "
    "true label; high means member."
)
FPRS = (0.01, 0.001)
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
    if resamples < 100:
        raise AttackError(f"{resamples=}. Give at least 100, or the interval means nothing.")
    if member_split == nonmember_split:
        raise AttackError(
            f"member_split and nonmember_split are both {member_split!r}. Members and non-members "
            "must be different patients; choose two splits."
        )
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
    statement = _statement(folder / "privacy.json", manifest, member_split, nonmember_split)
    if (target / SCORES).exists():
        signals = read_signals(target / SCORES)
    else:
        model = load_classifier(folder / _CHECKPOINT)
        signals = query(model, manifest, member_split, nonmember_split)
        write_signals(target / SCORES, signals)
    result = score(
        signals, unit=statement["unit"], bounds=_bounds(statement), resamples=resamples, seed=seed
    )
    result |= {
        "cohort": manifest.sha256,
        "member_split": member_split,
        "nonmember_split": nonmember_split,
    }
    write_text_atomically(target / ATTACK, json.dumps(result, indent=2, allow_nan=False) + "\n")
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
        _require_patients(manifest, rows, split)
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


def score(
    signals: Signals, *, unit: Unit, bounds: Bounds, resamples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Signals into the content of ``attack.json``; runs no model.

    The blind baselines pass through the same code: a random score, and the share of malignant
    crops, which does not ask the model. Where the second succeeds, members and non-members differ
    in the labels, and the attack's area is no evidence that the model leaks.

    Args:
        signals: Result of :func:`query` or :func:`read_signals`.
        unit: Unit of the statement.
        bounds: What the statement allows.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap and of the random baseline.
    """
    members, nonmembers = signals.scores(signals.signal, unit)
    found = audit(members, nonmembers, fprs=FPRS, resamples=resamples, seed=seed)
    random = np.random.default_rng(seed).standard_normal(len(signals.row))
    blind = {"random": random, "label-only": signals.malignant}
    return {
        "schema": 1,
        "attack": "loss-threshold",
        "threat_model": THREAT_MODEL,
        "score": SCORE,
        "unit": unit,
        "members": found.members,
        "nonmembers": found.nonmembers,
        "level": LEVEL,
        "resamples": resamples,
        "bound_from": {
            "epsilon": "infinity" if math.isinf(bounds.epsilon) else bounds.epsilon,
            "delta": bounds.delta,
            "unit": unit,
        },
        **_measured(found, bounds),
        "exceeds_bound": exceeds(members, nonmembers, bounds, fprs=FPRS),
        "blind": {
            name: _measured(
                audit(*signals.scores(of, unit), fprs=FPRS, resamples=resamples, seed=seed)
            )
            for name, of in blind.items()
        },
    }


def _measured(found: Audit, bounds: Bounds | None = None) -> dict[str, Any]:
    """Area, advantage and rates with intervals, and beside each the bound if there is one."""

    def cell(estimate: Estimate, bound: float | None) -> dict[str, float]:
        return asdict(estimate) | ({} if bound is None else {"bound": bound})

    return {
        "auc": cell(found.auc, bounds.auc if bounds else None),
        "advantage": cell(found.advantage, bounds.advantage if bounds else None),
        "tpr_at_fpr": {
            f"{fpr:g}": cell(rate.tpr, bounds.tpr(fpr) if bounds else None)
            | {
                "false_positives": rate.false_positives,
                "false_positives_allowed": rate.allowed,
                "at_this_threshold": cell(rate.above, bounds.tpr(rate.fpr_high) if bounds else None)
                | {"fpr_high": rate.fpr_high},
            }
            for fpr, rate in found.tpr_at_fpr.items()
        },
    }


def _statement(
    path: Path, manifest: CropsManifest, member_split: Split, nonmember_split: Split
) -> dict[str, Any]:
    """The statement about the members.

    Raises:
        AttackError: If the run says nothing about them, so that nobody is a known member, or some
            stage was trained on the non-members too.
    """
    of_split = {
        statement["cohort_name"].rpartition("/")[2]: statement
        for statement in json.loads(path.read_text())["statements"]
        if statement["cohort"] == manifest.sha256
    }
    where = f"{manifest.folder / FILE_NAME} ({manifest.sha256[:12]})"
    if member_split not in of_split:
        raise AttackError(
            f"{path}: has no statement about split {member_split!r} of {where}, so nobody in it "
            "is known as a member. Give the crops and the split that the run was trained on."
        )
    if nonmember_split in of_split:
        raise AttackError(
            f"{path}: some stage was trained on split {nonmember_split!r} of {where}, so its "
            "patients are no non-members. Choose a split that no stage saw."
        )
    return dict(of_split[member_split])


def _bounds(statement: Mapping[str, Any]) -> Bounds:
    epsilon, delta = float(statement["epsilon"]), float(statement["delta"] or 0)
    if math.isinf(epsilon):
        return Bounds(epsilon=epsilon, delta=delta, advantage=1, tpr_at_fpr=dict.fromkeys(FPRS, 1))
    risk = statement["risk"]
    return Bounds(
        epsilon=epsilon,
        delta=delta,
        advantage=risk["advantage"],
        tpr_at_fpr={float(fpr): tpr for fpr, tpr in risk["tpr_at_fpr"].items()},
    )


def _require_patients(manifest: CropsManifest, rows: Sequence[int], split: str) -> None:
    if not rows:
        raise AttackError(
            f"{manifest.folder / FILE_NAME}: split {split!r} holds no crop. Choose another split."
        )
    if synthetic := sum(manifest.crops[row].is_synthetic for row in rows):
        raise AttackError(
            f"{manifest.folder / FILE_NAME}: {synthetic} crops of split {split!r} are synthetic "
            "and belong to no patient. Give the crops of a cohort."
        )
