# SPDX-License-Identifier: Apache-2.0
"""What a page says, section by section, as plain values for the template."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from classifier.predictions import FILE_NAME as PREDICTIONS
from classifier.predictions import Predictions, read_predictions
from mammo_dp.report import tables, words
from mammo_dp.report.ancestry import ancestry, described
from mammo_dp.report.benchmark import benchmark
from mammo_dp.report.beside import BENCHMARK, LADDER, RECONSTRUCTION, found
from mammo_dp.report.checklist import answers, nist, tripod
from mammo_dp.report.compare import Row, models
from mammo_dp.report.datasets import HEAD as DATA
from mammo_dp.report.datasets import datasets, manifest_of
from mammo_dp.report.diagnosis import LEAST_CROPS, LEAST_PATIENTS, Subgroup, subgroups
from mammo_dp.report.drawings.attacks import attack_curves, attacks_and_bounds
from mammo_dp.report.drawings.diagnosis import calibration, receiver_operating_characteristic
from mammo_dp.report.drawings.lineage import draw_lineage
from mammo_dp.report.drawings.utility import utility_privacy
from mammo_dp.report.errors import ReportError
from mammo_dp.report.headline import facts, featured, lead
from mammo_dp.report.ladder import ladder
from mammo_dp.report.markup import parts
from mammo_dp.report.reconstruction import reconstruction
from mammo_dp.report.reproduce import settings, steps, versions
from mammo_dp.report.sheets import sheet

TITLES = {
    "summary": "Summary",
    "utility": "Utility and privacy",
    "corridor": "Risk corridor",
    "reconstruction": "What a server could reconstruct",
    "samples": "What the models saw",
    "data": "Patients and crops",
    "calibration": "Calibration",
    "roc": "Discrimination",
    "subgroups": "Subgroups",
    "benchmark": "Benchmark",
    "statement": "Privacy statement",
    "excluded": "What is excluded",
    "attacks": "Attacks and threat models",
    "lineage": "Lineage",
    "configurations": "Configurations and versions",
    "reproduce": "How to reproduce",
    "checklists": "Checklists",
}
_EXCLUDED = "What is not covered"


def figures(rows: Sequence[Row], chosen: Row) -> dict[str, str]:
    """All figures that the runs have something for, as SVG text by name."""
    scored = [
        (name, _predictions(row)) for name, row in featured(rows, chosen) if _has_predictions(row)
    ]
    nodes = ancestry(chosen)
    drawn = {
        "utility": utility_privacy(rows),
        "calibration": calibration(scored),
        "roc": receiver_operating_characteristic(scored),
        "bounds": attacks_and_bounds(models(rows)),
        "curves": attack_curves(chosen),
        "lineage": draw_lineage(nodes, described(nodes)),
    }
    return {name: svg for name, svg in drawn.items() if svg}


def content(
    rows: Sequence[Row],
    chosen: Row,
    *,
    release: str | None,
    drawn: Mapping[str, str],
    sheets: Mapping[str, str],
    show_patients: bool,
    root: Path,
) -> dict[str, Any]:
    """Everything that the template shows.

    Args:
        rows: All evaluations.
        chosen: The evaluation that the page is about.
        release: Name of the model to be released, if the user gave it.
        drawn: Result of :func:`figures`.
        sheets: Folders of crops by label.
        show_patients: Whether sheets of attacks on real patients are embedded.
        root: Reported folder; paths are shown relative to it.
    """
    groups = _subgroups(chosen)
    data_rows = datasets(chosen)
    ladders = [ladder(one, show_patients=show_patients) for one in found(root, LADDER)]
    reconstructions = [
        reconstruction(one, show_patients=show_patients) for one in found(root, RECONSTRUCTION)
    ]
    benchmarks = [benchmark(result) for result in found(root, BENCHMARK)]
    has = {
        "corridor": bool(ladders),
        "reconstruction": bool(reconstructions),
        "samples": bool(sheets),
        "data": bool(data_rows),
        "calibration": "calibration" in drawn,
        "roc": "roc" in drawn,
        "subgroups": bool(groups),
        "benchmark": bool(benchmarks),
    }
    titles = {name: title for name, title in TITLES.items() if has.get(name, True)}
    present = titles.keys()
    return {
        "titles": titles,
        "items": {name: answers(name) for name in titles},
        "figures": {name: Markup(svg) for name, svg in drawn.items()},
        "ladders": ladders,
        "reconstructions": reconstructions,
        "benchmarks": benchmarks,
        "chosen": chosen.name,
        "split": chosen.split,
        "data": DATA,
        "data_rows": data_rows,
        "least_crops": LEAST_CROPS,
        "least_patients": LEAST_PATIENTS,
        "subgroup_head": tables.SUBGROUPS,
        "subgroup_rows": [
            tables.subgroup_cells(group, group.metrics) for group in groups if group.metrics
        ],
        "subgroups_too_small": [
            f"{group.attribute} {group.value}" for group in groups if group.metrics is None
        ],
        "sheets": [sheet(label, Path(folder)) for label, folder in sheets.items()],
        "tripod": tripod(present),
        "nist": nist(present),
        **_summary(rows, chosen, release),
        **_tables(rows),
        **_statements(rows, chosen),
        **_reproduction(rows, chosen, root),
    }


def _summary(rows: Sequence[Row], chosen: Row, release: str | None) -> dict[str, Any]:
    return {
        "lead": lead(chosen, rows, release),
        "excluded": "; ".join(map(tables.in_short, chosen.privacy["exclusions"])),
        "facts": facts(chosen),
        "findings": words.findings(rows),
        "summary": words.summary(rows) if len(models(rows)) > 1 else [],
    }


def _tables(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "caption": tables.conditions(rows),
        "main": tables.MAIN,
        "main_rows": tables.main_rows(rows),
        "risk": tables.RISK,
        "risk_rows": [tables.risk_cells(row) for row in models(rows)],
        "attacks": tables.ATTACKS[:-1],
        "attack_rows": [c[:-1] for row in models(rows) for c in tables.attack_cells(row)],
        "threat_models": words.threat_models(rows),
    }


def _statements(rows: Sequence[Row], chosen: Row) -> dict[str, Any]:
    """The whole statement of the chosen model, and what differs in the others."""
    path = chosen.model.folder / "PRIVACY.md"
    if not path.is_file():
        raise ReportError(
            f"{path}: is missing. `mammo-dp privacy explain {chosen.model.folder}` writes the "
            "same words; restore the file, or run the fit again."
        )
    excluded = list(chosen.privacy["exclusions"])
    return {
        "statement": [(head, text) for head, text in parts(path.read_text()) if head != _EXCLUDED],
        "exclusions": excluded,
        "checkpoint": chosen.privacy["artefact"]["sha256"],
        "others": [
            {
                "name": row.name,
                "summary": row.privacy["summary"],
                "statements": [words.in_words(s, own=s is row.own) for s in row.statements],
                "attacker": words.attacker(row),
                "exclusions": [i for i in row.privacy["exclusions"] if i not in excluded],
                "checkpoint": row.privacy["artefact"]["sha256"],
            }
            for row in models(rows)
            if row.name != chosen.name
        ],
    }


def _reproduction(rows: Sequence[Row], chosen: Row, root: Path) -> dict[str, Any]:
    own = steps([row for row in rows if row.name == chosen.name], root)
    return {
        "steps": own,
        "other_steps": [step for step in steps(rows, root) if step not in own],
        "versions": versions([row.model for row in rows]),
        "configurations": [
            {
                "folder": row.name,
                "command": row.model.command,
                "settings": settings(row.model, root),
            }
            for row in models(rows)
            if row.name == chosen.name
        ],
    }


def _subgroups(chosen: Row) -> list[Subgroup]:
    manifest = manifest_of(chosen)
    if manifest is None or not _has_predictions(chosen):
        return []
    return subgroups(_predictions(chosen), manifest)


def _has_predictions(row: Row) -> bool:
    return (row.evaluation.folder / PREDICTIONS).is_file()


def _predictions(row: Row) -> Predictions:
    return read_predictions(row.evaluation.folder / PREDICTIONS)
