# SPDX-License-Identifier: Apache-2.0
"""What a reader sees of a benchmark: sheets of cells with a caption, for Markdown and HTML."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from classifier.evaluate import Estimate
from mammo_dp.benchmark.measure import METRICS
from mammo_dp.benchmark.published import Published
from mammo_dp.benchmark.results import Difference, Row, reverse
from mammo_dp.benchmark.spec import Benchmark, Budget
from mammo_dp.report.tables import NONE, epsilon, interval, number

_MAIN = (
    "Regime",
    "Budget ε",
    "Unit",
    "Seeds",
    "AUROC [95 %]",
    "± seeds",
    "AUPRC",
    "Brier",
    "Calibration slope",
    "ε end to end",
    "ε of a patient",
    "δ",
    "Advantage ≤",
    "TPR at 1 % FPR ≤",
    "ReRo ≤",
)
_DIFFERENCE = ("Regime", "minus", "Budget ε", "Unit", "Seeds", "AUROC [95 %]", "± seeds", "Unlike")
_SUBGROUP = ("Regime", "Budget ε", "Unit", "Subgroup", "Patients", "Crops", "AUROC [95 %]")
_PUBLISHED = ("Regime", "ε", "Unit", "AUROC", "Data", "Guarantee", "Source")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One table.

    Attributes:
        title: Heading.
        head: Names of the columns.
        lines: Cells, row by row.
        caption: What must be read with it.
    """

    title: str
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    caption: str = ""


def sheets(
    benchmark: Benchmark,
    rows: Sequence[Row],
    differences: Sequence[Difference],
    *,
    said: Mapping[str, str],
    published: Sequence[Published],
    failures: Mapping[str, str],
    skipped: Mapping[str, str],
) -> list[Sheet]:
    """All tables of a benchmark.

    Args:
        benchmark: The file.
        rows: All rows, of all sets.
        differences: All comparisons.
        said: What a reader must know of a set, by name.
        published: Numbers of others.
        failures: Error by label of the job.
        skipped: Reason by name of the regime.
    """
    titles = {regime.name: regime.title for regime in benchmark.regimes}
    found = [
        Sheet(
            title=f"{benchmark.title}: {name}",
            head=_MAIN,
            lines=[_main(row, titles) for row in rows if row.evaluated == name],
            caption=f"{_counted(rows, name)} {words} {_conditions(rows)}",
        )
        for name, words in said.items()
    ]
    shown = [
        oriented
        for difference in differences
        for oriented in (difference, reverse(difference))
        if oriented.other == benchmark.reference
    ]
    for name in said:
        lines = [_compared(d, titles) for d in shown if d.evaluated == name]
        found.append(
            Sheet(
                title=f"Differences on {name}: same patients, same seeds",
                head=_DIFFERENCE,
                lines=lines,
                caption=(
                    "An interval that holds 0 says that these patients do not tell the two apart. "
                    "“Unlike” names settings that differ although compared regimes should share "
                    "them. All pairs stand in benchmark.json."
                ),
            )
        )
        if lines := [line for row in rows if row.evaluated == name for line in _parts(row, titles)]:
            found.append(Sheet(title=f"Subgroups of {name}", head=_SUBGROUP, lines=lines))
    if published:
        found.append(_published(published))
    if failures:
        lines = [(label, error.splitlines()[0]) for label, error in failures.items()]
        found.append(Sheet(title="Failed", head=("Cell", "Error"), lines=lines))
    if skipped:
        lines = [(titles[name], reason) for name, reason in skipped.items()]
        found.append(Sheet(title="Skipped", head=("Regime", "Reason"), lines=lines))
    return [sheet for sheet in found if sheet.lines]


def markdown(found: Sequence[Sheet]) -> str:
    """Sheets as Markdown."""

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return (
        "\n\n".join(
            "\n".join(
                [
                    f"## {sheet.title}\n",
                    line(sheet.head),
                    line(["---"] * len(sheet.head)),
                    *map(line, sheet.lines),
                    *([f"\n{sheet.caption}"] if sheet.caption else []),
                ]
            )
            for sheet in found
        )
        + "\n"
    )


