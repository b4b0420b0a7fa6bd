# SPDX-License-Identifier: Apache-2.0
"""All measures of all sources, each at the same numbers of crops and beside its bound."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from classifier.evaluate import Estimate
from data_prep.progress import watched
from mammo_dp.fidelity.agreement import STUDENTS, Student, resampled_aurocs, with_interval
from mammo_dp.fidelity.distances import (
    GRID,
    Features,
    Overlap,
    frechet,
    kernel_distance,
    overlap,
    pair_similarity,
    spectra,
)
from mammo_dp.fidelity.samples import Halves, PerClass, Rows, Samples, draw, estimate, smallest

Scores = dict[str, "Score"]
Floats = NDArray[np.float64]
Draws = Sequence[tuple[Rows, ...]]  # parts of each draw
OVERLAP = tuple(field.name for field in fields(Overlap))
IN_FEATURES = ("frechet", "kernel", *OVERLAP)
IN_PUBLIC = ("public_frechet", "public_kernel")
_RESAMPLES = 2000  # of cheap statistics
_REAL = ""  # no source is called so


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number of one source.

    Attributes:
        found: Value and interval.
        bound: The same of real against real crops of other patients, at the same numbers.
        crops: Crops on each side of the comparison.
    """

    found: Estimate
    bound: Estimate
    crops: int


def in_features(
    real: Features,
    sources: Mapping[str, Features],
    halves: Halves,
    drawn: Mapping[str, Draws],
) -> dict[str, Scores]:
    """Fréchet and kernel distance, precision, recall, density and coverage.

    Args:
        real: Features of the real crops.
        sources: Features of each source.
        halves: Draws of the real side.
        drawn: Draws of each source, see :func:`~mammo_dp.fidelity.samples.synthetic_parts`.
    """

    def measure(a: Features, b: Features) -> tuple[float, ...]:
        return (*_distances(a, b), *astuple(overlap(a, b)))

    return _against_halves(IN_FEATURES, measure, real, sources, halves, drawn)


def in_public_features(
    real: Features,
    sources: Mapping[str, Features],
    halves: Halves,
    drawn: Mapping[str, Draws],
) -> dict[str, Scores]:
    """Fréchet and kernel distance in the public space; arguments as of :func:`in_features`."""
    return _against_halves(IN_PUBLIC, _distances, real, sources, halves, drawn)


def _distances(a: Features, b: Features) -> tuple[float, ...]:
    return frechet(a, b), kernel_distance(a, b)


def _against_halves(
    names: Sequence[str],
    measure: Callable[[Features, Features], tuple[float, ...]],
    real: Features,
    sources: Mapping[str, Features],
    halves: Halves,
    drawn: Mapping[str, Draws],
) -> dict[str, Scores]:
    """Measures of each source against halves of the real crops, beside those of other halves."""

    def over_draws(draws: Draws, features: Features) -> list[Estimate]:
        values = [
            np.mean([measure(real[one], features[part]) for part in parts], axis=0)
            for one, parts in zip(halves.one, draws, strict=True)
        ]
        return [estimate(column) for column in np.array(values).T]

    bounds = over_draws([(rows,) for rows in halves.other], real)
    return {
        name: {
            measured: Score(found=found, bound=bound, crops=halves.crops)
            for measured, found, bound in zip(
                names, over_draws(drawn[name], features), bounds, strict=True
            )
        }
        for name, features in watched(list(sources.items()), "Comparing features")
    }


def in_spectrum(
    real: Samples,
    sources: Mapping[str, Samples],
    halves: Halves,
    drawn: Mapping[str, Draws],
) -> dict[str, Scores]:
    """Index of a grid at each frequency, the largest of them, and the slope of the spectrum."""

    def over_draws(samples: Samples, draws: Draws) -> list[Estimate]:
        found = spectra(samples.images)

        def measure(rows: Rows) -> Floats:
            index = found.grid_index(rows)
            return np.array([index.max(), found.slope[rows].mean(), *index])

        values = np.array([np.mean([measure(part) for part in parts], axis=0) for parts in draws])
        return [estimate(column) for column in values.T]

    names = ("grid", "slope", *(f"grid {frequency}" for frequency in GRID))
    bounds = over_draws(real, [(rows,) for rows in halves.one])
    return {
        name: {
            measure: Score(found=found, bound=bound, crops=halves.crops)
            for measure, found, bound in zip(
                names, over_draws(samples, drawn[name]), bounds, strict=True
            )
        }
        for name, samples in watched(list(sources.items()), "Taking spectra")
    }


