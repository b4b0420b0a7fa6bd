# SPDX-License-Identifier: Apache-2.0
"""Rungs 3 and 4 along a ladder: images that a malicious server reads, by resolution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classifier.evaluate import Estimate
from data_prep.datamodule import FULL_SCALE
from data_prep.manifest import CropsManifest, Split
from mammo_dp.attacks.audit import clopper_pearson
from mammo_dp.attacks.bounds.from_scratch import FromScratch
from mammo_dp.attacks.ladder import stored
from mammo_dp.attacks.ladder.cells import Cell
from mammo_dp.attacks.reconstruction.isolated import (
    Attacker,
    Reconstruction,
    observe,
    pooled,
    score,
)
from mammo_dp.attacks.reconstruction.prior import GaussianPrior
from mammo_dp.attacks.reconstruction.quality import Images, Quality, ncc
from mammo_dp.attacks.signals import AttackError
from mammo_dp.privacy.sampling import new_key

_DRAWS = 200  # of images from a prior, for what it predicts
_RUNGS: Mapping[Attacker, int] = {"from_scratch": 3, "centred": 3, "prior": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Whose images are read.

    Attributes:
        images: One crop per patient, shape ``(targets, edge, edge)``, in ``[0, 1]``.
        reference: Crops of others that a prior is fitted on; none for no prior.
        correlation: An image is read from this correlation on.
    """

    images: Images
    reference: Images | None
    correlation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one resolution at one noise gave.

    Attributes:
        found: Attacks and blind guesses.
        expected: Expected correlation without a prior, for the worst image, by closed form.
        read: Chance of a correlation of ``Targets.correlation``, likewise.
        predicted: Quality of the Gaussian prior if it were right; none without a prior.
        predicted_read: Chance of such a correlation, likewise.
    """

    found: Reconstruction
    expected: float
    read: float
    predicted: Quality | None = None
    predicted_read: float | None = None


def first_crops(crops: str, split: Split | None, most: int) -> Images:
    """One crop of each of at most so many patients, spread evenly over the manifest.

    Raises:
        AttackError: If there is no crop.
    """
    manifest = CropsManifest.read(crops)
    firsts = [rows[0] for rows in manifest.units(manifest.rows(split), "patient")]
    if not firsts:
        raise AttackError(f"{crops}: holds no crop of split {split!r}. Give another folder.")
    places = np.linspace(0, len(firsts) - 1, min(most, len(firsts))).round().astype(int)
    return manifest.images([firsts[place] for place in places]) / FULL_SCALE


def resolutions_of(edge: int, wanted: Sequence[int]) -> list[int]:
    """Those resolutions that images of an edge can be averaged to.

    Raises:
        AttackError: If there is none.
    """
    fitting = sorted({r for r in wanted if 2 <= r <= edge and edge % r == 0})
    if not fitting:
        raise AttackError(
            f"resolutions={list(wanted)}: none divides the edge of the crops, {edge} px. Give "
            "divisors of it."
        )
    return fitting


def read_images(
    targets: Targets,
    *,
    noise_multiplier: float,
    observations: float,
    resolution: int,
    file: Path,
    seed: int,
) -> Reading:
    """Attacks at one resolution, or scores what was saved.

    Args:
        targets: Whose images.
        noise_multiplier: Of the fit; 0 without privacy.
        observations: Steps in which a target is drawn on average, ``q T``.
        resolution: Edge that the server reads, in pixels.
        file: Signals; written if missing.
        seed: Seed of the bootstrap.
    """
    small = pooled(targets.images, resolution)
    known = None if targets.reference is None else pooled(targets.reference, resolution)
    prior = None if known is None else GaussianPrior.fit(known)
    rounds = max(1, round(observations))
    if not file.exists():
        seen = observe(
            targets.images,
            noise_multiplier=noise_multiplier,
            rounds=rounds,
            resolution=resolution,
            prior=prior,
            key=new_key(),
        )
        stored.save_observations(file, seen)
    found = score(
        stored.observations(file), small, prior=prior, reference=known, resamples=1000, seed=seed
    )
    if noise_multiplier == 0:
        return Reading(found=found, expected=1.0, read=1.0)
    law = FromScratch(pixels=resolution**2, noise_multiplier=noise_multiplier, observations=rounds)
    expected, read = law.mean_ncc, law.ncc_at_least(targets.correlation)
    if prior is None:
        return Reading(found=found, expected=expected, read=read)
    truth, guess = prior_draws(prior, noise_multiplier, rounds, resolution, seed)
    return Reading(
        found=found,
        expected=expected,
        read=read,
        predicted=Quality.of(truth, guess, resamples=100),
        predicted_read=float((ncc(truth, guess) >= targets.correlation).mean()),
    )


def prior_draws(
    prior: GaussianPrior, noise_multiplier: float, rounds: int, resolution: int, seed: int
) -> tuple[Images, Images]:
    """Images from a prior, and what its owner makes of their noisy observations.

    The server takes the prior's mean out, so the noise follows what is left of each image.
    """
    rng = np.random.default_rng(seed)
    pixels, kept = prior.directions.shape
    rest = rng.standard_normal((_DRAWS, pixels)) * np.sqrt(prior.rest)
    rest -= (rest @ prior.directions) @ prior.directions.T
    along = rng.standard_normal((_DRAWS, kept)) * np.sqrt(prior.variances)
    away = rest + along @ prior.directions.T
    noise = noise_multiplier**2 * (away**2).sum(axis=1) / rounds
    seen = prior.mean + away + np.sqrt(noise)[:, None] * rng.standard_normal(away.shape)
    shape = (_DRAWS, resolution, resolution)
    return (prior.mean + away).reshape(shape), prior.most_likely(seen, noise).reshape(shape)


def cells(reading: Reading, targets: Targets) -> list[Cell]:
    """Correlation and share of images read, by attacker, beside closed forms and blind guesses."""
    found, px = reading.found, reading.found.resolution
    blind = found.blind.get("mean", found.blind["blank"])
    guessed = _share(found.originals, blind.images, targets.correlation).value
    made = []
    for attacker, guess in found.attacks.items():
        mine = attacker == "prior"
        bound = (reading.predicted and reading.predicted.ncc.value) if mine else reading.expected
        read = reading.predicted_read if mine else reading.read
        facts = {"rung": _RUNGS[attacker], "kind": "prediction" if mine else "assumption"}
        name = attacker.replace("_", " ")
        made += [
            Cell.of(
                guess.quality.ncc,
                attack=name,
                metric=f"NCC at {px} px",
                bound=bound,
                blind=blind.quality.ncc.value,
                **facts,
            ),
            Cell.of(
                _share(found.originals, guess.images, targets.correlation),
                attack=name,
                metric=f"share with NCC >= {targets.correlation:g} at {px} px",
                bound=read,
                blind=guessed,
                **facts,
            ),
        ]
        for metric, value, guessed_value in (
            ("MSE", guess.quality.mse, blind.quality.mse.value),
            ("PSNR", guess.quality.psnr, blind.quality.psnr.value),
            ("SSIM", guess.quality.ssim, blind.quality.ssim.value),
        ):
            made.append(
                Cell.of(
                    value,
                    rung=_RUNGS[attacker],
                    attack=name,
                    metric=f"{metric} at {px} px",
                    blind=guessed_value,
                )
            )
    return made


def _share(originals: Images, guesses: Images, correlation: float) -> Estimate:
    read = int((ncc(originals, guesses) >= correlation).sum())
    return Estimate(read / len(originals), *clopper_pearson(read, len(originals)))