def html(found: Sequence[Sheet], figures: Mapping[str, str]) -> str:
    """Sheets and pictures as a fragment of HTML, to be put into a page.

    Args:
        found: Sheets.
        figures: File name by alternative text.
    """

    def row(cells: Iterable[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    pictures = [f'<img src="{escape(f)}" alt="{escape(a)}">' for a, f in figures.items()]
    tables = [
        f"<h3>{escape(sheet.title)}</h3>\n<table>\n<thead>{row(sheet.head, 'th')}</thead>\n<tbody>"
        + "\n".join(row(cells, "td") for cells in sheet.lines)
        + f"</tbody>\n</table>\n<p>{escape(sheet.caption)}</p>"
        for sheet in found
    ]
    return "\n".join(['<section class="benchmark">', *pictures, *tables, "</section>"]) + "\n"


def shown(budget: Budget) -> str:
    """A budget in a cell."""
    return "none" if budget == "none" else f"{budget:g}"


def _main(row: Row, titles: Mapping[str, str]) -> tuple[str, ...]:
    cost = row.cost
    total = len(row.seeds) + len(row.missing)
    seeds = f"{len(row.seeds)} of {total}" if row.missing else str(total)
    head = (titles[row.regime], shown(row.budget), row.unit or NONE, seeds)
    if cost is None:
        return (*head, "failed", *[NONE] * (len(_MAIN) - len(head) - 1))
    metrics = [row.metrics.get(name, Estimate(*[float("nan")] * 3)) for name in METRICS]
    return (
        *head,
        interval(metrics[0]),
        number(row.spread.get(METRICS[0])),
        *(number(estimate.value) for estimate in metrics[1:]),
        f"{epsilon(cost.epsilon)} per {cost.unit}" if cost.unit else "0, no patient",
        epsilon(cost.epsilon_patient),
        f"{cost.delta:g}" if cost.unit else NONE,
        number(cost.advantage),
        number(cost.tpr),
        number(cost.reconstruction),
    )


def _compared(difference: Difference, titles: Mapping[str, str]) -> tuple[str, ...]:
    return (
        titles[difference.regime],
        titles[difference.other],
        shown(difference.budget),
        difference.unit or NONE,
        str(difference.seeds),
        interval(difference.auroc),
        number(difference.spread),
        ", ".join(difference.unlike) or NONE,
    )


def _parts(row: Row, titles: Mapping[str, str]) -> Iterable[tuple[str, ...]]:
    prefix = f"{METRICS[0]}, "
    for name, estimate in row.metrics.items():
        if name.startswith(prefix):
            patients, crops, _ = row.counts[name]
            yield (
                titles[row.regime],
                shown(row.budget),
                row.unit or NONE,
                name.removeprefix(prefix),
                str(patients),
                str(crops),
                interval(estimate),
            )


def _published(published: Sequence[Published]) -> Sheet:
    return Sheet(
        title="Published, not measured here",
        head=_PUBLISHED,
        lines=[
            (p.regime, f"{e:g}", p.unit, f"{auroc:.3f}", p.data, p.guarantee, p.source)
            for p in published
            for e, auroc in p.auroc.items()
        ],
        caption="Other bodies, patients and units: a point of reference, not a comparison.",
    )


def _counted(rows: Sequence[Row], name: str) -> str:
    found = {row.counts[METRICS[0]] for row in rows if row.evaluated == name and row.counts}
    parts = [
        f"{crops} crops of {patients} patients, {malignant} malignant"
        for patients, crops, malignant in sorted(found)
    ]
    return f"Measured on {'; '.join(parts)}; malignant is positive." if parts else ""


def _conditions(rows: Sequence[Row]) -> str:
    """What must stand beside each epsilon, interval and bound."""
    costs = [row.cost for row in rows if row.cost and row.cost.accountant]
    said = dict.fromkeys(f"{c.adjacency}, by {c.accountant}, δ = {c.delta:g}" for c in costs)
    parts = [
        "Means over seeds; intervals resample patients, all crops of one together; “± seeds” is "
        "the standard deviation over seeds of the last stage: a stage that cells share has one.",
        "“Budget ε” is what the last stage was given; “ε end to end” is from the sealed statement "
        "and covers every stage of the lineage (∞: no guarantee); “ε of a patient” is for the one "
        "with the most crops.",
    ]
    if said:
        parts.append(f"Each finite ε: {'; '.join(said)}.")
    parts.append(
        "“≤” columns are bounds on any attack on one unit: membership advantage, true positives "
        "at 1 % false positives, naming the unit among all of its cohort (ReRo). No ε covers these "
        "measurements, nor choices made by looking at them."
    )
    return " ".join(parts)
