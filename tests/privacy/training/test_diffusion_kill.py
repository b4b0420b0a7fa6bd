# SPDX-License-Identifier: Apache-2.0
"""``kill -9`` in the middle of a private diffusion, then the same command again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from data_prep.manifest import CropsManifest
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.privacy.statement.lineage import PHANTOMS
from tests.gan.diffusion.tiny import NETS, diffusion, save
from tests.privacy.statement.verify.chain import DP

STEPS = 6
# Imports once, then forks a process per fit; no thread is running before the fork.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
import mammo_dp.training_cli, mammo_dp.privacy.training.diffusion, monai.networks.nets
from mammo_dp.main import main

def start(folder):
    if child := os.fork():
        return child
    log = os.open("log.txt", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)
    os._exit(main(["fit", "--config", "private.yaml", "--run_dir", f"{folder}/run"]))

child = start("killed")
while not Path("killed/run/checkpoints/resume.ckpt").exists():
    assert not os.waitpid(child, os.WNOHANG)[0], "ended before it could be killed"
    time.sleep(0.001)
os.kill(child, signal.SIGKILL)
assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), "ended before it was killed"
assert not Path("killed/run/checkpoints/last.ckpt").exists()
for folder in ("killed", "whole"):
    assert os.waitpid(start(folder), 0)[1] == 0, folder
"""


@pytest.mark.slow
def test_a_killed_fit_releases_the_weights_and_the_statement_of_an_uninterrupted_one(
    cohort: CropsManifest, tmp_path: Path
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
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    log = tmp_path / "log.txt"
    assert ran.returncode == 0, ran.stderr + (log.read_text()[-3000:] if log.exists() else "")

    def released(folder: str) -> dict[str, torch.Tensor]:
        path = tmp_path / folder / "run/checkpoints/last.ckpt"
        found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
        return found

    one, other = released("killed"), released("whole")
    start = torch.load(weights, weights_only=True)["state_dict"]
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(one[name], start[name]) for name in one if name in start)
    mine, theirs = (
        json.loads((tmp_path / folder / "run/privacy.json").read_text())["statements"]
        for folder in ("killed", "whole")
    )
    assert mine == theirs
    assert [stage["steps"] for statement in mine for stage in statement["mechanisms"]] == [STEPS]
