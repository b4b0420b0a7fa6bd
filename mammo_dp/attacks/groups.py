# SPDX-License-Identifier: Apache-2.0
"""Members and non-members: who is known to be either, and what makes an attack meaningless."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from data_prep.manifest import FILE_NAME, CropsManifest, Split
from mammo_dp.attacks.signals import AttackError
from mammo_dp.privacy.statement.cohort import Cohort


def require_two_groups(member_split: Split, nonmember_split: Split, resamples: int) -> None:
    """Checks the arguments that all membership attacks share.

    Raises:
        AttackError: For one split in both roles, or too few resamples.
    """
    if resamples < 100:
        raise AttackError(f"{resamples=}. Give at least 100, or the interval means nothing.")
    if member_split == nonmember_split:
        raise AttackError(
            f"member_split and nonmember_split are both {member_split!r}. Members and non-members "
            "must be different patients; choose two splits."
        )


def statement_about(
    path: Path, manifest: CropsManifest, member_split: Split, nonmember_split: Split
) -> dict[str, Any]:
    """The statement about the members.

    Args:
        path: ``privacy.json`` of what is attacked.
        manifest: Crops of members and non-members.
        member_split: Split that some stage was trained on.
        nonmember_split: Split that no stage was trained on.

    Raises:
        AttackError: If the statement says nothing about them, so that nobody is a known member, or
            some stage was trained on the non-members too.
    """
    by_tag = {
        statement["cohort"]: statement
        for statement in json.loads(path.read_text(encoding="utf-8"))["statements"]
    }
    of_split = {
        split: by_tag[tag]
        for split in get_args(Split)
        if (tag := Cohort.of_manifest(manifest, split).tag) and tag in by_tag
    }
    where = f"{manifest.folder / FILE_NAME} ({manifest.sha256[:12]})"
    if member_split not in of_split:
        raise AttackError(
            f"{path}: has no statement about split {member_split!r} of {where}, so nobody in it "
            "is known as a member. Give the crops and the split that the run was trained on."
        )
    if nonmember_split in of_split:
        raise AttackError(
            f"{path}: some stage was trained on split {nonmember_split!r} of {where}, so its "
            "patients are no non-members. Choose a split that no stage saw."
        )
    return dict(of_split[member_split])


def require_patients(manifest: CropsManifest, rows: Sequence[int], split: str) -> None:
    """Checks that rows can be members or non-members.

    Raises:
        AttackError: If there are none, or some belong to no patient.
    """
    if not rows:
        raise AttackError(
            f"{manifest.folder / FILE_NAME}: split {split!r} holds no crop. Choose another split."
        )
    if synthetic := sum(manifest.crops[row].is_synthetic for row in rows):
        raise AttackError(
            f"{manifest.folder / FILE_NAME}: {synthetic} crops of split {split!r} are synthetic "
            "and belong to no patient. Give the crops of a cohort."
        )
