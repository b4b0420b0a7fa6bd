# SPDX-License-Identifier: Apache-2.0
"""`report`: run folders into a table, figures and one self-contained HTML page, or a PDF."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape
from rich.console import Console

from classifier.predictions import FILE_NAME as PREDICTIONS
from classifier.predictions import Predictions, read_predictions
from data_prep.page_style import stylesheet
from mammo_dp.report import results, sentences, tables
from mammo_dp.report.checklist import answers, nist, tripod
from mammo_dp.report.collect import (
    ATTACK,
    AUDIT,
    BENCHMARK,
    FIDELITY,
    LADDER,
    RECONSTRUCTION,
    STRESS,
    ReportError,
    Result,
    Row,
    collect,
    found,
    models,
    paths,
)
from mammo_dp.report.crops import HEAD as DATA
from mammo_dp.report.crops import datasets, manifest_of, sheet
from mammo_dp.report.diagnosis import LEAST_CROPS, LEAST_PATIENTS, Subgroup, subgroups
from mammo_dp.report.lineage import ancestry, described, settings, steps, versions
from mammo_dp.report.sentences import choose, facts, featured, lead
from mammo_dp.runs import file_sha256, run_folder, write_text_atomically

PAGE, PDF = "report.html", "report.pdf"
TITLES = {
    "summary": "Summary",
    "utility": "Utility and privacy",
    "corridor": "Risk corridor",
    "reconstruction": "What a server could reconstruct",
    "samples": "What the models saw",
    "fidelity": "Synthetic crops",
    "data": "Patients and crops",
    "calibration": "Calibration",
    "roc": "Discrimination",
    "subgroups": "Subgroups",
    "stress": "Distorted crops",
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
# Lines of a statement stand below each other, as they were written.
_MARKDOWN = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("table")
_TABLE = (  # tags in a statement are escaped, so this replaces no words
    '<div class="scroll" tabindex="0" role="region" aria-label="Bounds of the statement">'
    '<table class="narrow">'
)
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
SECONDS = 180
QUIET = (  # neither looks for updates nor talks to anybody
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
)


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
            the largest AUROC of those with a guarantee, on the patients on whom most of them were
            measured.
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
    with run_folder(
        out,
        command="report",
        config=asked | {"sheets": shown, "show_patients": show_patients},
        inputs=_inputs(rows, shown, Path(runs)),
    ) as record:
        folder = record.folder
        if not record.is_finished:
            ladders = found(Path(runs), LADDER)
            drawn = figures(rows, chosen, ladders)
            for name, svg in drawn.items():
                write_text_atomically(folder / "figures" / f"{name}.svg", svg)
            write_text_atomically(folder / "table.csv", tables.comma_separated(rows))
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
                ladders=ladders,
            )
            write_text_atomically(folder / PAGE, html)
            if chromium:
                print_pdf(folder / PAGE, folder / PDF, chromium)
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
    ladders: Sequence[Result],
) -> str:
    """The page as HTML text.

    Args:
        rows: Result of :func:`~mammo_dp.report.collect.collect`.
        chosen: The evaluation that the page is about.
        title: Heading.
        release: Name of the model to be released, if the user gave it.
        drawn: Result of :func:`figures`.
        sheets: Folders of crops by label.
        show_patients: Whether sheets of attacks on real patients are embedded.
        root: Reported folder; paths are shown relative to it.
        ladders: Every ``ladder.json`` below it.
    """
    groups = _subgroups(chosen)
    data_rows = datasets(chosen)
    reconstructions = [
        results.reconstruction(one, show_patients=show_patients)
        for one in found(root, RECONSTRUCTION)
    ]
    fidelities = [results.fidelity(result) for result in found(root, FIDELITY)]
    benchmarks = [results.benchmark(result) for result in found(root, BENCHMARK)]
    has = {
        "corridor": bool(ladders),
        "reconstruction": bool(reconstructions),
        "samples": bool(sheets),
        "fidelity": bool(fidelities),
        "data": bool(data_rows),
        "calibration": "calibration" in drawn,
        "roc": "roc" in drawn,
        "subgroups": bool(groups),
        "stress": chosen.stress is not None,
        "benchmark": bool(benchmarks),
    }
    titles = {name: title for name, title in TITLES.items() if has.get(name, True)}
    present = titles.keys()
    said = {
        "titles": titles,
        "items": {name: answers(name) for name in titles},
        "figures": {name: Markup(svg) for name, svg in drawn.items()},
        "ladders": [
            results.ladder(one, picture=drawn[name], show_patients=show_patients)
            for name, one in zip(_corridors(ladders), ladders, strict=True)
        ],
        "reconstructions": reconstructions,
        "fidelities": fidelities,
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
        "stress": chosen.stress,
        "stress_head": tables.STRESS,
        "stress_rows": [
            tables.stress_cells(one) for one in (chosen.stress or {"rows": ()})["rows"]
        ],
        "sheets": [sheet(label, Path(folder)) for label, folder in sheets.items()],
        "tripod": tripod(present),
        "nist": nist(present),
        **_summary(rows, chosen, release),
        **_tables(rows),
        **_statements(rows, chosen),
        **_reproduction(rows, chosen, root),
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"marked": marked, "breakable": breakable}
    template = environment.from_string((files(__package__) / "page.html.jinja").read_text("utf-8"))
    return template.render(title=title, style=Markup(stylesheet()), **said)


def figures(rows: Sequence[Row], chosen: Row, ladders: Sequence[Result] = ()) -> dict[str, str]:
    """All figures that the runs have something for, as SVG text by name.

    Args:
        rows: All evaluations.
        chosen: The evaluation that the page is about.
        ladders: Every ``ladder.json``; their figures are ``corridor``, ``corridor2``, ...
    """
    from mammo_dp.attacks.ladder.figure import corridor  # matplotlib only where something is drawn
    from mammo_dp.report import figures as drawing

    scored = [
        (name, _predictions(row)) for name, row in featured(rows, chosen) if _has_predictions(row)
    ]
    nodes = ancestry(chosen)
    drawn = {
        "utility": drawing.utility_privacy(rows),
        "calibration": drawing.calibration(scored),
        "roc": drawing.receiver_operating_characteristic(scored),
        "bounds": drawing.attacks_and_bounds(models(rows)),
        "curves": drawing.attack_curves(chosen),
        "stress": drawing.stressed(chosen),
        "lineage": drawing.draw_lineage(nodes, described(nodes)),
    }
    for name, one in zip(_corridors(ladders), ladders, strict=True):
        names = [tables.epsilon(float(budget["epsilon"])) for budget in one.stored["budgets"]]
        drawn[name] = corridor(one.stored, names, name=name)
    return {name: svg for name, svg in drawn.items() if svg}


def _corridors(ladders: Sequence[Result]) -> list[str]:
    """Names of their figures."""
    return [f"corridor{number if number > 1 else ''}" for number in range(1, len(ladders) + 1)]


def _inputs(rows: Sequence[Row], sheets: Mapping[str, str], root: Path) -> dict[str, Path]:
    inputs = {f"sheet {label}": Path(folder) for label, folder in sheets.items()}
    inputs |= {path.relative_to(root).as_posix(): path for path in paths(root)}
    for row in rows:
        for record, name in (
            (row.evaluation, "metrics.json"),
            (row.model, "privacy.json"),
            (row.attacker, ATTACK),
            (row.auditor, AUDIT),
            (row.stressor, STRESS),
        ):
            if record is not None:
                path = record.folder / name
                inputs[path.relative_to(root).as_posix()] = path
    return inputs


def _summary(rows: Sequence[Row], chosen: Row, release: str | None) -> dict[str, Any]:
    return {
        "lead": lead(chosen, rows, release),
        "excluded": "; ".join(map(tables.in_short, chosen.privacy["exclusions"])),
        "facts": facts(chosen),
        "findings": sentences.findings(rows),
        "summary": sentences.summary(rows) if len(models(rows)) > 1 else [],
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
        "threat_models": sentences.threat_models(rows),
    }


def _statements(rows: Sequence[Row], chosen: Row) -> dict[str, Any]:
    """The whole statement of the chosen model, and what differs in the others."""
    path = chosen.model.folder / "PRIVACY.md"
    if not path.is_file():
        raise ReportError(
            f"{path}: is missing. `mammo-dp privacy explain {chosen.model.folder}` writes the "
            "same words; restore the file, or run the fit again."
        )
    if file_sha256(path) != chosen.privacy["text_sha256"]:
        raise ReportError(
            f"{path}: is not the text that privacy.json was written with. `mammo-dp privacy "
            f"explain {chosen.model.folder}` writes that; restore the file, or run the fit again."
        )
    excluded = list(chosen.privacy["exclusions"])
    return {
        "statement": [
            (head, text)
            for head, text in parts(path.read_text(encoding="utf-8"))
            if head != _EXCLUDED
        ],
        "exclusions": excluded,
        "checkpoint": chosen.privacy["artefact"]["sha256"],
        "others": [
            {
                "name": row.name,
                "summary": row.privacy["summary"],
                "statements": [sentences.in_words(s, own=s is row.own) for s in row.statements],
                "attacker": sentences.attacker(row),
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


def parts(markdown: str) -> list[tuple[str, Markup]]:
    """Splits a statement at its headings of the second level; the title goes.

    Args:
        markdown: Content of ``PRIVACY.md``. HTML in it is shown as text.

    Returns:
        Heading, empty for what stands before the first one, and HTML of each part.
    """
    found: list[tuple[str, list[Token]]] = [("", [])]
    tokens = iter(_MARKDOWN.parse(markdown))
    for token in tokens:
        if token.type == "heading_open" and token.tag in ("h1", "h2"):
            heading = next(tokens).content
            next(tokens)  # the end of the heading
            if token.tag == "h2":
                found.append((heading, []))
        else:
            found[-1][1].append(token)
    return [(heading, _html(shown)) for heading, shown in found]


def _html(tokens: Sequence[Token]) -> Markup:
    """HTML whose tables name their rows and columns and scroll where they are too wide."""
    starts_row = False
    for token in tokens:
        if token.type == "tr_open":
            starts_row = True
        elif token.type == "th_open":
            token.attrSet("scope", "col")
            if starts_row:
                token.attrSet("class", "words")
            starts_row = False
        elif token.type == "td_open" and starts_row:
            token.tag = "th"
            token.attrSet("scope", "row")
        elif token.type == "td_close" and starts_row:
            token.tag, starts_row = "th", False
    html = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {}).strip()
    return Markup(html.replace("<table>", _TABLE).replace("</table>", "</table></div>"))


def marked(text: str) -> Markup:
    """One line of Markdown as HTML, such as code in single back quotes."""
    return Markup(_MARKDOWN.renderInline(text))


def breakable(name: str) -> Markup:
    """A name that may be broken after a stroke or an underscore, and nowhere else."""
    return Markup(re.sub(r"([/_])", r"\1<wbr>", str(escape(name))))


def find_chromium() -> str:
    """Path of a Chromium or a relative of it.

    Raises:
        ReportError: If there is none on ``PATH``.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise ReportError(
            f"report: a PDF needs Chromium, but none of {', '.join(BROWSERS)} is on PATH. Install "
            "one of them, or leave --format out and print report.html from a browser."
        )
    return found


