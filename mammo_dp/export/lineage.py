# SPDX-License-Identifier: Apache-2.0
"""What an export takes along: the privacy statement, and the terms of the data sets it rests on."""

import math
import re
import shutil
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from data_prep.errors import LicenceError
from data_prep.identity import normalised
from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import CropsManifest
from mammo_dp.export import ExportError
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.cohort import Cohort, one_spelling
from mammo_dp.privacy.statement.data_sets import is_plain
from mammo_dp.privacy.statement.document import (
    EVIDENCE_NAME,
    FILE_NAME,
    FILES_NAME,
    NO_RELEASE,
    TEXT_NAME,
    read_evidence,
    require_ledger,
    run_facts,
    write_files_list,
)
from mammo_dp.privacy.statement.guarantee import PrivacyStatement
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.privacy.statement.recompute import Findings, recompute
from mammo_dp.runs import FILE_NAME as RUN
from mammo_dp.runs import RunRecord, config_sha256, file_sha256, read_run, run_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Data sets and privacy statement of what is exported.

    Attributes:
        folder: Where the sealed statement lies.
        stored: Its content.
        ledger: Every use of patient data.
    """

    folder: Path
    stored: Mapping[str, Any]
    ledger: PrivacyLedger

    @classmethod
    def of(cls, source: str | Path, sha256: str) -> "Lineage":
        """Finds the statement of a checkpoint or of a folder of crops.

        Args:
            source: Released checkpoint in its run folder, or folder of ``crops.csv``.
            sha256: Of the checkpoint, or of the table, as it was loaded; by now the file may be
                another.

        Raises:
            PrivacyError: If there is none, it is about another file or about no release, or does
                not say what follows from it.
        """
        source = Path(source)
        folder = source if source.is_dir() else run_of(source)
        if folder is None or not (folder / FILE_NAME).is_file():
            raise PrivacyError(
                f"{source}: comes without {FILE_NAME}, so nobody knows whose data it saw. Export "
                "what a command of mammo-dp made, in the folder where it was made."
            )
        ledger = require_ledger(folder, sha256)
        findings = Findings()
        statement = recompute(folder, findings)
        if findings.found:
            raise PrivacyError(
                f"{findings.found[0]} Nothing is exported under a statement that does not hold."
            )
        if statement.stored["artefact"] is None:
            raise PrivacyError(f"{source}: {NO_RELEASE} Export a generated set, or a checkpoint.")
        return cls(folder=folder, stored=statement.stored, ledger=ledger)

    @property
    def run(self) -> RunRecord:
        """The run that made what is exported, with the command and flags that its evidence seals.

        Raises:
            PrivacyError: If ``run.json`` says something else.
        """
        record, evidence = read_run(self.folder), read_evidence(self.folder)
        as_said = config_sha256(record.command, record.config, record.seed)
        sealed = None if evidence is None else evidence["run"]
        if record.config_sha256 != as_said or sealed != run_facts(record):
            raise PrivacyError(
                f"{self.folder}: command and flags in {RUN} are not those that {EVIDENCE_NAME} "
                "seals, so nobody knows how this was made. Restore the folder, or run the command "
                "again."
            )
        return record

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
        return all(math.isfinite(one.patient_epsilon) for one in self.statements)

    @property
    def statements(self) -> tuple[PrivacyStatement, ...]:
        """One per cohort of patients."""
        return tuple(map(PrivacyStatement.from_json, self.stored["statements"]))

    @property
    def sentence(self) -> str:
        """What protects the patients, for a field that has room for a few sentences.

        It begins with ``none`` if some patients have no guarantee, with ``no private data`` if
        there are none, and with ``differential privacy`` otherwise.
        """
        statements, summary = self.statements, str(self.stored["summary"])
        if not statements:
            return " ".join(["no private data.", *self.stored["lineage_exclusions"]])
        if not self.protects:
            return f"none: {summary}"
        how = " ".join(one.guarantees[-1].because for one in statements)
        return f"differential privacy: {summary} {how}"

    def copy_to(self, folder: Path) -> None:
        """Copies the sealed statement and its words, byte by byte.

        A provenance of imported crops stays: the statement says what follows from it, and whatever
        else somebody wrote there is for nobody else.
        """
        for name in (FILE_NAME, TEXT_NAME):
            shutil.copyfile(self.folder / name, folder / name)

    def seal_files(self, folder: Path, *names: str, crops: CropsManifest | None = None) -> None:
        """Ties files of an export to the statement that was copied beside them.

        Args:
            folder: The export, with the copied statement.
            names: Files below it that the export wrote, such as the weights.
            crops: Whose table and images lie there, too; their hashes are in statement and table.

        Raises:
            ExportError: If the folder holds a file that the export did not write.
        """
        listed = (FILE_NAME, TEXT_NAME, *names)
        tables = () if crops is None else (CROPS, *(crop.file for crop in crops.crops))
        found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
        there = {path.relative_to(folder).as_posix() for path in found}
        if others := sorted(there - {*listed, *tables, FILES_NAME}):
            raise ExportError(
                f"{folder}: holds {others[0]}, which this export did not write, and whoever gets "
                "the folder gets it, too. Remove it, or choose a new folder."
            )
        write_files_list(folder, listed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Terms of a data set, as its publisher states them.

    Attributes:
        licence: Name of the licence or agreement.
        credit: Whom to name.
        allowed: Whether trained weights and generated images may be passed on.
    """

    licence: str
    credit: str
    allowed: bool


