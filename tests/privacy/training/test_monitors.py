"""Choosing by a split is a use of its data: which callbacks and schedules do, and what follows."""

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    EarlyStopping,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    Timer,
)
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.optim.lr_scheduler import ReduceLROnPlateau

from classifier.module import CropClassifier
from data_prep.manifest import CropsManifest
from mammo_dp.main import main, run
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.classifier import DPCropClassifier
from mammo_dp.privacy.training.monitors import (
    Monitor,
    configured_monitors,
    monitored_splits,
    monitors_of,
    of_other_splits,
    training_metrics_of,
)
from tests.privacy.statement.verify.chain import PLAIN, forge
from tests.privacy.training.fits import BODY, data, model, quiet, trainer
from tests.test_training_cli import fit_line

pytestmark = quiet


class Pruner(Callback):
    """As third parties write them: the metric stands in an attribute of their own."""

    def __init__(self, monitor_metric: str = "val_auroc") -> None:
        self.monitor_metric = monitor_metric


class Hidden(Callback):
    """Names its metrics in code; no configuration shows them."""

    def __init__(self) -> None:
        self._monitors = ["train_loss", "val_loss"]


class Best(ModelCheckpoint):
    """A subclass of a callback that is known."""


CHOOSING = [
    EarlyStopping("val_loss"),
    ModelCheckpoint(monitor="val_auroc"),
    Best(monitor="val_auroc"),
    LearningRateFinder(),
    BatchSizeFinder(),
    Pruner(),
    Hidden(),
]


def named(callback: object) -> str:
    return type(callback).__name__


class OnPlateau(CropClassifier):
    """A learning rate that falls where the validation loss no longer does."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        schedule = ReduceLROnPlateau(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"},
        }


class PrivateOnPlateau(DPCropClassifier):
    """The same within a private fit, whose module steps the schedule itself."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        private = self.privatise(torch.optim.SGD(self.net.parameters(), lr=0.01))
        return {"optimizer": private, "lr_scheduler": ReduceLROnPlateau(private)}


@pytest.mark.parametrize("callback", CHOOSING, ids=named)
def test_whatever_chooses_by_metrics_is_refused_in_a_private_fit(
    cohort: CropsManifest, tmp_path: Path, callback: Callback
) -> None:
    run = trainer(tmp_path, callbacks=[callback], enable_checkpointing=True)
    with pytest.raises(PrivacyError, match=rf"{named(callback)} \(.*: stops, selects or tunes by"):
        run.fit(model(), data(cohort))


