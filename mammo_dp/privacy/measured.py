# SPDX-License-Identifier: Apache-2.0
"""What attackers achieved on a run, as a reader of its statement should see it.

The statement is sealed when the run ends and is never altered. Attacks come later and lie in
folders of their own below the run; they are read from there, and shown only if they were made on
this very statement.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement import FILE_NAME
from mammo_dp.runs import file_sha256, read_run

ATTACK, AUDIT = "attack.json", "audit.json"
HEAD = (
    "## What attackers achieved here",
    "",
    "Not part of the sealed statement: measured later, on patients, covered by no epsilon, for "
    "those who hold the data. That an attack fails is no proof of safety; the bounds above hold "
    "for every attack.",
)


def attacks_in_words(folder: Path) -> list[str]:
    """Lines about the finished attacks below a run; empty if there are none.

    Args:
        folder: Run folder with its ``privacy.json``.

    Raises:
        PrivacyError: If a result cannot be read.
    """
    stated = file_sha256(folder / FILE_NAME)
    lines: list[str] = []
    for path in sorted([*folder.glob(f"*/{ATTACK}"), *folder.glob(f"*/{AUDIT}")]):
        record = read_run(path.parent)
        if not record.is_finished:
            continue
        about = record.inputs.get("privacy")
        if about is None or about.sha256 != stated:
            lines += ["", f"`{path.parent.name}` is about another statement and is not shown."]
            continue
        try:
            found = json.loads(path.read_text())
            lines += ["", *(_membership(found) if path.name == ATTACK else _audit(found))]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PrivacyError(
                f"{path}: is no readable result of an attack ({error!r}). Run the attack again, "
                "into a new folder."
            ) from error
    return [*HEAD, *lines] if lines else []


def _membership(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{len(found['attacks'])} attacks on membership, on {found['members']} members and "
        f"{found['nonmembers']} others (unit {found['unit']}; intervals {found['level']:.0%}):",
        "",
        "| attack | area under the ROC curve | true minus false positive rate | at most | "
        "true positive rate at 1 % false positives | at most |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, attack in found["attacks"].items():
        rate = attack["tpr_at_fpr"]["0.01"]
        lines.append(
            f"| {name} | {_cell(attack['auc'])}{_control(attack)} | {_cell(attack['advantage'])} | "
            f"{attack['advantage']['bound']:.3f} | {_cell(rate)} | {rate['bound']:.3f} |"
        )
    lines += [""]
    lines += [f"- {name}: {attack['threat_model']}" for name, attack in found["attacks"].items()]
    lines += [f"- {name}: not tried; {why}" for name, why in found["not_tried"].items()]
    broken = [name for name, attack in found["attacks"].items() if attack["exceeds_bound"]]
    verdict = (
        f"FINDING: {', '.join(broken)} exceeds the bounds above, so the statement does not hold. "
        "Do not release."
        if broken
        else "None exceeds the bounds above."
    )
    return [*lines, "", verdict]


def _audit(found: Mapping[str, Any]) -> list[str]:
    stage = found["stage"]
    claimed = (
        f"claimed {stage['epsilon']:.4g} per {stage['unit']} at delta {stage['delta']:g}, "
        f"{stage['adjacency']}, by {stage['accountant']}"
    )
    best = found["best"]
    verdict = (
        "FINDING: the claim is refuted. Do not release."
        if found["refutes"]
        else "The claim is not refuted."
    )
    return [
        f"Audit of the private stage by {found['canaries']} canaries: epsilon >= "
        f"{best['epsilon']:.3g} (ceiling {best['ceiling']:.3g}, {claimed}). {verdict}",
        "",
        f"- {found['threat_model']}",
    ]


def _control(attack: Mapping[str, Any]) -> str:
    """Its area between the same groups on models that drew their members at random, if known."""
    return "" if (value := attack.get("control")) is None else f" (control {value:.3f})"


def _cell(found: Mapping[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
