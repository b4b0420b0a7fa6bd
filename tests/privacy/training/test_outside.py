# SPDX-License-Identifier: Apache-2.0
"""Fits with code of somebody else: what is refused, what is said, and what leaves no guarantee."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Optimizer

from data_prep.datamodule import CropBatch, CropsDataModule
from data_prep.manifest import CropsManifest
from mammo_dp.main import main, run
from mammo_dp.privacy.accounting.budget import PrivacyBudget
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.datamodule import DPCropsDataModule
from mammo_dp.privacy.training.gradients.book_keeping import BookKeepingSums
from mammo_dp.privacy.training.module import DPTraining
from mammo_dp.privacy.training.outside import outside_classes, outside_code
from mammo_dp.privacy.training.sampling import PoissonSampling
from mammo_dp.runs import RunError, read_run
from tests.privacy.statement.verify.chain import DP, PLAIN
from tests.privacy.training.fits import data, quiet, trainer
from tests.test_training_cli import fit_line

pytestmark = [*quiet, pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")]
HERE = __name__


class Own(DPTraining):
    """As the tutorial has it."""

    def __init__(self, start: str | None = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 1))
        if start is not None:
            torch.load(start, weights_only=True)
        self.configure_privacy(PrivacyBudget(epsilon=2.0, delta=1e-3), clipping_norm=1.0)

    def losses(self, batch: CropBatch) -> Tensor:
        logit = self.net(batch.image).squeeze(1)
        return binary_cross_entropy_with_logits(logit, batch.malignant.float(), reduction="none")

    def configure_optimizers(self) -> Optimizer:
        return self.privatise(torch.optim.SGD(self.net.parameters(), lr=0.5))


class Soup(Own):
    """Starts from a mean of several weights, which are the names in a mapping."""

    def __init__(self, soup_of: dict[str, float]) -> None:
        super().__init__()
        self.soup_of = soup_of


class PlainSteps(Own):
    """Trains as one does without privacy: the account stays empty."""

    def configure_optimizers(self) -> Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.5)

    def training_step(self, batch: CropBatch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.losses(batch).mean())
        optimizer.step()


class FurtherSteps(Own):
    """A step on the bare gradient beside each private one; the account sees the latter."""

    def training_step(self, batch: CropBatch, batch_idx: int) -> None:
        Own.training_step(self, batch, batch_idx)
        weights = list(self.net.parameters())
        for weight, gradient in zip(
            weights, torch.autograd.grad(self.losses(batch).mean(), weights), strict=True
        ):
            weight.data -= 0.1 * gradient


class OwnStep(Own):
    """As FurtherSteps, and as an attribute of the object."""

    def __init__(self) -> None:
        super().__init__()
        self.training_step = self.both_steps  # type: ignore[method-assign]

    def both_steps(self, batch: CropBatch, batch_idx: int) -> None:
        FurtherSteps.training_step(self, batch, batch_idx)  # type: ignore[arg-type]


class Unchecked(Own):
    """Leaves the self-check out, and mixes patients."""

    def _choose_method(self) -> None:
        self.method, self.clipped_sums = "book_keeping", BookKeepingSums(self.net, 64)

    def losses(self, batch: CropBatch) -> Tensor:
        return super().losses(batch._replace(image=batch.image - batch.image.mean(0)))


class KeepsMean(Own):
    """Keeps, beside the net, a mean of what it sees: the checkpoint would hold it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1, 32, 32))

    def losses(self, batch: CropBatch) -> Tensor:
        self.get_buffer("seen").lerp_(batch.image.mean(0), 0.1)
        return super().losses(batch)


class AllSplits(DPCropsDataModule):
    """Validation patients train, too."""

    @cached_property
    def train_rows(self) -> list[int]:
        return self.manifest.rows()

    @cached_property
    def sampling(self) -> PoissonSampling:
        rows_of = self.manifest.units(self.train_rows, "patient")
        return PoissonSampling(unit="patient", rows_of=rows_of, rate=self.rate)


