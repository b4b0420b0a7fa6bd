# SPDX-License-Identifier: Apache-2.0
"""Configurations of the fits of a ladder, derived from one private classifier."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mammo_dp.attacks.signals import AttackError

Config = dict[str, Any]
_PRIVATE = ("DPCropClassifier", "DPCropsDataModule")
_OPEN = ("CropClassifier", "CropsDataModule")
_DELTA = 1e-4  # of a fit that leaves it open; written out, so that fit and ladder cannot differ
_TARGETS = ("epsilon", "advantage", "tpr", "fpr", "reconstruction")


def read_private(path: str | Path) -> Config:
    """Reads the configuration of a private head on cached features of patients.

    Raises:
        AttackError: If it is another one: what a ladder attacks would not be there.
    """
    content, kinds = _read(path)
    trainable = content["model"]["init_args"].get("trainable", "all")
    unit = content["data"]["init_args"].get("unit", "patient")
    if kinds != _PRIVATE or (trainable, unit) != ("head", "patient"):
        raise AttackError(
            f"{path}: trains {kinds[0]} on {kinds[1]}, trainable {trainable}, unit {unit}. A "
            f"ladder attacks heads on cached features of patients: {' on '.join(_PRIVATE)}, "
            "trainable: head, unit: patient."
        )
    content["model"]["init_args"].setdefault("delta", _DELTA)
    return content


def read_open(path: str | Path) -> Config:
    """Reads the configuration of a classifier without privacy.

    Raises:
        AttackError: If it is another one.
    """
    content, kinds = _read(path)
    if kinds != _OPEN:
        raise AttackError(
            f"{path}: trains {kinds[0]} on {kinds[1]}. The budget none is for {' on '.join(_OPEN)},"
            " such as configs/classifier/baseline.yaml."
        )
    return content


def private(config: Config, epsilon: float, *, crops: str, weights: str | None) -> Config:
    """The same fit at another budget.

    Args:
        config: Of the private classifier.
        epsilon: Target per patient.
        crops: Folder of crops.
        weights: Weights to start from; none leaves those of the configuration.
    """
    changed = at(config, crops=crops, weights=weights)
    arguments = changed["model"]["init_args"]
    for target in (*(f"target_{name}" for name in _TARGETS), "kappa"):
        arguments.pop(target, None)
    arguments["target_epsilon"] = float(epsilon)
    return changed


def with_callbacks(config: Config, callbacks: Mapping[str, Mapping[str, str]]) -> Config:
    """The same fit, watched by callbacks, by import path and arguments."""
    changed = copy.deepcopy(config)
    changed["trainer"]["callbacks"] = [
        *changed["trainer"].get("callbacks", []),
        *({"class_path": path, "init_args": dict(args)} for path, args in callbacks.items()),
    ]
    return changed


def at(config: Config, *, crops: str, weights: str | None) -> Config:
    """The same fit on given crops, from given weights; none leaves those of the configuration."""
    changed = copy.deepcopy(config)
    changed["data"]["init_args"]["crops"] = crops
    if weights is not None:
        changed["model"]["init_args"]["weights"] = weights
    return changed


def _read(path: str | Path) -> tuple[Config, tuple[str, str]]:
    """A configuration, and the names of its model and data."""
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    try:
        model, data = (str(content[part]["class_path"]) for part in ("model", "data"))
        content["model"]["init_args"], content["data"]["init_args"], content["trainer"]
    except (KeyError, TypeError) as error:
        raise AttackError(
            f"{path}: is no configuration of a classifier ({error!r}). Give one like those in "
            "configs/classifier/."
        ) from error
    return content, (model.rpartition(".")[2], data.rpartition(".")[2])
