import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch.nn.utils import parameters_to_vector

from data_prep.manifest import CropsManifest
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.refusals import refuse_trainer
from mammo_dp.privacy.strategy import DPDDPStrategy
from tests.privacy import ranks
from tests.privacy.fits import model, quiet, trainer

ROOT = Path(__file__).resolve().parents[2]
Found = Mapping[str, Any]

pytestmark = quiet


@pytest.fixture(scope="module")
def one(cohort: CropsManifest, shared: Path) -> Found:
    """Every fit on one process."""
    found = {}
    for name in ranks.FITS:
        torch.manual_seed(0)
        found[name] = ranks.fit(cohort, shared, name)
    return found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(cohort: CropsManifest, shared: Path, one: Found) -> tuple[Found, Found]:
    """The same fits on two processes, after those on one: they read the features of ``one``."""
    words = ["-m", "tests.privacy.ranks", str(cohort.folder), str(shared)]
    ran = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    first, second = (torch.load(shared / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    return first, second


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