# By origin, the name that crops of the data set carry. Of others, whoever exports says the terms.
KNOWN: Mapping[str, Terms] = MappingProxyType(
    {
        "cbis-ddsm": Terms(
            licence="CC BY 3.0",
            credit="Lee et al. 2017, Scientific Data 4:170177, The Cancer Imaging Archive",
            allowed=True,
        ),
        "cmmd": Terms(
            licence="CC BY 4.0",
            credit=(
                "Cui et al. 2021, doi 10.7937/tcia.eqde-4b16, and Kashiwada et al. 2025, doi "
                "10.7937/wezw-bh22, The Cancer Imaging Archive"
            ),
            allowed=True,
        ),
        "bcs-dbt": Terms(
            licence="CC BY-NC 4.0, not for commercial purposes",
            credit="Buda et al. 2021, JAMA Network Open 4(8), The Cancer Imaging Archive",
            allowed=True,
        ),
        "embed": Terms(
            licence="the EMBED data use agreement",
            credit="Jeong et al. 2023, Radiology: Artificial Intelligence 5(1)",
            allowed=False,
        ),
        "phantom-archive": Terms(
            licence="Apache-2.0", credit="mammo_dp; procedural, no patients", allowed=True
        ),
    }
)


def require_terms(cohorts: Iterable[Cohort], stated: str | None) -> list[str]:
    """Checks each data set in a lineage.

    Args:
        cohorts: All in the lineage.
        stated: Terms of data sets that are not in ``KNOWN``, as whoever exports states them.

    Returns:
        A line for each data set: name, licence, credit.

    Raises:
        LicenceError: If terms forbid the export, are unknown, or are not stated in a plain line.
    """
    if stated is not None and not is_plain(stated):
        raise LicenceError(
            "--licence_of_cohort: is empty, of several lines or too many characters, or has "
            'markup, and it would stand in a card. Name the terms in one line, such as "CC BY 4.0".'
        )
    lines = []
    for name in one_spelling(name for cohort in cohorts for name in cohort.dataset.split("+")):
        terms = _known(name)
        if terms is None and stated is None:
            raise LicenceError(
                f"{name or 'unknown data'}: nobody knows here under which terms what was trained "
                "on it may be passed on. Look it up and say so with --licence_of_cohort, such as "
                '"CC BY 4.0"; if it may not, do not export.'
            )
        if terms is not None and not terms.allowed:
            raise LicenceError(
                f"{name}: {terms.licence} forbids passing on data, derivatives and trained "
                "weights. Train on another cohort."
            )
        lines.append(
            f"{name or 'unknown data'}: {stated}, as stated by whoever exported"
            if terms is None
            else f"{name}: {terms.licence} ({terms.credit})"
        )
    return lines


def _known(name: str) -> Terms | None:
    """Terms by origin, whatever the spelling; a forbidding data set is recognised in longer names.

    >>> [_known(name) == KNOWN["embed"] for name in ("EM-BED 2D", "my embed2d", "embedded")]
    [True, True, False]
    >>> _known("CBIS_DDSM") == KNOWN["cbis-ddsm"], _known("cbis-ddsm-2")
    (True, None)
    """
    known = {normalised(origin): terms for origin, terms in KNOWN.items()}
    words = re.findall(r"[^\W\d_]+|\d+", unicodedata.normalize("NFKC", name).casefold())
    parts = {"".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
    forbidding = (known[part] for part in sorted(parts & set(known)) if not known[part].allowed)
    return known.get(normalised(name)) or next(forbidding, None)
