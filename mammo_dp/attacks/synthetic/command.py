# SPDX-License-Identifier: Apache-2.0
"""``attack synthetic``: all membership attacks on one released synthetic set."""

import logging
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from data_prep.copies import shared_rows
from data_prep.datamodule import CropsDataset
from data_prep.manifest import FILE_NAME, CropsManifest, Split
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.membership.results import bounds_of, score, write_result
from mammo_dp.attacks.membership.signals import (
    Signals,
    read_signals,
    require_patients,
    require_two_groups,
    statement_about,
    write_signals,
)
from mammo_dp.attacks.statements import sealed_statement
from mammo_dp.attacks.synthetic.methods import SPACES, Points, Seen, Space, distances, methods
from mammo_dp.privacy.statement.cohort import Cohort
from mammo_dp.privacy.statement.document import ledger_of, read_evidence
from mammo_dp.runs import run_folder

log = logging.getLogger(__name__)
_CLASSES = {False: "benign", True: "malignant"}


def signals_of(
    manifest: CropsManifest,
    released: CropsManifest,
    reference: CropsManifest | None,
    member_split: Split,
    nonmember_split: Split,
) -> Signals:
    """Measures the crops of two splits against a released set, in both spaces.

    Args:
        manifest: Crops of members and non-members.
        released: Synthetic crops under attack.
        reference: Crops that do not depend on the members, or none.
        member_split: Split of the members.
        nonmember_split: Split of the others.

    Returns:
        One column per attack and space; the distances are not kept.

    Raises:
        AttackError: If a split is empty, or a class of it is missing in another set or has one
            patient only.
    """
    rows: list[int] = []
    for split in (member_split, nonmember_split):
        found = manifest.rows(split)
        require_patients(manifest, found, split)
        rows += found
    patient = np.array(CropsDataset.unit_of(manifest))[rows]
    malignant = np.array([manifest.crops[row].malignant for row in rows])
    own = Points.of_rows(manifest, rows)
    made = Points.of_rows(released, released.rows())
    other = None if reference is None else Points.of_rows(reference, reference.rows())
    columns: dict[str, NDArray[np.float64]] = {}
    for space in SPACES:
        for label in sorted(set(malignant.tolist())):
            chosen = malignant == label
            seen = _seen(space, label, own, made, other, patient[chosen])
            for method in methods(with_reference=reference is not None):
                name = method.in_space(space).name
                columns.setdefault(name, np.zeros(len(rows)))[chosen] = method.signal(seen)
    return Signals(
        row=np.array(rows),
        patient=patient,
        member=np.array([manifest.crops[row].split == member_split for row in rows]),
        malignant=malignant.astype(np.int64),
        columns=columns,
    )


def require_independent(
    manifest: CropsManifest, released: CropsManifest, reference: CropsManifest | None
) -> None:
    """Checks that signals can come from the released set only.

    Raises:
        AttackError: If the released set holds crops of patients, or the reference shares patients
            with the cohort or was made from it.
    """
    if any(not crop.is_synthetic for crop in released.crops):
        raise AttackError(
            f"{released.folder / FILE_NAME}: holds crops of patients. Give a synthetic set."
        )
    if reference is None:
        return
    if shared := len(shared_rows(reference, reference.rows(), manifest, manifest.rows())):
        raise AttackError(
            f"{reference.folder / FILE_NAME}: {shared} crops of the reference, or their patients, "
            "are in the cohort. Give phantoms or crops of other patients."
        )
    privacy = reference.folder / "privacy.json"
    if not privacy.exists():
        log.warning("%s: no statement says whose data these crops depend on.", reference.folder)
        return
    ledger = ledger_of(sealed_statement(privacy), read_evidence(reference.folder))
    for split in get_args(Split):
        met = ledger.met(Cohort.of_manifest(manifest, split))
        if met.perhaps:
            log.warning("%s: may depend on split %r: %s", privacy, split, met.perhaps)
        if met.surely:
            raise AttackError(
                f"{privacy}: {met.surely} That is split {split!r} of the cohort, so the reference "
                "depends on it. Give phantoms or crops of other patients."
            )


def _seen(
    space: Space,
    malignant: bool,
    own: Points,
    made: Points,
    other: Points | None,
    patient: NDArray[np.int64],
) -> Seen:
    """Distances of the crops of one class; features in standard deviations of the released set."""
    sources = {"released set": made} | ({} if other is None else {"reference": other})
    if lacking := [name for name, one in sources.items() if malignant not in one.malignant]:
        raise AttackError(
            f"{' and '.join(lacking)}: no {_CLASSES[malignant]} crop, but the cohort has some. "
            "Generators are told the class; give a set with both classes."
        )
    if len(np.unique(patient)) < 2:
        raise AttackError(
            f"The {_CLASSES[malignant]} crops belong to one patient, who cannot be compared with "
            "others. Give more patients."
        )
    asked = own.standardised(made).of_class(malignant)
    among = distances(space, asked, asked)
    among[patient[:, None] == patient] = np.inf
    return Seen(
        released=distances(space, asked, made.standardised(made).of_class(malignant)),
        others=among,
        reference=None
        if other is None
        else distances(space, asked, other.standardised(made).of_class(malignant)),
    )


SCORES = "scores.csv"


def synthetic(
    *,
    synthetic: str,
    crops: str,
    out: str,
    reference: str | None = None,
    member_split: Split = "train",
    nonmember_split: Split = "val",
    seed: int = 0,
) -> None:
    """Attacks a synthetic set and compares the success with the bounds of its statement.

    Distance to the nearest sample, Monte Carlo share and authenticity; with a reference also the
    calibrated distance and the density ratio (DOMIAS). Each in pixels and in fixed measurements.
    Writes ``scores.csv`` (signals, private data) and ``attack.json`` (aggregates). An interrupted
    attack resumes from the saved signals.

    Args:
        synthetic: Folder of synthetic crops with their ``privacy.json``.
        crops: Folder of the crops that their generator was trained on.
        out: Folder of the result.
        reference: Folder of crops that do not depend on the cohort, such as phantoms or another
            cohort.
        member_split: Split that the generator was trained on.
        nonmember_split: Split that no stage was trained on.
        seed: Seed of the random baseline.

    Raises:
        AttackError: If the attack would not measure what it claims.
    """
    require_two_groups(member_split, nonmember_split)
    privacy = Path(synthetic) / "privacy.json"
    with run_folder(
        out,
        command="attack synthetic",
        config={
            "member_split": member_split,
            "nonmember_split": nonmember_split,
        },
        inputs={"synthetic": Path(synthetic), "data": Path(crops), "privacy": privacy}
        | ({} if reference is None else {"reference": Path(reference)}),
        seed=seed,
    ) as record:
        if record.is_finished_as_said():
            return
        manifest, released = CropsManifest.read(crops), CropsManifest.read(synthetic)
        statement = statement_about(
            privacy, released.sha256, manifest, member_split, nonmember_split
        )
        saved = record.folder / SCORES
        if not saved.exists():
            other = None if reference is None else CropsManifest.read(reference)
            require_independent(manifest, released, other)
            write_signals(
                saved, signals_of(manifest, released, other, member_split, nonmember_split)
            )
        result = score(
            read_signals(saved),
            [
                method.in_space(space)
                for space in SPACES
                for method in methods(with_reference=reference is not None)
            ],
            unit=statement.unit,
            bounds=bounds_of(statement),
            seed=seed,
        )
        write_result(record, result, manifest, member_split, nonmember_split)
        print(*result.lines(), sep="\n")
