# SPDX-License-Identifier: Apache-2.0
"""``privacy explain``, ``verify`` and ``compose``: read, check and join statements."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from data_prep.manifest import FILE_NAME as CROPS
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.document import (
    FILE_NAME,
    FILES_NAME,
    TEXT_NAME,
    contents,
    covering_ledger,
    ledger_of,
    read_evidence,
)
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.privacy.statement.recompute import Findings, recompute
from mammo_dp.privacy.statement.seals import require_result_of, sealed_content
from mammo_dp.privacy.statement.verify import StageCheck, Verification, check_files_of_export
from mammo_dp.runs import FILE_NAME as RUN
from mammo_dp.runs import file_sha256, read_run, run_of

ATTACK, AUDIT = "attack.json", "audit.json"
HEAD = (
    "## What attackers achieved here",
    "",
    "Not part of the sealed statement: measured later, on patients, covered by no epsilon, for "
    "those who hold the data. That an attack fails is no proof of safety; the bounds above hold "
    "for every attack.",
)
Format = Literal["text", "json"]


def explain(run: str) -> None:
    """Prints a run's privacy statement in plain sentences, derived again from its accesses.

    What attackers achieved on the run, measured later, follows apart from the statement.

    Args:
        run: Run folder or data folder, or a file that a statement in it is about.
    """
    folder = _folder_about(Path(run))
    _, text, notes = _trusted(folder)
    achieved = attacks_in_words(folder) if folder.is_dir() else []
    print("\n".join([text.rstrip("\n"), *([""] if achieved else []), *achieved, *_noted(notes)]))


def verify(run: str, *, format: Format = "text") -> None:
    """Recomputes a run's statement from files and hashes, those of its ancestors too.

    Fails and names each file, number and parent that was altered or is missing.

    Args:
        run: Run folder or data folder, or a file that a statement in it is about.
        format: "text" for people, "json" for programs.
    """
    folder = _folder_about(Path(run))
    verification = verified(folder)
    findings, statement = verification.findings, verification.statements.get(folder)
    summary = statement["summary"] if statement else "Has no statement of its own."
    if format == "json":
        result = {
            "run": str(folder),
            "verified": not findings.found,
            "findings": [asdict(finding) for finding in findings.found],
            "not_checked": findings.notes,
            "checked": dict(findings.checked),
            "summary": summary,
            "statements": statement["statements"] if statement else [],
        }
        print(json.dumps(result, indent=2))
    if findings.found:
        raise PrivacyError(
            f"{folder}: is not what it says. {len(findings.found)} findings:\n"
            + "\n".join(f"- {finding}" for finding in findings.found)
        )
    if format == "text":
        counts = ", ".join(f"{what} {number}" for what, number in findings.checked.items())
        print(f"{folder}: all that was checked agrees ({counts}).\n{summary}")
        print("\n".join(_noted(findings.notes)))


def verified(folder: str | Path) -> Verification:
    """Checks a run, a folder of crops or an export, and its ancestors, from files and hashes.

    Args:
        folder: The folder.

    Returns:
        ``findings.found`` names what does not fit, with where and remedy, and is empty if all
        that was checked agrees; ``findings.notes`` says what could not be checked, and
        ``findings.checked`` counts what was. ``statements`` are the statements as they follow
        again, by folder.

    Raises:
        PrivacyError: If there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PrivacyError(f"{folder}: is no folder. Give the folder of a run.")
    verification = Verification(stages={"fit": _fit, "evolve": _evolution, "release-means": _means})
    verification.visit(folder)
    return verification


# Checks of particular commands, which import torch and more; a run that is met asks for its own.


def _fit() -> StageCheck:
    from mammo_dp.privacy.training.fit_statement import FIT

    return FIT


def _evolution() -> StageCheck:
    from mammo_dp.privacy.evolution.rounds import EVOLUTION

    return EVOLUTION


def _means() -> StageCheck:
    from mammo_dp.privacy.means.release import MEANS_RELEASED

    return MEANS_RELEASED


