# SPDX-License-Identifier: Apache-2.0
"""How often intervals of an AUROC, and of other metrics, hold the true one, where patients are few.

Simulates cohorts whose crops come in patients, and counts. Prints the tables of
docs/explanation/intervals.md:

    $ python benchmarks/coverage.py --cohorts 1000
"""

from collections.abc import Callable, Iterator

import numpy as np
from jsonargparse import auto_cli
from numpy.typing import NDArray
from scipy.special import expit, ndtri

from classifier.evaluate import patient_resamples, percentiles, statistics
from classifier.intervals import auroc_interval, fewer_patients

Sample = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]
Ends = tuple[float, float]
PATIENTS, AREAS = (8, 10, 20, 40, 100), (0.75, 0.9, 0.96)
OTHERS, AREA_OF_OTHERS = ("auprc", "sensitivity_at_90_specificity", "brier"), 0.8


def sample(rng: np.random.Generator, patients: int, area: float, alike: float = 0.5) -> Sample:
    """Crops of patients, about half of them malignant, with normally distributed scores.

    A patient has one crop and a Poisson number of further ones, mean 1; one crop in ten is of the
    other class than its patient. Crops of a patient share half of the variance.

    Args:
        rng: Source of randomness.
        patients: Number of patients.
        area: True AUROC, between crops of different patients.
        alike: Share of the variance of scores that crops of a patient have in common.

    Returns:
        Label, score and patient of each crop; both classes are present.
    """
    while True:
        unit = np.repeat(np.arange(patients), 1 + rng.poisson(1.0, patients))
        label = (rng.random(len(unit)) < 0.1) ^ (rng.random(patients) < 0.5)[unit]
        if 0 < label.sum() < len(label):
            break
    own, shared = rng.standard_normal(len(unit)), rng.standard_normal(patients)[unit]
    score = 2**0.5 * ndtri(area) * label + alike**0.5 * shared + (1 - alike) ** 0.5 * own
    return label.astype(np.int64), score, unit


def computed(found: Sample) -> Ends:
    """The interval that this project prints."""
    return auroc_interval(*found)[1:]


def resampled(found: Sample) -> Ends:
    """Percentiles of 500 resamples of patients."""
    label, score, unit = found
    area = statistics(label.astype(np.float64), score)["auroc"]
    pieces = patient_resamples(label.astype(np.float64), unit, resamples=500, seed=0)
    drawn = percentiles(np.concatenate([[0.0], *map(area, pieces)]), 0.95)
    return drawn.low, drawn.high


def coverage(
    interval: Callable[[Sample], Ends], patients: int, area: float, cohorts: int
) -> tuple[float, float]:
    """Share of cohorts whose interval holds the true AUROC, and the mean length of intervals."""
    rng = np.random.default_rng([patients, round(1000 * area)])
    ends = np.array([interval(sample(rng, patients, area)) for _ in range(cohorts)])
    held = (ends[:, 0] <= area) & (area <= ends[:, 1])
    return float(held.mean()), float((ends[:, 1] - ends[:, 0]).mean())


def others(patients: int, cohorts: int) -> dict[str, tuple[float, float]]:
    """Share of cohorts whose interval holds the true value: as printed, and plain percentiles."""
    rng = np.random.default_rng(patients)
    truth = {
        name: values[0] for name, values in calibrated(sample(rng, 200_000, AREA_OF_OTHERS), 1)
    }
    held: dict[str, list[tuple[bool, bool]]] = {name: [] for name in OTHERS}
    for _ in range(cohorts):
        found = sample(rng, patients, AREA_OF_OTHERS)
        fewer = fewer_patients(found[0], found[2])
        for name, values in calibrated(found, 1000):
            ends = (percentiles(values, 0.95, patients=count) for count in (fewer, None))
            ours, plain = (one.low <= truth[name] <= one.high for one in ends)
            held[name].append((ours, plain))
    return {name: tuple(np.mean(pairs, axis=0).tolist()) for name, pairs in held.items()}


def calibrated(found: Sample, resamples: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """The other metrics of true probabilities, on the crops as they are and on each resample."""
    label, score, unit = found[0].astype(np.float64), *found[1:]
    middle = ndtri(AREA_OF_OTHERS) / 2**0.5
    known = statistics(label, expit(2 * middle * (score - middle)))
    pieces = patient_resamples(label, unit, resamples=resamples, seed=0)
    for name in OTHERS:
        whole = known[name](np.ones((1, len(label))))
        yield name, np.concatenate([whole, *(known[name](weights) for weights in pieces)])


def main(*, cohorts: int = 1000) -> None:
    """Prints two Markdown tables: the AUROC, computed and resampled, and other metrics, resampled.

    Args:
        cohorts: Simulated cohorts per cell.
    """
    print("| patients | " + " | ".join(f"true {area:g}" for area in AREAS) + " |")
    print("| --- " * (1 + len(AREAS)) + "|")
    for patients in PATIENTS:
        cells = []
        for area in AREAS:
            ours, other = (coverage(one, patients, area, cohorts) for one in (computed, resampled))
            cells.append(f"**{ours[0]:.3f}** ({ours[1]:.2f}), {other[0]:.3f} ({other[1]:.2f})")
        print(f"| {patients} | " + " | ".join(cells) + " |", flush=True)
    print("\n| patients | " + " | ".join(OTHERS) + " |")
    print("| --- " * (1 + len(OTHERS)) + "|")
    for patients in PATIENTS:
        cells = [
            f"**{ours:.3f}**, {plain:.3f}" for ours, plain in others(patients, cohorts).values()
        ]
        print(f"| {patients} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    auto_cli(main)
