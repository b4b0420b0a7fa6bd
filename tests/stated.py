"""Statements of made-up runs: a real one about a stage without privacy, some fields changed."""

import json
from pathlib import Path
from typing import Any

from data_prep.manifest import CropsManifest
from mammo_dp.privacy.statement.document import contents
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.runs import file_sha256


def write_stated(folder: Path, manifest: CropsManifest, **changes: Any) -> None:
    """Writes an unsealed ``privacy.json`` about split ``train`` and what lies in the folder.

    Args:
        folder: Where it lies.
        manifest: Crops that the stage used.
        changes: Fields of its only statement, under the names of the file.
    """
    there = [name for name in ("checkpoints/last.ckpt", "crops.csv") if (folder / name).is_file()]
    released = {"path": "checkpoints/last.ckpt", "sha256": "0" * 64}
    if there:
        released = {"path": there[0], "sha256": file_sha256(folder / there[0])}
    access = Access.of_training("fit", manifest, "train", released=released["sha256"])
    stored, _ = contents(
        PrivacyLedger(accesses=(access,)),
        delta=1e-4,
        artefact=released,
        randomness={},
        precision=None,
    )
    (statement,) = stored["statements"]
    statement |= changes
    (folder / "privacy.json").write_text(json.dumps(stored), encoding="utf-8")
