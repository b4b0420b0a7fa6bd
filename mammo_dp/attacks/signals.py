# SPDX-License-Identifier: Apache-2.0
"""Saved signals of a membership attack: what was seen, so that it can be scored again."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import Unit
from mammo_dp.runs import write_text_atomically


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
        signal: Logit-scaled confidence of the true label, shape ``(crops,)``.
    """

    row: NDArray[np.int64]
    patient: NDArray[np.int64]
    member: NDArray[np.bool_]
    malignant: NDArray[np.int64]
    signal: NDArray[np.float64]

    def scores(
        self, of: NDArray[Any], unit: Unit
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means of a per-crop quantity over units, for members and for non-members.

        Args:
            of: Quantity, shape ``(crops,)``.
            unit: Unit whose crops are averaged.
        """
        key = self.patient if unit == "patient" else self.row
        units, position = np.unique(key, return_inverse=True)
        mean = np.bincount(position, weights=of) / np.bincount(position)
        member = np.zeros(len(units), dtype=bool)
        member[position] = self.member
        return mean[member], mean[~member]


def write_signals(path: Path, signals: Signals) -> None:
    """Writes ``scores.csv``, one row per crop, in one move."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Signals.__slots__)
    columns = [getattr(signals, name).tolist() for name in Signals.__slots__]
    for row, patient, member, malignant, signal in zip(*columns, strict=True):
        writer.writerow([row, patient, int(member), malignant, repr(signal)])
    write_text_atomically(path, text.getvalue())


def read_signals(path: Path) -> Signals:
    """Reads ``scores.csv``.

    Raises:
        AttackError: If columns are missing or a cell is no number.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        return Signals(
            row=np.array([int(row["row"]) for row in rows], np.int64),
            patient=np.array([int(row["patient"]) for row in rows], np.int64),
            member=np.array([row["member"] == "1" for row in rows], bool),
            malignant=np.array([int(row["malignant"]) for row in rows], np.int64),
            signal=np.array([float(row["signal"]) for row in rows], np.float64),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise AttackError(
            f"{path}: is no table of signals ({error!r}). Remove it; the attack writes it again."
        ) from error
