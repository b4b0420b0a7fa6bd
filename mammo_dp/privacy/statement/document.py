# SPDX-License-Identifier: Apache-2.0
"""``privacy.json`` and ``PRIVACY.md``, the statement that may be shared, and its private evidence.

A statement covers the artefact whose hash it names, nothing beside it. What is shared holds keyed
values and declared constants only; ``privacy_evidence.json`` holds what ``verify`` needs beyond
that (hashes of the inputs, crops per patient, keyed hashes of pixels) and stays in the run folder.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mammo_dp.privacy.accounting.risk import adversary, neighbour
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.cohort import CohortEvidence
from mammo_dp.privacy.statement.guarantee import COVERS, Guarantee, PrivacyStatement, taken_together
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger, PublicData
from mammo_dp.privacy.statement.seals import identity_of_run, seal_doubt, with_seal
from mammo_dp.runs import RunRecord, file_sha256, versions, write_text_atomically

FILE_NAME, TEXT_NAME = "privacy.json", "PRIVACY.md"
EVIDENCE_NAME = "privacy_evidence.json"  # private: never exported
FILES_NAME = "privacy_files.json"  # of an export: the files that the statement covers
SCHEMA = 3  # 2 had plain hashes and counts of private data in what is shared
NO_PATIENTS = "No patient data was used."
OUTSIDE_CODE = "Code that is no part of mammo_dp"  # begins what is said of it
_NONE_AS_TOLD = (
    "No patient data was used, if code from outside that took part read nothing but its inputs."
)
NO_RELEASE = "This folder is no release: crops of patients stand in it as they are."
_DERIVED_BY = ("mammo-dp", "dp-accounting", "opacus")  # shape words and numbers
EXCLUSIONS = (
    "Metrics, predictions, figures and attack results computed on patient data: diagnostics for "
    "those who hold the data, not covered by epsilon.",
    "Choices made by looking at patient data, beyond the uses that are listed: hyper-parameters, "
    "the number of steps, the target itself, which of several runs is published. Each further look "
    "costs privacy that is not counted here.",
    "Patients of splits that were only used to validate or test: they have no guarantee.",
    "The number of units (patients, or crops where these are the unit), unless a declared number "
    "takes its place, the split, and whether two cohorts share patients: public.",
    "The other files of the run folder (evidence, feature cache, training state, predictions, "
    "logs): private, not to be published.",
    "Side channels such as running time and memory, and rounding errors in the sums that noise is "
    "added to.",
    "What a model teaches about patients in general, which holds whether or not a given patient "
    "took part.",
)


def write_statement(
    folder: str | Path,
    ledger: PrivacyLedger,
    *,
    delta: float = 1e-4,
    artefact: Path | None = None,
    about: str | None = None,
    exclusions: Sequence[str] = (),
    randomness: Mapping[str, Any] | None = None,
    precision: str | None = None,
    run: RunRecord | None = None,
) -> None:
    """Writes ``privacy.json``, ``PRIVACY.md`` and the private ``privacy_evidence.json``.

    Both JSON files are sealed under the cohort key; the evidence names the hash of the statement,
    which comes last: where it is, all is.

    Args:
        folder: Run folder or data folder.
        ledger: Accesses along the lineage of the artefact, its own included.
        delta: Below 1 / units of each cohort with a finite epsilon.
        artefact: What is released, below ``folder``; None if the folder releases nothing.
        about: SHA-256 of what the statement is about where nothing is released; it is evidence.
        exclusions: What is left out beyond what every statement leaves out.
        randomness: Where draws and noise came from.
        precision: Of the training, such as ``"32-true"``.
        run: The run that made the artefact; its configuration and inputs are evidence.

    Raises:
        PrivacyError: If delta is too large.
    """
    folder, released = Path(folder), None
    if artefact is not None:
        name = artefact.relative_to(folder).as_posix()
        released = {"path": name, "sha256": file_sha256(artefact)}
    stored, text = contents(
        ledger,
        delta=delta,
        artefact=released,
        exclusions=exclusions,
        randomness=randomness or {},
        precision=precision,
    )
    statement = _sealed(stored)
    evidence = {
        "schema": SCHEMA,
        "statement_sha256": hashlib.sha256(statement.encode()).hexdigest(),
        "about": about,
        "run": None if run is None else run_facts(run),
        "cohorts": [
            access.cohort.private and access.cohort.private.as_json() for access in ledger.accesses
        ],
    }
    write_text_atomically(folder / EVIDENCE_NAME, _sealed(evidence))
    write_text_atomically(folder / TEXT_NAME, text)
    write_text_atomically(folder / FILE_NAME, statement)


def _sealed(content: Mapping[str, Any]) -> str:
    """JSON of plain values with their seal."""
    return json.dumps(with_seal(content), indent=2, allow_nan=False) + "\n"


def write_files_list(folder: Path, names: Iterable[str]) -> None:
    """Writes ``privacy_files.json`` of an export: hashes of files, sealed under the cohort key.

    It ties files that were derived from an artefact to the statement about it, which is one of
    them.

    Args:
        folder: The export.
        names: Files below it, ``privacy.json`` among them.
    """
    files = {name: file_sha256(folder / name) for name in sorted(names)}
    write_text_atomically(folder / FILES_NAME, _sealed({"schema": SCHEMA, "files": files}))


def run_facts(run: RunRecord) -> dict[str, Any]:
    """What the evidence says about the run that made the artefact."""
    return {"commit": run.commit, **identity_of_run(run)}


def contents(
    ledger: PrivacyLedger,
    *,
    delta: float,
    artefact: Mapping[str, Any] | None = None,
    exclusions: Iterable[str] = (),
    randomness: Mapping[str, Any],
    precision: str | None,
    joint: bool = False,
) -> tuple[dict[str, Any], str]:
    """What follows from a ledger: the content of ``privacy.json``, unsealed, and ``PRIVACY.md``.

    Args:
        ledger: Accesses along the lineage of the artefact, its own included.
        delta: Below 1 / units of each cohort with a finite epsilon.
        artefact: ``path`` and ``sha256`` of what is released; none if the run released nothing.
        exclusions: What is left out beyond what every statement leaves out.
        randomness: Where draws and noise came from.
        precision: Of the training.
        joint: Whether this is about several releases together, and not about one folder.

    Raises:
        PrivacyError: If delta is too large.
    """
    statements = ledger.statements(delta, artefact["sha256"] if artefact else None)
    sentences = [*(statement.sentence for statement in statements), taken_together(statements)]
    if artefact is None and not joint:
        sentences = [NO_RELEASE, *sentences]
    is_told = any(one.startswith(OUTSIDE_CODE) for one in (*exclusions, *ledger.exclusions))
    stored = {
        "schema": SCHEMA,
        "artefact": artefact,
        "summary": " ".join(filter(None, sentences)) or _nobody(ledger, is_told=is_told),
        "delta": delta,
        "statements": [statement.as_json() for statement in statements],
        "accesses": [access.as_json() for access in ledger.accesses],
        "compared": dict(ledger.comparisons),
        "lineage_exclusions": list(ledger.exclusions),
        "public_data": [one.as_json() for one in ledger.public],
        "exclusions": list(dict.fromkeys([*exclusions, *ledger.exclusions, *EXCLUSIONS])),
        "randomness": dict(randomness),
        "precision": precision,
        "versions": versions(_DERIVED_BY),
    }
    text = in_words(stored, statements)
    return {**stored, "text_sha256": hashlib.sha256(text.encode()).hexdigest()}, text


def _nobody(ledger: PrivacyLedger, *, is_told: bool) -> str:
    """What is said where no patients are accounted, on the conditions that it depends on."""
    said = _NONE_AS_TOLD if is_told else NO_PATIENTS
    if not ledger.public:
        return said
    behind = "; ".join(dict.fromkeys(one.data for one in ledger.public))
    return f"{said} Initial weights were trained on: {behind}."


def ledger_of(
    stored: Mapping[str, Any], evidence: Mapping[str, Any] | None = None
) -> PrivacyLedger:
    """The accesses in the content of ``privacy.json``.

    Args:
        stored: Content of ``privacy.json``.
        evidence: Content of ``privacy_evidence.json``, if it is there: with it the cohorts can be
            compared with others by their crops.
    """
    accesses = [Access.from_json(access) for access in stored["accesses"]]
    if evidence is not None:
        accesses = [
            access
            if found is None
            else replace(
                access, cohort=access.cohort.with_evidence(CohortEvidence.from_json(found))
            )
            for access, found in zip(accesses, evidence["cohorts"], strict=True)
        ]
    return PrivacyLedger(
        accesses=tuple(accesses),
        exclusions=tuple(stored["lineage_exclusions"]),
        public=tuple(PublicData.from_json(one) for one in stored["public_data"]),
        compared=dict(stored["compared"]),
    )


def read_statement(path: str | Path) -> dict[str, Any]:
    """Reads ``privacy.json``; whether its seal holds is :func:`seal_doubt`'s question.

    Args:
        path: The file, or its folder.

    Raises:
        PrivacyError: If it is missing or unreadable.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if stored["schema"] != SCHEMA:
            raise ValueError(f"schema {stored['schema']}, but {SCHEMA} is current")
        ledger_of(stored)
        if (artefact := stored["artefact"]) is not None and set(artefact) != {"path", "sha256"}:
            raise ValueError(f"artefact {artefact}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PrivacyError(
            f"{path}: is no readable privacy statement ({error}). Without it the lineage is "
            "unknown; run the stage that makes the folder again."
        ) from error
    return stored


