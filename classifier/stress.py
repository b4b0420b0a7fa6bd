# SPDX-License-Identifier: Apache-2.0
"""How much AUROC and calibration a classifier loses on distorted crops.

Distorted crops are of the same patients, so differences have intervals from resamples that are the
same for both sides.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifier.evaluate import Estimate, finite_or_none, patient_resamples, percentiles, statistics
from classifier.intervals import auroc_interval, fewer_patients
from classifier.predictions import Predictions, write_in_one_move

FILE_NAME, TABLE = "stress.json", "stress.csv"
SCHEMA = 1
AS_THEY_ARE = "none"
MEASURES = ("auroc", "brier", "calibration_intercept")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stressed:
    """One distortion of all crops.

    Attributes:
        distortion: Its name; ``"none"`` for the crops as they are.
        measures: Values by the names of ``MEASURES``, see :class:`classifier.evaluate.Metrics`.
        differences: The same, less those of the crops as they are, each with a percentile interval
            of the paired difference over patients; empty for the crops as they are.
    """

    distortion: str
    measures: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]

    def __str__(self) -> str:
        """One line for people."""
        area = self.measures["auroc"]
        shown = f"{self.distortion}: AUROC {area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"
        if not self.differences:
            return shown
        lost = self.differences["auroc"]
        return f"{shown}, difference {lost.value:+.3f} [{lost.low:+.3f}, {lost.high:+.3f}]"


def stress(
    scored: Mapping[str, Predictions],
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Stressed]:
    """Compares scores of distorted crops with those of the same crops as they are.

    Args:
        scored: Scores by distortion, those of the crops as they are under ``"none"``; all of the
            same crops in the same order.
        resamples: Number of resamples of as many patients as there are, > 0.
        seed: Seed of the resamples.
        level: Coverage that intervals aim at, in ``(0, 1)``.

    Returns:
        The crops as they are first, then one entry per distortion.

    Raises:
        ValueError: If the crops differ or one class is missing.
    """
    plain = scored[AS_THEY_ARE]
    if other := [name for name, one in scored.items() if not np.array_equal(one.row, plain.row)]:
        raise ValueError(f"stress: {other[0]!r} scores other crops. Score the same ones.")
    label = plain.malignant.astype(np.float64)
    pieces = patient_resamples(label, plain.patient, resamples=resamples, seed=seed)
    whole = np.ones((1, len(label)))
    values = {}
    for name, one in scored.items():
        found = statistics(label, one.probability)
        values[name] = {
            measure: np.concatenate([found[measure](weights) for weights in (whole, *pieces)])
            for measure in MEASURES
        }
    before, result = values[AS_THEY_ARE], []
    fewer = fewer_patients(label, plain.patient)
    for name in (AS_THEY_ARE, *(name for name in scored if name != AS_THEY_ARE)):
        measures = {m: percentiles(values[name][m], level, patients=fewer) for m in MEASURES}
        interval = auroc_interval(label, scored[name].probability, plain.patient, level=level)
        measures["auroc"] = Estimate(*interval)
        result.append(
            Stressed(
                distortion=name,
                measures=measures,
                differences={}
                if name == AS_THEY_ARE
                else {m: percentiles(values[name][m] - before[m], level) for m in MEASURES},
            )
        )
    return result


def write_stress(
    folder: str | Path,
    scored: Mapping[str, Predictions],
    *,
    split: str,
    seen: str = "",
    perhaps: str = "",
) -> list[Stressed]:
    """Writes ``stress.json`` and ``stress.csv``: null, or an empty cell, for what is not finite.

    Args:
        folder: Where to.
        scored: As for :func:`stress`.
        split: Name of the split, for the reader.
        seen: As for :func:`classifier.evaluate.write_metrics`.
        perhaps: Likewise.
    """
    resamples, level = 2000, 0.95
    found = stress(scored, resamples=resamples, level=level)
    plain = scored[AS_THEY_ARE]
    counts = {
        "crops": len(plain.row),
        "patients": len(np.unique(plain.patient)),
        "malignant": int(plain.malignant.sum()),
    }
    rows = [
        {"distortion": one.distortion}
        | {
            part: {name: finite_or_none(asdict(value)) for name, value in values.items()}
            for part, values in (("measures", one.measures), ("differences", one.differences))
        }
        for one in found
    ]
    content = {
        "schema": SCHEMA,
        **{"split": split, "seen": seen, "perhaps_seen": perhaps},
        **counts,
        **{"level": level, "resamples": resamples},
    }
    write_in_one_move(
        Path(folder) / FILE_NAME, json.dumps(content | {"rows": rows}, indent=2) + "\n"
    )
    write_in_one_move(Path(folder) / TABLE, _comma_separated(rows, counts))
    return found


def _comma_separated(rows: Sequence[Mapping[str, Any]], counts: Mapping[str, int]) -> str:
    columns = [
        (part, measure, end)
        for part in ("measures", "differences")
        for measure in MEASURES
        for end in ("value", "low", "high")
    ]
    words = {"measures": "", "differences": "difference_"}
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    names = [f"{measure}_{words[part]}{end}" for part, measure, end in columns]
    table.writerow(["distortion", *names, *counts])
    for row in rows:
        cells = [row[part].get(measure, {}).get(end) for part, measure, end in columns]
        table.writerow([row["distortion"], *cells, *counts.values()])
    return buffer.getvalue()