def compose(releases: list[str], *, delta: float | None = None, format: Format = "text") -> None:
    """Prints the joint statement of several releases: what all of them reveal together.

    Cohorts are compared by keyed patient hashes. What releases share counts once.

    Args:
        releases: privacy.json of each release, or its folder.
        delta: Probability that the bound of epsilon fails; the smallest of the statements' if not
            given.
        format: "text" for people, "json" for programs.
    """
    read = {path: _trusted(Path(path)) for path in releases}
    hashes = {_released(content) for content, _, _ in read.values()}
    if len(hashes) < 2:
        raise PrivacyError(
            f"{', '.join(releases)}: one release, by the hash of what was released. Give two or "
            f"more, such as A/{FILE_NAME} B/{FILE_NAME}."
        )
    stored = [content for content, _, _ in read.values()]
    smallest = min(content["delta"] for content in stored)
    joint, text = contents(
        PrivacyLedger().joined(
            ledger_of(content, read_evidence(_folder(path)))
            for path, (content, _, _) in read.items()
        ),
        delta=smallest if delta is None else delta,
        exclusions=[exclusion for content in stored for exclusion in content["exclusions"]],
        randomness=_together(content["randomness"] for content in stored),
        precision=_together({"": content["precision"]} for content in stored).get(""),
        joint=True,
    )
    source = "the smallest of the statements'; --delta sets it" if delta is None else "as asked for"
    unchecked = dict.fromkeys(note for _, _, notes in read.values() for note in notes)
    notes = [f"delta = {joint['delta']:g} is {source}.", *unchecked]
    if format == "json":
        named = [
            {"path": path, "artefact": content["artefact"], "summary": content["summary"]}
            for path, (content, _, _) in read.items()
        ]
        print(json.dumps({"releases": named, "notes": notes, **joint}, indent=2))
        return
    lines = [f"# Joint privacy statement of {len(hashes)} releases", ""]
    lines += [f"- {path}: {_released(content)}" for path, (content, _, _) in read.items()]
    print("\n".join([*lines, *_noted(notes), "", *text.splitlines()[2:]]))


def _folder_about(path: Path) -> Path:
    """The folder of a run or of data that a path names.

    Raises:
        PrivacyError: For a file or folder that merely lies in a run: no statement covers what is
            beside its own.
    """
    if path.is_dir():  # an export may lie within a run folder
        is_one = any((path / name).is_file() for name in (FILE_NAME, RUN, CROPS))
        if is_one or (around := run_of(path)) is None:
            return path
        raise PrivacyError(
            f"{path}: has no statement of its own, and that of {around}, in which it lies, is not "
            f"about whatever is here. Give {around}, or a file."
        )
    if not path.exists():
        return path
    if path.name in (FILE_NAME, TEXT_NAME, RUN):
        return path.parent
    folders = dict.fromkeys((run_of(path) or path.parent, path.parent))
    found = {folder: covering_ledger(folder, file_sha256(path)) for folder in folders}
    for folder, ledger in found.items():
        if isinstance(ledger, PrivacyLedger):
            return folder
    raise PrivacyError(
        f"{path}: nothing here speaks about this file: {next(iter(found.values()))}. Give the "
        "folder of a run, or the file whose hash its statement names."
    )


def _folder(path: str) -> Path:
    return Path(path) if Path(path).is_dir() else Path(path).parent


def _trusted(path: Path) -> tuple[Mapping[str, Any], str, list[str]]:
    """A statement that says what follows from it: content, text, and what was not checked.

    Raises:
        PrivacyError: If it says something else.
    """
    findings, folder = Findings(), _folder(str(path))
    statement = recompute(path, findings)
    if (folder / FILES_NAME).is_file():
        check_files_of_export(folder, findings)
    if findings.found:
        raise PrivacyError(
            f"{findings.found[0]} `mammo-dp privacy verify` names all that does not fit "
            f"({len(findings.found)} findings in this statement alone)."
        )
    return statement.stored, statement.text, findings.notes


def _together(settings: Iterable[Mapping[str, str | None]]) -> dict[str, str]:
    """What several trainings say about a setting, each wording once."""
    said: dict[str, dict[str, None]] = {}
    for one in settings:
        for name, value in one.items():
            if value is not None:
                said.setdefault(name, {})[value] = None
    return {name: "; ".join(values) for name, values in said.items()}


def _released(stored: Mapping[str, Any]) -> str:
    artefact = stored["artefact"]
    if artefact is None:
        return "no artefact"
    return f"`{artefact['path']}`, SHA-256 `{artefact['sha256']}`"


def _noted(notes: list[str]) -> list[str]:
    return ["", *(f"Note: {note}" for note in notes)] if notes else []


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
            found = sealed_content(path.read_text(encoding="utf-8"))
            require_result_of(found, record)
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
        f"{stage['adjacency']}, by {stage['accountant']}, for this stage alone"
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
