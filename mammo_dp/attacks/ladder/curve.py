# SPDX-License-Identifier: Apache-2.0
"""Bounds between the budgets of a ladder: the lines of the corridor."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.progress import track

from mammo_dp.attacks.bounds import relaxed
from mammo_dp.attacks.bounds.edgeworth import LEAST_STEPS
from mammo_dp.attacks.bounds.from_scratch import FromScratch, expected_observations
from mammo_dp.attacks.ladder.cells import KAPPA
from mammo_dp.attacks.ladder.predicted import best_hit, predicted
from mammo_dp.attacks.reconstruction.collect import Known
from mammo_dp.attacks.reconstruction.isolated import pooled
from mammo_dp.attacks.reconstruction.quality import Images
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.risk import risk_of

_POINTS = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Chances of success along the noise; each list has one entry per noise multiplier.

    Attributes:
        noise: Noise multipliers, falling.
        kappa: Chance of naming a patient by guessing, and false positive rate of rung 2.
        kappa_image: Largest share of targets that one reference image hits; none without one.
        worst_case: Rung 1, by PLD, at ``kappa``.
        worst_case_image: Rung 1 at ``kappa_image``, a guarantee only if no guess hits more than the
            best reference image; none without reference.
        relaxed: Rung 2; none for fewer than 30 steps.
        scratch: Rung 3, chance that an image is read, by resolution.
        prior: Rung 4, prediction of the Gaussian prior at the smaller resolution; none without.
    """

    noise: tuple[float, ...]
    kappa: float
    kappa_image: float | None
    worst_case: tuple[float, ...]
    worst_case_image: tuple[float, ...] | None
    relaxed: tuple[float, ...] | None
    scratch: dict[int, tuple[float, ...]]
    prior: tuple[float, ...] | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def curve(
    mechanism: Mechanism,
    noises: Sequence[float],
    images: Images,
    known: Known | None,
    resolutions: tuple[int, int],
    correlation: float,
) -> Curve:
    """Bounds on a grid of noise multipliers that spans those of the budgets.

    Args:
        mechanism: Sampling rate and steps; its noise is replaced.
        noises: Noise multipliers of the budgets, at least one.
        images: Under attack, shape ``(images, edge, edge)``.
        known: What the adversary holds at the thumbnail's resolution; none for nothing.
        resolutions: Of a thumbnail and of the whole image.
        correlation: An image is read from this correlation on.
    """
    grid = np.geomspace(1.6 * max(noises), min(noises) / 1.6, _POINTS)
    rounds = max(1, round(expected_observations(mechanism)))
    hit = None
    if known is not None:
        hit = best_hit(pooled(images, resolutions[0]), known.images, correlation)
    kappas = [KAPPA] if hit is None else [KAPPA, hit]
    success: Mapping[float, float] = dict.fromkeys(kappas, 0.0)
    rows = []
    for noise in track(grid.tolist(), "Bounds between the budgets"):
        here = replace(mechanism, noise_multiplier=noise)
        if min(success.values()) < 1:  # with still less noise it stays certain
            success = risk_of(compose([here]), kappas=kappas).reconstruction_robustness
        views = [
            FromScratch(pixels=px**2, noise_multiplier=noise, observations=rounds)
            for px in resolutions
        ]
        read = None
        if known is not None:
            read = predicted(
                known.prior, noise_multiplier=noise, rounds=rounds, correlation=correlation
            ).read
        rows.append(
            (
                [success[kappa] for kappa in kappas],
                relaxed.unsigned(here, KAPPA) if here.steps >= LEAST_STEPS else None,
                [view.ncc_at_least(correlation) for view in views],
                read,
            )
        )
    worst, without_sign, scratch, read_with_prior = zip(*rows, strict=True)
    return Curve(
        noise=tuple(grid.tolist()),
        kappa=KAPPA,
        kappa_image=hit,
        worst_case=tuple(row[0] for row in worst),
        worst_case_image=None if hit is None else tuple(row[1] for row in worst),
        relaxed=None if None in without_sign else without_sign,
        scratch={px: tuple(row[place] for row in scratch) for place, px in enumerate(resolutions)},
        prior=None if known is None else read_with_prior,
    )
