# SPDX-License-Identifier: Apache-2.0
"""Cells into rows: means over seeds, intervals over patients, and differences on the same ones."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from classifier.evaluate import Estimate, Floats
from mammo_dp.benchmark.cost import Cost
from mammo_dp.benchmark.measure import METRICS, Measured
from mammo_dp.benchmark.plan import Cell
from mammo_dp.benchmark.spec import Budget
from mammo_dp.runs import read_run

# What compared regimes should share: the same classifier, the same part of it, the same schedule.
_ALIKE = (
    ("model", "backbone"),
    ("model", "backbone_args"),
    ("model", "image_size"),
    ("model", "trainable"),
    ("model", "optimizer"),
    ("model", "learning_rate"),
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
        seeds: Seeds that were measured.
        missing: Seeds that failed or were not run.
        metrics: Mean over seeds with an interval from resampled patients, by name; subgroups too.
        spread: Standard deviation over seeds, by name; NaN for one seed.
        counts: Patients, crops and malignant crops, by name.
        cost: The largest over the seeds, end to end; none if no seed was measured.
        by_seed: AUROC on the crops as they are and on each resample, by seed.
        settings: Settings that compared regimes should share.
    """

    evaluated: str
    regime: str
    budget: Budget
    unit: str
    seeds: tuple[int, ...]
    missing: tuple[int, ...]
    metrics: Mapping[str, Estimate]
    spread: Mapping[str, float]
    counts: Mapping[str, tuple[int, int, int]]
    cost: Cost | None
    by_seed: Mapping[int, Floats]
    settings: Mapping[str, Any]


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
        spread: Standard deviation over seeds of the difference; NaN for one seed.
        seeds: Number of common seeds.
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
) -> list[Row]:
    """One row per regime, budget and unit, in the order of the cells; failed ones stay.

    Args:
        cells: Points of the grid.
        evaluated: Name of the set of crops.
        run_folders: Run folder of each job, by key.
        evaluations: Folder of the evaluation on the set, by key; absent where it failed.
        costs: What each job cost, by key; absent where it failed.
    """
    groups: dict[tuple[str, Budget, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.regime, cell.budget, cell.unit or ""), []).append(cell)
    cache = {key: Measured.read(folder) for key, folder in evaluations.items() if key in costs}
    found = []
    for (regime, budget, unit), group in groups.items():
        done = [cell for cell in group if cell.key in cache]
        measured = [cache[cell.key] for cell in done]
        names = list(measured[0].values) if measured else []
        stacked = {name: np.stack([one.values[name] for one in measured]) for name in names}
        found.append(
            Row(
                evaluated=evaluated,
                regime=regime,
                budget=budget,
                unit=unit,
                seeds=tuple(cell.seed for cell in done),
                missing=tuple(cell.seed for cell in group if cell.key not in cache),
                metrics={name: _estimate(values.mean(0)) for name, values in stacked.items()},
                spread={name: _deviation(values[:, 0]) for name, values in stacked.items()},
                counts=measured[0].counts if measured else {},
                cost=_largest([costs[cell.key] for cell in done]),
                by_seed={
                    cell.seed: one.values[METRICS[0]]
                    for cell, one in zip(done, measured, strict=True)
                },
                settings=_settings(run_folders[done[0].key]) if done else {},
            )
        )
    return found


def differences(found: Sequence[Row]) -> Iterator[Difference]:
    """AUROC of each regime minus that of each later one, where budget, unit and set agree."""
    for one, other in itertools.combinations(found, 2):
        if (one.evaluated, one.budget, one.unit) != (other.evaluated, other.budget, other.unit):
            continue
        if seeds := sorted(set(one.by_seed) & set(other.by_seed)):
            by_seed = np.stack([one.by_seed[seed] - other.by_seed[seed] for seed in seeds])
            unlike = [k for k, v in one.settings.items() if other.settings.get(k) != v]
            yield Difference(
                evaluated=one.evaluated,
                regime=one.regime,
                other=other.regime,
                budget=one.budget,
                unit=one.unit,
                auroc=_estimate(by_seed.mean(0)),
                spread=_deviation(by_seed[:, 0]),
                seeds=len(seeds),
                unlike=tuple(unlike),
            )


def reverse(difference: Difference) -> Difference:
    """The same comparison, seen from the other regime."""
    value = difference.auroc
    return replace(
        difference,
        regime=difference.other,
        other=difference.regime,
        auroc=Estimate(-value.value, -value.high, -value.low),
    )


def _estimate(values: Floats) -> Estimate:
    """The first value, with the percentile interval of the others."""
    drawn = values[1:][np.isfinite(values[1:])]
    ends = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    low, high = np.quantile(drawn, ends) if len(drawn) else (np.nan, np.nan)
    return Estimate(float(values[0]), float(low), float(high))


def _deviation(values: Floats) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def _largest(costs: Sequence[Cost]) -> Cost | None:
    return max(costs, key=lambda cost: cost.epsilon_patient, default=None)


def _settings(folder: Path) -> dict[str, Any]:
    config = read_run(folder).config
    parts = {"model": config["model"].get("init_args", {}), "trainer": config["trainer"]}
    return {name: parts[part].get(name) for part, name in _ALIKE}
