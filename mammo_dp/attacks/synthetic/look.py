# SPDX-License-Identifier: Apache-2.0
"""One look at a released set: distances of a cohort to it, and the signals that follow."""

import json
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from data_prep.copies import shared_rows
from data_prep.datamodule import CropsDataset
from data_prep.manifest import FILE_NAME, CropsManifest, Split
from mammo_dp.attacks.groups import require_patients
from mammo_dp.attacks.signals import AttackError, Signals
from mammo_dp.attacks.synthetic.methods import Seen, methods
from mammo_dp.attacks.synthetic.spaces import SPACES, Points, Space, distances
from mammo_dp.privacy.statement.cohort import Cohort

_CLASSES = {False: "benign", True: "malignant"}


def look(
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
    """Checks that only the released set can give a member away.

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
    said = json.loads(privacy.read_text(encoding="utf-8"))["statements"] if privacy.exists() else []
    tags = {Cohort.of_manifest(manifest, split).tag for split in get_args(Split)} - {""}
    if any(statement["cohort"] in tags for statement in said):
        raise AttackError(
            f"{privacy}: the reference was made from the cohort itself. Give phantoms or crops of "
            "other patients."
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
