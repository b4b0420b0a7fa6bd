# SPDX-License-Identifier: Apache-2.0
"""Run folders into rows: utility of a classifier beside its privacy statement and its attack.

A row is one evaluation. Its model is found through the hash of the checkpoint, so that no number
can stand beside the statement of another model. Results of whole grids (a ladder, a benchmark, a
reconstruction) stand beside the rows and are found by their file.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from classifier.evaluate import HEADINGS, Estimate
from data_prep.manifest import CropsManifest
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.membership.results import read_result
from mammo_dp.attacks.statistics import AUDIT_SCHEMA as AUDIT_SCHEMA
from mammo_dp.privacy.statement.document import SCHEMA
from mammo_dp.privacy.statement.guarantee import PrivacyStatement
from mammo_dp.privacy.statement.seals import require_result_of, seal_doubt, sealed_content
from mammo_dp.privacy.training.fit_statement import PUBLIC_STARTS
from mammo_dp.runs import (
    FILE_NAME,
    RunInput,
    RunRecord,
    file_sha256,
    is_still,
    read_run,
    run_of,
)

ATTACK, AUDIT, STRESS = "attack.json", "audit.json", "stress.json"
LADDER, RECONSTRUCTION, BENCHMARK = "ladder.json", "reconstruction.json", "benchmark.json"
FIDELITY = "fidelity.json"
_WITH_EPSILONS = (LADDER, RECONSTRUCTION, BENCHMARK)  # believed only under a seal
_RESULT_SCHEMAS = {FIDELITY: 4, BENCHMARK: 3}  # 1 of the others above


class ReportError(ValueError):
    """The runs cannot be reported truthfully; the message names the folder and the remedy."""


def estimate(stored: Mapping[str, Any]) -> Estimate:
    """Reads ``{"value", "low", "high"}``; what is null or absent is not a number."""
    values = (stored.get(name) for name in ("value", "low", "high"))
    return Estimate(*(math.nan if value is None else float(value) for value in values))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluation of one model.

    Attributes:
        name: Folder of the model's run below the reported folder.
        model: Record of the run that made the model.
        evaluation: Record of the run that measured it.
        measured: Content of ``metrics.json``.
        privacy: Content of the model's ``privacy.json``.
        attacker: Record of the run that attacked it with most success, if there is one.
        auditor: Record of the run that audited its noise with most success, if there is one.
        stressor: Record of the test on the same crops distorted, if there is one.
        start: What the weights were before this run.
    """

    name: str
    model: RunRecord
    evaluation: RunRecord
    measured: Mapping[str, Any]
    privacy: Mapping[str, Any]
    attacker: RunRecord | None
    auditor: RunRecord | None = None
    stressor: RunRecord | None = None
    start: str

    @cached_property
    def statements(self) -> tuple[PrivacyStatement, ...]:
        """One per cohort of patients in the lineage."""
        return tuple(map(PrivacyStatement.from_json, self.privacy["statements"]))

    @cached_property
    def attack(self) -> Mapping[str, Any] | None:
        """Content of ``attack.json``, if the model was attacked."""
        return None if self.attacker is None else read_attack(self.attacker)

    @property
    def strongest(self) -> Mapping[str, Any] | None:
        """What the attack with the largest area achieved, if the model was attacked."""
        return self.attack and self.attack["attacks"][self.attack["strongest"]]

    @cached_property
    def audit(self) -> Mapping[str, Any] | None:
        """Content of ``audit.json``, if the model's noise was audited."""
        return None if self.auditor is None else read_audit(self.auditor)

    @cached_property
    def stress(self) -> Mapping[str, Any] | None:
        """Content of ``stress.json``, if the model was tested on distorted crops."""
        return None if self.stressor is None else _result(self.stressor.folder / STRESS)

    @property
    def split(self) -> str:
        """Split that the metrics were measured on."""
        return str(self.measured["split"])

    @property
    def measured_on(self) -> tuple[str, str]:
        """What tells the patients of the metrics from others: hash of their crops, and the split.

        Only rows that agree in it can be compared by their metrics.
        """
        return _tested_on(self.evaluation)[0], self.split

    @cached_property
    def metrics(self) -> Mapping[str, Estimate]:
        """Metrics with intervals by name, see ``HEADINGS``; not a number in an older file."""
        return {name: estimate(self.measured.get(name, {})) for name in HEADINGS}

    @property
    def backbone(self) -> str:
        """Name of the model in timm; empty if the run does not say."""
        return str(setting(self.model.config, "backbone") or "")

    @property
    def own(self) -> PrivacyStatement | None:
        """Statement about the cohort that the model itself was trained on, if there is one."""
        return next((one for one in self.statements if one.is_own), None)

    @property
    def epsilon(self) -> float:
        """End to end, of a patient, the largest over cohorts; 0 if none stands in the lineage."""
        return max((statement.patient_epsilon for statement in self.statements), default=0.0)

    @property
    def guarantee(self) -> PrivacyStatement | None:
        """The statement with the largest epsilon, if each patient's is finite; none without one.

        A patient's number counts, not a crop's.
        """
        worst = max(self.statements, key=lambda statement: statement.patient_epsilon, default=None)
        return None if worst is None or math.isinf(worst.patient_epsilon) else worst

    @property
    def is_private(self) -> bool:
        """Whether the model's own training was differentially private."""
        return self.own is not None and math.isfinite(self.own.own_epsilon)

    @property
    def training(self) -> str:
        """How the model was trained, in two words."""
        if self.own is None:
            return "no patient"
        return f"DP, per {self.own.unit}" if self.is_private else "not private"


