# SPDX-License-Identifier: Apache-2.0
"""Signals of a membership attack become ``attack.json``: what was achieved, beside what may be.

Bounds come from the statement of what is attacked, and only for those whom it is about.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifier.evaluate import Estimate
from data_prep.manifest import FILE_NAME, CropsManifest, Split, Unit
from mammo_dp.attacks.audit import LEVEL, Audit, Bounds, audit, exceeds
from mammo_dp.attacks.signals import AttackError, Signals
from mammo_dp.runs import write_text_atomically

FPRS = (0.01, 0.001)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What kind of attack a signal belongs to.

    Attributes:
        name: For tables.
        threat_model: What the adversary sees, controls and knows, in a sentence.
        score: What the score of a unit is; high means member.
    """

    name: str
    threat_model: str
    score: str


def score(
    signals: Signals,
    attack: Attack,
    *,
    unit: Unit,
    bounds: Bounds,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Signals into the content of ``attack.json``; runs no model.

    The blind baselines pass through the same code: a random score, and the share of malignant
    crops, which asks nothing. Where the second succeeds, members and non-members differ
    in the labels, and the attack's area is no evidence of a leak.

    Args:
        signals: One per crop.
        attack: What they are.
        unit: Unit of the statement.
        bounds: What the statement allows.
        resamples: Bootstrap resamples.
        seed: Seed of the bootstrap and of the random baseline.
    """
    members, nonmembers = signals.scores(signals.signal, unit)
    found = audit(members, nonmembers, fprs=FPRS, resamples=resamples, seed=seed)
    random = np.random.default_rng(seed).standard_normal(len(signals.row))
    blind = {"random": random, "label-only": signals.malignant}
    return {
        "schema": 1,
        "attack": attack.name,
        "threat_model": attack.threat_model,
        "score": attack.score,
        "unit": unit,
        "members": found.members,
        "nonmembers": found.nonmembers,
        "level": LEVEL,
        "resamples": resamples,
        "bound_from": {
            "epsilon": "infinity" if math.isinf(bounds.epsilon) else bounds.epsilon,
            "delta": bounds.delta,
            "unit": unit,
        },
        **_measured(found, bounds),
        "exceeds_bound": exceeds(members, nonmembers, bounds, fprs=FPRS),
        "blind": {
            name: _measured(
                audit(*signals.scores(of, unit), fprs=FPRS, resamples=resamples, seed=seed)
            )
            for name, of in blind.items()
        },
    }


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


def write_result(path: Path, result: Mapping[str, Any], manifest: CropsManifest) -> None:
    """Writes ``attack.json`` in one move.

    Args:
        path: The file.
        result: Result of :func:`score`, with whatever else a reader should know.
        manifest: Crops of members and non-members.
    """
    text = json.dumps({**result, "cohort": manifest.sha256}, indent=2, allow_nan=False)
    write_text_atomically(path, text + "\n")


def _measured(found: Audit, bounds: Bounds | None = None) -> dict[str, Any]:
    """Area, advantage and rates with intervals, and beside each the bound if there is one."""

    def cell(estimate: Estimate, bound: float | None) -> dict[str, float]:
        return asdict(estimate) | ({} if bound is None else {"bound": bound})

    return {
        "auc": cell(found.auc, bounds.auc if bounds else None),
        "advantage": cell(found.advantage, bounds.advantage if bounds else None),
        "tpr_at_fpr": {
            f"{fpr:g}": cell(rate.tpr, bounds.tpr(fpr) if bounds else None)
            | {
                "false_positives": rate.false_positives,
                "false_positives_allowed": rate.allowed,
                "at_this_threshold": cell(rate.above, bounds.tpr(rate.fpr_high) if bounds else None)
                | {"fpr_high": rate.fpr_high},
            }
            for fpr, rate in found.tpr_at_fpr.items()
        },
    }


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
    of_split = {
        statement["cohort_name"].rpartition("/")[2]: statement
        for statement in json.loads(path.read_text())["statements"]
        if statement["cohort"] == manifest.sha256
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


def bounds_of(statement: Mapping[str, Any]) -> Bounds:
    """What a statement allows an attacker."""
    epsilon, delta = float(statement["epsilon"]), float(statement["delta"] or 0)
    if math.isinf(epsilon):
        return Bounds(epsilon=epsilon, delta=delta, advantage=1, tpr_at_fpr=dict.fromkeys(FPRS, 1))
    risk = statement["risk"]
    return Bounds(
        epsilon=epsilon,
        delta=delta,
        advantage=risk["advantage"],
        tpr_at_fpr={float(fpr): tpr for fpr, tpr in risk["tpr_at_fpr"].items()},
    )


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
