# SPDX-License-Identifier: Apache-2.0
"""What does not fit, collected instead of raised, so that a reader sees all of it."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ABSENT = "(absent)"
RESTORE = "Restore the file, or run the stage that makes the folder again"
RESTORE_EXPORT = "Restore the export, use the key it was sealed with, or export again"
_SHOWN = 120  # characters of a value in a message


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
