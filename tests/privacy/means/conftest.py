# SPDX-License-Identifier: Apache-2.0
"""A release of patients' means and phantoms that match it, by command lines, made once."""

import shutil
from pathlib import Path

import pytest
import yaml

from mammo_dp.main import main
from tests.fixtures import write_cohort
from tests.privacy.statement.verify.chain import PLAIN

EPSILON = 8.0
SIZE = {"image_size": 16}
DATA = PLAIN["data"] | {"init_args": PLAIN["data"]["init_args"] | SIZE}
ENCODER = PLAIN | {
    "model": PLAIN["model"] | {"init_args": PLAIN["model"]["init_args"] | SIZE},
    "data": DATA,
}
RELEASE = (
    f"release-means --crops patients --out means --target_epsilon {EPSILON} "
    "--checkpoint encoder/checkpoints/last.ckpt"
)
LINES = (
    "fit --config encoder.yaml --data.init_args.crops phantoms --run_dir encoder",
    RELEASE,
    "match-means --crops phantoms --means means/means.pt --per_class 4 --out matched",
)


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chain")
    write_cohort(folder / "patients", patients=60, crops=130, size=16)
    write_cohort(folder / "phantoms", origin="phantom", crops=16, size=16)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("encoder.yaml").write_text(yaml.safe_dump(ENCODER))
        for line in LINES:
            assert main(line.split()) == 0, line
    return folder


@pytest.fixture
def chain(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "chain")
    monkeypatch.chdir(tmp_path / "chain")
    return tmp_path / "chain"