class CropsAsPatients(DPCropsDataModule):
    """Each crop counts as a patient."""

    @cached_property
    def sampling(self) -> PoissonSampling:
        rows_of = tuple((row,) for row in self.train_rows)
        return PoissonSampling(unit="patient", rows_of=rows_of, rate=self.rate)


class Hidden(CropsDataModule):
    """Names its crops by no argument."""

    where = ""

    def __init__(self) -> None:
        super().__init__(self.where, augment="none")


class Renamed(DPCropsDataModule):
    """Changes the table in memory: each crop gets a patient of its own."""

    @cached_property
    def manifest(self) -> CropsManifest:
        read = CropsManifest.read(self.crops)
        crops = (replace(c, patient_id=f"Q{i}") for i, c in enumerate(read.crops))
        return replace(read, crops=tuple(crops))


class PlainAllSplits(CropsDataModule):
    """The same without privacy."""

    @cached_property
    def train_rows(self) -> list[int]:
        return self.manifest.rows()


class Peeks(Callback):
    """Stops by a metric that no attribute names."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = bool(trainer.callback_metrics["val_loss"] < math.inf)


def private(model: str = "Own", data: str = "", **settings: Any) -> dict[str, Any]:
    chosen = DP["data"] if not data else DP["data"] | {"class_path": f"{HERE}.{data}"}
    named = {"class_path": f"{HERE}.{model}", "init_args": settings}
    return DP | {"model": named, "data": chosen}


def stored(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "privacy.json").read_text())
    return found


def test_classes_from_elsewhere_are_found_wherever_they_stand() -> None:
    config = {
        "model": {"class_path": "mine.Net", "init_args": {"loss": {"class_path": "yours.Loss"}}},
        "data": {"class_path": "mammo_dp.DPCropsDataModule"},
        "trainer": {"callbacks": [{"class_path": "lightning.pytorch.callbacks.Timer"}]},
    }
    assert outside_classes(config) == ("mine.Net", "yours.Loss")
    hook = "lightning.pytorch.callbacks.LambdaCallback"
    given = {"setup": None, "on_train_batch_end": "theirs.steal", "on_fit_end": "torch.save"}
    named = {"trainer": {"callbacks": [{"class_path": hook, "init_args": given}]}}
    assert outside_classes(named) == ("theirs.steal",)
    assert "mine.Net, yours.Loss" in outside_code(config)[0]
    assert outside_code(DP) == outside_code({}) == ()


def test_a_statement_names_the_code_that_nobody_here_has_read_and_children_inherit_it(
    cohort: CropsManifest,
    make_cohort: Callable[..., CropsManifest],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(fit_line(tmp_path, cohort, private(), "mine"))
    (exclusion,) = stored(tmp_path / "mine")["lineage_exclusions"]
    assert f"took part in a fit ({HERE}.Own)" in exclusion
    assert exclusion in (tmp_path / "mine" / "PRIVACY.md").read_text()
    assert stored(tmp_path / "mine")["statements"][0]["epsilon"] == pytest.approx(2, rel=0.01)
    phantoms = make_cohort("phantoms", origin="phantom")
    line = fit_line(tmp_path, phantoms, private(), "child")
    run([*line, "--model.init_args.start", str(tmp_path / "mine/checkpoints/last.ckpt")])
    assert exclusion in stored(tmp_path / "child")["lineage_exclusions"]
    for name in ("mine", "child"):
        assert main(["privacy", "verify", str(tmp_path / name)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", ["weights.ckpt", "train"])
def test_weights_in_any_place_of_a_configuration_are_inputs(
    cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also as the name of an entry, and where the file is called like a split."""
    monkeypatch.chdir(tmp_path)
    torch.save({"net.1.weight": torch.zeros(1, 1024)}, tmp_path / name)
    run(fit_line(tmp_path, cohort, private("Soup", soup_of={name: 1.0}), "soup"))
    run(fit_line(tmp_path, cohort, private(start=name), "mine"))
    for folder in ("soup", "mine"):
        said = stored(tmp_path / folder)["statements"]
        assert {one["epsilon"] for one in said} == {"infinity"}


