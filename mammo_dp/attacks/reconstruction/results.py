# SPDX-License-Identifier: Apache-2.0
"""Scores saved signals: intervals, closed forms, blind guesses; draws the sheet of images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mammo_dp.attacks.arrays import read_arrays
from mammo_dp.attacks.bounds.from_scratch import FromScratch
from mammo_dp.attacks.bounds.schedules import Schedule
from mammo_dp.attacks.reconstruction.collect import (
    FEW,
    ROWS,
    SEARCHED,
    TRAPS,
    Known,
    Targets,
)
from mammo_dp.attacks.reconstruction.isolated import (
    Attacker,
    Blind,
    Observations,
    Reconstruction,
    read_observations,
    score,
)
from mammo_dp.attacks.reconstruction.lists import Identification, named, read_candidates, recognised
from mammo_dp.attacks.reconstruction.prior import GaussianPrior
from mammo_dp.attacks.reconstruction.quality import Images, Quality, ncc
from mammo_dp.attacks.reconstruction.search import SEARCH_PX
from mammo_dp.attacks.reconstruction.traps import match
from mammo_dp.attacks.reconstruction.updates import pooled
from mammo_dp.drawing import save_png

Numbers = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What the attacks at one budget achieved, as scored.

    Attributes:
        schedule: Noise, rate and steps.
        reconstructions: By resolution.
        closed_forms: By resolution and attacker: expected ``mse`` or ``ncc``; empty without noise.
        search: Quality of the searched images, on so many targets at so many pixels; None where
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
        """Whether the attack with a list exceeds the bound for any adversary."""
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


def score_signals(
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
) -> Scored:
    """Scores the signals of one budget; runs no model.

    Args:
        schedule: Noise, rate and steps.
        targets: Who was attacked.
        known: What the adversary holds, by resolution; empty for nothing.
        resolutions: Edges that were read, in pixels.
        kappas: Probabilities of guessing right, each in ``(0, 1)``.
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
    return Scored(
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


_PRIVATE = "PRIVATE: shows images of patients. No epsilon covers this picture."
_NOBODY = "No patient: drawn by a procedure or a generator."


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the sheet: one target, one attacker.

    Attributes:
        name: Attacker and resolution, such as ``"no prior, 16 px"``.
        original: Shape ``(edge, edge)``, in ``[0, 1]``.
        guesses: By column, in the order of the sheet, shape ``(edge, edge)``, any range.
    """

    name: str
    original: Images
    guesses: Mapping[str, Images]


def draw_sheet(path: Path, lines: Sequence[Line], *, title: str, real: bool) -> None:
    """Draws the lines in one move, with the correlation below each guess.

    Args:
        path: Target, PNG.
        lines: At least one; all with the same columns.
        title: What was attacked.
        real: Whether the originals show patients.
    """
    columns = ["original", *lines[0].guesses]
    figure = Figure(
        figsize=(1.15 * len(columns) + 1.2, 1.38 * len(lines) + 0.9), layout="constrained"
    )
    grid = figure.subplots(len(lines), len(columns), squeeze=False)
    for y, line in enumerate(lines):
        for x, name in enumerate(columns):
            shown = line.original if x == 0 else line.guesses[name]
            axes = grid[y, x]
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if y == 0:
                axes.set_title(name, fontsize=8)
            if x == 0:
                axes.set_ylabel(line.name, fontsize=7)
            else:
                found = float(ncc(line.original[None], np.asarray(shown)[None])[0])
                axes.set_xlabel(f"NCC {found:.2f}", fontsize=7)
    figure.suptitle(f"{title}\n{_PRIVATE if real else _NOBODY}", fontsize=9)
    save_png(figure, path, dpi=130)


SHOWN = 2  # targets on the sheet; the second and the last but one
_THUMBNAIL = 16  # pixels
_BLIND_TITLES: dict[Blind, str] = {
    "mean": "no update:\nmean of others",
    "nearest": "no update: nearest\nother, by oracle",
}


def lines_of(scored: Sequence[Scored], titles: Sequence[str]) -> list[Line]:
    """Lines of two targets: without a prior as a thumbnail and in full, and with one in full.

    Args:
        scored: Budgets, in the order of the columns; all with the same targets and resolutions.
        titles: Of their columns: what was executed, such as ``"epsilon 6"``; equal ones are one.
    """
    resolutions = list(scored[0].reconstructions)
    fine = max(resolutions)
    coarse = min(resolutions, key=lambda one: abs(one - _THUMBNAIL))
    kinds: list[tuple[str, Attacker, int]] = [
        ("no prior", "centred", one) for one in sorted({coarse, fine})
    ]
    if "prior" in scored[0].reconstructions[fine].attacks:
        kinds.append(("prior", "prior", fine))
    count = len(scored[0].reconstructions[fine].originals)
    lines = []
    for target in sorted({min(1, count - 1), max(0, count - 2)})[:SHOWN]:
        for name, attacker, resolution in kinds:
            found = [one.reconstructions[resolution] for one in scored]
            guesses = {
                title: reconstruction.attacks[attacker].images[target]
                for title, reconstruction in zip(titles, found, strict=True)
            }
            blind = found[0].blind
            guesses |= {
                title: blind[guess].images[target]
                for guess, title in _BLIND_TITLES.items()
                if guess in blind
            }
            lines.append(
                Line(
                    name=f"{name}\n{resolution} px",
                    original=found[0].originals[target],
                    guesses=guesses,
                )
            )
    return lines
