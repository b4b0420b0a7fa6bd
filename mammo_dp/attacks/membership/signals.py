# SPDX-License-Identifier: Apache-2.0
"""Members and non-members of a membership attack, and the saved signal of each crop."""

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import FILE_NAME, CropsManifest, Split, Unit
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.statements import sealed_statement
from mammo_dp.privacy.statement.cohort import Cohort
from mammo_dp.privacy.statement.document import ledger_of, read_evidence
from mammo_dp.privacy.statement.guarantee import PrivacyStatement
from mammo_dp.runs import write_text_atomically

log = logging.getLogger(__name__)


def require_two_groups(member_split: Split, nonmember_split: Split) -> None:
    """Checks the arguments that all membership attacks share.

    Raises:
        AttackError: For one split in both roles.
    """
    if member_split == nonmember_split:
        raise AttackError(
            f"member_split and nonmember_split are both {member_split!r}. Members and non-members "
            "must be different patients; choose two splits."
        )


def statement_about(
    path: Path,
    attacked: str,
    manifest: CropsManifest,
    member_split: Split,
    nonmember_split: Split,
) -> PrivacyStatement:
    """The statement about the members.

    Args:
        path: ``privacy.json`` of what is attacked.
        attacked: SHA-256 of what is attacked, a checkpoint or a table of crops.
        manifest: Crops of members and non-members.
        member_split: Split that some stage was trained on.
        nonmember_split: Split of which no stage saw anybody.

    Raises:
        PrivacyError: If there is no readable statement.
        AttackError: If the statement has no seal that holds, is about another file, or says
            nothing about the members, so that nobody is a known one, or some stage saw one of the
            non-members too.
    """
    stored = sealed_statement(path)
    if (stored["artefact"] or {}).get("sha256") != attacked:
        raise AttackError(
            f"{path}: is not about what is attacked, which has sha256 {attacked[:12]}, so its "
            "bounds are those of something else. Restore the folder, or run the stage again."
        )
    where = f"{manifest.folder / FILE_NAME} ({manifest.sha256[:12]})"
    members = Cohort.of_manifest(manifest, member_split)
    about = map(PrivacyStatement.from_json, stored["statements"])
    found = next((one for one in about if members.tag and one.cohort.tag == members.tag), None)
    if found is None:
        raise AttackError(
            f"{path}: has no statement about split {member_split!r} of {where}, so nobody in it "
            "is known as a member. Give the crops and the split that the run was trained on."
        )
    others = Cohort.of_manifest(manifest, nonmember_split)
    met = ledger_of(stored, read_evidence(path.parent)).met(others)
    if met.surely:
        raise AttackError(
            f"{path}: {met.surely} That is split {nonmember_split!r} of {where}, so its patients "
            "are no non-members. Choose a split of which no stage saw anybody."
        )
    if met.perhaps:
        log.warning("Nobody knows whether %r are non-members: %s", nonmember_split, met.perhaps)
    return found


def require_patients(manifest: CropsManifest, rows: Sequence[int], split: str) -> None:
    """Checks that rows can be members or non-members.

    Raises:
        AttackError: If there are none, or some belong to no patient.
    """
    if not rows:
        raise AttackError(
            f"{manifest.folder / FILE_NAME}: split {split!r} holds no crop. Choose another split."
        )
    if synthetic := sum(manifest.crops[row].is_synthetic for row in rows):
        raise AttackError(
            f"{manifest.folder / FILE_NAME}: {synthetic} crops of split {split!r} are synthetic "
            "and belong to no patient. Give the crops of a cohort."
        )


Combine = Literal["mean", "sum"]
_FIXED = ("row", "patient", "member", "malignant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """What the adversary saw, one entry per crop; private data.

    Attributes:
        row: Row in ``crops.csv``, shape ``(crops,)``.
        patient: Position of the patient in the manifest, shape ``(crops,)``.
        member: Whether the patient took part in training, shape ``(crops,)``.
        malignant: True label, 1 for malignant, shape ``(crops,)``.
        columns: Signal of each attack by its name, each of shape ``(crops,)``; high for members.
    """

    row: NDArray[np.int64]
    patient: NDArray[np.int64]
    member: NDArray[np.bool_]
    malignant: NDArray[np.int64]
    columns: Mapping[str, NDArray[np.float64]]

    def of(self, attack: str) -> NDArray[np.float64]:
        """Signal of an attack.

        Raises:
            AttackError: If there is none of that name.
        """
        if attack not in self.columns:
            raise AttackError(
                f"signals: none of attack {attack!r}, only {', '.join(self.columns)}. Run that "
                "attack, or score one of these."
            )
        return self.columns[attack]

    def scores(
        self, of: NDArray[Any], unit: Unit, combine: Combine = "mean"
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Combines a per-crop quantity over units, for members and for non-members.

        Args:
            of: Quantity, shape ``(crops,)``.
            unit: Unit whose crops are combined.
            combine: Their mean, or their sum (of log-likelihood ratios).
        """
        key = self.patient if unit == "patient" else self.row
        units, position = np.unique(key, return_inverse=True)
        combined = np.bincount(position, weights=of).astype(np.float64)
        if combine == "mean":
            combined = combined / np.bincount(position)
        member = np.zeros(len(units), dtype=bool)
        member[position] = self.member
        return combined[member], combined[~member]


def write_signals(path: Path, signals: Signals) -> None:
    """Writes ``scores.csv``, one row per crop and one column per attack, in one move."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIXED, *signals.columns])
    fixed = [getattr(signals, name).astype(np.int64).tolist() for name in _FIXED]
    measured = [map(repr, column.tolist()) for column in signals.columns.values()]
    writer.writerows(zip(*fixed, *measured, strict=True))
    write_text_atomically(path, text.getvalue())


def read_signals(path: Path) -> Signals:
    """Reads ``scores.csv``.

    Raises:
        AttackError: If columns are missing or a cell is no number.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    attacks = [name for name in reader.fieldnames or () if name not in _FIXED]
    try:
        if not attacks:
            raise KeyError("no column of an attack")
        return Signals(
            row=np.array([int(row["row"]) for row in rows], np.int64),
            patient=np.array([int(row["patient"]) for row in rows], np.int64),
            member=np.array([row["member"] == "1" for row in rows], bool),
            malignant=np.array([int(row["malignant"]) for row in rows], np.int64),
            columns={
                name: np.array([float(row[name]) for row in rows], np.float64) for name in attacks
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AttackError(
            f"{path}: is no table of signals ({error!r}). Remove it; the attack writes it again."
        ) from error
