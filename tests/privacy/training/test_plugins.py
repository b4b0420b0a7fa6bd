import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch.nn.utils import parameters_to_vector

from data_prep.manifest import CropsManifest
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.module import refuse_trainer
from mammo_dp.privacy.training.plugins import DPDDPStrategy
from mammo_dp.runs import RunError, read_run
from mammo_dp.training_cli import train
from tests.privacy.training import ranks
from tests.privacy.training.fits import BODY, model, quiet, trainer
from tests.started import Started

ROOT = Path(__file__).resolve().parents[3]
MODEL = {**BODY, "trainable": "norm_bias", "target_epsilon": 8.0, "delta": 1e-3, "views": 1}
STATEMENT = {"privacy.json", "privacy_evidence.json", "PRIVACY.md"}
Found = Mapping[str, Any]

pytestmark = [
    *quiet,
    # One folder for all fits of a kind.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Pair(NamedTuple):
    """What two processes found, and what they printed."""

    first: Found
    second: Found
    printed: str


def on_two(cohort: CropsManifest, folder: Path, accelerator: str) -> Pair:
    """A fit through the front door, into ``run``, then every other one; on two processes."""
    chosen = {"max_steps": ranks.STEPS, "accelerator": accelerator, "limit_val_batches": 0}
    config = {
        "model": {"class_path": "mammo_dp.DPCropClassifier", "init_args": MODEL},
        "data": {"class_path": "mammo_dp.DPCropsDataModule", "init_args": {"rate": 0.4}},
        "trainer": chosen,
    }
    folder.mkdir()
    (folder / "dp.yaml").write_text(yaml.safe_dump(config))
    settings = json.dumps([str(cohort.folder), str(folder), accelerator])
    environment = {"PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE", ranks.SETTINGS: settings}
    log = folder / "log.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in environment.items():
            patch.setenv(name, value)
        first_process = Started(ranks.script, *fit_words(cohort), log=log)
        assert first_process.wait() == 0, first_process.said()[-3000:]
    first, second = (torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    return Pair(first, second, first_process.said())


def fit_words(cohort: CropsManifest) -> list[str]:
    words = ["fit", "--config", "dp.yaml", "--data.init_args.crops", str(cohort.folder)]
    return [*words, "--run_dir", "run", "--trainer.devices", "2", "--trainer.strategy", "dp_ddp"]


@pytest.fixture(scope="module")
def one(cohort: CropsManifest, shared: Path) -> Found:
    """Every fit on one process."""
    found = {}
    for name in ranks.FITS:
        torch.manual_seed(0)
        found[name] = ranks.fit(cohort, shared / "alone", name)
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def pair(cohort: CropsManifest, shared: Path) -> Pair:
    """The same fits on two processes."""
    return on_two(cohort, shared / "pair", "cpu")


@pytest.fixture(scope="module")
def two(pair: Pair) -> tuple[Found, Found]:
    """What each of both found."""
    return pair.first, pair.second


@pytest.mark.slow
@pytest.mark.parametrize("name", ranks.FITS)
def test_two_processes_equal_one(one: Found, two: tuple[Found, Found], name: str) -> None:
    alone, first, second = (found[name] for found in (one, *two))
    assert torch.equal(first["weights"], second["weights"])
    assert torch.allclose(alone["weights"], first["weights"], rtol=0, atol=1e-5)
    assert alone["account"] == first["account"] == second["account"]
    assert sum(steps for _, _, steps in alone["account"]) == ranks.STEPS
    for whole, mine, theirs in zip(alone["rows"], first["rows"], second["rows"], strict=True):
        assert sorted(whole) == sorted(mine + theirs)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_end_bit_identical_with_the_same_account(
    cohort: CropsManifest, shared: Path, one: Found
) -> None:
    first, second, _ = on_two(cohort, shared / "gpu", "gpu")
    for name in ranks.FITS:
        assert torch.equal(first[name]["weights"], second[name]["weights"])
        assert one[name]["account"] == first[name]["account"] == second[name]["account"]


@pytest.mark.slow
def test_shares_are_unequal_and_sometimes_empty(two: tuple[Found, Found]) -> None:
    for name in ("patients", "averaged", "features"):
        pairs = list(zip(*(found[name]["rows"] for found in two), strict=True))
        assert any(mine and not theirs for mine, theirs in pairs)
        assert any(mine and theirs and len(mine) != len(theirs) for mine, theirs in pairs)
    assert all(rows == [] for found in two for rows in found["nobody"]["rows"])


@pytest.mark.slow
def test_steps_without_anyone_are_noisy_on_both(two: tuple[Found, Found]) -> None:
    torch.manual_seed(0)
    start = parameters_to_vector(model().net.parameters()).detach()
    for found in two:
        assert float((found["nobody"]["weights"] - start).abs().min()) > 0


@pytest.mark.slow
def test_ranks_share_one_secret_key_that_is_fresh_at_each_start(two: tuple[Found, Found]) -> None:
    first, second = two
    for name in ("once", "again"):
        assert torch.equal(first[name]["weights"], second[name]["weights"])
        assert first[name]["rows"] != second[name]["rows"]
    assert not torch.allclose(first["once"]["weights"], first["again"]["weights"], atol=1e-3)


@pytest.mark.slow
def test_two_processes_go_on_after_a_power_cut_with_the_account(
    one: Found, two: tuple[Found, Found]
) -> None:
    whole = one["patients"]
    for resumed in (found["resumed"] for found in two):
        assert len(resumed["rows"]) == ranks.STEPS - 3  # saved every 3 steps, cut after 5
        assert resumed["account"] == whole["account"]
        assert torch.allclose(resumed["weights"], whole["weights"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_rank_zero_goes_first_where_the_others_find_what_it_wrote(
    two: tuple[Found, Found],
) -> None:
    assert [found["first"] for found in two] == [True, False]


@pytest.mark.slow
def test_ranks_that_draw_apart_are_refused(two: tuple[Found, Found]) -> None:
    for found in two:
        assert "2 ranks: draw apart, so that a unit could count twice" in found["apart"]


@pytest.mark.slow
def test_a_sampler_of_lightnings_own_is_refused(two: tuple[Found, Found]) -> None:
    for found in two:
        assert "Set use_distributed_sampler=False" in found["replaced"]


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_children_that_take_the_account_with_them_are_refused(method: str) -> None:
    with pytest.raises(PrivacyError, match=f"'{method}'.*would state epsilon 0"):
        DPDDPStrategy(start_method=method)


def test_the_name_of_the_strategy_makes_it(tmp_path: Path) -> None:
    run = trainer(tmp_path, strategy="dp_ddp")
    assert isinstance(run.strategy, DPDDPStrategy)
    refuse_trainer(run)


@pytest.mark.parametrize("name", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_with_child_processes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PrivacyError, match=r"strategy=DDPStrategy .*--trainer.strategy dp_ddp"):
        refuse_trainer(trainer(tmp_path, strategy=name, devices=2))


def test_strategies_that_hold_parts_of_the_weights_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(tmp_path)  # Lightning makes the sharding ones only where there is a GPU
    monkeypatch.setattr(Trainer, "strategy", FSDPStrategy())
    with pytest.raises(PrivacyError, match=r"strategy=FSDPStrategy on .* held in parts"):
        refuse_trainer(run)


@pytest.mark.slow
def test_a_fit_on_two_devices_through_the_front_door(
    cohort: CropsManifest,
    pair: Pair,
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone, _, _ = pair.printed.partition(ranks.DONE)
    assert alone.count("Initializing distributed") == 2

    folder = shared / "pair"
    record = read_run(folder / "run")
    assert record.is_finished
    assert set(record.outputs) == {
        "checkpoints/last.ckpt",
        "config.yaml",
        "crop_rule.json",
        *STATEMENT,
    }
    assert [path.name for path in (folder / "run" / "logs").iterdir()] == ["version_0"]
    (said,) = json.loads((folder / "run" / "privacy.json").read_text())["statements"]
    assert (said["steps"], said["sampling_rate"]) == (ranks.STEPS, 0.4)
    assert 0.99 * 8 < said["epsilon"] <= 8
    released = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert sum(steps for _, _, steps in released["accountant"]["history"]) == ranks.STEPS

    monkeypatch.chdir(folder)
    train(fit_words(cohort))  # starts no process, for it is
    assert "Already finished" in capsys.readouterr().out
    train(["test", "--run", "run"])  # on one device, so that each crop is scored once
    rows = (folder / "run" / "test_val" / "predictions.csv").read_text().splitlines()
    assert len(rows) == 1 + len(cohort.rows("val"))


@pytest.mark.parametrize(
    ("strategy", "error", "message"),
    [
        ("dp_ddp", RunError, r"2 devices: .*only a part. Run the fit alone, by `mammo-dp fit`"),
        ("auto", PrivacyError, r"DDPStrategy on 2 device.s.: .*--trainer\.strategy dp_ddp"),
    ],
)
def test_several_devices_are_refused_before_a_process_is_started(
    cohort: CropsManifest, tmp_path: Path, strategy: str, error: type[Exception], message: str
) -> None:
    chosen = {"class_path": "mammo_dp.DPCropClassifier", "init_args": MODEL}
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": chosen}))
    line = ["fit", "--config", str(tmp_path / "model.yaml"), "--data", "mammo_dp.DPCropsDataModule"]
    line += ["--data.init_args.crops", str(cohort.folder), "--run_dir", str(tmp_path / "run")]
    line += ["--trainer.accelerator", "cpu", "--trainer.max_steps", "4", "--trainer.devices", "2"]
    with pytest.raises(error, match=message):
        train([*line, "--trainer.strategy", strategy])  # the words of this process are pytest's
