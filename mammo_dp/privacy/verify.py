# SPDX-License-Identifier: Apache-2.0
"""Whether a run and all its ancestors are what they say, from the files alone.

Nothing is trained and no code in a file is run. What a stage recorded in ``run.json`` is compared
with the files that lie there now, its statement with its evidence; then the same for each parent.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import ManifestError
from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.bindings import check_bindings
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evidence import Evidence
from mammo_dp.privacy.findings import RESTORE, RESTORE_EXPORT, Findings
from mammo_dp.privacy.recompute import recompute
from mammo_dp.privacy.statement import FILE_NAME, FILES_NAME, seal_doubt
from mammo_dp.runs import (
    DIRTY,
    THEN,
    RunError,
    RunInput,
    RunRecord,
    config_sha256,
    file_sha256,
    input_sha256,
    read_run,
    run_of,
)
from mammo_dp.runs import FILE_NAME as RUN


@dataclass
class Verification:
    """A walk from a run to its ancestors.

    Attributes:
        findings: What does not fit, what could not be checked, and counts of what was.
        statements: What each statement on the way says when it is derived again, by folder.
    """

    findings: Findings = field(default_factory=Findings)
    statements: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    _seen: set[Path] = field(default_factory=set)

    def visit(self, folder: Path) -> None:
        """Checks a run or a folder of crops, after its parents; each folder once.

        Args:
            folder: Where ``run.json`` or ``crops.csv`` lies.
        """
        if folder.resolve() in self._seen:
            return
        self._seen.add(folder.resolve())
        self.findings.checked["folders"] += 1
        if (folder / FILES_NAME).is_file():
            self._files_of_export(folder)
        record = self._record(folder)
        inputs = {} if record is None else self._inputs(folder, record)
        if (folder / CROPS).is_file():
            self._crops(folder)
        if (folder / FILE_NAME).is_file():
            self._statement(folder, record, inputs)
        elif record is not None and record.command == "fit" and FILE_NAME not in record.outputs:
            self.findings.add(folder / FILE_NAME, "is missing", RESTORE)

    def _record(self, folder: Path) -> RunRecord | None:
        """Reads ``run.json``; checks outputs and configuration."""
        if not (folder / RUN).exists() and any(
            (folder / name).is_file() for name in (CROPS, FILES_NAME)
        ):
            note = f"{folder}: has no {RUN}, so only its files and their hashes were checked."
            self.findings.notes.append(note)
            return None
        try:
            record = read_run(folder)
        except RunError as error:
            self.findings.add(folder / RUN, f"cannot be read ({error})", RESTORE)
            return None
        self._source(folder / RUN, record.commit or "unknown")
        check_bindings(folder, record, self.findings)
        if not record.is_finished:
            self.findings.add(folder / RUN, "the run is unfinished", "Run the same command again")
        for name, recorded in record.outputs.items():
            self._output(folder / name, recorded)
        there = config_sha256(record.command, record.config, record.seed)
        self.findings.compare(folder / RUN, "config_sha256", record.config_sha256, there)
        if (path := folder / "config.yaml").is_file():
            try:
                configured = yaml.safe_load(path.read_text())
            except (yaml.YAMLError, ValueError) as error:
                self.findings.add(path, f"is no YAML ({error})", RESTORE)
            else:
                self.findings.compare(path, "", record.config, configured)
        return record

    def _source(self, where: Path, commit: str) -> None:
        """Whether it is known what code ran: a commit and nothing beside it."""
        sources = commit.split(THEN)
        if dirty := [source for source in sources if source.endswith(DIRTY)]:
            self.findings.add(
                where,
                f"ran on source with changes that are in no commit ({', '.join(dirty)}), so nobody "
                "can tell what ran",
                "Commit the changes and run the stage again in a new folder",
            )
        if "unknown" in sources:
            self.findings.notes.append(f"{where}: names no commit of the source that ran.")
        if len(sources) > 1:
            self.findings.notes.append(f"{where}: resumed on another source ({commit}).")

    def _files_of_export(self, folder: Path) -> None:
        """Compares an export with its sealed list of files."""
        path = folder / FILES_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            files: dict[str, str] = dict(content["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.findings.add(path, f"cannot be read ({error})", RESTORE_EXPORT)
            return
        if doubt := seal_doubt(content):
            self.findings.add(path, doubt, RESTORE_EXPORT)
        else:
            self.findings.checked["seals"] += 1
        for name, recorded in files.items():
            self._output(folder / name, recorded, FILES_NAME, RESTORE_EXPORT)

    def _output(
        self, path: Path, recorded: str, listed_in: str = RUN, remedy: str = RESTORE
    ) -> None:
        self.findings.checked["files"] += 1
        if not path.is_file():
            self.findings.add(path, f"is missing, but listed in {listed_in}", remedy)
        elif (there := file_sha256(path)) != recorded:
            what = f"was altered: sha256 {recorded} is recorded in {listed_in}, {there} is there"
            self.findings.add(path, what, remedy)

    def _inputs(self, folder: Path, record: RunRecord) -> dict[str, Path]:
        """Finds, compares and visits what a run read.

        Returns:
            Where each input lies now, by role.
        """
        located = {}
        for role, entry in record.inputs.items():
            if role == "root" and record.command.startswith("prepare "):
                self.findings.notes.append(
                    f"{entry.path}: was not read; no statement depends on what {folder} was "
                    "prepared from."
                )
                continue
            path = _located(folder, role, entry)
            if path is None:
                what = (
                    f"is missing, here and above {folder}, which read it as {role} with sha256 "
                    f"{entry.sha256}"
                )
                remedy = "Restore it; without it the lineage is unknown"
                self.findings.add(entry.path, what, remedy)
                continue
            located[role] = path
            if (there := input_sha256(path)) != entry.sha256:
                what = (
                    f"is not what {folder} read as {role}: sha256 {entry.sha256} is recorded, "
                    f"{there} is there"
                )
                self.findings.add(path / CROPS if path.is_dir() else path, what, RESTORE)
            parent = path if path.is_dir() else run_of(path.parent)
            if parent is not None:
                self.visit(parent)
        return located

    def _crops(self, folder: Path) -> None:
        """Reads ``crops.csv`` and compares every image with its hash."""
        try:
            manifest = CropsManifest.read(folder)
        except ValueError as error:
            self.findings.add(folder / CROPS, f"is no valid manifest ({error})", RESTORE)
            return
        for row in range(len(manifest.crops)):
            self.findings.checked["crops"] += 1
            try:
                manifest.image(row)
            except ManifestError as error:
                path = folder / manifest.crops[row].file
                self.findings.add(path, f"is not the crop of row {row + 2} ({error})", RESTORE)

    def _statement(
        self, folder: Path, record: RunRecord | None, inputs: Mapping[str, Path]
    ) -> None:
        try:
            statement = recompute(folder, self.findings)
        except PrivacyError as error:
            self.findings.add(folder / FILE_NAME, f"cannot be read ({error})", RESTORE)
            return
        if not statement.derived:
            return
        self.statements[folder] = statement.derived
        if record is not None:
            Evidence(
                stored=statement.stored, record=record, inputs=inputs, findings=self.findings
            ).check()


def _located(folder: Path, role: str, entry: RunInput) -> Path | None:
    """Where an input lies now: at its recorded path, seen from here or from a folder above the run.

    A recorded path may be relative to where the command was typed; above the run, only what has
    the recorded hash is known to be meant. Of a provenance, `prepare` keeps a copy.
    """
    meant = [Path(entry.path)]
    if role == "provenance":
        meant.append(folder / f"provenance{Path(entry.path).suffix}")
    above = (base / entry.path for base in folder.resolve().parents)
    for place in (*meant, *above):
        if place.exists() and input_sha256(place) == entry.sha256:
            return place
    return next((place for place in meant if place.exists()), None)
