# SPDX-License-Identifier: Apache-2.0
"""Predictions of one model into curves: who is ranked above whom, and how probabilities hold.

Only aggregates leave this module. A group with few patients is not shown, since its numbers would
be about them. Crops of a patient resemble each other, so all intervals are over patients.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from classifier.evaluate import Metrics, evaluate, resampled_weights
from classifier.predictions import Predictions
from data_prep.manifest import ATTRIBUTES, CropsManifest

LEAST_CROPS, LEAST_PATIENTS, MOST_BINS = 10, 5, 10
LEVEL, RESAMPLES = 0.95, 500

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Receiver operating characteristic with a band.

    Attributes:
        fpr: False-positive rates, rising from 0 to 1, shape ``(points,)``.
        tpr: True-positive rate at each, shape ``(points,)``.
        low: Lower end of the pointwise interval, shape ``(points,)``.
        high: Upper end, shape ``(points,)``.
    """

    fpr: Floats
    tpr: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """Calibration: crops in bins of equal number by probability.

    Attributes:
        stated: Mean probability in each bin, rising, shape ``(bins,)``.
        observed: Share of malignant crops in each bin, shape ``(bins,)``.
        low: Lower end of the interval of ``observed``, shape ``(bins,)``.
        high: Upper end, shape ``(bins,)``.
        crops: Crops in each bin, shape ``(bins,)``.
    """

    stated: Floats
    observed: Floats
    low: Floats
    high: Floats
    crops: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """Crops that share a value of an attribute.

    Attributes:
        attribute: Such as ``"density"``.
        value: Such as ``"3"``.
        crops: Number of crops.
        patients: Number of patients.
        malignant: Number of malignant crops.
        metrics: None for too few patients in one of the classes.
    """

    attribute: str
    value: str
    crops: int
    patients: int
    malignant: int
    metrics: Metrics | None


def roc_curve(predictions: Predictions, *, points: int = 101, seed: int = 0) -> Curve:
    """Sensitivity at evenly spaced false-positive rates, with a pointwise interval.

    Args:
        predictions: Scores of one split, both classes present.
        points: Number of false-positive rates, > 1.
        seed: Start of the draws.
    """
    label = predictions.malignant.astype(np.float64)
    order = np.argsort(-predictions.logit, kind="stable")
    starts = np.flatnonzero(np.diff(predictions.logit[order], prepend=np.inf))  # of equal scores
    grid = np.linspace(0, 1, points)

    def curve(weights: Floats) -> Floats:
        tp = np.append(0.0, np.add.reduceat((weights * label)[order], starts).cumsum())
        fp = np.append(0.0, np.add.reduceat((weights * (1 - label))[order], starts).cumsum())
        if tp[-1] == 0 or fp[-1] == 0:
            return np.full(points, np.nan)
        last = np.searchsorted(fp / fp[-1], grid + 1e-12, side="right") - 1
        height: Floats = (tp / tp[-1])[last]
        return height

    drawn = np.stack([curve(weights) for weights in _resampled(predictions.patient, seed)])
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return Curve(fpr=grid, tpr=curve(np.ones(len(label))), low=low, high=high)


def calibration_bins(predictions: Predictions, *, seed: int = 0) -> Bins:
    """Stated probability against the observed share of malignant crops.

    Args:
        predictions: Scores of one split, at least ``LEAST_CROPS`` crops.
        seed: Start of the draws.
    """
    label, stated = predictions.malignant.astype(np.float64), predictions.probability
    count = max(1, min(MOST_BINS, len(label) // LEAST_CROPS))
    bins = np.array_split(np.argsort(stated, kind="stable"), count)
    weights = _resampled(predictions.patient, seed)
    low, high = [], []
    for rows in bins:
        total = weights[:, rows].sum(1)
        share = (weights[:, rows] @ label[rows])[total > 0] / total[total > 0]
        ends = np.quantile(share, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        low.append(min(ends[0], label[rows].mean()))
        high.append(max(ends[1], label[rows].mean()))
    return Bins(
        stated=np.array([stated[rows].mean() for rows in bins]),
        observed=np.array([label[rows].mean() for rows in bins]),
        low=np.array(low),
        high=np.array(high),
        crops=np.array([len(rows) for rows in bins]),
    )


def subgroups(predictions: Predictions, manifest: CropsManifest) -> list[Subgroup]:
    """Utility in each group of view, density, shape, margin and subtlety that the manifest names.

    Args:
        predictions: Scores of one split of ``manifest``.
        manifest: Crops that were scored.

    Returns:
        Groups by attribute and value; empty if the manifest has no attribute of these crops.
    """
    crops = [manifest.crops[row] for row in predictions.row.tolist()]
    columns: dict[str, list[str | None]] = {"view": [crop.view for crop in crops]}
    columns |= {name: [crop.attributes.get(name) for crop in crops] for name in ATTRIBUTES}
    groups: Mapping[tuple[str, str], list[int]] = {}
    groups = {
        (name, value): [row for row, other in enumerate(values) if other == value]
        for name, values in columns.items()
        for value in sorted({value for value in values if value})
    }
    return [_subgroup(name, value, predictions, rows) for (name, value), rows in groups.items()]


def _subgroup(name: str, value: str, predictions: Predictions, rows: list[int]) -> Subgroup:
    label, patient = predictions.malignant[rows], predictions.patient[rows]
    metrics = None
    if min(len(set(patient[label == c].tolist())) for c in (0, 1)) >= LEAST_PATIENTS:
        metrics = evaluate(label, predictions.probability[rows], patient, resamples=RESAMPLES)
    return Subgroup(
        attribute=name,
        value=value,
        crops=len(rows),
        patients=len(set(patient.tolist())),
        malignant=int(label.sum()),
        metrics=metrics,
    )


def _resampled(patient: NDArray[np.int64], seed: int) -> Floats:
    """Weights of crops of resampled patients, shape ``(RESAMPLES, crops)``."""
    weights = resampled_weights(patient, RESAMPLES, np.random.default_rng(seed))
    return weights.astype(np.float64)
