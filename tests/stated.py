"""Statements of made-up runs: a real one about a stage without privacy, some fields changed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.manifest import CropsManifest, Split
from mammo_dp.privacy.statement.document import EVIDENCE_NAME, FILE_NAME, SCHEMA, contents
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.privacy.statement.seals import with_seal
from mammo_dp.runs import file_sha256


def write_stated(
    folder: Path,
    manifest: CropsManifest,
    *,
    split: Split = "train",
    earlier: Sequence[Access] = (),
    **changes: Any,
) -> None:
    """Writes a sealed ``privacy.json`` about one split and what lies in the folder.

    Args:
        folder: Where it lies.
        manifest: Crops that the stage used.
        split: Split that it used.
        earlier: What stages before it used; they have statements of their own.
        changes: Fields of the statement about the stage's split, under the names of the file.
    """
    there = [name for name in ("checkpoints/last.ckpt", "crops.csv") if (folder / name).is_file()]
    released = {"path": "checkpoints/last.ckpt", "sha256": "0" * 64}
    if there:
        released = {"path": there[0], "sha256": file_sha256(folder / there[0])}
    own = Access.of_training("fit", manifest, split, released=released["sha256"])
    accesses = (*earlier, own)
    stored, _ = contents(
        PrivacyLedger(accesses=accesses),
        delta=1e-4,
        artefact=released,
        randomness={},
        precision=None,
    )
    stored["statements"][-1] |= changes
    statement = folder / FILE_NAME
    statement.write_text(json.dumps(with_seal(stored)), encoding="utf-8")
    evidence = {
        "schema": SCHEMA,
        "statement_sha256": file_sha256(statement),
        "about": None,
        "run": None,
        "cohorts": [one.cohort.private and one.cohort.private.as_json() for one in accesses],
    }
    (folder / EVIDENCE_NAME).write_text(json.dumps(with_seal(evidence)), encoding="utf-8")


def seal_again(path: Path, stored: Mapping[str, Any]) -> None:
    """Writes the changed content of a statement as whoever holds the key could."""
    plain = {name: value for name, value in stored.items() if name != "seal"}
    path.write_text(json.dumps(with_seal(plain)), encoding="utf-8")
