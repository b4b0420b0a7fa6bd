# SPDX-License-Identifier: Apache-2.0
"""Runs every attack at one budget and saves its signals; what is saved is not run again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data_prep.copies import shared_rows
from data_prep.datamodule import FULL_SCALE
from data_prep.manifest import CropsManifest, Split
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.arrays import Arrays, write_arrays
from mammo_dp.attacks.bounds.schedules import Schedule
from mammo_dp.attacks.reconstruction.isolated import observe, read_rows, write_observations
from mammo_dp.attacks.reconstruction.lists import canary_lists, write_candidates
from mammo_dp.attacks.reconstruction.prior import GaussianPrior
from mammo_dp.attacks.reconstruction.quality import Images
from mammo_dp.attacks.reconstruction.search import SEARCH_PX, SEARCH_STEPS, invert, search_net
from mammo_dp.attacks.reconstruction.traps import Trap, spring
from mammo_dp.attacks.reconstruction.updates import (
    cross_entropy,
    mean_update,
    one_crop_each,
    pooled,
)
from mammo_dp.privacy.training.sampling import new_key

TRAPS: tuple[Trap, ...] = ("imprint", "trap_weights")
ROWS = (1, 64)  # active rows whose read-outs are compared
FEW = 16  # images in a batch, and images read from rows
SEARCHED = 3  # images that are searched for; seconds each
CANARIES, LIST = 400, 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Whose images are attacked, and what the adversary holds.

    Attributes:
        images: One crop per patient, shape ``(targets, edge, edge)``, in ``[0, 1]``.
        malignant: Labels, shape ``(targets,)``.
        reference: Crops of others at the same size; None for no prior.
        real: Whether crops under attack or of others show patients; the sheet of images has both.
    """

    images: Images
    malignant: NDArray[np.int64]
    reference: Images | None
    real: bool

    @property
    def batch(self) -> int:
        """Images in one batch of the traps."""
        return min(FEW, len(self.images))


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the adversary holds, at one resolution.

    Attributes:
        images: Shape ``(images, edge, edge)``, in ``[0, 1]``.
        prior: Fitted on them.
    """

    images: Images
    prior: GaussianPrior


def known_at(targets: Targets, resolutions: Sequence[int]) -> dict[int, Known]:
    """Images of others and the prior, by resolution; empty if the adversary holds none."""
    if targets.reference is None:
        return {}
    small = {resolution: pooled(targets.reference, resolution) for resolution in resolutions}
    return {
        resolution: Known(images=images, prior=GaussianPrior.fit(images))
        for resolution, images in small.items()
    }


def targets_of(
    manifest: CropsManifest, split: Split, prior: CropsManifest | None, most: int
) -> Targets:
    """The first crop of patients at equal distances in the manifest: no choice by eye.

    Args:
        manifest: Crops of the cohort.
        split: Split that is attacked.
        prior: Crops that the adversary holds.
        most: Patients that are attacked at most.

    Raises:
        AttackError: If there is no patient, sizes differ, or the prior holds patients or crops of
            the attacked split.
    """
    patients = manifest.units(manifest.rows(split), "patient")
    if not patients:
        raise AttackError(f"{manifest.folder}: split {split!r} holds no crop. Choose another.")
    rows = [patients[place][0] for place in _spread(len(patients), most)]
    reference = None
    if prior is not None:
        if shared := len(shared_rows(prior, prior.rows(), manifest, manifest.rows(split))):
            raise AttackError(
                f"{prior.folder}: {shared} crops, or their patients, are also in the attacked "
                "split, so the prior would hold the answer. Give crops of others."
            )
        known = [prior.rows()[place] for place in _spread(len(prior.rows()), 1000)]
        reference = prior.images(known) / FULL_SCALE
    images = manifest.images(rows) / FULL_SCALE
    if reference is not None and reference.shape[1:] != images.shape[1:]:
        raise AttackError(
            f"Crops have {images.shape[-1]} px, those of the prior {reference.shape[-1]} px. "
            "Prepare both at one size."
        )
    return Targets(
        images=images,
        malignant=np.array([int(manifest.crops[row].malignant) for row in rows]),
        reference=reference,
        real=any(
            not crop.is_synthetic and crop.origin != "phantom-archive"
            for one in (manifest, *([] if prior is None else [prior]))
            for crop in one.crops
        ),
    )


def collect(
    schedule: Schedule,
    targets: Targets,
    known: Mapping[int, Known],
    resolutions: Sequence[int],
    folder: Path,
) -> None:
    """Runs the attacks at one budget, each once.

    Args:
        schedule: Noise, rate and steps; without a mechanism there is no noise and one round.
        targets: Whom to attack.
        known: What the adversary holds, see :func:`known_at`.
        resolutions: Edges that the isolating server averages down to, in pixels.
        folder: Where signals go; a file that is there stands for an attack that is done.
    """
    noise, rounds = noise_of(schedule)

    def once(name: str, write: Callable[[Path], None]) -> None:
        if not (path := folder / name).exists():
            write(path)

    for resolution in resolutions:

        def isolate(path: Path, resolution: int = resolution) -> None:
            seen = observe(
                targets.images,
                noise_multiplier=noise,
                rounds=rounds,
                resolution=resolution,
                prior=known[resolution].prior if known else None,
                key=new_key(),
            )
            write_observations(path, seen)

        once(f"{resolution}px.npz", isolate)
    once("rows.npz", lambda path: write_arrays(path, _rows(targets, noise)))
    once("search.npz", lambda path: write_arrays(path, _searched(targets, noise, rounds)))
    if targets.reference is not None:
        once("traps.npz", lambda path: write_arrays(path, _trapped(targets, noise)))
    if (mechanism := schedule.mechanism) is not None:
        once(
            "canaries.npz",
            lambda path: write_candidates(
                path, canary_lists(mechanism, targets=CANARIES, candidates=LIST, key=new_key())
            ),
        )


def noise_of(schedule: Schedule) -> tuple[float, int]:
    """Noise multiplier, and the rounds in which a patient takes part on average.

    Raises:
        AttackError: For a schedule of crops, of which a patient has several.
    """
    mechanism = schedule.mechanism
    if mechanism is None:
        return 0.0, 1
    if mechanism.crops_of_unit > 1:
        raise AttackError(
            f"{schedule.name}: its unit is the crop, and a patient has up to "
            f"{mechanism.crops_of_unit}. These attacks are per patient; `attack bounds` converts."
        )
    return mechanism.noise_multiplier, max(1, round(mechanism.sampling_rate * mechanism.steps))


def _rows(targets: Targets, noise: float) -> Arrays:
    images, edge = targets.images[:FEW], targets.images.shape[-1]
    found: dict[str, NDArray[np.float32]] = {}
    for rows in ROWS:
        seen = read_rows(images, noise_multiplier=noise, rows=rows, resolution=edge, key=new_key())
        found |= {f"{how}_{rows}": read.astype(np.float32) for how, read in seen.items()}
    return found


def _searched(targets: Targets, noise: float, rounds: int) -> Arrays:
    if targets.images.shape[-1] % SEARCH_PX:
        return {}
    net = search_net()
    losses, found = cross_entropy(net), []
    for image, label in zip(targets.images[:SEARCHED], targets.malignant, strict=False):
        batch = one_crop_each(image[None])._replace(malignant=torch.tensor([label]))
        update = mean_update(
            net, losses, batch, noise_multiplier=noise, steps=rounds, key=new_key()
        )
        found.append(invert(net, losses, update, int(label), SEARCH_PX, steps=SEARCH_STEPS).numpy())
    return {"search": np.stack(found)}


def _trapped(targets: Targets, noise: float) -> Arrays:
    assert targets.reference is not None
    batch = targets.batch
    return {
        kind: spring(
            targets.images[:batch],
            targets.malignant[:batch],
            targets.reference,
            kind,
            noise_multiplier=noise,
            rows=2 * batch,
            key=new_key(),
        ).astype(np.float32)
        for kind in TRAPS
    }


def _spread(count: int, most: int) -> list[int]:
    places = np.linspace(0, count - 1, min(most, count)).round().astype(int)
    return [int(place) for place in places]
