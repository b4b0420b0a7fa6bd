# SPDX-License-Identifier: Apache-2.0
"""``kill -9`` in the middle of a private diffusion, then the same command again."""

import json
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

import mammo_dp.privacy.training.diffusion
import mammo_dp.training_cli  # noqa: F401  imported once, and not by each process
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.privacy.statement.lineage import PHANTOMS
from tests.gan.diffusion.tiny import NETS, diffusion, save
from tests.privacy.statement.verify.chain import DP
from tests.started import Started, run_command

STEPS = 6


def start(folder: str) -> Started:
    words = ["fit", "--config", "private.yaml", "--run_dir", f"{folder}/run"]
    return Started(run_command, words, log=Path("log.txt"))


@pytest.mark.slow
def test_a_killed_fit_releases_the_weights_and_the_statement_of_an_uninterrupted_one(
    cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws and noise are fixed, so that the weights can be compared; no other run may be so."""
    (tmp_path / "start").mkdir()
    weights = save(tmp_path / "start" / "last.ckpt", diffusion())
    write_statement(weights.parent, PrivacyLedger(exclusions=(PHANTOMS,)), artefact=weights)
    settings = {"target_epsilon": 8.0, "delta": 1e-3, "pairs": 2, "weights": str(weights)}
    data = {"crops": str(cohort.folder), "image_size": 16, "rate": 1.0, "insecure_seed": 5}
    config = {
        "model": {"class_path": "mammo_dp.DPLatentDiffusion", "init_args": NETS | settings},
        "data": DP["data"] | {"init_args": {"augment": "none", **data}},
        "trainer": DP["trainer"] | {"max_steps": STEPS},
    }
    (tmp_path / "private.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    process = start("killed")
    while not Path("killed/run/checkpoints/resume.ckpt").exists():
        assert process.poll() is None, f"ended before it could be killed: {process.said()[-3000:]}"
        time.sleep(0.005)
    assert process.kill() == -signal.SIGKILL, "ended before it was killed"
    assert not Path("killed/run/checkpoints/last.ckpt").exists()
    for folder in ("killed", "whole"):
        process = start(folder)
        assert process.wait() == 0, f"{folder}: {process.said()[-3000:]}"

    def released(folder: str) -> dict[str, torch.Tensor]:
        path = tmp_path / folder / "run/checkpoints/last.ckpt"
        found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
        return found

    one, other = released("killed"), released("whole")
    before = torch.load(weights, weights_only=True)["state_dict"]
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], before[name]) for name in one if name in before)
    mine, theirs = (
        json.loads((tmp_path / folder / "run/privacy.json").read_text())["statements"]
        for folder in ("killed", "whole")
    )
    assert mine == theirs
    assert [stage["steps"] for statement in mine for stage in statement["mechanisms"]] == [STEPS]
