# SPDX-License-Identifier: Apache-2.0
"""Recomputes a statement from its accesses, and compares each number, sentence and seal."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.document import (
    EXCLUSIONS,
    FILE_NAME,
    TEXT_NAME,
    contents,
    ledger_of,
    read_evidence,
    read_statement,
)
from mammo_dp.privacy.statement.seals import seal_doubt
from mammo_dp.runs import file_sha256

ABSENT = "(absent)"
RESTORE = "Restore the file, or run the stage that makes the folder again"
RESTORE_EXPORT = "Restore the export, use the key it was sealed with, or export again"
_SHOWN = 120  # characters of a value in a message
# Relative. Rounding moves the last digits between machines; another version of an accounting
# package may choose another grid, which is far finer than a percent of epsilon.
SAME_VERSIONS, OTHER_VERSIONS = 1e-9, 1e-2
# May change with the version of mammo_dp or of an accounting package.
_WORDS = {
    "summary",
    "because",
    "because_patient",
    "covers",
    "exclusions",
    "accountant",
    "accountant_patient",
    "versions",
    "text_sha256",
}
_NEEDED = ("delta", "exclusions", "randomness", "precision", "versions", "text_sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that does not fit.

    Attributes:
        where: The file.
        what: What is recorded and what is there.
        remedy: What to do.
    """

    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.where}: {self.what}. {self.remedy}."


@dataclass
class Findings:
    """What a check found.

    Attributes:
        found: What does not fit.
        notes: What could not be checked, in sentences.
        checked: How many things of which kind were compared.
    """

    found: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: Counter[str] = field(default_factory=Counter)

    def add(self, where: str | Path, what: str, remedy: str) -> None:
        """Adds a finding; ``what`` and ``remedy`` are clauses without a full stop."""
        self.found.append(Finding(where=str(where), what=what, remedy=remedy))

    def compare(self, where: str | Path, what: str, recorded: object, there: object) -> None:
        """Adds a finding for each field in which two values differ."""
        for name, said, is_there in differences(recorded, there, at=what):
            self.add(
                where, f"{name} is recorded as {shown(said)}, but is {shown(is_there)}", RESTORE
            )


def differences(
    recorded: object, there: object, *, tolerance: float = 0.0, at: str = ""
) -> Iterator[tuple[str, object, object]]:
    """Where two trees of plain values differ.

    Args:
        recorded: Value, list or mapping.
        there: The same, from another source.
        tolerance: Of numbers, relative.
        at: Name of the two.

    Yields:
        Name of a field, such as ``"statements[0].epsilon"``, and its two values.

    >>> list(differences({"a": [1, 2.0]}, {"a": [1, 2.5], "b": 0}))
    [('a[1]', 2.0, 2.5), ('b', '(absent)', 0)]
    """
    if isinstance(recorded, Mapping) and isinstance(there, Mapping):
        for name in dict.fromkeys([*recorded, *there]):
            yield from differences(
                recorded.get(name, ABSENT),
                there.get(name, ABSENT),
                tolerance=tolerance,
                at=f"{at}.{name}" if at else str(name),
            )
    elif isinstance(recorded, list) and isinstance(there, list) and len(recorded) == len(there):
        for index, (one, other) in enumerate(zip(recorded, there, strict=True)):
            yield from differences(one, other, tolerance=tolerance, at=f"{at}[{index}]")
    elif _is_number(recorded) and _is_number(there):
        if not math.isclose(recorded, there, rel_tol=tolerance):  # type: ignore[arg-type]
            yield at, recorded, there
    elif recorded != there:
        yield at, recorded, there


def shown(value: object) -> str:
    """A value in a message, cut where it is long."""
    text = str(value) if value is ABSENT else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """A statement, and what it would say today.

    Attributes:
        stored: Content of ``privacy.json`` as it stands in the file.
        derived: Content that follows from its accesses, unsealed; empty if nothing follows.
        text: ``PRIVACY.md`` that follows.
    """

    stored: Mapping[str, Any]
    derived: Mapping[str, Any]
    text: str


