# SPDX-License-Identifier: Apache-2.0
"""Membership inference on released synthetic crops by distance, and ``attack synthetic``.

Threat model: the adversary holds crops of one person and the released synthetic set, and nothing
else: no generator, no other patient. It may own a second synthetic set whose makers never saw the
cohort, such as phantoms, to tell rare from copied.

Source: Chen et al. 2020, arXiv 1909.03935: distance to the nearest sample, calibrated by a
reference; with the patient as unit.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.datamodule import CropsDataset
from data_prep.duplicates import thumbnail
from data_prep.manifest import FILE_NAME, CropsManifest, Split
from mammo_dp.attacks.scoring import (
    Attack,
    bounds_of,
    require_patients,
    require_two_groups,
    score,
    statement_about,
    write_result,
)
from mammo_dp.attacks.signals import AttackError, Signals, read_signals, write_signals
from mammo_dp.runs import close_run, open_run

_THREAT = (
    "Released samples only: the adversary holds crops of one person and the synthetic set{}; it "
    "has no generator and no other patient."
)
NEAREST = Attack(
    name="nearest-sample",
    threat_model=_THREAT.format(""),
    score=(
        "Mean over the crops of a unit of the largest correlation with a synthetic crop of the "
        "class, over the eight symmetries of the square; high means member."
    ),
)
CALIBRATED = Attack(
    name="nearest-sample, calibrated",
    threat_model=_THREAT.format(", and a second one that does not depend on the cohort"),
    score=(
        "Mean over the crops of a unit of the largest correlation with a synthetic crop of the "
        "class minus that with a crop of the second set; high means member."
    ),
)
SCORES = "scores.csv"
ATTACK = "attack.json"


def synthetic(
    *,
    synthetic: str,
    crops: str,
    out: str,
    reference: str | None = None,
    member_split: Split = "train",
    nonmember_split: Split = "val",
    resamples: int = 2000,
    seed: int = 0,
) -> None:
    """Attacks a synthetic set and compares the success with the bounds of its statement.

    Writes ``scores.csv`` (signals, private data) and ``attack.json`` (aggregates).

    Args:
        synthetic: Folder of synthetic crops with their ``privacy.json``.
        crops: Folder of the crops that their generator was trained on.
        out: Folder of the result.
        reference: Folder of synthetic crops that do not depend on the cohort, such as phantoms;
            calibrates the score.
        member_split: Split that the generator was trained on.
        nonmember_split: Split that no stage was trained on.
        resamples: Bootstrap resamples of patients, at least 100.
        seed: Seed of the bootstrap and of the random baseline.

    Raises:
        AttackError: If the attack would not measure what it claims.
    """
    require_two_groups(member_split, nonmember_split, resamples)
    privacy = Path(synthetic) / "privacy.json"
    record = open_run(
        out,
        command="attack synthetic",
        config={
            "member_split": member_split,
            "nonmember_split": nonmember_split,
            "resamples": resamples,
        },
        inputs={"synthetic": Path(synthetic), "data": Path(crops), "privacy": privacy}
        | ({} if reference is None else {"reference": Path(reference)}),
        seed=seed,
    )
    if record.is_finished:
        return
    manifest = CropsManifest.read(crops)
    statement = statement_about(privacy, manifest, member_split, nonmember_split)
    saved = record.folder / SCORES
    if saved.exists():
        signals = read_signals(saved)
    else:
        released = CropsManifest.read(synthetic)
        other = None if reference is None else CropsManifest.read(reference)
        signals = distances(manifest, released, other, member_split, nonmember_split)
        write_signals(saved, signals)
    result = score(
        signals,
        [NEAREST if reference is None else CALIBRATED],
        unit=statement["unit"],
        bounds=bounds_of(statement),
        resamples=resamples,
        seed=seed,
    )
    write_result(record.folder / ATTACK, result, manifest, member_split, nonmember_split)
    close_run(record)
    print("\n".join(result.lines()))


def distances(
    manifest: CropsManifest,
    released: CropsManifest,
    reference: CropsManifest | None,
    member_split: Split,
    nonmember_split: Split,
) -> Signals:
    """How near each crop of two splits is to a synthetic set.

    Args:
        manifest: Crops of members and non-members.
        released: Synthetic crops under attack.
        reference: Synthetic crops that do not depend on the members, or none.
        member_split: Split of the members.
        nonmember_split: Split of the others.

    Raises:
        AttackError: If a split is empty or a set that should be synthetic holds patients' crops.
    """
    for made in (released, reference):
        if made is not None and any(not crop.is_synthetic for crop in made.crops):
            raise AttackError(
                f"{made.folder / FILE_NAME}: holds crops of patients. Give a synthetic set."
            )
    rows: list[int] = []
    for split in (member_split, nonmember_split):
        found = manifest.rows(split)
        require_patients(manifest, found, split)
        rows += found
    malignant = np.array([manifest.crops[row].malignant for row in rows])
    unit = np.array(CropsDataset.unit_of(manifest))
    own = _thumbnails(manifest, rows)
    signal = _nearest(own, malignant, released)
    if reference is not None:
        signal -= _nearest(own, malignant, reference)
    return Signals(
        row=np.array(rows),
        patient=unit[rows],
        member=np.array([manifest.crops[row].split == member_split for row in rows]),
        malignant=malignant.astype(np.int64),
        columns={(NEAREST if reference is None else CALIBRATED).name: signal},
    )


def _nearest(
    own: NDArray[np.float32], malignant: NDArray[np.bool_], made: CropsManifest
) -> NDArray[np.float64]:
    """Largest correlation of each crop with a synthetic one of its class; -1 if there is none."""
    best = np.full(len(own), -1.0)
    for label in (False, True):
        rows = [row for row in made.rows() if made.crops[row].malignant == label]
        chosen = malignant == label
        if not rows or not chosen.any():
            continue
        known = _thumbnails(made, rows)
        edge = round(known.shape[1] ** 0.5)
        for turns in range(4):
            turned = np.rot90(known.reshape(-1, edge, edge), turns, (1, 2))
            for mirrored in (turned, turned[:, :, ::-1]):
                found = own[chosen] @ mirrored.reshape(len(known), -1).T
                best[chosen] = np.maximum(best[chosen], found.max(axis=1))
    return best


def _thumbnails(manifest: CropsManifest, rows: Sequence[int]) -> NDArray[np.float32]:
    """Centred, scaled patterns, one crop at a time; their dot products are correlations."""
    return np.stack([thumbnail(manifest.image(row)) for row in rows])
