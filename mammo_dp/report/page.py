# SPDX-License-Identifier: Apache-2.0
"""`report`: run folders into a table, figures and one self-contained HTML page."""

import base64
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console

from data_prep.manifest import CropsManifest
from mammo_dp.report import figures, tables, words
from mammo_dp.report.compare import Row, collect, lineage
from mammo_dp.report.sheets import contact_sheet, notice
from mammo_dp.runs import RunInput, RunRecord, close_run, open_run, write_text_atomically

PAGE = "report.html"
_FIGURES = {
    "utility": figures.utility_privacy,
    "risk": figures.risk,
    "curves": figures.attack_curves,
}


def report(
    *,
    runs: str,
    out: str,
    sheets: dict[str, str] | None = None,
    title: str = "Malignancy of breast masses, and what the models may reveal",
) -> None:
    """Compares all evaluated runs below a folder and writes the result for people and programs.

    Writes ``table.csv``, ``table.md``, ``figures/*.svg`` and ``report.html``, which needs no
    network, and prints the table. Predictions, metrics and attacks were measured on private data
    without noise; the page is made for those who may see them.

    Args:
        runs: Folder that holds run folders at any depth.
        out: New folder of the report.
        sheets: Folders of crops to show, by label, such as ``{"Phantoms": "data/phantoms"}``.
            Sheets of real patients carry a notice.
        title: Heading of the page.
    """
    rows = collect(Path(runs))
    shown = sheets or {}
    record = open_run(
        out,
        command="report",
        config={"runs": runs, "title": title, "sheets": shown},
        inputs=_inputs(rows, shown),
    )
    if not record.is_finished:
        folder = record.folder
        drawn = {name: draw(rows) for name, draw in _FIGURES.items()}
        for name, svg in drawn.items():
            if svg:
                write_text_atomically(folder / "figures" / f"{name}.svg", svg)
        write_text_atomically(folder / "table.csv", tables.comma_separated(rows))
        write_text_atomically(folder / "table.md", tables.markdown(rows))
        html = render(rows, title=title, drawn=drawn, sheets=shown, root=Path(runs))
        write_text_atomically(folder / PAGE, html)
        close_run(record)
    console = Console()
    tables.print_table(rows, console)
    console.print(f"Report: {record.folder / PAGE}", highlight=False, markup=False, soft_wrap=True)


def render(
    rows: Sequence[Row],
    *,
    title: str,
    drawn: Mapping[str, str | None],
    sheets: Mapping[str, str],
    root: Path,
) -> str:
    """The page as HTML text.

    Args:
        rows: Result of :func:`~mammo_dp.report.compare.collect`.
        title: Heading.
        drawn: SVG text by name of the figure.
        sheets: Folders of crops by label.
        root: Folder that paths are shown relative to.
    """
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        (files(__package__) / "page.html.jinja").read_text("utf-8")
    )
    excluded = [list(row.privacy["exclusions"]) for row in rows]
    common = [item for item in excluded[0] if all(item in items for items in excluded)]
    return template.render(
        title=title,
        summary=words.summary(rows),
        caption=tables.caption(rows),
        main=tables.MAIN,
        main_rows=[tables.main_cells(row) for row in rows],
        risk=tables.RISK,
        risk_rows=[tables.risk_cells(row) for row in rows],
        attacks=tables.ATTACKS[:-1],
        attack_rows=[cells[:-1] for row in rows for cells in tables.attack_cells(row)],
        figures={name: Markup(svg) for name, svg in drawn.items() if svg},
        sheets=[_sheet(label, Path(folder)) for label, folder in sheets.items()],
        models=[_model(row, common, root) for row in _distinct(rows)],
        exclusions=common,
        threat_models=words.threat_models(rows),
        versions=_versions(rows),
    )


def _model(row: Row, common: Sequence[str], root: Path) -> dict[str, Any]:
    """What the page says about one model."""
    return {
        "name": row.name,
        "summary": row.privacy["summary"],
        "statements": [words.in_words(s, own=s is row.own) for s in row.statements],
        "attacker": words.attacker(row),
        "exclusions": [item for item in row.privacy["exclusions"] if item not in common],
        "lineage": [
            {"depth": depth, "role": role} | _origin(source, root)
            for depth, role, source in lineage(row.model)
        ],
        "measured": words.command(row.evaluation),
        "checkpoint": row.privacy["artefact"]["sha256"],
    }


def _origin(source: RunRecord | RunInput, root: Path) -> dict[str, str]:
    """One line of the lineage: a run of ours, or a file or folder that was given."""
    if isinstance(source, RunInput):
        facts = f"given, made by no recorded run · sha256 {source.sha256[:12]}"
        return {"folder": source.path, "facts": facts, "again": ""}
    facts = (
        f"{source.command} · {source.seconds:.0f} s · "
        f"seed {'none' if source.seed is None else source.seed} · "
        f"commit {(source.commit or 'unknown')[:12]} · configuration {source.config_sha256[:12]}"
    )
    folder = Path(os.path.relpath(source.folder.resolve(), root.resolve())).as_posix()
    return {"folder": folder, "facts": facts, "again": words.command(source)}


def _sheet(label: str, folder: Path) -> dict[str, Any]:
    manifest = CropsManifest.read(folder)
    text, real = notice(manifest)
    if (folder / "privacy.json").is_file():
        text += " " + json.loads((folder / "privacy.json").read_text())["summary"]
    png = base64.b64encode(contact_sheet(manifest)).decode()
    malignant = sum(crop.malignant for crop in manifest.crops)
    return {
        "label": label,
        "notice": text,
        "real": real,
        "source": f"data:image/png;base64,{png}",
        "alt": f"Contact sheet of {label}: benign crops in the upper row, malignant ones below.",
        "count": f"{len(manifest.crops)} crops, {malignant} malignant; benign above, malignant "
        "below",
    }


def _inputs(rows: Sequence[Row], sheets: Mapping[str, str]) -> dict[str, Path]:
    inputs = {f"sheet {label}": Path(folder) for label, folder in sheets.items()}
    for row in rows:
        inputs[f"metrics {row.name} {row.split}"] = row.evaluation.folder / "metrics.json"
        inputs[f"privacy {row.name}"] = row.model.folder / "privacy.json"
        if row.attacker:
            inputs[f"attack {row.name}"] = row.attacker.folder / "attack.json"
    return inputs


def _distinct(rows: Sequence[Row]) -> list[Row]:
    """One row per model; a model may have been measured on several splits."""
    return list({row.name: row for row in rows}.values())


def _versions(rows: Sequence[Row]) -> list[tuple[str, str]]:
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, version in row.model.versions.items():
            found.setdefault(name, {})[version] = None
    return [(name, ", ".join(versions)) for name, versions in found.items()]
