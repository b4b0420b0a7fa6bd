# SPDX-License-Identifier: Apache-2.0
"""What a model was made of, as nodes of a graph, and the commands that make it again."""

import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mammo_dp.privacy.accounting.account import Selection, fits_of, mechanism_from_json
from mammo_dp.privacy.statement.document import read_evidence
from mammo_dp.report.collect import Row, lineage, made_by, setting
from mammo_dp.runs import RELEASED, RunInput, RunRecord

_MEASURING = ("validate", "test")
_MIX = "mix"  # written by a benchmark; no command line makes it
_OBJECT = re.compile(r"[A-Z]\w*\(.*\)", re.DOTALL)  # what a file of parameters became
# A cohort of patients, a private stage, a stage without privacy on patients, or none of these.
Kind = Literal["patients", "private", "open", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A run, or something that was given.

    Attributes:
        title: Name of the folder.
        lines: At most two lines of facts.
        kind: What it did to patients.
        parents: Keys of what it was made of, with the role that each played.
    """

    title: str
    lines: Sequence[str]
    kind: Kind
    parents: Mapping[str, str] = field(default_factory=dict)


def ancestry(row: Row) -> dict[str, Node]:
    """Each run and each given file in the lineage of a model, once.

    Args:
        row: Evaluation of the model.

    Returns:
        Nodes by folder or hash, the model first.
    """
    nodes: dict[str, Node] = {}
    accesses: Sequence[Mapping[str, Any]] = row.privacy["accesses"]
    evidence = read_evidence(row.model.folder) or {"cohorts": []}
    cohorts = {  # of patients; an imported set is known by its crops, too
        known["manifest_sha256"]
        for known in evidence["cohorts"]
        if known and known["crops_of_patients"]
    }

    def visit(source: RunRecord | RunInput, sha256: str) -> str:
        key = str(source.folder.resolve()) if isinstance(source, RunRecord) else source.sha256
        if key in nodes:
            return key
        if isinstance(source, RunInput):
            title, lines = _last(source.path), ["given, made by no recorded run"]
            kind: Kind = "patients" if sha256 in cohorts else "other"
            nodes[key] = Node(title=title, lines=lines, kind=kind)
            return key
        kind, words = _stage(source, accesses)
        if sha256 in cohorts:
            kind, words = "patients", "crops of patients"
        lines = [_what(source), words] if words else [_what(source)]
        nodes[key] = Node(title=source.folder.resolve().name, lines=lines, kind=kind)
        parents: dict[str, str] = {}
        for role, entry in source.inputs.items():
            parent = visit(made_by(entry) or entry, entry.sha256)
            parents[parent] = f"{parents[parent]}, {role}" if parent in parents else role
        nodes[key] = Node(title=nodes[key].title, lines=lines, kind=kind, parents=parents)
        return key

    visit(row.model, "")
    return nodes


def described(nodes: Mapping[str, Node]) -> str:
    """The graph in words, for those who do not see it."""
    made = [
        f"{node.title} ({', '.join(node.lines)}) from "
        f"{', '.join(f'{nodes[parent].title} as {role}' for parent, role in node.parents.items())}"
        for node in nodes.values()
        if node.parents
    ]
    return ". ".join(made)


def _what(record: RunRecord) -> str:
    """Command of a run and the class of its model, if it has one."""
    kind = str(setting(record.config.get("model") or {}, "class_path") or "")
    return f"{record.command} {kind.rpartition('.')[2]}".strip()


def _stage(record: RunRecord, accesses: Sequence[Mapping[str, Any]]) -> tuple[Kind, str]:
    """Kind of a run, and what it did to patients."""
    outputs = set(record.outputs.values())
    own = [access for access in accesses if access["released"] in outputs]
    if not own:
        return "other", ""
    if any(access["mechanism"] is None for access in own):
        return "open", "saw patients without privacy"
    mechanisms = [mechanism_from_json(access["mechanism"]) for access in own]
    steps = sum(fit.steps for mechanism in mechanisms for fit in fits_of(mechanism))
    chosen = any(isinstance(mechanism, Selection) for mechanism in mechanisms)
    best = ", the best of several fits" if chosen else ""
    return "private", f"private: {steps} noisy steps{best}"


def _last(path: str) -> str:
    """Name of a file or folder; a checkpoint is called after its run."""
    return path.removesuffix(f"/{RELEASED.as_posix()}").rstrip("/").rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A run that can be made again.

    Attributes:
        folder: Where it stands, relative to the reported folder.
        command: Command line, for a new folder; a remark where there is none.
        facts: Time, seed, commit and hash of the configuration.
    """

    folder: str
    command: str
    facts: str


def steps(rows: Iterable[Row], root: Path) -> list[Step]:
    """Every recorded run behind evaluations, once, each after what it reads.

    Args:
        rows: Evaluations.
        root: Reported folder.
    """
    records: dict[Path, RunRecord] = {}
    for row in rows:
        made = [source for *_, source in lineage(row.model) if isinstance(source, RunRecord)]
        tried = [record for record in (row.attacker, row.auditor) if record]
        for record in [*made[::-1], row.evaluation, *tried]:
            records.setdefault(record.folder.resolve(), record)
    return [
        Step(folder=relative(folder, root), command=command(record, root), facts=_facts(record))
        for folder, record in records.items()
    ]


def command(record: RunRecord, root: Path) -> str:
    """The command line that makes a run again, in a new folder.

    Args:
        record: The run.
        root: Folder from which the command is given.
    """
    if record.command == "fit":
        config = shlex.quote(f"{relative(record.folder, root)}/config.yaml")
        return f"mammo-dp fit --config {config} --run_dir NEW_FOLDER"
    if record.command in _MEASURING:
        checkpoint = record.inputs["checkpoint"].path
        run = relative(checkpoint.removesuffix(f"/{RELEASED.as_posix()}"), root)
        return f"mammo-dp {record.command} --run {shlex.quote(run)} --run_dir NEW_FOLDER"
    paths = {entry.path for entry in record.inputs.values()}
    if record.command == _MIX:
        read = " and ".join(relative(path, root) for path in sorted(paths))
        return f"# {read}, mixed by `mammo-dp benchmark` as run.json says"
    flags, elsewhere = [], []
    for name, value in _flat(record.config):
        if _OBJECT.fullmatch(value):
            elsewhere.append(name)
        else:
            shown = relative(value, root) if _is_path(value, paths) else value
            flags.append(f"--{name} {shlex.quote(shown)}")
    if record.seed is not None and "seed" not in record.config:
        flags.append(f"--seed {record.seed}")
    note = f"  # {', '.join(elsewhere)}: as in run.json" if elsewhere else ""
    return " ".join([f"mammo-dp {record.command}", *flags, "--out NEW_FOLDER"]) + note


def settings(record: RunRecord, root: Path) -> list[tuple[str, str]]:
    """Names and values of a configuration; those that say nothing are left out."""
    paths = {entry.path for entry in record.inputs.values()}
    return [
        (name, relative(value, root) if _is_path(value, paths) else value)
        for name, value in _flat(record.config)
    ]


def relative(path: str | Path, root: Path) -> str:
    """A path as seen from a folder, so that no page names the machine that made it."""
    return Path(os.path.relpath(Path(path).resolve(), root.resolve())).as_posix()


def versions(records: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Versions of the packages that shaped the runs; several where runs differ."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, version in record.versions.items():
            found.setdefault(name, {})[version] = None
    return [(name, ", ".join(several)) for name, several in found.items()]


def _facts(record: RunRecord) -> str:
    return (
        f"{record.seconds:.0f} s · seed {'none' if record.seed is None else record.seed} · "
        f"commit {(record.commit or 'unknown')[:12]} · configuration {record.config_sha256[:12]}"
    )


def _flat(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            plain = json.dumps(value) if isinstance(value, list | bool) else str(value)
            yield f"{prefix}{name}", plain


def _is_path(value: str, known: set[str]) -> bool:
    return value in known or Path(value).is_absolute()
