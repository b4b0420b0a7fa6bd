# SPDX-License-Identifier: Apache-2.0
"""Generators in run folders with statements, without their training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data_prep.manifest import CropsManifest
from gan.module import MCGAN
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.runs import close_run, file_sha256, open_run
from tests.fixtures import write_cohort
from tests.gan.checkpoints import save

Trained = Callable[..., Path]


def run_of_fit(
    folder: Path, cohort: CropsManifest | None, mechanism: Mechanism | None = None
) -> Path:
    """A finished run of a generator; returns its checkpoint."""
    record = open_run(folder, command="fit", config={}, inputs={})
    (folder / "checkpoints").mkdir()
    torch.manual_seed(0)
    net = MCGAN(image_size=16, channels=2, latent=8, conditions=["margin"], separability=0.85)
    path = save(folder / "checkpoints" / "last.ckpt", net)
    ledger = PrivacyLedger()
    if cohort is not None:
        ledger = ledger.plus(
            Access.of_training(
                f"MCGAN ({folder.name})",
                cohort,
                "train",
                mechanism=mechanism,
                released=file_sha256(path),
            )
        )
    delta = 1e-4 if mechanism is None else 1e-3
    write_statement(folder, ledger, delta=delta, artefact=path, run=record)
    close_run(record)
    return path


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a generator that saw patients of CBIS-DDSM, or so it says, without DP."""
    folder = tmp_path_factory.mktemp("exchange")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_DP_COHORT_KEY", "00" * 32)
        return run_of_fit(folder / "mcgan", write_cohort(folder / "real", origin="cbis-ddsm"))
