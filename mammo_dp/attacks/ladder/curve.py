# SPDX-License-Identifier: Apache-2.0
"""Bounds between the budgets of a ladder: the lines of the corridor."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.progress import track

from mammo_dp.attacks.bounds import relaxed
from mammo_dp.attacks.bounds.edgeworth import LEAST_STEPS
from mammo_dp.attacks.bounds.from_scratch import FromScratch, expected_observations
from mammo_dp.attacks.ladder.identify import KAPPA
from mammo_dp.attacks.ladder.readings import Targets, prior_draws
from mammo_dp.attacks.reconstruction.isolated import pooled
from mammo_dp.attacks.reconstruction.prior import GaussianPrior
from mammo_dp.attacks.reconstruction.quality import Images, ncc
from mammo_dp.privacy.accounting import Mechanism, compose
from mammo_dp.privacy.risk import risk_of

_POINTS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Chances of success along the noise; each list has one entry per noise multiplier.

    Attributes:
        noise: Noise multipliers, falling.
        kappa: Chance of naming a patient by guessing, and false positive rate of rung 2.
        kappa_image: Largest share of targets that one reference image hits; none without one.
        worst_case: Rung 1, by PLD, at ``kappa``.
        worst_case_image: Rung 1 at ``kappa_image``; none without reference.
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
    targets: Targets,
    resolutions: tuple[int, int],
    seed: int,
) -> Curve:
    """Bounds on a grid of noise multipliers that spans those of the budgets.

    Args:
        mechanism: Sampling rate and steps; its noise is replaced.
        noises: Noise multipliers of the budgets, at least one.
        targets: Whose images are read.
        resolutions: Of a thumbnail and of the whole image.
        seed: Of draws from the prior.
    """
    grid = np.geomspace(1.6 * max(noises), min(noises) / 1.6, _POINTS)
    hit = None if targets.reference is None else best_hit(targets, resolutions[0])
    kappas = [KAPPA] if hit is None else [KAPPA, hit]
    rounds = max(1, round(expected_observations(mechanism)))
    prior = None
    if targets.reference is not None:
        prior = GaussianPrior.fit(pooled(targets.reference, resolutions[0]))
    rows = []
    for noise in track(grid.tolist(), "Bounds between the budgets"):
        here = replace(mechanism, noise_multiplier=noise)
        success = risk_of(compose([here]), kappas=kappas).reconstruction_robustness
        views = [
            FromScratch(pixels=px**2, noise_multiplier=noise, observations=rounds)
            for px in resolutions
        ]
        read = None
        if prior is not None:
            pair = prior_draws(prior, noise, rounds, resolutions[0], seed)
            read = float((ncc(*pair) >= targets.correlation).mean())
        rows.append(
            (
                [success[kappa] for kappa in kappas],
                relaxed.unsigned(here, KAPPA) if here.steps >= LEAST_STEPS else None,
                [view.ncc_at_least(targets.correlation) for view in views],
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
        prior=None if prior is None else read_with_prior,
    )


def best_hit(targets: Targets, resolution: int) -> float:
    """``kappa(eta)``: largest share of targets that one reference image hits, within ``(0, 1)``.

    Source: Balle et al. 2022, arXiv 2201.04845; the reference stands for what an adversary knows.
    """
    assert targets.reference is not None
    truth, known = (pooled(i, resolution) for i in (targets.images, targets.reference))

    def hits(one: Images) -> float:
        return float((ncc(truth, np.broadcast_to(one, truth.shape)) >= targets.correlation).mean())

    most = max(hits(one) for one in known)
    return min(max(most, 1 / (1 + len(truth))), len(truth) / (1 + len(truth)))
