# SPDX-License-Identifier: Apache-2.0
"""How well scores rank and how well they are calibrated, with intervals over patients.

Crops of a patient resemble each other, so intervals come from a bootstrap over patients: a patient
that is sampled twice counts twice, as weights on crops. Every statistic takes weights of many
resamples at once, shape ``(R, N)``. A bootstrap is too sure of itself where patients are few, so
the interval of the AUROC is computed, and the others are wider percentiles, see
:mod:`classifier.intervals`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from classifier.intervals import auroc_interval, fewer_patients, left_out
from classifier.predictions import Predictions, write_in_one_move
from data_prep.errors import LabelError

FILE_NAME = "metrics.json"
SPECIFICITY = 0.9
# Metrics that tables of reports and benchmarks show, in this order, with their headings; all others
# are in the file alone.
HEADINGS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "sensitivity_at_90_specificity": "Sensitivity at 90 % specificity",
    "brier": "Brier",
    "calibration_slope": "Calibration slope",
}
FEW = 250  # resamples at a time; keeps the weights of 10,000 crops below 20 MB

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A statistic and its interval; NaN where it is undefined.

    Attributes:
        value: On the crops as they are.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Utility of a classifier on the crops of one split; a crop counts once.

    Attributes:
        auroc: Probability that a malignant crop scores above a benign one, ties count half.
        auprc: Average precision: mean precision over the recalls that the scores reach.
        sensitivity_at_90_specificity: Largest sensitivity at a threshold whose specificity is at
            least 0.9; the threshold is chosen on the same crops.
        brier: Mean squared difference of probability and label; 0 is best.
        calibration_slope: Slope of a logistic regression of the label on the logit; 1 is best,
            below 1 the probabilities are too extreme; infinite if the logits separate the classes.
        calibration_intercept: Calibration in the large: what must be added to every logit so that
            the mean probability is the share of malignant crops; 0 is best.
        crops: Number of crops.
        patients: Number of patients.
        malignant: Number of malignant crops.
        level: Coverage that the intervals aim at.
        resamples: Number of resamples; those with one class only are left out.
    """

    auroc: Estimate
    auprc: Estimate
    sensitivity_at_90_specificity: Estimate
    brier: Estimate
    calibration_slope: Estimate
    calibration_intercept: Estimate
    crops: int
    patients: int
    malignant: int
    level: float
    resamples: int


