# SPDX-License-Identifier: Apache-2.0
"""Intervals that hold for few patients and nearly separated classes.

A bootstrap over patients gives 1.00 [1.00, 1.00] for eight patients whose classes are separated,
and covers a true .96 in two of three cases with ten. So the variance is that of DeLong for crops
that come in patients, the interval is symmetric on the scale of log-odds, and separated classes get
the variance that their number of patients allows. Other statistics keep the bootstrap, and a wider
part of it where patients are few.

Sources: variance with clusters, Obuchowski 1997, Biometrics 53:567; log-odds, Pepe 2003, section
5.2; variance from numbers alone, Hanley and McNeil 1982, Radiology 143:29; wider percentiles,
Hesterberg 2015, The American Statistician 69:371, arXiv 1411.5279.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata, t

Floats = NDArray[np.float64]


def auroc_interval(
    malignant: ArrayLike, score: ArrayLike, patient: ArrayLike, *, level: float = 0.95
) -> tuple[float, float, float]:
    """AUROC of crops with its interval.

    Args:
        malignant: Shape ``(N,)``, 0 or 1, both present.
        score: Shape ``(N,)``, finite; ties count half. Or ``(S, N)`` of several models that scored
            the same crops: the value is the mean of their AUROC, the interval that of this mean.
        patient: Shape ``(N,)``, anything that tells patients apart. A patient may have crops of
            both classes.
        level: Coverage that the interval aims at, in ``(0, 1)``.

    Returns:
        Value, lower and upper end; the interval never has length 0.
    """
    label, scores = np.asarray(malignant, bool), np.asarray(score, np.float64)
    _, unit = np.unique(np.asarray(patient), return_inverse=True)
    pairs = [_placements(label, one) for one in np.atleast_2d(scores)]
    above, below = (np.mean(side, axis=0) for side in zip(*pairs, strict=True))
    value = float(above.mean())
    ill, well = len(set(unit[label].tolist())), len(set(unit[~label].tolist()))
    inside, variance = value, _variance(above - value, below - value, unit[label], unit[~label])
    if not 0 < value < 1 or variance <= 0:
        # Half a patient of the smaller class away from certainty, where log-odds are infinite.
        least = 0.5 / min(ill, well)
        inside = min(max(value, least), 1 - least)
        variance = from_numbers(inside, ill, well)
    spread = math.sqrt(variance) / (inside * (1 - inside))
    reach = float(t.ppf((1 + level) / 2, max(1, ill + well - 2))) * spread
    odds = math.log(inside / (1 - inside))
    low, high = (1 / (1 + math.exp(-(odds + sign * reach))) for sign in (-1, 1))
    return value, min(low, value), max(high, value)


def fewer_patients(malignant: ArrayLike, patient: ArrayLike) -> int:
    """Patients with a crop of the class that fewer patients have.

    Args:
        malignant: Shape ``(N,)``, 0 or 1.
        patient: Shape ``(N,)``, anything that tells patients apart.
    """
    label, unit = np.asarray(malignant, bool), np.asarray(patient)
    return min(len(np.unique(unit[label])), len(np.unique(unit[~label])))


def left_out(level: float, patients: int) -> float:
    """Share of the resamples of few patients that lie beyond either end of their interval.

    A bootstrap of n patients takes the deviation with n in place of n - 1, and knows nothing of how
    uncertain that deviation is itself; a t-interval does, and these are its ends in the bootstrap.
    Which patients count, those of the smaller class, was chosen by the coverage that it gives.

    Args:
        level: Coverage that the interval aims at, in ``(0, 1)``.
        patients: Their number, >= 0; with one, or none, all resamples are inside.

    >>> round(left_out(0.95, 5), 4), round(left_out(0.95, 50), 4), round(left_out(0.95, 10**6), 4)
    (0.001, 0.0212, 0.025)
    """
    if patients < 2:
        return 0.0
    reach = math.sqrt(patients / (patients - 1)) * float(t.ppf((1 + level) / 2, patients - 1))
    return float(norm.cdf(-reach))


def from_numbers(value: float, ill: int, well: int) -> float:
    """Variance of an AUROC from the number of patients in each class.

    Args:
        value: In ``(0, 1)``.
        ill: Patients with a malignant crop, > 0.
        well: Patients with a benign crop, > 0.
    """
    both_ill, both_well = value / (2 - value), 2 * value**2 / (1 + value)
    extra = (ill - 1) * (both_ill - value**2) + (well - 1) * (both_well - value**2)
    return (value * (1 - value) + extra) / (ill * well)


def _placements(label: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """Share of benign crops below each malignant one, and of malignant above each benign one."""
    ranks = rankdata(score)
    ill, well = int(label.sum()), int((~label).sum())
    above = (ranks[label] - rankdata(score[label])) / well
    below = 1 - (ranks[~label] - rankdata(score[~label])) / ill
    return above, below


def _variance(
    ill: Floats, well: Floats, of_ill: NDArray[np.intp], of_well: NDArray[np.intp]
) -> float:
    """Variance of the mean of centred placements, whose crops come in patients."""
    patients = int(max(of_ill.max(), of_well.max())) + 1
    one = np.bincount(of_ill, ill, patients) / len(ill)
    two = np.bincount(of_well, well, patients) / len(well)
    found = 0.0
    for part, members in ((one, of_ill), (two, of_well)):
        count = len(set(members.tolist()))
        found += count / max(1, count - 1) * float((part**2).sum())
    return found + 2 * patients / max(1, patients - 1) * float((one * two).sum())