def recompute(path: str | Path, findings: Findings) -> Recomputed:
    """Derives a statement again and compares it with what stands there.

    Reads ``privacy.json`` and, where they lie beside it, ``PRIVACY.md`` and the artefact. Under the
    same versions of mammo_dp and of the accounting packages each word and number must agree, under
    others each number.

    Args:
        path: ``privacy.json``, or its folder.
        findings: Takes what does not fit.

    Raises:
        PrivacyError: If there is no readable statement.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    stored = read_statement(path)
    findings.checked["statements"] += 1
    _check_seal(path, stored, findings)
    _check_artefact(path, stored["artefact"], findings)
    if missing := [name for name in _NEEDED if name not in stored]:
        findings.add(
            path,
            f"has no {', '.join(missing)}; it was cut, or written by an early version",
            "Run the stage that makes the folder again",
        )
        return Recomputed(stored=stored, derived={}, text="")
    try:
        derived, text = _derived(stored, read_evidence(path.parent))
    except (PrivacyError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        findings.add(path, f"no statement follows from its accesses ({error})", RESTORE)
        return Recomputed(stored=stored, derived={}, text="")
    _compare(path, stored, derived, text, findings)
    return Recomputed(stored=stored, derived=derived, text=text)


def _derived(
    stored: Mapping[str, Any], evidence: Mapping[str, Any] | None
) -> tuple[dict[str, Any], str]:
    """What the statement says today; its own epsilons, sentences and hashes are not used."""
    ledger = ledger_of(stored, evidence)
    usual = {*ledger.exclusions, *EXCLUSIONS}
    derived, text = contents(
        ledger,
        delta=stored["delta"],
        artefact=stored["artefact"],
        exclusions=[exclusion for exclusion in stored["exclusions"] if exclusion not in usual],
        randomness=stored["randomness"],
        precision=stored["precision"],
    )
    return json.loads(json.dumps(derived)), text  # tuples become lists, as in the file


def _compare(
    path: Path, stored: Mapping[str, Any], derived: Mapping[str, Any], text: str, findings: Findings
) -> None:
    same = stored["versions"] == derived["versions"]
    if not same:
        findings.notes.append(
            f"{path}: written by {stored['versions']}; here are {derived['versions']}. Numbers "
            f"were compared within {OTHER_VERSIONS:.0%}, words were not."
        )
    recorded = {name: value for name, value in stored.items() if name != "seal"}
    tolerance = SAME_VERSIONS if same else OTHER_VERSIONS
    for name, said, follows in differences(recorded, derived, tolerance=tolerance):
        if same or not (ABSENT in (said, follows) or _is_wording(name)):
            what = f"{name} is {shown(said)}, but {shown(follows)} follows from the accesses"
            findings.add(path, what, RESTORE)
    words = path.with_name(TEXT_NAME)
    if not words.is_file():
        return
    if same and words.read_bytes() != text.encode():
        what = f"says other than {FILE_NAME} implies, first in {_first_change(words, text)}"
        findings.add(words, what, RESTORE)
    elif not same and file_sha256(words) != stored["text_sha256"]:
        findings.add(words, f"is not the text that {FILE_NAME} was written with", RESTORE)


def _check_seal(path: Path, stored: Mapping[str, Any], findings: Findings) -> None:
    if doubt := seal_doubt(stored):
        findings.add(path, doubt, "Restore the file, use the key, or run the stage again")
    else:
        findings.checked["seals"] += 1


def _check_artefact(path: Path, artefact: Mapping[str, Any] | None, findings: Findings) -> None:
    if artefact is None:
        return
    released = path.parent / artefact["path"]
    if not released.is_file():
        findings.notes.append(
            f"{released}: is absent, so it was not compared with {path}, which speaks of no other "
            "file."
        )
    elif (there := file_sha256(released)) != artefact["sha256"]:
        findings.add(
            released,
            f"is not the file that {path} speaks about: sha256 {artefact['sha256']} is recorded, "
            f"{there} is there",
            "Restore it, or run the stage again",
        )


def _first_change(words: Path, text: str) -> str:
    there, follows = (
        words.read_text(encoding="utf-8", errors="replace").splitlines(),
        text.splitlines(),
    )
    for number, line in enumerate(there, start=1):
        if number > len(follows) or line != follows[number - 1]:
            return f"line {number}: {shown(line)}"
    return f"line {len(there) + 1}, where it ends"


def _is_wording(name: str) -> bool:
    return not _WORDS.isdisjoint(name.replace("[", ".").split("."))
