# SPDX-License-Identifier: Apache-2.0
"""Which metrics steer a fit: a split that a callback or a schedule monitors is a use of its data.

Early stopping, the choice of a best checkpoint, a learning rate that falls on a plateau and tuners
of settings all choose by numbers. Numbers of training crops belong to the training, which is
accounted for anyway. All others are taken to be numbers of the evaluation split, unless the module
declares them in ``training_metrics``. Code from outside of the toolkit may read any of them
without naming one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, get_args

from data_prep.manifest import CropsManifest, Split
from mammo_dp.privacy.training.outside import OURS, outside_classes

if TYPE_CHECKING:  # lightning and torch take seconds to import
    from lightning.pytorch import Trainer


_POSITION = frozenset({"epoch", "step"})  # may be monitored, and hold no data
_TRIALS = "the loops that it runs on trial"
# Run training and validation to choose. Names, since verify reads configurations without lightning.
_TUNERS = ("LearningRateFinder", "BatchSizeFinder")
_SUFFIXES = ("_step", "_epoch")  # of one metric, logged twice by Lightning
_UNSEEN = "code from elsewhere, taken to read all"  # in place of names, which it may hide


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """Something that steers a fit by metrics.

    Attributes:
        name: Class of the callback or schedule.
        metrics: Names of the metrics.
    """

    name: str
    metrics: tuple[str, ...]

    def __str__(self) -> str:
        """For people, such as ``"EarlyStopping (val_loss)"``."""
        return f"{self.name} ({', '.join(self.metrics)})"


def monitors_of(trainer: "Trainer") -> list[Monitor]:
    """What steers a fit that is set up: callbacks, then schedules.

    A callback counts where an attribute called after monitoring holds a name, as in Lightning's
    own and those of others do; a schedule counts where it is one for plateaus, or names a metric.

    Args:
        trainer: With its callbacks; with its schedules, once the fit has started.
    """
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    found = [
        Monitor(name=type(callback).__name__, metrics=metrics)
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if (metrics := _watched(callback))
    ]
    for schedule in getattr(trainer, "lr_scheduler_configs", ()):
        # In manual optimization Lightning drops the name, and the module hands over the number.
        if schedule.monitor is not None or isinstance(schedule.scheduler, ReduceLROnPlateau):
            metrics = (schedule.monitor or "a metric of its module",)
            found.append(Monitor(name=type(schedule.scheduler).__name__, metrics=metrics))
    return found


def configured_monitors(config: Mapping[str, Any]) -> list[Monitor]:
    """What steers a fit as far as its configuration shows.

    Schedules, and metrics that a callback names in its code, stand in no configuration. Where a fit
    validates, code from outside of the toolkit is taken to steer it, see :func:`unseen_monitors`.

    Args:
        config: Of the fit, plain values.
    """
    callbacks = (config.get("trainer") or {}).get("callbacks") or []
    if isinstance(callbacks, Mapping):
        callbacks = [callbacks]
    found = []
    for callback in callbacks:
        name = str(callback.get("class_path", "")).rpartition(".")[2]
        metrics = _names(callback.get("init_args") or {})
        if name in _TUNERS:
            metrics = (*metrics, _TRIALS)
        if metrics:
            found.append(Monitor(name=name, metrics=metrics))
    named = {monitor.name for monitor in found}
    return [*found, *(one for one in unseen_monitors(config) if one.name not in named)]


def unseen_monitors(config: Mapping[str, Any]) -> list[Monitor]:
    """Code from outside of the toolkit in a fit that validates: it can read every metric.

    Args:
        config: Of the fit, plain values.
    """
    if (config.get("trainer") or {}).get("limit_val_batches") == 0:
        return []
    return [
        Monitor(name=path.rpartition(".")[2], metrics=(_UNSEEN,))
        for path in outside_classes(config)
    ]


def of_other_splits(monitors: Iterable[Monitor], training_metrics: Iterable[str]) -> list[Monitor]:
    """Those that look at more than the training split.

    Args:
        monitors: Of one fit.
        training_metrics: Metrics that the module computes from training crops alone.
    """
    training = {*training_metrics, *_POSITION}
    training |= {f"{name}{suffix}" for name in training_metrics for suffix in _SUFFIXES}
    return [monitor for monitor in monitors if not training.issuperset(monitor.metrics)]


def monitored_splits(
    manifest: CropsManifest, *, train_split: Split, evaluate_split: Split | None
) -> list[Split]:
    """Splits that metrics of a fit are computed from, beside the training split.

    Args:
        manifest: Table of crops that the fit read.
        train_split: Split that trains.
        evaluate_split: Split of the other loaders; where that is unknown, any of them.
    """
    others = get_args(Split) if evaluate_split is None else (evaluate_split,)
    return [split for split in others if split != train_split and manifest.rows(split)]


def configured_splits(config: Mapping[str, Any], manifest: CropsManifest) -> set[Split]:
    """Splits by which a fit, or a selection that it took part in, chose, as far as configured.

    Args:
        config: Of the fit, plain values.
        manifest: Table of crops that the fit read.
    """
    found: set[Split] = set()
    model, data = (config.get(part) or {} for part in ("model", "data"))
    chosen_by = configured_monitors(config)  # of most fits none, and no model has to be imported
    declared = training_metrics_of(str(model.get("class_path", ""))) if chosen_by else frozenset()
    if of_other_splits(chosen_by, declared):
        read = data.get("init_args") or {}
        found |= {
            *monitored_splits(
                manifest,
                train_split=read.get("train_split", "train"),
                evaluate_split=read.get("evaluate_split"),
            )
        }
    if scored_on := (config.get("selection") or {}).get("score_split"):
        found.add(scored_on)
    return found


def training_metrics_of(class_path: str) -> frozenset[str]:
    """What a module of ours declares; nothing is known of others, whose code is not run here.

    Args:
        class_path: Of the module, as configured.
    """
    package, _, name = class_path.rpartition(".")
    if package.partition(".")[0] not in OURS:
        return frozenset()
    declared: frozenset[str] = getattr(
        getattr(import_module(package), name, None), "training_metrics", frozenset()
    )
    return declared


def _watched(callback: object) -> tuple[str, ...]:
    """Metrics by which a callback chooses."""
    from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

    trials = (_TRIALS,) if isinstance(callback, BatchSizeFinder | LearningRateFinder) else ()
    held = {"monitor": getattr(callback, "monitor", None), **getattr(callback, "__dict__", {})}
    return (*_names(held), *trials)


def _names(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of metrics among attributes or arguments that are called after monitoring."""
    found: dict[str, None] = {}
    for name, value in values.items():
        if "monitor" in name.lower():
            listed = value if isinstance(value, list | tuple | set) else [value]
            found |= dict.fromkeys(text for text in listed if isinstance(text, str))
    return tuple(found)
