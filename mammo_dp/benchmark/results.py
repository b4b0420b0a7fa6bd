# SPDX-License-Identifier: Apache-2.0
"""Rows of the table from cells: means over seeds, intervals over patients, and epsilon."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from classifier.evaluate import Estimate, Floats, percentiles
from classifier.intervals import auroc_interval, fewer_patients
from mammo_dp.benchmark.measure import Measured
from mammo_dp.benchmark.plan import Cell
from mammo_dp.benchmark.spec import BenchmarkError, Budget
from mammo_dp.privacy.statement.document import read_statement
from mammo_dp.privacy.statement.guarantee import PrivacyStatement
from mammo_dp.privacy.statement.seals import seal_doubt
from mammo_dp.runs import file_sha256, read_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The largest epsilon and risks that the statement gives for any cohort, end to end.

    Attributes:
        epsilon: Per ``unit``; 0 if no patient's data were used, infinite without a guarantee.
        epsilon_patient: Of the patient with the most crops; equal to ``epsilon`` per patient.
        unit: What neighbouring cohorts differ in; empty if no patient's data were used.
        delta: Probability that the guarantee does not cover.
        adjacency: Empty if no patient's data were used.
        accountant: Empty if there is no finite epsilon.
        advantage: Bound on TPR - FPR of any membership attack on a unit.
        tpr: Bound on the TPR of any membership attack at 1 % FPR.
        reconstruction: Bound on naming the unit among all of its cohort.
        because: Why epsilon is what it is.
        exclusions: What epsilon does not cover, in the words of the statement.
    """

    epsilon: float
    epsilon_patient: float
    unit: str
    delta: float
    adjacency: str
    accountant: str
    advantage: float
    tpr: float
    reconstruction: float
    because: str
    exclusions: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the statement of a run folder.

        Raises:
            PrivacyError: If there is none.
            BenchmarkError: If it is not about the weights beside it, or its seal is broken or made
                with another cohort key.
        """
        stored = read_statement(folder)
        doubt = seal_doubt(stored)
        if not doubt and (artefact := stored["artefact"]) is not None:
            released = folder / artefact["path"]
            if not released.is_file() or file_sha256(released) != artefact["sha256"]:
                doubt = f"is not about the {artefact['path']} beside it"
        if doubt:
            raise BenchmarkError(
                f"{folder}: its privacy statement {doubt}. It was changed, or a worker had another "
                "cohort key: give all of them the same MAMMO_DP_COHORT_KEY, and remove the folder."
            )
        if not stored["statements"]:
            return cls(
                epsilon=0.0,
                epsilon_patient=0.0,
                unit="",
                delta=0.0,
                adjacency="",
                accountant="",
                advantage=0.0,
                tpr=0.01,
                reconstruction=math.nan,
                because=str(stored["summary"]),
                exclusions=tuple(stored["exclusions"]),
            )
        stated = map(PrivacyStatement.from_json, stored["statements"])
        worst = max(stated, key=lambda statement: statement.patient_epsilon)
        return cls(
            epsilon=worst.epsilon,
            epsilon_patient=worst.patient_epsilon,
            unit=worst.unit,
            delta=worst.delta,
            adjacency=worst.adjacency,
            accountant=worst.guarantee.accountant,
            advantage=worst.advantage,
            tpr=worst.tpr,
            reconstruction=worst.reconstruction,
            because=worst.because,
            exclusions=tuple(stored["exclusions"]),
        )


# What compared regimes should share: the same classifier, the same part of it, the same schedule.
_ALIKE = (
    ("model", "backbone"),
    ("model", "backbone_args"),
    ("model", "image_size"),
    ("model", "trainable"),
    ("model", "optimizer"),
    ("model", "learning_rate"),
    ("model", "malignant_weight"),
    ("model", "prior"),
    ("trainer", "max_steps"),
    ("trainer", "max_epochs"),
)
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One regime at one budget on one set of crops.

    Attributes:
        evaluated: Name of the set.
        regime: Name of the regime.
        budget: Epsilon of the last stage that was asked for, or ``"none"``.
        unit: What the budget protects; empty without one.
        seeds: Seeds that were measured; one for each fit, as seeds may share one.
        missing: Seeds that failed or were not run, one for each fit.
        failed: Those among them that failed in this call.
        metrics: Mean over seeds with an interval over patients, by name; subgroups too.
        spread: Standard deviation over seeds, by name; NaN for one fit.
        counts: Patients, crops and malignant crops, by name.
        cost: The largest over the seeds, end to end; none if no seed was measured.
        by_seed: AUROC on the crops as they are and on each resample, by seed of the grid.
        fits: Key of the fit that was measured, by seed of the grid.
        settings: Settings that compared regimes should share.
        perhaps_seen: Of which stages nobody knows whether they saw these patients, in sentences.
    """

    evaluated: str
    regime: str
    budget: Budget
    unit: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    failed: tuple[int, ...]
    metrics: Mapping[str, Estimate]
    spread: Mapping[str, float]
    counts: Mapping[str, tuple[int, int, int]]
    cost: Cost | None
    by_seed: Mapping[int, Floats]
    fits: Mapping[int, str]
    settings: Mapping[str, Any]
    perhaps_seen: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """AUROC of one regime minus another's: same budget, unit, patients and seeds.

    Attributes:
        evaluated: Name of the set.
        regime: The one.
        other: The one that is subtracted.
        budget: Of both.
        unit: Of both.
        auroc: Mean over common seeds, with an interval from resampled patients.
        spread: Standard deviation over seeds of the difference; NaN for one pair of fits.
        seeds: Number of different pairs of fits that share a seed.
        unlike: Settings in which the two differ although compared regimes should not.
    """

    evaluated: str
    regime: str
    other: str
    budget: Budget
    unit: str
    auroc: Estimate
    spread: float
    seeds: int
    unlike: tuple[str, ...]


