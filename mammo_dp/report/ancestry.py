# SPDX-License-Identifier: Apache-2.0
"""What a model was made of, as nodes of a graph: runs, given files, and who stood behind them."""

from collections.abc import Mapping, Sequence
from typing import Any

from mammo_dp.privacy.selection import Selection, fits_of, mechanism_from_json
from mammo_dp.privacy.statement import read_evidence
from mammo_dp.report.compare import Row, made_by, setting
from mammo_dp.report.drawings.lineage import Node
from mammo_dp.runs import RunInput, RunRecord

PATIENTS, PRIVATE, OPEN, OTHER = "s3", "s2", "warn", "muted"


def ancestry(row: Row) -> dict[str, Node]:
    """Each run and each given file in the lineage of a model, once.

    Args:
        row: Evaluation of the model.

    Returns:
        Nodes by folder or hash, the model first. Colours say whether a node is a cohort of
        patients, a private stage, a stage without privacy on patients, or none of these.
    """
    nodes: dict[str, Node] = {}
    accesses: Sequence[Mapping[str, Any]] = row.privacy["accesses"]
    evidence = read_evidence(row.model.folder) or {"cohorts": []}
    cohorts = {known["manifest_sha256"] for known in evidence["cohorts"] if known}

    def visit(source: RunRecord | RunInput, sha256: str) -> str:
        key = str(source.folder.resolve()) if isinstance(source, RunRecord) else source.sha256
        if key in nodes:
            return key
        if isinstance(source, RunInput):
            title, lines = _last(source.path), ["given, made by no recorded run"]
            css = PATIENTS if sha256 in cohorts else OTHER
            nodes[key] = Node(title=title, lines=lines, css=css)
            return key
        css, words = _stage(source, accesses)
        if sha256 in cohorts:
            css, words = PATIENTS, "crops of patients"
        lines = [_what(source), words] if words else [_what(source)]
        nodes[key] = Node(title=source.folder.resolve().name, lines=lines, css=css)
        parents: dict[str, str] = {}
        for role, entry in source.inputs.items():
            parent = visit(made_by(entry) or entry, entry.sha256)
            parents[parent] = f"{parents[parent]}, {role}" if parent in parents else role
        nodes[key] = Node(title=nodes[key].title, lines=lines, css=css, parents=parents)
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


def _stage(record: RunRecord, accesses: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Colour of a run, and what it did to patients."""
    outputs = set(record.outputs.values())
    own = [access for access in accesses if access["released"] in outputs]
    if not own:
        return OTHER, ""
    if any(access["mechanism"] is None for access in own):
        return OPEN, "saw patients without privacy"
    mechanisms = [mechanism_from_json(access["mechanism"]) for access in own]
    steps = sum(fit.steps for mechanism in mechanisms for fit in fits_of(mechanism))
    chosen = any(isinstance(mechanism, Selection) for mechanism in mechanisms)
    return PRIVATE, f"private: {steps} noisy steps{', the best of several fits' if chosen else ''}"


def _last(path: str) -> str:
    """Name of a file or folder; a checkpoint is called after its run."""
    return path.removesuffix("/checkpoints/last.ckpt").rstrip("/").rpartition("/")[2]
