# SPDX-License-Identifier: Apache-2.0
"""``predictions.csv``: one line per crop, without identifiers of patients."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE_NAME = "predictions.csv"
COLUMNS = ("row", "patient", "malignant", "logit", "probability")


class PredictionsError(ValueError):
    """Scores that nothing can be said about; the message names the cause and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Scores of ``N`` crops.

    Attributes:
        row: Shape ``(N,)``, row in ``crops.csv``, no duplicates.
        patient: Shape ``(N,)``, position of the patient within the manifest; a synthetic crop
            stands for itself.
        malignant: Shape ``(N,)``, 0 or 1.
        logit: Shape ``(N,)``, finite, above 0 means malignant.
    """

    row: NDArray[np.int64]
    patient: NDArray[np.int64]
    malignant: NDArray[np.int64]
    logit: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuses columns that do not belong together.

        Raises:
            PredictionsError: For unequal lengths, duplicate rows, labels other than 0 and 1, and
                logits that are not finite.
        """
        lengths = [len(self.row), len(self.patient), len(self.malignant), len(self.logit)]
        if len(set(lengths)) > 1:
            raise PredictionsError(
                f"predictions: columns of lengths {lengths}. Give one value per crop."
            )
        if len(np.unique(self.row)) < len(self.row):
            raise PredictionsError(
                "predictions: a row of the manifest appears twice. Score it once."
            )
        if not np.isin(self.malignant, (0, 1)).all():
            raise PredictionsError("predictions: malignant is neither 0 nor 1 in some row.")
        if bad := self.row[~np.isfinite(self.logit)].tolist():
            raise PredictionsError(
                f"predictions: logits of {len(bad)} crops are not finite, first of row {bad[0]}. "
                "The model has diverged; train with a lower learning rate or more clipping."
            )

    @property
    def probability(self) -> NDArray[np.float64]:
        """Shape ``(N,)``, the model's probability of malignancy, not recalibrated."""
        return np.exp(-np.logaddexp(0, -self.logit))


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Writes the table in order of rows, in one move; logits keep all their digits."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    columns = [getattr(predictions, name).tolist() for name in COLUMNS]
    writer.writerows(sorted(zip(*columns, strict=True)))
    write_in_one_move(path, buffer.getvalue())


def read_predictions(path: str | Path) -> Predictions:
    """Reads what :func:`write_predictions` wrote.

    Raises:
        PredictionsError: Naming the file and the row or column that is wrong.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
            raise PredictionsError(
                f"{path}: columns {missing} are missing. Run `mammo-dp test` again."
            )
        rows = list(reader)
    values: dict[str, list[float]] = {name: [] for name in COLUMNS}
    for number, line in enumerate(rows, start=2):
        for name in COLUMNS:
            try:
                values[name].append((float if name in COLUMNS[3:] else int)(line[name]))
            except (TypeError, ValueError) as error:
                raise PredictionsError(
                    f"{path}, row {number}: {name} is {line[name]!r}. Run `mammo-dp test` again."
                ) from error
    try:
        return Predictions(
            row=_integers(values["row"]),
            patient=_integers(values["patient"]),
            malignant=_integers(values["malignant"]),
            logit=np.array(values["logit"], np.float64),
        )
    except PredictionsError as error:
        raise PredictionsError(f"{path}: {error}") from error


def write_in_one_move(path: str | Path, text: str) -> None:
    """Writes a text file that is whole or absent, whatever happens meanwhile."""
    temporary = Path(f"{path}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _integers(values: Sequence[float]) -> NDArray[np.int64]:
    return np.array(values, np.int64)