def rows(
    cells: Sequence[Cell],
    evaluated: str,
    *,
    run_folders: Mapping[str, Path],
    evaluations: Mapping[str, Path],
    costs: Mapping[str, Cost],
    failed: Collection[str] = (),
) -> list[Row]:
    """One row per regime, budget and unit, in the order of the cells; what is missing stays.

    Args:
        cells: Points of the grid.
        evaluated: Name of the set of crops.
        run_folders: Run folder of each job, by key.
        evaluations: Folder of the evaluation on the set, by key; absent where there is none.
        costs: What each job cost, by key; absent where it is not done.
        failed: Keys of jobs that failed.
    """
    groups: dict[tuple[str, Budget, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.regime, cell.budget, cell.unit or ""), []).append(cell)
    cache = {key: Measured.read(folder) for key, folder in evaluations.items() if key in costs}
    found = []
    for (regime, budget, unit), group in groups.items():
        keys = {cell.seed: cell.key for cell in group}
        fits = {seed: key for seed, key in keys.items() if key in cache}
        done, different = _different(fits), _different(keys)
        missing = [seed for seed in different if seed not in fits]
        measured = [cache[keys[seed]] for seed in done]
        names = list(measured[0].values) if measured else []
        stacked = {name: np.stack([one.values[name] for one in measured]) for name in names}
        found.append(
            Row(
                evaluated=evaluated,
                regime=regime,
                budget=budget,
                unit=unit,
                seeds=tuple(done),
                missing=tuple(missing),
                failed=tuple(seed for seed in missing if keys[seed] in failed),
                metrics={
                    name: _area(measured, name)
                    if name in measured[0].rows
                    else _mean(values, fewer_patients(measured[0].malignant, measured[0].patient))
                    for name, values in stacked.items()
                },
                spread={name: _deviation(values[:, 0]) for name, values in stacked.items()},
                counts=measured[0].counts if measured else {},
                cost=_largest([costs[keys[seed]] for seed in done]),
                by_seed={seed: cache[key].values["auroc"] for seed, key in fits.items()},
                fits=fits,
                settings=_settings(run_folders[keys[done[0]]]) if done else {},
                perhaps_seen=tuple(dict.fromkeys(filter(None, (m.perhaps_seen for m in measured)))),
            )
        )
    return found


def differences(found: Sequence[Row]) -> Iterator[Difference]:
    """AUROC of each regime minus that of each later one, where budget, unit and set agree."""
    for one, other in itertools.combinations(found, 2):
        if (one.evaluated, one.budget, one.unit) != (other.evaluated, other.budget, other.unit):
            continue
        shared = sorted(set(one.fits) & set(other.fits))
        if seeds := _different({seed: (one.fits[seed], other.fits[seed]) for seed in shared}):
            by_seed = np.stack([one.by_seed[seed] - other.by_seed[seed] for seed in seeds])
            unlike = [k for k, v in one.settings.items() if other.settings.get(k) != v]
            yield Difference(
                evaluated=one.evaluated,
                regime=one.regime,
                other=other.regime,
                budget=one.budget,
                unit=one.unit,
                auroc=percentiles(by_seed.mean(0), LEVEL),
                spread=_deviation(by_seed[:, 0]),
                seeds=len(seeds),
                unlike=tuple(unlike),
            )


def _different(fits: Mapping[int, object]) -> list[int]:
    """The first of the seeds that share a fit, which is no repetition of itself."""
    first: dict[object, int] = {}
    for seed, fit in fits.items():
        first.setdefault(fit, seed)
    return list(first.values())


def _area(measured: Sequence[Measured], name: str) -> Estimate:
    """Mean AUROC of the seeds, with the interval of this mean over patients."""
    first = measured[0]
    rows = first.rows[name]
    scores = np.stack([one.logit[rows] for one in measured])
    interval = auroc_interval(first.malignant[rows], scores, first.patient[rows], level=LEVEL)
    return Estimate(*interval)


def _mean(values: Floats, patients: int) -> Estimate:
    """Of seeds, shape ``(seeds, 1 + resamples)``; patients of the smaller class."""
    with np.errstate(invalid="ignore"):  # slopes of both infinities have no mean
        mean = values.mean(0)
    drawn = mean[1:][np.isfinite(mean[1:])]
    return percentiles(np.concatenate([mean[:1], drawn]), LEVEL, patients=patients)


def _deviation(values: Floats) -> float:
    known = len(values) > 1 and np.isfinite(values).all()
    return float(np.std(values, ddof=1)) if known else float("nan")


def _largest(costs: Sequence[Cost]) -> Cost | None:
    """The largest cost, which leaves out all that one of them leaves out."""
    largest = max(costs, key=lambda cost: cost.epsilon_patient, default=None)
    left_out = dict.fromkeys(exclusion for cost in costs for exclusion in cost.exclusions)
    return largest and replace(largest, exclusions=tuple(left_out))


def _settings(folder: Path) -> dict[str, Any]:
    config = read_run(folder).config
    parts = {"model": config["model"].get("init_args", {}), "trainer": config["trainer"]}
    return {name: parts[part].get(name) for part, name in _ALIKE}