def read_statements(path: str | Path) -> tuple[PrivacyStatement, ...]:
    """What each cohort may rely on, as ``privacy.json`` says; its seal is not checked.

    Args:
        path: The file, or its folder.

    Returns:
        One per cohort of patients in the lineage; empty if there is none.

    Raises:
        PrivacyError: If the file is missing or unreadable.
    """
    return tuple(map(PrivacyStatement.from_json, read_statement(path)["statements"]))


def read_evidence(folder: str | Path) -> dict[str, Any] | None:
    """Reads ``privacy_evidence.json`` beside a statement.

    Returns:
        Its content; None if it is absent, unreadable, not sealed under the key here, or about
        another statement.
    """
    folder = Path(folder)
    try:
        evidence: dict[str, Any] = json.loads((folder / EVIDENCE_NAME).read_text(encoding="utf-8"))
        about = evidence["statement_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if seal_doubt(evidence) or about != file_sha256(folder / FILE_NAME):
        return None
    return evidence


def covering_ledger(folder: str | Path, sha256: str) -> PrivacyLedger | str:
    """The accesses behind a file, from the statement in a folder.

    The statement must be sealed under the key here and name the hash of the file: as its artefact,
    in the sealed list of an export, or in its evidence, where nothing was released.

    Args:
        folder: Where ``privacy.json`` lies.
        sha256: Hash of the file that is used.

    Returns:
        The ledger; or, as a clause, why the statement says nothing about the file.
    """
    folder = Path(folder)
    if not (folder / FILE_NAME).is_file():
        return "no statement lies beside it"
    try:
        stored = read_statement(folder)
    except PrivacyError:
        return "the statement beside it cannot be read"
    if doubt := seal_doubt(stored):
        return f"the statement beside it {doubt}"
    evidence = read_evidence(folder)
    covered = {(stored["artefact"] or {}).get("sha256"), *_listed(folder)}
    if evidence is not None:
        covered.add(evidence["about"])
    if sha256 not in covered:
        return "the statement beside it is about another file"
    return ledger_of(stored, evidence)


def require_ledger(folder: str | Path, sha256: str) -> PrivacyLedger:
    """As :func:`covering_ledger`, for what must not happen under a doubtful statement.

    Raises:
        PrivacyError: If the statement says nothing about the file.
    """
    found = covering_ledger(folder, sha256)
    if isinstance(found, str):
        raise PrivacyError(
            f"{folder}: nothing here says whose data the file with sha256 {sha256[:12]} comes "
            f"from: {found}. Restore the folder, or run the stage again."
        )
    return found


def _listed(folder: Path) -> set[str]:
    """Hashes in the sealed list of an export, if it names the statement that lies there."""
    try:
        content = json.loads((folder / FILES_NAME).read_text(encoding="utf-8"))
        files: dict[str, str] = content["files"]
        if seal_doubt(content) or files[FILE_NAME] != file_sha256(folder / FILE_NAME):
            return set()
        return set(files.values())
    except (OSError, ValueError, KeyError, TypeError):
        return set()


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
            f"| crops of a patient in a folder | epsilon per patient at delta {statement.delta:g}, "
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
            f"{changed[0].upper()}{changed[1:]}, every outcome would have had the same probability "
            f"up to a factor of {_factor(guarantee.epsilon)}, but for a failure probability of "
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
        f"| reconstructs a {unit} guessed with probability {kappa:.3g} without the release | "
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