def collect(runs: Path) -> list[Row]:
    """Finds all evaluations below a folder.

    Cells of a benchmark or a ladder stand in its own table; they are rows only where nothing else
    was evaluated.

    Args:
        runs: Folder that holds run folders at any depth.

    Returns:
        One row per finished evaluation: not private first, then by epsilon, start and name.

    Raises:
        ReportError: If there is no evaluation, or one whose model or statement is missing, or whose
            statement cannot be relied on here.
    """
    if not runs.is_dir():
        raise ReportError(f"{runs}: is no folder. Give the folder that holds the runs.")
    records = [read_run(path.parent) for path in sorted(runs.rglob(FILE_NAME))]
    measured = [r for r in records if r.is_finished and (r.folder / "metrics.json").is_file()]
    grids = {path.parent for name in (BENCHMARK, LADDER) for path in runs.rglob(name)}
    alone = [record for record in measured if not grids & {record.folder, *record.folder.parents}]
    rows = [_row(record, records, runs) for record in alone or measured]
    if not rows:
        raise ReportError(
            f"{runs}: holds no finished evaluation (run.json beside metrics.json) among "
            f"{len(records)} run folders. Run `mammo-dp test --run RUN` first."
        )
    return sorted(rows, key=_order)


def models(rows: Iterable[Row]) -> list[Row]:
    """One row per model; a model may have been measured on several sets of crops."""
    return list({row.name: row for row in rows}.values())


def lineage(record: RunRecord) -> Iterator[tuple[int, str, RunRecord | RunInput]]:
    """Follows a run back to what it was made of.

    Yields:
        Depth (0 for the run itself), role of the input, and the record of the run that made it,
        or the input itself where no run did. The same run may come twice.
    """
    stack: list[tuple[int, str, RunRecord | RunInput]] = [(0, "this run", record)]
    while stack:
        depth, role, current = stack.pop()
        yield depth, role, current
        if isinstance(current, RunRecord):
            for name, entry in sorted(current.inputs.items(), reverse=True):
                stack.append((depth + 1, name, made_by(entry) or entry))


def made_by(entry: RunInput) -> RunRecord | None:
    """The run that made an input, if it is still where it was read and has not changed."""
    folder = run_of(entry.path)
    if folder is None:
        return None
    record = read_run(folder)
    is_folder = folder.resolve() == Path(entry.path).resolve()
    return record if is_folder or entry.sha256 in record.outputs.values() else None


def unchanged(entry: RunInput) -> bool:
    """Whether an input still lies where it was read, and is still the same."""
    return is_still(Path(entry.path), entry.sha256)


