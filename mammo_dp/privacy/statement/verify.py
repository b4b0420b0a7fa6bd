# SPDX-License-Identifier: Apache-2.0
"""Verifies a run and all its ancestors from their files alone.

Nothing is trained and no code in a file is run. What a stage recorded in ``run.json`` is compared
with the files that lie there now; then the same for each parent. A statement is compared with its
evidence: its cohort with the crops that lie there now, its lineage with the statements of the
parents, and its mechanisms with the account, by a check that each command of private steps brings.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from data_prep.errors import ManifestError
from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import CropsManifest, Split
from mammo_dp.privacy.accounting.account import fits_of
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.cohort import Cohort
from mammo_dp.privacy.statement.document import (
    EVIDENCE_NAME,
    FILE_NAME,
    FILES_NAME,
    ledger_of,
    read_evidence,
    run_facts,
)
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger, Use
from mammo_dp.privacy.statement.lineage import (
    HUB_SOURCE,
    PACKAGE_SOURCE,
    SOURCES,
    UNPREPARED,
    data_ledger,
    inputs_ledger,
    loose_delta,
    parents_of,
)
from mammo_dp.privacy.statement.recompute import RESTORE, RESTORE_EXPORT, Findings, recompute, shown
from mammo_dp.privacy.statement.seals import FEATURES, RESUME, Binding, seal_doubt
from mammo_dp.runs import (
    DIRTY,
    THEN,
    RunError,
    RunInput,
    RunRecord,
    config_sha256,
    file_sha256,
    files_of,
    input_sha256,
    is_still,
    read_run,
    run_of,
)
from mammo_dp.runs import FILE_NAME as RUN

_SHOWN = 5  # files that a note names
RUN_AGAIN = "The statement does not hold; run the stage again"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCheck:
    """How the runs of one command are verified that itself used patients under an account.

    It stands beside the code that writes the statements of the command. Runs of other commands only
    pass on what was spent on their inputs, and need no check of their own.

    Attributes:
        check: Compares a statement with the account and the settings of the run; returns whether
            there is an account.
        parents: The accesses behind the inputs of a run.
    """

    check: Callable[["Evidence"], bool]
    parents: Callable[[RunRecord], PrivacyLedger] = inputs_ledger


@dataclass
class Verification:
    """Checks a run and its ancestors.

    Attributes:
        stages: What gives the checks of particular commands, by command.
        findings: What does not fit, what could not be checked, and counts of what was.
        statements: What each statement in the lineage says when it is derived again, by folder.
    """

    stages: Mapping[str, Callable[[], StageCheck]]
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
            files = check_files_of_export(folder, self.findings)
            self._note_unlisted(folder, {*files, *_files_of_crops(folder)}, FILES_NAME)
        record = self._record(folder)
        if record is not None and record.command == "pipeline":  # its stages are runs below it
            for stage in sorted(path.parent for path in folder.rglob(RUN) if path.parent != folder):
                self.visit(stage)
        inputs = {} if record is None else self._inputs(folder, record)
        if (folder / CROPS).is_file():
            self._crops(folder)
        if (folder / FILE_NAME).is_file():
            self._statement(folder, record, inputs)
        elif (
            record is not None and record.command in self.stages and FILE_NAME not in record.outputs
        ):
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
            _check_file(folder / name, recorded, self.findings, listed_in=RUN, remedy=RESTORE)
        if record.is_finished:
            self._note_unlisted(folder, record.outputs, RUN)
        there = config_sha256(record.command, record.config, record.seed)
        self.findings.compare(folder / RUN, "config_sha256", record.config_sha256, there)
        if (path := folder / "config.yaml").is_file():
            try:
                configured = yaml.safe_load(path.read_text(encoding="utf-8"))
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

    def _note_unlisted(self, folder: Path, listed: Collection[str], listed_in: str) -> None:
        """Says which files came later: no statement covers what lies beside its own."""
        found = [path.relative_to(folder).as_posix() for path in files_of(folder)]
        if later := [name for name in found if name not in listed and name != FILES_NAME]:
            more = f" and {len(later) - _SHOWN} more" if len(later) > _SHOWN else ""
            self.findings.notes.append(
                f"{folder}: {', '.join(later[:_SHOWN])}{more}: not in {listed_in}, so nothing here "
                "speaks about them."
            )

    def _inputs(self, folder: Path, record: RunRecord) -> dict[str, Path]:
        """Finds, compares and visits what a run read.

        Returns:
            Where each input lies now, by role.
        """
        located = {}
        for role, entry in record.inputs.items():
            if role in SOURCES:
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
        """Reads ``crops.csv`` and compares every image with its hash.

        Names images that lie among these, and that the table leaves out.
        """
        try:
            manifest = CropsManifest.read(folder)
        except ValueError as error:
            self.findings.add(folder / CROPS, f"is no valid manifest ({error})", RESTORE)
            return
        for row in range(len(manifest.crops)):
            self.findings.checked["crops"] += 1
            try:
                manifest.pixels(row)
            except ManifestError as error:
                path = folder / manifest.crops[row].file
                self.findings.add(path, f"is not the crop of row {row + 2} ({error})", RESTORE)
        if (folder / FILES_NAME).is_file():  # which has been looked at together with the table
            return
        listed: dict[str, set[str]] = {}
        for crop in manifest.crops:
            images, _, name = crop.file.rpartition("/")
            listed.setdefault(images, set()).add(name)
        for images, names in listed.items():
            if images:
                self._note_unlisted(folder / images, names, CROPS)

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
            stage = self.stages.get(record.command)
            Evidence(
                stored=statement.stored,
                record=record,
                inputs=inputs,
                findings=self.findings,
                stage=None if stage is None else stage(),
            ).check()


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A statement and what it is held against.

    Attributes:
        stored: Content of ``privacy.json``.
        record: The run that wrote it.
        inputs: Where its inputs lie now, by role; those that are gone are absent.
        findings: Takes what does not fit.
        stage: What to check of runs of this command in particular.
    """

    stored: Mapping[str, Any]
    record: RunRecord
    inputs: Mapping[str, Path]
    findings: Findings
    stage: "StageCheck | None" = None

    @property
    def path(self) -> Path:
        """The statement's file."""
        return self.record.folder / FILE_NAME

    @cached_property
    def evidence(self) -> Mapping[str, Any] | None:
        """What stays private beside the statement; None if it cannot be relied on."""
        return read_evidence(self.record.folder)

    @cached_property
    def ledger(self) -> PrivacyLedger:
        """The accesses that the statement lists."""
        return ledger_of(self.stored, self.evidence)

    @property
    def own(self) -> list[Access]:
        """Accesses of the run itself: those that released the artefact."""
        artefact = self.stored["artefact"]
        return [
            access
            for access in self.ledger.accesses
            if artefact and access.released == artefact["sha256"]
        ]

    def check(self) -> None:
        """Compares all that there is."""
        where = self.record.folder / EVIDENCE_NAME
        if (evidence := self.evidence) is None:
            what = "is missing, altered, or not sealed under the key here"
            self.findings.add(where, what, RESTORE)
        else:
            self.findings.compare(where, "run", evidence["run"], run_facts(self.record))
        private = any(access.mechanism is not None for access in self.own)
        if self.stage is not None:
            private |= self.stage.check(self)
        follows = self._check_lineage()
        if follows is not None and not private:
            loose = loose_delta(follows)
            self.findings.compare(self.path, "delta", self.stored["delta"], loose)

    def check_cohort(self, role: str, split: Split, use: Use = "training") -> None:
        """The patients of a split that was used, as they stand in ``crops.csv`` now."""
        try:
            there = Cohort.of_manifest(CropsManifest.read(self.inputs[role]), split)
        except (KeyError, ValueError):
            return  # missing or malformed, which the visit to the crops has found
        own = {
            access.cohort: None
            for access in self.own
            if access.use == use and (use == "training" or access.cohort.split == split)
        }
        if not own and not there.is_empty:
            what = f"lists no access to {there.name}, which {self.record.folder} used for {use}"
            self.findings.add(self.path, what, RUN_AGAIN)
        where = self.inputs[role] / CROPS
        for recorded in own:
            self.findings.checked["cohorts"] += 1
            self._compare_cohorts(where, recorded, there)

    def _compare_cohorts(self, where: Path, recorded: Cohort, there: Cohort) -> None:
        before, now = set(recorded.patients or ()), set(there.patients or ())
        if recorded.key_id != there.key_id:
            what = (
                f"patients of {recorded.name} are hashed under key {recorded.key_id}; the cohort "
                f"key here is {there.key_id}, so they cannot be compared"
            )
            self.findings.add(self.path, what, "Use the key of the statement")
            return
        if before != now:
            what = (
                f"split {there.split!r} holds other patients than {self.path} says: "
                f"{len(before)} recorded, {len(now)} there, {len(before & now)} of them the same"
            )
            self.findings.add(where, what, RESTORE)
        if recorded.crops and there.private is not None:  # where it is public
            counts = there.private.crops_of_patients
            there = replace(there, crops=sum(crops * patients for crops, patients in counts))
        one, other = (
            {
                "cohort": cohort.as_json(with_patients=False),
                "evidence": cohort.private and cohort.private.as_json(),
            }
            for cohort in (recorded, there)
        )
        if recorded.private is None:  # which has been found
            del one["evidence"], other["evidence"]
        self.findings.compare(where, recorded.name, one, other)

    def compare_account(self, where: Path, executed: Sequence[Sequence[float]]) -> None:
        """The steps of the statement, and those of an account.

        Args:
            where: File of the account.
            executed: Noise multiplier, sampling rate and steps of each mechanism that ran.
        """
        self.findings.checked["accounts"] += 1
        recorded = [
            [mechanism.noise_multiplier, mechanism.sampling_rate, mechanism.steps]
            for access in self.own
            for mechanism in fits_of(access.mechanism)
        ]
        if self.own and recorded != executed:
            what = (
                f"its account holds (noise multiplier, sampling rate, steps) {shown(executed)}, "
                f"but {self.path} says {shown(recorded)}"
            )
            self.findings.add(where, what, RUN_AGAIN)

    def _check_lineage(self) -> PrivacyLedger | None:
        """The accesses of the parents that lie there now, and the run's own.

        Returns:
            The ledger that follows, if all parents are there.
        """
        if {*SOURCES, *self.inputs} < {*SOURCES, *self.record.inputs}:
            return None  # a parent is gone, which has been found
        try:
            parents = self._parents()
        except (OSError, ValueError) as error:
            what = f"its lineage cannot be collected ({error})"
            self.findings.add(self.path, what, "Restore the parent")
            return None
        follows, recorded = parents.plus(*self.own), self.ledger
        for access in recorded.accesses:
            if access not in follows.accesses:
                what = f"lists {_named(access)}, which no parent does"
                self.findings.add(self.path, what, RESTORE)
        for access in follows.accesses:
            if access not in recorded.accesses:
                what = f"leaves out {_named(access)}, which a parent lists"
                self.findings.add(self.path, what, RESTORE)
        if UNPREPARED in follows.exclusions:
            self.findings.notes.append(f"{self.path}: {UNPREPARED}")
        one, other = (
            [exclusion for exclusion in ledger.exclusions if exclusion != UNPREPARED]
            for ledger in (recorded, follows)
        )
        self.findings.compare(self.path, "lineage_exclusions", one, other)
        fetched = [  # by no file that is a parent
            one for one in recorded.public if one.source.startswith((HUB_SOURCE, PACKAGE_SOURCE))
        ]
        self.findings.compare(
            self.path,
            "public_data",
            [one.as_json() for one in recorded.public],
            [one.as_json() for one in dict.fromkeys((*follows.public, *fetched))],
        )
        return follows

    def _parents(self) -> PrivacyLedger:
        located = {  # as they are now; where that is not what was read, it has been found
            role: RunInput(path=str(path), sha256=input_sha256(path))
            for role, path in self.inputs.items()
        }
        record = replace(self.record, inputs=located)
        if self.stage is not None:
            return self.stage.parents(record)
        manifest = CropsManifest.read(record.folder)
        self._check_origins(record, manifest)
        return data_ledger(record, manifest)

    def _check_origins(self, record: RunRecord, manifest: CropsManifest) -> None:
        """Crops come from a checkpoint among the inputs, or from crops among them."""
        parents = parents_of(record)
        made_by: set[str] = set()
        for role, path in parents.items():
            if path.is_dir():
                made_by |= {crop.origin for crop in CropsManifest.read(path).crops}
            else:
                made_by.add(f"gan:{record.inputs[role].sha256}")
        origins = {crop.origin for crop in manifest.crops}
        if parents and not origins <= made_by:
            where = manifest.folder / CROPS
            self.findings.compare(where, "origins", sorted(made_by), sorted(origins))


