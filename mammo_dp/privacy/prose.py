# SPDX-License-Identifier: Apache-2.0
"""``PRIVACY.md``: a statement for an ethics board or a data protection officer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mammo_dp.privacy.guarantee import (
    COVERS,
    Guarantee,
    PrivacyStatement,
    adversary,
    neighbour,
)
from mammo_dp.privacy.ledger import Access, PublicData


def in_words(stored: Mapping[str, Any], statements: Sequence[PrivacyStatement]) -> str:
    """The statement in plain sentences.

    Args:
        stored: Content of ``privacy.json``.
        statements: Those it holds.
    """
    precision = stored["precision"]
    lines = ["# Privacy statement", "", stored["summary"], ""]
    if artefact := stored["artefact"]:
        lines += [f"Released: `{artefact['path']}`, SHA-256 `{artefact['sha256']}`.", ""]
    for statement in statements:
        lines += [*_section(statement), ""]
    if statements:
        lines += ["## What is covered", "", COVERS, ""]
    if public := stored["public_data"]:
        lines += ["## Public data, not accounted", ""]
        lines += [f"- {PublicData.from_json(one)}" for one in public]
        lines += [
            "",
            "Public means that anybody may have the data, not that nobody is in them: if a patient "
            "of the cohorts above were among them, this statement would not cover that.",
            "",
        ]
    lines += ["## What is not covered", ""]
    lines += [f"- {exclusion}" for exclusion in stored["exclusions"]]
    training = stored["randomness"] | ({"precision": precision} if precision else {})
    if training:
        lines += ["", "## Randomness and precision", ""]
        lines += [f"- {name}: {value}." for name, value in training.items()]
    lines += ["", "## Every use of patient data in the lineage", ""]
    lines += [_access(Access.from_json(access)) for access in stored["accesses"]] or [
        stored["summary"]
    ]
    return "\n".join(lines) + "\n"


def _section(statement: PrivacyStatement) -> list[str]:
    units = " and per ".join(guarantee.unit for guarantee in statement.guarantees)
    lines = [f"## {statement.cohort.name}, per {units}", "", statement.sentence, ""]
    for guarantee in statement.guarantees:
        lines += [*_guarantee(guarantee, statement), ""]
    if statement.by_crops:
        accountant = statement.guarantees[-1].accountant
        lines += [
            f"| crops of a patient | epsilon per patient at delta {statement.delta:g}, "
            f"{statement.adjacency}, by {accountant} |",
            "| --- | --- |",
        ]
        lines += [f"| {crops} | {epsilon:.4g} |" for crops, epsilon in statement.by_crops]
        lines += [""]
    return lines + [f"Not covered here: {exclusion}" for exclusion in statement.exclusions]


def _guarantee(guarantee: Guarantee, statement: PrivacyStatement) -> list[str]:
    unit, risk, adjacency = guarantee.unit, guarantee.risk, statement.adjacency
    changed = neighbour(adjacency, unit)
    if math.isinf(guarantee.epsilon):
        lines = [f"Nothing bounds what the release reveals about one {unit}.", ""]
    else:
        lines = [
            f"{changed[0].upper()}{changed[1:]}, every outcome would have had the same chance up "
            f"to a factor of {_factor(guarantee.epsilon)}, but for a failure chance of "
            f"{statement.delta:g}. {guarantee.because}",
            "",
            f"By Renyi accounting, a second and looser bound, epsilon = "
            f"{guarantee.epsilon_rdp:.4g} at the same delta per {unit}.",
            "",
        ]
    lines += [
        f"| an attacker who knows {adversary(adjacency, unit)}, and the release | at most |",
        "| --- | --- |",
        f"| tells members from others: true minus false positive rate | {risk.advantage:.4f} |",
    ]
    lines += [
        f"| recognises a member, at a false positive rate of {fpr:g} | {value:.4f} |"
        for fpr, value in risk.tpr_at_fpr.items()
    ]
    lines += [
        f"| reconstructs a {unit} guessed with chance {kappa:.3g} without the release | "
        f"{value:.4f} |"
        for kappa, value in risk.reconstruction_robustness.items()
    ]
    if unit == "crop" or (most := statement.crops_per_patient) is None:
        return lines
    return [*lines, "", f"Declared largest number of crops of one patient: {most}."]


def _factor(epsilon: float) -> str:
    return f"e^{epsilon:.4g}" + (f" = {math.exp(epsilon):.3g}" if epsilon < 30 else "")


def _access(access: Access) -> str:
    how = (
        f"{'chosen by metrics, ' if access.use == 'selection' else ''}without differential privacy"
        if access.mechanism is None
        else f"with differential privacy per {access.unit}: {access.mechanism.words}, "
        f"clipping norm {access.mechanism.clipping_norm:g}"
    )
    tag = f" (cohort `{access.cohort.tag}`)" if access.cohort.tag else ""
    note = f" {access.note}" if access.note else ""
    return f"- {access.stage.rstrip(',')}: {access.cohort.name}{tag}, {how}.{note}"
