# SPDX-License-Identifier: Apache-2.0
"""Scores saved signals: numbers with intervals, closed forms and blind guesses beside them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mammo_dp.attacks.bounds.from_scratch import FromScratch
from mammo_dp.attacks.bounds.schedules import Schedule
from mammo_dp.attacks.reconstruction.batches import match
from mammo_dp.attacks.reconstruction.candidates import Identification, named, recognised
from mammo_dp.attacks.reconstruction.collect import (
    FEW,
    ROWS,
    SEARCH_PX,
    SEARCHED,
    TRAPS,
    Known,
    Targets,
)
from mammo_dp.attacks.reconstruction.files import (
    read_arrays,
    read_candidates,
    read_observations,
)
from mammo_dp.attacks.reconstruction.isolated import Observations, Reconstruction, pooled, score
from mammo_dp.attacks.reconstruction.prior import GaussianPrior
from mammo_dp.attacks.reconstruction.quality import Images, Quality

Numbers = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the attacks at one budget achieved.

    Attributes:
        schedule: Noise, rate and steps.
        reconstructions: By resolution.
        closed_forms: By resolution and attacker: expected ``mse`` or ``ncc``; empty without noise.
        search: Quality of the searched images, on so many targets at so many pixels; none where
            the size of the crops does not allow it.
        rows: By way and number of rows: mean correlation of images read in one round.
        traps: By kind.
        lists: Success of lists on canaries: ``named``, and ``recognised`` by kappa.
    """

    schedule: Schedule
    reconstructions: Mapping[int, Reconstruction]
    closed_forms: Mapping[int, Mapping[str, Mapping[str, float]]]
    search: Quality | None
    rows: Mapping[str, Quality]
    traps: Mapping[str, Numbers]
    lists: Mapping[str, Identification]

    @property
    def exceeds_bound(self) -> bool:
        """Whether a list was read better than any adversary may."""
        return any(one.exceeds_bound for one in self.lists.values())

    def as_json(self) -> Numbers:
        """Plain values."""
        mechanism = self.schedule.mechanism
        first = next(iter(self.reconstructions.values()))
        searched = min(SEARCHED, len(first.originals))
        return {
            "name": self.schedule.name,
            "end_to_end": self.schedule.end_to_end,
            "mechanism": mechanism and mechanism.as_json(),
            "rounds": first.rounds,
            "isolated": {
                str(resolution): {
                    "attacks": {
                        name: asdict(guess.quality)
                        | {"closed_form": dict(self.closed_forms[resolution].get(name, {}))}
                        for name, guess in found.attacks.items()
                    },
                    "blind": {name: asdict(guess.quality) for name, guess in found.blind.items()},
                }
                for resolution, found in self.reconstructions.items()
            },
            "search": self.search
            and {"targets": searched, "resolution": SEARCH_PX, **asdict(self.search)},
            "rows": {name: asdict(quality) for name, quality in self.rows.items()},
            "traps": dict(self.traps),
            "lists": {
                name: asdict(one) | {"exceeds_bound": one.exceeds_bound}
                for name, one in self.lists.items()
            },
            "exceeds_bound": self.exceeds_bound,
        }


def judge(
    schedule: Schedule,
    targets: Targets,
    known: Mapping[int, Known],
    resolutions: Sequence[int],
    kappas: Sequence[float],
    folder: Path,
    *,
    level: float,
    resamples: int,
    seed: int,
) -> Judged:
    """Scores the signals of one budget; runs no model.

    Args:
        schedule: Noise, rate and steps.
        targets: Who was attacked.
        known: What the adversary holds, by resolution; empty for nothing.
        resolutions: Edges that were read, in pixels.
        kappas: Chances of guessing right, each in ``(0, 1)``.
        folder: Where :func:`mammo_dp.attacks.reconstruction.collect.collect` wrote.
        level: Coverage of each interval that is compared with a bound.
        resamples: Bootstrap resamples of patients.
        seed: Seed of the bootstrap.

    Raises:
        AttackError: If signals are missing.
    """
    reconstructions, closed_forms = {}, {}
    for resolution in resolutions:
        seen = read_observations(folder / f"{resolution}px.npz")
        originals = pooled(targets.images, resolution)
        held = known.get(resolution)
        prior = None if held is None else held.prior
        reconstructions[resolution] = score(
            seen,
            originals,
            prior=prior,
            reference=None if held is None else held.images,
            resamples=resamples,
            seed=seed,
        )
        closed_forms[resolution] = _expected(seen, originals, prior)
    few = targets.images[:FEW]
    rows = read_arrays(folder / "rows.npz")
    searched = read_arrays(folder / "search.npz").get("search")
    return Judged(
        schedule=schedule,
        reconstructions=reconstructions,
        closed_forms=closed_forms,
        search=None
        if searched is None
        else Quality.of(pooled(targets.images[: len(searched)], SEARCH_PX), searched, seed=seed),
        rows={
            name: Quality.of(few, rows[name].astype(np.float64), resamples=resamples, seed=seed)
            for name in (f"{how}_{count}" for how in ("division", "mean_of_rows") for count in ROWS)
        },
        traps=_trapped(targets, folder, seed),
        lists=_lists(schedule, kappas, folder, level),
    )


def _expected(
    seen: Observations, originals: Images, prior: GaussianPrior | None
) -> dict[str, dict[str, float]]:
    """Closed forms for these images, means over targets."""
    if seen.noise_multiplier == 0:
        return {}

    def view(image: Images, mean_square: float) -> FromScratch:
        spread = float(image.std())
        return FromScratch(
            pixels=image.size,
            noise_multiplier=seen.noise_multiplier,
            observations=seen.rounds,
            mean_square=max(mean_square, 1e-12),
            spread=max(min(spread, math.sqrt(mean_square)), 1e-9),
        )

    plain = [view(image, float((image**2).mean())) for image in originals]
    centred = [view(image, float(image.var())) for image in originals]
    found = {
        "from_scratch": {
            "mse": float(np.mean([one.variance for one in plain])),
            "ncc": float(np.mean([one.mean_ncc for one in plain])),
        },
        "centred": {"ncc": float(np.mean([one.mean_ncc for one in centred]))},
    }
    if prior is not None and seen.offset is not None:
        expected = [prior.expected_mse(float(noise)) for noise in seen.offset.noise]
        found["prior"] = {"mse": float(np.mean(expected))}
    return found


def _trapped(targets: Targets, folder: Path, seed: int) -> dict[str, Numbers]:
    if targets.reference is None:
        return {}
    batch, stored = targets.batch, read_arrays(folder / "traps.npz")
    found: dict[str, Numbers] = {}
    for kind in TRAPS:
        trapped = match(
            targets.images[:batch],
            stored[kind].astype(np.float64),
            targets.reference[: 2 * batch],
            seed=seed,
        )
        found[kind] = {
            "batch": batch,
            "candidates": trapped.candidates,
            "recovered_at_40_db": trapped.recovered,
            "best_match": asdict(trapped.quality),
            "blind_best_match": asdict(trapped.blind),
        }
    return found


def _lists(
    schedule: Schedule, kappas: Sequence[float], folder: Path, level: float
) -> dict[str, Identification]:
    if schedule.mechanism is None:
        return {}
    scores = read_candidates(folder / "canaries.npz")
    found = recognised(scores, schedule.mechanism, kappas, level=level)
    return {"named": named(scores, schedule.mechanism, level=level)} | {
        f"recognised_{kappa:.6g}": one for kappa, one in found.items()
    }