def resampled_counts(units: int, resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Bootstrap over patients or other units: how often each is in each resample.

    A resample with replacement is a row of counts, which weigh the crops of each unit.

    Args:
        units: Number of units, > 0; a resample has as many.
        resamples: Number of resamples.
        rng: Source of randomness.

    Returns:
        Shape ``(resamples, units)``; each row adds up to ``units``.
    """
    return rng.multinomial(units, np.full(units, 1 / units), size=resamples)


def resampled_weights(
    unit: ArrayLike, resamples: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """As :func:`resampled_counts`, as weights of rows: crops of the resampled patients.

    Args:
        unit: Shape ``(N,)``, any integer per unit.
        resamples: Number of resamples.
        rng: Source of randomness.

    Returns:
        Shape ``(resamples, N)``.
    """
    _, place = np.unique(np.asarray(unit), return_inverse=True)
    return resampled_counts(int(place.max()) + 1, resamples, rng)[:, place]


def patient_resamples(
    label: Floats, patient: ArrayLike, *, resamples: int, seed: int
) -> list[Floats]:
    """Resamples of patients in which both classes are present.

    Args:
        label: Shape ``(N,)``, 0 or 1.
        patient: Shape ``(N,)``, any integer per patient.
        resamples: Number of resamples that are drawn; those with one class only are left out.
        seed: Seed of the draws.

    Returns:
        Weights of crops for :func:`statistics`, each of shape ``(R, N)`` for a few resamples.
    """
    _, unit = np.unique(np.asarray(patient), return_inverse=True)
    counts = resampled_counts(int(unit.max()) + 1, resamples, np.random.default_rng(seed))
    counts = counts[(counts @ np.bincount(unit, label) > 0)]
    counts = counts[(counts @ np.bincount(unit, 1 - label) > 0)]
    return [counts[i : i + FEW][:, unit].astype(float) for i in range(0, len(counts), FEW)]


def percentiles(values: Floats, level: float, *, patients: int | None = None) -> Estimate:
    """A statistic with the interval that its resamples give.

    Args:
        values: The statistic on the crops as they are, then on each resample; NaN where it is
            undefined.
        level: Share of the resamples inside, in ``(0, 1)``.
        patients: Of the smaller class: fewer of them widen the interval, see
            :func:`classifier.intervals.left_out`. None for paired differences, which are small.
    """
    drawn = np.sort(values[1:][~np.isnan(values[1:])])
    beyond = (1 - level) / 2 if patients is None else left_out(level, patients)
    low, high = (
        np.quantile(drawn, [beyond, 1 - beyond], method="nearest")
        if len(drawn)
        else (np.nan, np.nan)
    )
    return Estimate(float(values[0]), float(low), float(high))


def evaluate(
    malignant: ArrayLike,
    probability: ArrayLike,
    patient: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Metrics:
    """Computes all metrics with intervals over patients.

    Args:
        malignant: Shape ``(N,)``, 0 or 1, both present.
        probability: Shape ``(N,)``, in ``[0, 1]``.
        patient: Shape ``(N,)``, any integer per patient.
        resamples: Number of resamples of as many patients as there are, > 0.
        seed: Seed of the resamples.
        level: Coverage that the intervals aim at, in ``(0, 1)``.

    Raises:
        LabelError: If one class is missing.
        ValueError: For unequal lengths, and for values outside the stated ranges.
    """
    label = np.asarray(malignant, np.float64)
    score = np.asarray(probability, np.float64)
    _, unit = np.unique(np.asarray(patient), return_inverse=True)
    if not (label.shape == score.shape == unit.shape) or label.ndim != 1:
        shapes = f"{label.shape}, {score.shape}, {unit.shape}"
        raise ValueError(f"evaluate: shapes {shapes}. Give one label, score and patient per crop.")
    if not np.isin(label, (0, 1)).all():
        raise ValueError("evaluate: labels other than 0 and 1. Malignant is 1, benign 0.")
    if len(set(label.tolist())) < 2:
        raise LabelError(
            f"evaluate: {len(label)} crops, {int(label.sum())} of them malignant. "
            "Both classes are needed; choose another split."
        )
    if not ((score >= 0) & (score <= 1)).all():
        raise ValueError("evaluate: a probability is NaN or outside [0, 1]. Check the model.")
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"evaluate: {resamples=}, {level=}. Give resamples > 0, 0 < level < 1.")

    named = statistics(label, score)
    pieces = patient_resamples(label, unit, resamples=resamples, seed=seed)
    whole, fewer = np.ones((1, len(label))), fewer_patients(label, unit)

    def estimate(statistic: Statistic) -> Estimate:
        values = np.concatenate([statistic(weights) for weights in (whole, *pieces)])
        return percentiles(values, level, patients=fewer)

    def area(statistic: Statistic) -> Estimate:
        _, low, high = auroc_interval(label, score, unit, level=level)
        return Estimate(float(statistic(whole)[0]), low, high)

    return Metrics(
        auroc=area(named["auroc"]),
        **{name: estimate(one) for name, one in named.items() if name != "auroc"},
        crops=len(label),
        patients=int(unit.max()) + 1,
        malignant=int(label.sum()),
        level=level,
        resamples=resamples,
    )


def auroc(malignant: ArrayLike, score: ArrayLike) -> float:
    """Probability that a malignant crop scores above a benign one, ties count half.

    Args:
        malignant: Shape ``(N,)``, 0 or 1, both present.
        score: Shape ``(N,)``, finite.
    """
    label = np.asarray(malignant, np.float64)
    statistic = statistics(label, np.asarray(score, np.float64))["auroc"]
    return float(statistic(np.ones((1, len(label))))[0])


def statistics(label: Floats, score: Floats) -> dict[str, Statistic]:
    """All statistics of one set of scores, for any number of resamples at once.

    Args:
        label: Shape ``(N,)``, 0 or 1.
        score: Shape ``(N,)``, in ``[0, 1]``; to rank by, any finite values.

    Returns:
        Functions by the names of :class:`Metrics`: weights of shape ``(R, N)``, both classes
        present in each row, to values of shape ``(R,)``.
    """
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.inf))  # of equal scores

    def reached(weights: Floats) -> tuple[Floats, Floats]:
        """Malignant and benign weight at or above each threshold, each ``(R, thresholds)``."""
        positive = np.add.reduceat((weights * label)[:, order], starts, 1)
        negative = np.add.reduceat((weights * (1 - label))[:, order], starts, 1)
        return positive.cumsum(1), negative.cumsum(1)

    def auroc(weights: Floats) -> Floats:
        tp, fp = reached(weights)
        steps = np.diff(fp, prepend=0.0)
        below = tp - np.diff(tp, prepend=0.0) / 2  # a tie counts half
        area: Floats = (steps * below).sum(1) / (tp[:, -1] * fp[:, -1])
        return area

    def auprc(weights: Floats) -> Floats:
        tp, fp = reached(weights)
        precision = tp / np.maximum(tp + fp, 1)  # weights are whole numbers
        area: Floats = (np.diff(tp, prepend=0.0) * precision).sum(1) / tp[:, -1]
        return area

    def sensitivity(weights: Floats) -> Floats:
        tp, fp = reached(weights)
        allowed = fp <= (1 - SPECIFICITY + 1e-12) * fp[:, -1:]
        best: Floats = (tp * allowed).max(1) / tp[:, -1]
        return best

    def brier(weights: Floats) -> Floats:
        mean: Floats = weights @ (score - label) ** 2 / weights.sum(1)
        return mean

    clipped = score.clip(1e-15, 1 - 1e-15)
    logit = np.log(clipped) - np.log1p(-clipped)

    def slope(weights: Floats) -> Floats:
        return calibration_slope(label, logit, weights)

    def intercept(weights: Floats) -> Floats:
        return calibration_intercept(label, logit, weights)

    return {
        "auroc": auroc,
        "auprc": auprc,
        "sensitivity_at_90_specificity": sensitivity,
        "brier": brier,
        "calibration_slope": slope,
        "calibration_intercept": intercept,
    }


def calibration_slope(label: Floats, logit: Floats, weights: Floats) -> Floats:
    """Maximum-likelihood slope of ``label`` on ``logit`` with a free intercept.

    Args:
        label: Shape ``(N,)``, 0 or 1.
        logit: Shape ``(N,)``, finite.
        weights: Shape ``(R, N)``, >= 0, both classes present in each row.

    Returns:
        Shape ``(R,)``; infinite where the logits separate the classes, NaN where they are equal.
    """
    malignant, benign = (np.where((weights > 0) & (label == c), logit, np.nan) for c in (1, 0))
    up = np.nanmin(malignant, 1) >= np.nanmax(benign, 1)
    down = np.nanmax(malignant, 1) <= np.nanmin(benign, 1)
    result: Floats = np.select([up & down, up, down], [np.nan, np.inf, -np.inf], np.nan)
    free = ~(up | down)
    w, centre, scale = weights[free], logit.mean(), logit.std() or 1.0
    z = (logit - centre) / scale
    a, b = np.zeros(len(w)), np.zeros(len(w))
    for _ in range(50):  # Newton; the clipped step is for nearly separated classes
        p = 0.5 * (1 + np.tanh((a[:, None] + b[:, None] * z) / 2))
        residual, curvature = w * (label - p), w * p * (1 - p)
        g0, g1 = residual.sum(1), residual @ z
        h0, h1, h2 = curvature.sum(1), curvature @ z, curvature @ z**2
        determinant = np.maximum(h0 * h2 - h1**2, 1e-12)
        da = ((h2 * g0 - h1 * g1) / determinant).clip(-2, 2)
        db = ((h0 * g1 - h1 * g0) / determinant).clip(-2, 2)
        a, b = a + da, b + db
        if max(np.abs(da).max(initial=0), np.abs(db).max(initial=0)) < 1e-9:
            break
    result[free] = b / scale
    return result


def calibration_intercept(label: Floats, logit: Floats, weights: Floats) -> Floats:
    """What must be added to every logit so that the mean probability is the malignant share.

    Args:
        label: Shape ``(N,)``, 0 or 1.
        logit: Shape ``(N,)``, finite.
        weights: Shape ``(R, N)``, >= 0, both classes present in each row.

    Returns:
        Shape ``(R,)``.
    """
    target = weights @ label
    low = np.full(len(weights), -logit.max() - 50.0)
    high = np.full(len(weights), -logit.min() + 50.0)
    for _ in range(40):  # bisection: the sum of probabilities grows with the intercept
        middle = (low + high) / 2
        p = 0.5 * (1 + np.tanh((middle[:, None] + logit) / 2))
        above = (weights * p).sum(1) > target
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    found: Floats = (low + high) / 2
    return found


def write_metrics(
    path: str | Path, predictions: Predictions, *, split: str, seen: str = "", perhaps: str = ""
) -> Metrics:
    """Evaluates predictions and writes ``metrics.json``: nested, null for what is not finite.

    Args:
        path: Target.
        predictions: Scores of the split.
        split: Name of the split, for the reader.
        seen: Which stages behind the model saw patients of the split, in sentences.
        perhaps: Of which stages nobody knows it.
    """
    metrics = evaluate(predictions.malignant, predictions.probability, predictions.patient)
    content = {
        name: finite_or_none(value) if isinstance(value, dict) else value
        for name, value in asdict(metrics).items()
    }
    content |= {"split": split, "seen": seen, "perhaps_seen": perhaps}
    write_in_one_move(path, json.dumps(content, indent=2) + "\n")
    return metrics


def finite_or_none(values: Mapping[str, float]) -> dict[str, float | None]:
    """The same values as JSON takes them: None in place of NaN and infinity."""
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