def _files_of_crops(folder: Path) -> tuple[str, ...]:
    """Names of ``crops.csv`` and of the images in it; none where there is no valid one."""
    try:
        return (CROPS, *(crop.file for crop in CropsManifest.read(folder).crops))
    except ValueError:  # missing, or malformed, which the visit to the crops finds
        return ()


def _named(access: Access) -> str:
    return f"the access of {access.stage} to {access.cohort.name}"


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
        if is_still(place, entry.sha256):
            return place
    return next((place for place in meant if place.exists()), None)


def check_bindings(folder: Path, record: RunRecord, findings: Findings) -> None:
    """Checks the seals of training state and features of a run folder.

    Args:
        folder: Where they lie.
        record: The run.
        findings: Takes what does not fit.
    """
    bound = {path: Binding.of_features(path) for path in sorted((folder / FEATURES).glob("*.pt"))}
    if (folder / RESUME).is_file():
        bound[folder / RESUME] = Binding.of_run(record)
    for path, binding in bound.items():
        if doubt := binding.doubt(path):
            findings.add(path, doubt, binding.remedy)
        else:
            findings.checked["seals"] += 1


def check_files_of_export(folder: Path, findings: Findings) -> Collection[str]:
    """Compares an export with its sealed list of files.

    Args:
        folder: Where the list lies.
        findings: Takes what does not fit.

    Returns:
        Names of the files; none if the list cannot be read.
    """
    path = folder / FILES_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files: dict[str, str] = dict(content["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        findings.add(path, f"cannot be read ({error})", RESTORE_EXPORT)
        return ()
    if doubt := seal_doubt(content):
        findings.add(path, doubt, RESTORE_EXPORT)
    else:
        findings.checked["seals"] += 1
    for name, recorded in files.items():
        _check_file(folder / name, recorded, findings, listed_in=FILES_NAME, remedy=RESTORE_EXPORT)
    return files.keys()


def _check_file(
    path: Path, recorded: str, findings: Findings, *, listed_in: str, remedy: str
) -> None:
    findings.checked["files"] += 1
    if not path.is_file():
        findings.add(path, f"is missing, but listed in {listed_in}", remedy)
    elif (there := file_sha256(path)) != recorded:
        what = f"was altered: sha256 {recorded} is recorded in {listed_in}, {there} is there"
        findings.add(path, what, remedy)