def sandbox_flags() -> tuple[str, ...]:
    """What Chromium needs to start as the superuser, as in a container; nothing otherwise."""
    return ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()


def print_pdf(page: Path, pdf: Path, chromium: str) -> None:
    """Prints a page in one move, so that the PDF is whole or absent.

    Args:
        page: HTML file.
        pdf: Target.
        chromium: Result of :func:`find_chromium`.

    Raises:
        ReportError: If Chromium fails or takes too long.
    """
    with tempfile.TemporaryDirectory() as profile:
        made = Path(profile) / "page.pdf"
        flags = [f"--user-data-dir={profile}", "--no-pdf-header-footer", f"--print-to-pdf={made}"]
        call = [chromium, *QUIET, *sandbox_flags(), *flags, page.resolve().as_uri()]
        try:
            done = subprocess.run(
                call,
                capture_output=True,
                text=True,
                timeout=SECONDS,
                encoding="utf-8",
                errors="replace",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ReportError(
                f"{page}: {chromium} did not print it ({error}). Print it from a browser."
            ) from error
        if done.returncode or not made.is_file():
            raise ReportError(
                f"{page}: {chromium} ended with {done.returncode} and no PDF "
                f"({done.stderr.strip()[-300:]}). Print the page from a browser."
            )
        part = pdf.with_name(pdf.name + ".part")
        shutil.copyfile(made, part)
        part.replace(pdf)