def in_pairs(real: Samples, sources: Mapping[str, Samples], *, seed: int) -> dict[str, Scores]:
    """MS-SSIM of pairs of one class; the real pairs, of different patients, are the bound."""
    most = min(len(np.unique(real.patient[real.malignant == c])) for c in (0, 1)) // 2

    def mean(samples: Samples) -> tuple[Estimate, int]:
        values = pair_similarity(samples, pairs=most, seed=seed)
        rng = np.random.default_rng(seed)
        means = values[rng.integers(len(values), size=(_RESAMPLES, len(values)))].mean(1)
        return with_interval(np.concatenate([[values.mean()], means])), len(values)

    bound, _ = mean(real)
    found = {name: mean(samples) for name, samples in sources.items()}
    return {
        name: {"ms_ssim": Score(found=value, bound=bound, crops=2 * pairs)}
        for name, (value, pairs) in found.items()
    }


def in_labels(
    train: Samples, test: Samples, sources: Mapping[str, Samples], *, seeds: int, seed: int
) -> tuple[dict[str, Scores], dict[str, dict[str, Estimate]], dict[str, int]]:
    """Train on synthetic and test on real crops, and the reverse; real on real is the ceiling.

    Each seed draws the training crops anew, as many of each class as every source has; a source
    that has no more gives one fit. All students learn from the same draws.

    Returns:
        Scores ``tstr`` and ``trts`` of each student, such as ``tstr_machine``; paired differences
        of ``tstr`` by student and ``"A - B"``; and numbers of crops.
    """
    counts = smallest([one.per_class for one in (train, *sources.values())])
    rng = np.random.default_rng(seed)
    drawn = {name: _draws(samples, counts, seeds, rng) for name, samples in sources.items()}
    drawn[_REAL] = _draws(train, counts, seeds, rng)
    crops = {"train": sum(counts), "test": len(test), "patients of test": test.patients}
    found: dict[str, Scores] = {name: {} for name in sources}
    differences = {}
    for key, student in STUDENTS.items():
        learned_from = list(({_REAL: train} | dict(sources)).items())
        fits = {
            name: _described(samples, drawn[name], student)
            for name, samples in watched(learned_from, f"Describing sources for the {key}")
        }
        real_test = student.describe(test.images)
        by_seed = {
            name: [student.scores(fit, real_test) for fit in own] for name, own in fits.items()
        }
        values = resampled_aurocs(
            test.malignant, test.patient, by_seed, draws=_RESAMPLES, seed=seed
        )
        ceiling = with_interval(values[_REAL])
        for name in sources:
            descriptions, malignant = fits[name][0]
            reverse = [student.scores(fit, descriptions) for fit in fits[_REAL]]
            area = resampled_aurocs(
                malignant, np.arange(len(malignant)), {"": reverse}, draws=_RESAMPLES, seed=seed
            )
            for way, value in (("tstr", values[name]), ("trts", area[""])):
                found[name][f"{way}_{key}"] = Score(
                    found=with_interval(value), bound=ceiling, crops=sum(counts)
                )
        differences[key] = {
            f"{a} - {b}": with_interval(values[a] - values[b])
            for a, b in itertools.combinations(sources, 2)
        }
    return found, differences, crops


def _draws(samples: Samples, counts: PerClass, seeds: int, rng: np.random.Generator) -> list[Rows]:
    """Rows of the training crops of each seed."""
    fits = 1 if samples.per_class == counts else seeds
    return [draw(samples.malignant, counts, rng) for _ in range(fits)]


def _described(
    samples: Samples, drawn: Sequence[Rows], student: Student
) -> list[tuple[Floats, Rows]]:
    """Descriptions and labels of the training crops of each seed; each crop described once."""
    used = np.unique(np.concatenate(drawn))
    descriptions = student.describe(samples.images[used])
    return [(descriptions[np.searchsorted(used, rows)], samples.malignant[rows]) for rows in drawn]