def setting(config: Mapping[str, Any], name: str) -> object:
    """First value of a name anywhere in a nested configuration, or none."""
    if name in config:
        return config[name]
    found = (setting(v, name) for v in config.values() if isinstance(v, Mapping))
    return next((value for value in found if value is not None), None)


def _row(evaluation: RunRecord, records: list[RunRecord], runs: Path) -> Row:
    if (checkpoint := evaluation.inputs.get("checkpoint")) is None:
        raise ReportError(
            f"{evaluation.folder}: its run.json names no checkpoint, so its numbers belong to no "
            "model. Make it with `mammo-dp test --run RUN`."
        )
    model = _model(evaluation, checkpoint, records)
    if model is None:
        raise ReportError(
            f"{evaluation.folder}: the checkpoint {checkpoint.path} that it measured is no output "
            f"of a finished run below {runs}. Report a folder that holds both."
        )
    path = model.folder / "privacy.json"
    again = "Run the fit again; it writes the statement when it ends."
    privacy = _json(path, again)
    if (schema := privacy.get("schema")) != SCHEMA:
        raise ReportError(f"{path}: has schema {schema}, known is {SCHEMA}. {again}")
    if doubt := seal_doubt(privacy):
        raise ReportError(
            f"{path}: {doubt}. No number of it is reported; restore the file, use the key that it "
            "was sealed with (MAMMO_DP_COHORT_KEY), or run the fit again."
        )
    if (stated := privacy["artefact"]["sha256"]) != checkpoint.sha256:
        raise ReportError(
            f"{path}: is about another checkpoint ({stated[:12]}, measured was "
            f"{checkpoint.sha256[:12]}). Run fit and test again into new folders."
        )
    weights = model.folder / privacy["artefact"]["path"]
    if weights.is_file() and file_sha256(weights) != stated:
        raise ReportError(
            f"{weights}: is not what was measured, and the statement beside it is not about it. "
            "Restore it, or run fit and test again into new folders."
        )
    measured = _json(evaluation.folder / "metrics.json", "Run the test again.")
    return Row(
        name=model.folder.resolve().relative_to(runs.resolve()).as_posix(),
        model=model,
        evaluation=evaluation,
        measured=measured,
        privacy=privacy,
        attacker=most_successful_attack(records, checkpoint.sha256),
        auditor=most_successful_audit(records, file_sha256(path)),
        stressor=next(
            (
                record
                for record in _about(records, STRESS, "checkpoint", checkpoint.sha256)
                if _tested_on(record) == _tested_on(evaluation)
            ),
            None,
        ),
        start=_start(model),
    )


def _model(
    evaluation: RunRecord, checkpoint: RunInput, records: Iterable[RunRecord]
) -> RunRecord | None:
    """The run that holds what was measured, as its output; none if there is none.

    A release and the candidate that it was copied from hold the same weights, and their statements
    differ. The one that was measured is named by the path, or stands around the evaluation where
    the runs have been moved since.
    """
    named, around = run_of(Path(checkpoint.path).resolve()), evaluation.folder.resolve().parents

    def fit(record: RunRecord) -> tuple[bool, bool]:
        folder = record.folder.resolve()
        return folder == named, folder in around

    holders = (record for record in records if checkpoint.sha256 in record.outputs.values())
    return max(holders, key=fit, default=None)


def _tested_on(record: RunRecord) -> tuple[str, object]:
    """Hash of the folder of crops, and the split."""
    data = record.inputs.get("data")
    return data.sha256 if data else "", setting(record.config, "evaluate_split")


def _start(model: RunRecord) -> str:
    """What the weights were before the run: the origin of the crops that they learned from."""
    weights = model.inputs.get("weights")
    if weights is None:
        given = setting(model.config, "weights")
        return "public weights" if given in PUBLIC_STARTS else "random weights"
    source = made_by(weights)
    data = source.inputs.get("data") if source else None
    if data is None or not Path(data.path).exists():
        return "given weights"
    origins = {crop.origin.partition(":")[0] for crop in CropsManifest.read(data.path).crops}
    words = {
        "phantom": "phantom crops",
        "gan": "synthetic crops",
        "evolved": "evolved crops",
        "synthetic": "imported crops",
    }
    return " and ".join(sorted(words.get(origin, origin) for origin in origins))


