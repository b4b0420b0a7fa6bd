# SPDX-License-Identifier: Apache-2.0
"""`report`: run folders into a table, figures and one self-contained HTML page, or a PDF."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console

from mammo_dp.report import tables
from mammo_dp.report.beside import paths
from mammo_dp.report.compare import Row, collect
from mammo_dp.report.content import content, figures
from mammo_dp.report.headline import choose
from mammo_dp.report.markup import breakable, marked
from mammo_dp.report.pdf import find_chromium, print_pdf
from mammo_dp.report.spreadsheet import comma_separated
from mammo_dp.report.tried import ATTACK, AUDIT
from mammo_dp.runs import close_run, open_run, write_text_atomically

PAGE, PDF = "report.html", "report.pdf"


def report(
    *,
    runs: str,
    out: str,
    release: str | None = None,
    sheets: dict[str, str] | None = None,
    show_patients: bool = False,
    title: str = "Malignancy of breast masses, and what the models may reveal",
    format: Literal["html", "pdf"] = "html",
) -> None:
    """Compares all evaluated runs below a folder and writes the result for people and programs.

    Writes ``table.csv``, ``table.md``, ``figures/*.svg`` and ``report.html``, which needs no
    network, and prints the table. Predictions, metrics and attacks were measured on private data
    without noise; the page is made for those who may see them.

    Args:
        runs: Folder that holds run folders at any depth.
        out: New folder of the report.
        release: Model that the page is about, as the table names it; if not given, the one with
            the largest AUROC of those with a guarantee.
        sheets: Folders of crops to show, by label, such as ``{"Phantoms": "data/phantoms"}``.
            Sheets of real patients carry a notice.
        show_patients: Whether sheets of reconstruction attacks are embedded where they show real
            patients. Such a page is for those who may see the images.
        title: Heading of the page.
        format: ``pdf`` prints the page to ``report.pdf`` too, by a Chromium that must be there.
    """
    chromium = find_chromium() if format == "pdf" else ""
    rows = collect(Path(runs))
    chosen = choose(rows, release)
    shown = sheets or {}
    asked = {"runs": runs, "release": release, "title": title, "format": format}
    record = open_run(
        out,
        command="report",
        config=asked | {"sheets": shown, "show_patients": show_patients},
        inputs=_inputs(rows, shown, Path(runs)),
    )
    folder = record.folder
    if not record.is_finished:
        drawn = figures(rows, chosen)
        for name, svg in drawn.items():
            write_text_atomically(folder / "figures" / f"{name}.svg", svg)
        write_text_atomically(folder / "table.csv", comma_separated(rows))
        write_text_atomically(folder / "table.md", tables.markdown(rows))
        html = render(
            rows,
            chosen,
            title=title,
            release=release,
            drawn=drawn,
            sheets=shown,
            show_patients=show_patients,
            root=Path(runs),
        )
        write_text_atomically(folder / PAGE, html)
        if chromium:
            print_pdf(folder / PAGE, folder / PDF, chromium)
        close_run(record)
    console = Console()
    tables.print_table(rows, console)
    made = folder / (PDF if chromium else PAGE)
    console.print(f"Report: {made}", highlight=False, markup=False, soft_wrap=True)


def render(
    rows: Sequence[Row],
    chosen: Row,
    *,
    title: str,
    release: str | None,
    drawn: Mapping[str, str],
    sheets: Mapping[str, str],
    show_patients: bool,
    root: Path,
) -> str:
    """The page as HTML text.

    Args:
        rows: Result of :func:`~mammo_dp.report.compare.collect`.
        chosen: The evaluation that the page is about.
        title: Heading.
        release: Name of the model to be released, if the user gave it.
        drawn: SVG text by name of the figure.
        sheets: Folders of crops by label.
        show_patients: Whether sheets of attacks on real patients are embedded.
        root: Folder that paths are shown relative to.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"marked": marked, "breakable": breakable}
    template = environment.from_string((files(__package__) / "page.html.jinja").read_text("utf-8"))
    style = Markup((files(__package__) / "page.css").read_text("utf-8"))
    said = content(
        rows,
        chosen,
        release=release,
        drawn=drawn,
        sheets=sheets,
        show_patients=show_patients,
        root=root,
    )
    return template.render(title=title, style=style, **said)


def _inputs(rows: Sequence[Row], sheets: Mapping[str, str], root: Path) -> dict[str, Path]:
    inputs = {f"sheet {label}": Path(folder) for label, folder in sheets.items()}
    inputs |= {path.relative_to(root).as_posix(): path for path in paths(root)}
    for row in rows:
        inputs[f"metrics {row.name} {row.split}"] = row.evaluation.folder / "metrics.json"
        inputs[f"privacy {row.name}"] = row.model.folder / "privacy.json"
        if row.attacker:
            inputs[f"attack {row.name}"] = row.attacker.folder / ATTACK
        if row.auditor:
            inputs[f"audit {row.name}"] = row.auditor.folder / AUDIT
    return inputs
