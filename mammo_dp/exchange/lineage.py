# SPDX-License-Identifier: Apache-2.0
"""The statement that an export takes along: checked, copied as sealed, and in one sentence."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.document import (
    FILE_NAME,
    TEXT_NAME,
    require_ledger,
    write_files_list,
)
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.privacy.statement.recompute import Findings, recompute
from mammo_dp.runs import file_sha256, input_sha256, run_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Whose data stand behind what is exported.

    Attributes:
        folder: Where the sealed statement lies.
        stored: Its content.
        ledger: Every use of patient data.
    """

    folder: Path
    stored: Mapping[str, Any]
    ledger: PrivacyLedger

    @classmethod
    def of(cls, source: str | Path) -> "Lineage":
        """Finds the statement of a checkpoint or of a folder of crops.

        Args:
            source: Released checkpoint in its run folder, or folder of ``crops.csv``.

        Raises:
            PrivacyError: If there is none, it is about another file, or does not say what follows
                from it.
        """
        source = Path(source)
        folder = source if source.is_dir() else run_of(source)
        if folder is None or not (folder / FILE_NAME).is_file():
            raise PrivacyError(
                f"{source}: comes without {FILE_NAME}, so nobody knows whose data it saw. Export "
                "what a command of mammo-dp made, in the folder where it was made."
            )
        ledger = require_ledger(folder, input_sha256(source))
        findings = Findings()
        statement = recompute(folder, findings)
        if findings.found:
            raise PrivacyError(
                f"{findings.found[0]} Nothing is exported under a statement that does not hold."
            )
        return cls(folder=folder, stored=statement.stored, ledger=ledger)

    @property
    def datasets(self) -> list[str]:
        """Names of the data sets that were seen; unknown ones are empty."""
        names = {n for access in self.ledger.accesses for n in access.cohort.dataset.split("+")}
        return sorted(names)

    @property
    def sha256(self) -> str:
        """Hash of the sealed statement."""
        return file_sha256(self.folder / FILE_NAME)

    @property
    def protects(self) -> bool:
        """Whether each patient has a finite epsilon; a patient's number counts, not a crop's."""
        statements = self.stored["statements"]
        of_patients = [one.get("epsilon_patient", one["epsilon"]) for one in statements]
        return math.inf not in map(float, of_patients)

    @property
    def sentence(self) -> str:
        """What protects the patients, for a field that has room for a few sentences.

        It begins with ``none`` if some patients have no guarantee, with ``no private data`` if
        there are none, and with ``differential privacy`` otherwise.
        """
        statements, summary = self.stored["statements"], str(self.stored["summary"])
        if not statements:
            return " ".join(["no private data.", *self.stored["lineage_exclusions"]])
        if not self.protects:
            return f"none: {summary}"
        how = " ".join(one.get("because_patient", one["because"]) for one in statements)
        return f"differential privacy: {summary} {how}"

    def copy_to(self, folder: Path) -> None:
        """Copies the sealed statement and its words, byte by byte, and what it rests on."""
        names = [FILE_NAME, TEXT_NAME, *(path.name for path in self.folder.glob("provenance.*"))]
        for name in names:
            shutil.copyfile(self.folder / name, folder / name)

    def seal_files(self, folder: Path, *names: str) -> None:
        """Ties files of an export to the statement that was copied beside them.

        Args:
            folder: The export, with the copied statement.
            names: Files below it, such as the weights.
        """
        write_files_list(folder, (FILE_NAME, TEXT_NAME, *names))
