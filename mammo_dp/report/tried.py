# SPDX-License-Identifier: Apache-2.0
"""Attacks and audits of a model, among all runs: of several, none hides behind a weaker one."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mammo_dp.attacks.audit import SCHEMA
from mammo_dp.attacks.scoring import read_result
from mammo_dp.attacks.signals import AttackError
from mammo_dp.report.errors import ReportError
from mammo_dp.runs import RunRecord

ATTACK, AUDIT = "attack.json", "audit.json"


def most_successful_attack(records: Iterable[RunRecord], sha256: str) -> RunRecord | None:
    """The run that attacked a checkpoint: one that refutes its bound, or has the largest area.

    Args:
        records: All runs.
        sha256: Hash of the checkpoint.
    """

    def success(record: RunRecord) -> tuple[bool, float]:
        found = read_attack(record)
        strongest = found["attacks"][found["strongest"]]
        return bool(found["exceeds_bound"]), float(strongest["auc"]["value"])

    return max(_about(records, ATTACK, "checkpoint", sha256), key=success, default=None)


def most_successful_audit(records: Iterable[RunRecord], sha256: str) -> RunRecord | None:
    """The run that audited a statement: one that refutes it, or has the largest lower bound.

    Args:
        records: All runs.
        sha256: Hash of ``privacy.json``.
    """

    def success(record: RunRecord) -> tuple[bool, float]:
        found = read_audit(record)
        return bool(found["refutes"]), float(found["best"]["epsilon"])

    return max(_about(records, AUDIT, "privacy", sha256), key=success, default=None)


def read_attack(record: RunRecord) -> Mapping[str, Any]:
    """What a run of ``attack membership`` found.

    Raises:
        ReportError: If it cannot be read.
    """
    try:
        return read_result(record.folder / ATTACK)
    except AttackError as error:
        raise ReportError(str(error)) from error


def read_audit(record: RunRecord) -> Mapping[str, Any]:
    """What a run of ``attack audit`` found.

    Raises:
        ReportError: If it cannot be read.
    """
    path = record.folder / AUDIT
    try:
        found = dict(json.loads(path.read_text()))
        if found.get("schema") != SCHEMA:
            raise ValueError(f"schema {found.get('schema')}, known is {SCHEMA}")
    except (OSError, ValueError) as error:
        raise ReportError(
            f"{path}: cannot be read ({error}). Run the audit again, into a new folder."
        ) from error
    return found


def _about(
    records: Iterable[RunRecord], result: str, role: str, sha256: str
) -> Iterator[RunRecord]:
    """Finished runs that wrote a result about the file with this hash, which they read."""
    for record in records:
        read = record.inputs.get(role)
        is_about = read is not None and read.sha256 == sha256 and record.is_finished
        if is_about and (record.folder / result).is_file():
            yield record
