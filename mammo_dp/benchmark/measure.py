# SPDX-License-Identifier: Apache-2.0
"""Statistics of one evaluation on many resamples of its patients.

The resamples are drawn from the patients alone, by one seed, so they are the same for all models
that scored the same crops: means over seeds and paired differences need no second bootstrap. The
interval of an AUROC is computed from the scores themselves, see :mod:`classifier.intervals`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from classifier.evaluate import FILE_NAME as METRICS
from classifier.evaluate import HEADINGS, Floats, resampled_weights, statistics
from classifier.predictions import FILE_NAME as PREDICTIONS
from classifier.predictions import Predictions, read_predictions
from data_prep.manifest import Crop, CropsManifest
from mammo_dp.benchmark.jobs import MEASURED
from mammo_dp.benchmark.spec import BenchmarkError
from mammo_dp.report.diagnosis import LEAST_PATIENTS
from mammo_dp.runs import read_run

RESAMPLES = 1000
_EDGES_MM = (20.0, 40.0)  # of the crop's edge: small, medium and large masses with their margin


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Statistics of one evaluation.

    Attributes:
        values: Statistic on the crops as they are, then on each resample of the patients, shape
            ``(1 + RESAMPLES,)``, by name; NaN where it is undefined. Subgroups are named as
            ``"auroc, view CC"``.
        counts: Patients, crops and malignant crops behind each statistic.
        malignant: Shape ``(N,)``, 0 or 1.
        patient: Shape ``(N,)``, an integer per patient.
        logit: Shape ``(N,)``.
        rows: Shape ``(N,)`` each, which crops are behind each AUROC, by name.
        perhaps_seen: Of which stages nobody knows whether they saw these patients, in sentences.
    """

    values: dict[str, Floats]
    counts: dict[str, tuple[int, int, int]]
    malignant: NDArray[np.int64]
    patient: NDArray[np.int64]
    logit: Floats
    rows: dict[str, NDArray[np.bool_]]
    perhaps_seen: str = ""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads what :func:`measure` wrote."""
        with np.load(folder / MEASURED) as file:
            names = json.loads(str(file["names"]))
            values = dict(zip(names, file["values"].astype(np.float64), strict=True))
            counts = {
                name: (int(row[0]), int(row[1]), int(row[2]))
                for name, row in zip(names, file["counts"], strict=True)
            }
            return cls(
                values=values,
                counts=counts,
                malignant=file["malignant"],
                patient=file["patient"],
                logit=file["logit"],
                rows=dict(zip(json.loads(str(file["areas"])), file["rows"], strict=True)),
                perhaps_seen=str(file["perhaps_seen"]),
            )


def measure(folder: Path) -> None:
    """Computes the statistics of an evaluation and writes them beside its predictions.

    Args:
        folder: Run folder of ``mammo-dp test``.

    Raises:
        BenchmarkError: If a stage behind the model saw patients of the set.
    """
    said = json.loads((folder / METRICS).read_text(encoding="utf-8"))
    if seen := said["seen"]:
        raise BenchmarkError(
            f"{folder}: {seen} So this is no measure of new patients. Leave these patients out of "
            "the set, or give the stage other ones."
        )
    record = read_run(folder)
    predictions = read_predictions(folder / PREDICTIONS)
    manifest = CropsManifest.read(record.inputs["data"].path)
    crops = [manifest.crops[row] for row in predictions.row]
    found = compute(predictions, crops, edge_px=len(manifest.image(int(predictions.row[0]))))
    temporary = folder / f"{MEASURED}.part.npz"
    np.savez_compressed(
        temporary,
        names=json.dumps(list(found.values)),
        values=np.stack(list(found.values.values())).astype(np.float32),
        counts=np.array(list(found.counts.values())),
        malignant=found.malignant,
        patient=found.patient,
        logit=found.logit,
        areas=json.dumps(list(found.rows)),
        rows=np.stack(list(found.rows.values())),
        perhaps_seen=said["perhaps_seen"],
    )
    temporary.replace(folder / MEASURED)


def compute(
    predictions: Predictions, crops: list[Crop], *, edge_px: int, resamples: int = RESAMPLES
) -> Measured:
    """Statistics on the crops as they are and on resampled patients.

    Args:
        predictions: Scores of ``N`` crops.
        crops: Their rows of the manifest, in the same order.
        edge_px: Edge of the crops on disk, in pixels.
        resamples: Number of resamples of as many patients as there are.
    """
    label = predictions.malignant.astype(np.float64)
    _, unit = np.unique(predictions.patient, return_inverse=True)
    drawn = resampled_weights(predictions.patient, resamples, np.random.default_rng(0))
    weights = np.vstack([np.ones(len(label)), drawn])
    values: dict[str, Floats] = {}
    counts: dict[str, tuple[int, int, int]] = {}
    areas: dict[str, NDArray[np.bool_]] = {}

    def add(name: str, rows: NDArray[np.bool_], statistic: Callable[[Floats], Floats]) -> None:
        part, target = weights[:, rows], label[rows]
        both = (part @ target > 0) & (part @ (1 - target) > 0)
        result = np.full(len(weights), np.nan)
        result[both] = statistic(part[both])
        values[name] = result
        counts[name] = (len(set(unit[rows].tolist())), int(rows.sum()), int(target.sum()))

    everything = np.ones(len(label), bool)
    areas["auroc"] = everything
    on_all = statistics(label, predictions.probability)
    for name in HEADINGS:
        add(name, everything, on_all[name])
    for name, rows in subgroups(crops, edge_px):
        by_class = (set(unit[rows & (label == c)].tolist()) for c in (0, 1))
        if min(map(len, by_class)) >= LEAST_PATIENTS:  # numbers about few are about persons
            within = statistics(label[rows], predictions.logit[rows])
            add(f"auroc, {name}", rows, within["auroc"])
            areas[f"auroc, {name}"] = rows
    return Measured(
        values=values,
        counts=counts,
        malignant=predictions.malignant,
        patient=predictions.patient,
        logit=predictions.logit,
        rows=areas,
    )


def subgroups(crops: list[Crop], edge_px: int) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Named parts of the crops, where the manifest tells them apart.

    A mass is as large as the edge of its crop, which is cut around it with a fixed margin.

    Args:
        crops: Rows of a manifest.
        edge_px: Edge of the crops on disk, in pixels.

    Yields:
        Name, such as ``"density 2"``, and which crops belong to it.
    """
    columns: dict[str, list[str]] = {
        "density": [crop.attributes.get("density", "") for crop in crops],
        "view": [str(crop.view or "") for crop in crops],
        "shape": [crop.attributes.get("shape", "") for crop in crops],
        "size": [_size(crop, edge_px) for crop in crops],
    }
    for column, found in columns.items():
        kinds = sorted(set(found) - {""})
        for kind in kinds if len(kinds) > 1 else ():
            yield f"{column} {kind}", np.array([value == kind for value in found])


def _size(crop: Crop, edge_px: int) -> str:
    """Class of the crop's edge; empty where its scale is not known."""
    if crop.pixel_spacing_mm is None:
        return ""
    edge_mm = crop.pixel_spacing_mm * edge_px
    small, large = _EDGES_MM
    if edge_mm < small:
        return f"below {small:g} mm"
    return f"from {large:g} mm" if edge_mm >= large else f"{small:g} to {large:g} mm"
