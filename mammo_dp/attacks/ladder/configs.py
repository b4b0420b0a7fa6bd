# SPDX-License-Identifier: Apache-2.0
"""Configurations of the fits of a ladder, derived from one private classifier."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mammo_dp.attacks.signals import AttackError

Config = dict[str, Any]
_PRIVATE_MODEL, _PRIVATE_DATA = "DPCropClassifier", "DPCropsDataModule"
_TARGETS = ("epsilon", "advantage", "tpr", "fpr", "reconstruction")
# What a classifier without privacy has in common with the private one.
_MODEL = (
    "backbone",
    "backbone_args",
    "image_size",
    "trainable",
    "pretrained",
    "weights",
    "learning_rate",
    "weight_decay",
    "warmup_steps",
)
_DATA = ("crops", "image_size", "augment", "train_split", "evaluate_split", "num_workers")
_EPOCHS, _BATCH = 10, 32  # of the run without privacy: as long as baseline.yaml's, about


def read_config(path: str | Path) -> Config:
    """Reads the configuration of a private classifier.

    Raises:
        AttackError: If it is another one, or several things would be attacked that a head has not.
    """
    content = yaml.safe_load(Path(path).read_text())
    try:
        model, data = content["model"], content["data"]
        kinds = [str(part["class_path"]).rpartition(".")[2] for part in (model, data)]
        trainable = model["init_args"].get("trainable", "all")
        unit = data["init_args"].get("unit", "patient")
    except (KeyError, TypeError, AttributeError) as error:
        raise AttackError(
            f"{path}: is no configuration of a classifier ({error!r}). Give one like "
            "configs/classifier/dp_finetune.yaml."
        ) from error
    if kinds != [_PRIVATE_MODEL, _PRIVATE_DATA] or (trainable, unit) != ("head", "patient"):
        raise AttackError(
            f"{path}: trains {kinds[0]} on {kinds[1]}, trainable {trainable}, unit {unit}. A "
            f"ladder attacks heads on cached features of patients: {_PRIVATE_MODEL} on "
            f"{_PRIVATE_DATA}, trainable: head, unit: patient."
        )
    return dict(content)


def private(config: Config, epsilon: float, *, crops: str, weights: str | None) -> Config:
    """The same fit at another budget.

    Args:
        config: Of the private classifier.
        epsilon: Target per patient.
        crops: Folder of crops.
        weights: Weights to start from; none leaves those of the configuration.
    """
    changed = _at(config, crops, weights)
    arguments = changed["model"]["init_args"]
    for target in (*(f"target_{name}" for name in _TARGETS), "kappa"):
        arguments.pop(target, None)
    arguments["target_epsilon"] = float(epsilon)
    return changed


def without_privacy(config: Config, *, crops: str, weights: str | None) -> Config:
    """The same body and head, trained as usual: batches of crops, no clip per patient, no noise."""
    changed = _at(config, crops, weights)
    for part, kind, kept in (
        ("model", "mammo_dp.CropClassifier", _MODEL),
        ("data", "mammo_dp.CropsDataModule", _DATA),
    ):
        own: Mapping[str, Any] = changed[part]["init_args"]
        arguments = {name: own[name] for name in kept if name in own}
        changed[part] = {"class_path": kind, "init_args": arguments}
    changed["data"]["init_args"]["batch_size"] = _BATCH
    changed["trainer"] = {
        name: value for name, value in changed["trainer"].items() if name != "max_steps"
    } | {"max_epochs": _EPOCHS}
    return changed


def with_callbacks(config: Config, callbacks: Mapping[str, Mapping[str, str]]) -> Config:
    """The same fit, watched by callbacks, by import path and arguments."""
    changed = copy.deepcopy(config)
    changed["trainer"]["callbacks"] = [
        *changed["trainer"].get("callbacks", []),
        *({"class_path": path, "init_args": dict(args)} for path, args in callbacks.items()),
    ]
    return changed


def _at(config: Config, crops: str, weights: str | None) -> Config:
    changed = copy.deepcopy(config)
    changed["data"]["init_args"]["crops"] = crops
    if weights is not None:
        changed["model"]["init_args"]["weights"] = weights
    return changed