def test_a_schedule_on_plateaus_is_refused_in_a_private_fit(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    net = PrivateOnPlateau(**BODY, target_epsilon=8.0, delta=1e-3, views=1)
    with pytest.raises(PrivacyError, match=r"ReduceLROnPlateau \(a metric of its module\)"):
        trainer(tmp_path).fit(net, data(cohort))
    assert net.accounted_steps == 0


@pytest.mark.parametrize(
    "callback", [ModelCheckpoint(), LearningRateMonitor(), Timer("00:00:01:00")], ids=named
)
def test_what_looks_at_no_metric_is_let_through(tmp_path: Path, callback: Callback) -> None:
    made = trainer(tmp_path, callbacks=[callback], enable_checkpointing=True)
    assert monitors_of(made) == []


@pytest.mark.parametrize("callback", CHOOSING, ids=named)
def test_configuration_shows_what_an_object_shows(tmp_path: Path, callback: Callback) -> None:
    made = trainer(tmp_path, callbacks=[callback], enable_checkpointing=True)
    (found,) = monitors_of(made)
    arguments = {"monitor": getattr(callback, "monitor", None)}
    if isinstance(callback, Pruner):
        arguments = {"monitor_metric": callback.monitor_metric}
    one = {"class_path": f"some.where.{named(callback)}", "init_args": arguments}
    for callbacks in ([one], one):
        shown = configured_monitors({"trainer": {"callbacks": callbacks}})
        if isinstance(callback, Hidden):  # code from elsewhere may read anything
            found = Monitor(name="Hidden", metrics=("code from elsewhere, taken to read all",))
        assert shown == [found]
        blind = {"callbacks": callbacks, "limit_val_batches": 0}
        assert configured_monitors({"trainer": blind}) == [found] * (named(callback) != "Hidden")
    assert configured_monitors({"trainer": {"callbacks": None}}) == []


@pytest.mark.parametrize(
    ("metric", "module", "other"),
    [
        ("train_loss", "mammo_dp.CropClassifier", False),
        ("train_loss_epoch", "mammo_dp.CropClassifier", False),
        ("step", "mammo_dp.CropClassifier", False),
        ("val_loss", "mammo_dp.CropClassifier", True),
        ("distance", "mammo_dp.MCGAN", False),
        ("copying", "mammo_dp.MCGAN", True),  # logged in training, about other patients
        ("train_loss", "somebody.elses.Module", True),
        ("train_loss", "os.path.nothing", True),
        ("train_loss", "", True),
    ],
)
def test_only_declared_metrics_belong_to_training(metric: str, module: str, other: bool) -> None:
    config = {
        "trainer": {
            "callbacks": [{"class_path": "x.EarlyStopping", "init_args": {"monitor": metric}}]
        }
    }
    found = of_other_splits(configured_monitors(config), training_metrics_of(module))
    assert bool(found) == other


def test_an_unknown_evaluation_split_may_be_any(cohort: CropsManifest) -> None:
    for evaluate, expected in (("val", ["val"]), ("train", []), ("test", []), (None, ["val"])):
        found = monitored_splits(cohort, train_split="train", evaluate_split=cast(Any, evaluate))
        assert found == expected


def config(*callbacks: dict[str, Any], module: str = "mammo_dp.CropClassifier") -> dict[str, Any]:
    chosen = PLAIN["trainer"] | {"limit_val_batches": 1.0, "callbacks": list(callbacks)}
    return PLAIN | {
        "model": {"class_path": module, "init_args": BODY},
        "trainer": chosen,
    }


def early(metric: str) -> dict[str, Any]:
    return {
        "class_path": "lightning.pytorch.callbacks.EarlyStopping",
        "init_args": {"monitor": metric},
    }


BEST = {
    "class_path": "tests.privacy.training.test_monitors.Best",
    "init_args": {"monitor": "val_auroc", "mode": "max"},
}


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (config(early("val_loss")), "EarlyStopping (val_loss) looked"),
        (config(BEST), "Best (val_auroc) looked"),
        (
            config({"class_path": "tests.privacy.training.test_monitors.Hidden"}),
            "Hidden (train_loss, val",
        ),
        (
            config(module="tests.privacy.training.test_monitors.OnPlateau"),
            "ReduceLROnPlateau (val_loss)",
        ),
    ],
    ids=["early stopping", "best checkpoint", "named in code", "plateau"],
)
def test_a_monitored_split_is_an_access(
    tmp_path: Path,
    cohort: CropsManifest,
    content: dict[str, Any],
    note: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(fit_line(tmp_path, cohort, content, "plain"))
    stored = json.loads((tmp_path / "plain" / "privacy.json").read_text())
    training, selection = stored["accesses"]
    assert (training["use"], training["cohort"]["split"]) == ("training", "train")
    assert (selection["use"], selection["cohort"]["split"]) == ("selection", "val")
    assert note in selection["note"]
    assert [statement["epsilon"] for statement in stored["statements"]] == ["infinity"] * 2
    assert "was chosen by metrics on these patients without DP" in stored["summary"]
    assert note in (tmp_path / "plain" / "PRIVACY.md").read_text()
    assert main(["privacy", "verify", str(tmp_path / "plain")]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("callbacks", [[], [early("train_loss")]])
def test_a_split_that_nothing_monitors_is_none(
    tmp_path: Path, cohort: CropsManifest, callbacks: list[dict[str, Any]]
) -> None:
    run(fit_line(tmp_path, cohort, config(*callbacks), "plain"))
    stored = json.loads((tmp_path / "plain" / "privacy.json").read_text())
    assert [access["cohort"]["split"] for access in stored["accesses"]] == ["train"]


@pytest.mark.parametrize("callback", [early("val_loss"), BEST], ids=["early stopping", "best"])
def test_verify_names_an_omitted_selection(
    tmp_path: Path,
    cohort: CropsManifest,
    callback: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "plain"
    run(fit_line(tmp_path, cohort, config(callback), "plain"))
    forge(str(folder), lambda stored: stored["accesses"].pop(), key=True)
    assert main(["privacy", "verify", str(folder)]) == 1
    message = capsys.readouterr().err
    assert "lists no access to phantom-archive/val, which" in message
    assert "used for selection" in message


def test_choosing_by_the_training_split_adds_no_cohort(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    line = fit_line(tmp_path, cohort, config(early("val_loss")), "plain")
    run([*line, "--data.init_args.evaluate_split", "train"])
    stored = json.loads((tmp_path / "plain" / "privacy.json").read_text())
    assert len(stored["accesses"]) == 1