def _order(row: Row) -> tuple[bool, float, str, str, str]:
    epsilon = row.own.own_epsilon if row.own and row.is_private else 0.0
    return row.is_private, epsilon, row.start, row.name, row.split


def _json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: cannot be read ({error}). {remedy}") from error


def most_successful_attack(records: Iterable[RunRecord], sha256: str) -> RunRecord | None:
    """The run that attacked a checkpoint: one that refutes its bound, or has the largest area.

    Args:
        records: All runs.
        sha256: Hash of the checkpoint.
    """

    def success(record: RunRecord) -> tuple[bool, float]:
        found = read_attack(record)
        strongest = found["attacks"][found["strongest"]]
        return bool(found["exceeds_bound"]), float(strongest["auc"]["value"])

    return max(_about(records, ATTACK, "checkpoint", sha256), key=success, default=None)


def most_successful_audit(records: Iterable[RunRecord], sha256: str) -> RunRecord | None:
    """The run that audited a statement: one that refutes it, or has the largest lower bound.

    Args:
        records: All runs.
        sha256: Hash of ``privacy.json``.
    """

    def success(record: RunRecord) -> tuple[bool, float]:
        found = read_audit(record)
        return bool(found["refutes"]), float(found["best"]["epsilon"])

    return max(_about(records, AUDIT, "privacy", sha256), key=success, default=None)


def read_attack(record: RunRecord) -> Mapping[str, Any]:
    """What a run of ``attack membership`` found.

    Raises:
        ReportError: If it cannot be read.
    """
    try:
        return read_result(record.folder / ATTACK, record)
    except AttackError as error:
        raise ReportError(str(error)) from error


def read_audit(record: RunRecord) -> Mapping[str, Any]:
    """What a run of ``attack audit`` found.

    Raises:
        ReportError: If it cannot be read.
    """
    path = record.folder / AUDIT
    try:
        found = sealed_content(path.read_text(encoding="utf-8"))
        if found.get("schema") != AUDIT_SCHEMA:
            raise ValueError(f"schema {found.get('schema')}, known is {AUDIT_SCHEMA}")
        require_result_of(found, record)
    except (OSError, ValueError) as error:
        raise ReportError(
            f"{path}: cannot be read ({error}). Run the audit again, into a new folder."
        ) from error
    return found


def _about(
    records: Iterable[RunRecord], result: str, role: str, sha256: str
) -> Iterator[RunRecord]:
    """Finished runs that wrote a result about the file with this hash, which they read."""
    for record in records:
        read = record.inputs.get(role)
        is_about = read is not None and read.sha256 == sha256 and record.is_finished
        if is_about and (record.folder / result).is_file():
            yield record


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A file of numbers and the folder that it explains.

    Attributes:
        folder: Where it stands.
        name: Folder relative to the reported one.
        stored: Content of the file.
    """

    folder: Path
    name: str
    stored: Mapping[str, Any]


def found(runs: Path, file: str) -> list[Result]:
    """All files of one name below a folder.

    Args:
        runs: Reported folder.
        file: ``LADDER``, ``RECONSTRUCTION``, ``BENCHMARK`` or ``FIDELITY``.

    Raises:
        ReportError: For a file that cannot be read, or of another schema.
    """
    results = []
    for path in sorted(runs.rglob(file)):
        name = path.parent.resolve().relative_to(runs.resolve()).as_posix()
        results.append(Result(folder=path.parent, name=name, stored=_result(path)))
    return results


def _result(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        stored = sealed_content(text) if path.name in _WITH_EPSILONS else dict(json.loads(text))
        if stored["schema"] != (known := _RESULT_SCHEMAS.get(path.name, 1)):
            raise ValueError(f"schema {stored['schema']}, known is {known}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError(
            f"{path}: cannot be read ({error!r}). Run the command that wrote it again, into a "
            "new folder, or report a folder without it."
        ) from error
    return stored


def paths(runs: Path) -> list[Path]:
    """Each such file, for the record of a report."""
    files = (LADDER, RECONSTRUCTION, BENCHMARK, FIDELITY)
    return [result.folder / file for file in files for result in found(runs, file)]