def bare_step(_: Trainer, net: Any, __: object, batch: CropBatch, ___: int) -> None:  # noqa: ANN401
    """A step on the bare gradient, by a function that a callback of lightning takes."""
    weight = net.net.head.weight
    weight.data -= torch.autograd.grad(net.losses(batch).sum(), weight)[0]


def test_a_function_from_elsewhere_is_named_like_a_class(
    cohort: CropsManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hook = {
        "class_path": "lightning.pytorch.callbacks.LambdaCallback",
        "init_args": {"on_train_batch_end": f"{HERE}.bare_step"},
    }
    config = DP | {"trainer": DP["trainer"] | {"callbacks": [hook]}}
    run(fit_line(tmp_path, cohort, config, "mine"))
    (exclusion,) = stored(tmp_path / "mine")["lineage_exclusions"]
    assert f"took part in a fit ({HERE}.bare_step)" in exclusion
    assert main(["privacy", "verify", str(tmp_path / "mine")]) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("PlainSteps", "was trained on these patients with an account that its own code replaces"),
        ("FurtherSteps", "its own code replaces in part (training_step)"),
        ("OwnStep", "its own code replaces in part (training_step)"),
        ("Unchecked", "its own code replaces in part (_choose_method)"),
    ],
)
def test_steps_past_the_account_leave_no_guarantee(
    cohort: CropsManifest,
    tmp_path: Path,
    model: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(fit_line(tmp_path, cohort, private(model), "mine"))
    found = stored(tmp_path / "mine")
    assert [one["epsilon"] for one in found["statements"]] == ["infinity"]
    assert reason in found["summary"]
    assert main(["privacy", "verify", str(tmp_path / "mine")]) == 0, capsys.readouterr().err


def test_an_empty_account_is_none(cohort: CropsManifest, tmp_path: Path) -> None:
    config = private() | {"trainer": DP["trainer"] | {"limit_train_batches": 0}}
    run(fit_line(tmp_path, cohort, config, "mine"))
    assert stored(tmp_path / "mine")["statements"][0]["epsilon"] == "infinity"


def test_what_losses_keep_beside_the_net_is_refused(cohort: CropsManifest, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"^seen: change with each pass and would be released"):
        run(fit_line(tmp_path, cohort, private("KeepsMean"), "mine"))


@pytest.mark.parametrize("data", ["AllSplits", "CropsAsPatients"])
def test_units_that_the_table_does_not_have_are_refused(
    cohort: CropsManifest, tmp_path: Path, data: str
) -> None:
    with pytest.raises(PrivacyError, match="patients are not those of split 'train' of"):
        run(fit_line(tmp_path, cohort, private(data=data), "mine"))


def test_crops_that_the_run_did_not_record_get_no_statement(
    cohort: CropsManifest,
    make_cohort: Callable[..., CropsManifest],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Crops of a generator that nobody knows would count as no patient's."""
    monkeypatch.setattr(Hidden, "where", str(make_cohort(origin="gan:" + "0" * 64).folder))
    config = PLAIN | {"data": {"class_path": f"{HERE}.Hidden"}}
    hidden = fit_line(tmp_path, cohort, config, "hidden")
    at = hidden.index("--data.init_args.crops")
    del hidden[at : at + 2]
    for line in (hidden, fit_line(tmp_path, cohort, private(data="Renamed"), "renamed")):
        with pytest.raises(PrivacyError, match=r"crops that are not those of data.init_args.crops"):
            run(line)
        assert not (Path(line[-1]) / "privacy.json").exists()


def test_each_split_that_trains_is_an_access(cohort: CropsManifest, tmp_path: Path) -> None:
    config = PLAIN | {"data": PLAIN["data"] | {"class_path": f"{HERE}.PlainAllSplits"}}
    run(fit_line(tmp_path, cohort, config, "plain"))
    used = [(a["use"], a["cohort"]["split"]) for a in stored(tmp_path / "plain")["accesses"]]
    assert used == [("training", "train"), ("training", "val")]


@pytest.mark.parametrize("validates", [True, False])
def test_a_callback_from_elsewhere_may_read_every_metric(
    cohort: CropsManifest, tmp_path: Path, validates: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    peeks = [{"class_path": f"{HERE}.Peeks"}]
    limit = {"limit_val_batches": 1.0 if validates else 0, "callbacks": peeks}
    run(fit_line(tmp_path, cohort, PLAIN | {"trainer": PLAIN["trainer"] | limit}, "plain"))
    found = stored(tmp_path / "plain")
    used = [(a["use"], a["cohort"]["split"]) for a in found["accesses"]]
    assert used == [("training", "train"), ("selection", "val")][: 1 + validates]
    said = "Peeks (code from elsewhere, taken to read all) looked at metrics of these data"
    assert (said in found["accesses"][-1]["note"]) == validates
    assert main(["privacy", "verify", str(tmp_path / "plain")]) == 0, capsys.readouterr().err


def test_each_file_that_an_argument_names_is_an_input(
    cohort: CropsManifest, make_cohort: Callable[..., CropsManifest], tmp_path: Path
) -> None:
    """Weights of the same patients without privacy, under a name that nobody here knows."""
    run(fit_line(tmp_path, cohort, PLAIN, "plain"))
    weights = tmp_path / "plain/checkpoints/last.ckpt"
    line = fit_line(tmp_path, cohort, private(), "mine")
    run([*line, "--model.init_args.start", str(weights)])
    assert stored(tmp_path / "mine")["statements"][0]["epsilon"] == "infinity"
    other = make_cohort("other", origin="other")
    with pytest.raises(RunError, match="a further folder of crops"):
        run([*line[:-1], str(tmp_path / "two"), "--model.init_args.start", str(other.folder)])
    with pytest.raises(RunError, match="is a folder, and nobody here knows what model would load"):
        run([*line[:-1], str(tmp_path / "two"), "--model.init_args.start", str(weights.parent)])


@pytest.mark.parametrize("spelled", ["{}/", "{}//", "{}/../{name}"])
def test_the_crops_are_the_same_however_they_are_spelled(
    cohort: CropsManifest, tmp_path: Path, spelled: str
) -> None:
    line = fit_line(tmp_path, cohort, PLAIN, "plain")
    at = line.index("--data.init_args.crops") + 1
    line[at] = spelled.format(line[at], name=cohort.folder.name)
    run(line)
    assert list(read_run(tmp_path / "plain").inputs) == ["data"]


class Warms(Callback):
    def __init__(self, start: str) -> None:
        self.start = start


class WarmLogger(CSVLogger):
    def __init__(self, start: str) -> None:
        super().__init__(Path(start).parents[2] / "logs")


@pytest.mark.parametrize(("part", "kind"), [("callbacks", "Warms"), ("logger", "WarmLogger")])
def test_so_is_each_file_of_a_part_of_the_trainer(
    cohort: CropsManifest, tmp_path: Path, part: str, kind: str
) -> None:
    run(fit_line(tmp_path, cohort, PLAIN, "plain"))
    weights = str(tmp_path / "plain/checkpoints/last.ckpt")
    given = [{"class_path": f"{HERE}.{kind}", "init_args": {"start": weights}}]
    config = private() | {"trainer": DP["trainer"] | {part: given}}
    run(fit_line(tmp_path, cohort, config, "mine"))
    assert stored(tmp_path / "mine")["statements"][0]["epsilon"] == "infinity"
    assert f"trainer.{part}.0.init_args.start" in read_run(tmp_path / "mine").inputs


@pytest.mark.parametrize(
    ("kind", "settings", "spends"),
    [
        (Own, {}, 2.0),
        (Own, {"insecure_seed": 3}, math.inf),
        (PlainSteps, {}, math.inf),
        (FurtherSteps, {}, math.inf),
    ],
)
def test_what_python_says_was_spent_is_what_a_statement_would_say(
    cohort: CropsManifest, tmp_path: Path, kind: type[Own], settings: dict[str, Any], spends: float
) -> None:
    net = kind()
    trainer(tmp_path).fit(net, data(cohort, **settings))
    assert net.spent_epsilon == pytest.approx(spends, rel=0.01)
