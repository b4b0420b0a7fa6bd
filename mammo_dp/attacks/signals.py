# SPDX-License-Identifier: Apache-2.0
"""Saved signals of a membership attack: what was seen, so that it can be scored again."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import Unit
from mammo_dp.runs import write_text_atomically

Combine = Literal["mean", "sum"]
_FIXED = ("row", "patient", "member", "malignant")


class AttackError(ValueError):
    """The attack would not measure what it claims; the message says why and what to do."""


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
        """A per-crop quantity combined over units, for members and for non-members.

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
