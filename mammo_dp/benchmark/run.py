# SPDX-License-Identifier: Apache-2.0
"""A benchmark from its file to its tables: train, measure on val, open test sets, compare."""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from data_prep.cluster import workers
from data_prep.manifest import CropsManifest
from mammo_dp.benchmark import write
from mammo_dp.benchmark.folder import RESULT, refuse_another, with_earlier
from mammo_dp.benchmark.jobs import Command, Job, Outcome
from mammo_dp.benchmark.plan import CONFIGS, Plan
from mammo_dp.benchmark.protocol import (
    EvaluationSet,
    evaluation_sets,
    open_set,
    openings,
    said_of,
)
from mammo_dp.benchmark.results import Cost, Row, differences, rows
from mammo_dp.benchmark.schedule import prepare, run_jobs
from mammo_dp.benchmark.spec import Benchmark, BenchmarkError, read_published
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.seals import with_seal
from mammo_dp.runs import LOCK, alone_in, write_text_atomically

Run = Callable[[Sequence[Job], str], dict[str, Outcome]]


@dataclass(slots=True)
class _Results:
    """What has become of a plan.

    Attributes:
        plan: What this call runs.
        evaluated: Sets that this call measures on.
        whole: The whole file, which the tables show.
        shown: Sets that the tables show: those of earlier calls, too.
        outcomes: How each job of this call ended, by key.
    """

    plan: Plan
    evaluated: Sequence[EvaluationSet]
    whole: Plan
    shown: Sequence[EvaluationSet]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        """Distinct jobs of the cells of this call."""
        return list(dict.fromkeys(cell.key for cell in self.plan.cells))

    @property
    def failures(self) -> dict[str, str]:
        """Error by label of the job; what could not be measured for want of a model is left out."""
        failed = {key: found.error for key, found in self.outcomes.items() if found.error}
        trained = [key for key in self.keys if key not in failed]
        measuring = [self.plan.measuring(key, s) for key in trained for s in self.evaluated]
        jobs = [*self.plan.jobs.values(), *measuring]
        return {f"{job.label} [{job.key}]": failed[job.key] for job in jobs if job.key in failed}


def run_benchmark(options: argparse.Namespace, command: Command) -> None:
    """Runs what is missing of the chosen part, and writes the tables of the whole file.

    Args:
        options: Flags, see :mod:`mammo_dp.benchmark.command`.
        command: Runs one command line of ``mammo-dp`` on a worker.

    Raises:
        BenchmarkError: If the file, the crops or the scheduler do not allow it, or if the folder
            holds results that the tables would lose.
        RunError: If another process is at work on this benchmark.
    """
    console, out = Console(), Path(options.out).resolve()
    benchmark = Benchmark.read(options.config)
    part = benchmark.part(
        regimes=options.regimes,
        budgets=options.budgets,
        units=options.units,
        seeds=options.seeds,
    )
    read_published(benchmark.published)  # a malformed file is refused before compute is spent
    crops = Path(options.crops).resolve()
    external = [Path(folder) for folder in options.external]
    evaluated = evaluation_sets(crops, external, open_test=options.open_test)
    given = {"real": crops}
    if options.synthetic:
        given["synthetic"] = _without_patients(Path(options.synthetic).resolve())
    others = [path for path in out.iterdir() if path.name != LOCK] if out.is_dir() else []
    if others and not (out / CONFIGS).is_dir():
        raise BenchmarkError(
            f"--out {out}: holds files, and no benchmark began there. Choose a new folder; nothing "
            "is overwritten."
        )
    plan = Plan.of(part, out=out, given=given)
    if not plan.cells:
        raise BenchmarkError(
            f"{options.config}: nothing is left to run ({plan.skipped}). Choose other regimes, or "
            "give the crops that they need."
        )
    if options.threads < 1 or options.workers < 0:
        raise BenchmarkError(
            f"--threads {options.threads}, --workers {options.workers}: give at least 1 thread, "
            "and 0 or more workers."
        )
    whole = Plan.of(benchmark, out=out, given=given)
    with alone_in(out):  # two at once would lose looks at test sets, and rows of tables
        refuse_another(whole, evaluated)
        plan.freeze()
        shown = with_earlier(evaluated, out)
        found = _Results(plan=plan, evaluated=evaluated, whole=whole, shown=shown)
        console.print(
            f"{len(plan.cells)} cells of {len(found.keys)} different contents, {len(plan.jobs)} "
            f"fits and sets of crops; {len(plan.skipped)} regimes skipped.",
            highlight=False,
        )
        if _waiting(found):
            _write(found)  # before compute is spent, so that the folder says what it is of
            with workers(options.scheduler, count=options.workers) as client:
                prepare(client, out, options.threads)

                def run(jobs: Sequence[Job], title: str) -> dict[str, Outcome]:
                    return run_jobs(client, jobs, command, title=title, console=console)

                _run_all(found, run)
        else:
            _run_all(found, lambda jobs, _: {job.key: Outcome(key=job.key) for job in jobs})
        failures = _write(found)
        for name, reason in plan.skipped.items():
            console.print(f"skipped: {name} {reason}", style="yellow", markup=False)
        if failures:
            console.print(f"{len(failures)} failed and stand in the table.", style="red")
        console.print(
            f"Tables: {out / 'benchmark.md'}", highlight=False, markup=False, soft_wrap=True
        )


def _without_patients(synthetic: Path) -> Path:
    """The folder of synthetic crops, in which nobody is.

    Raises:
        BenchmarkError: If it holds crops of patients: a regime would not be what it is called.
    """
    patients = sum(not crop.is_synthetic for crop in CropsManifest.read(synthetic).crops)
    if patients:
        raise BenchmarkError(
            f"--synthetic {synthetic}: {patients} of its crops are patients'. Give crops that were "
            "drawn, generated or imported as synthetic; patients' crops go to --crops."
        )
    return synthetic


def _waiting(found: _Results) -> bool:
    """Whether anything is left to compute."""
    measuring = [found.plan.measuring(key, s) for key in found.keys for s in found.evaluated]
    return not all(job.is_done for job in (*found.plan.jobs.values(), *measuring))


def _run_all(found: _Results, run: Run) -> None:
    """Trains, measures on val, and only then opens the test sets, for all models at once."""
    plan = found.plan
    research = [s for s in found.evaluated if s.purpose == "research"]
    measuring = [plan.measuring(key, s) for key in found.keys for s in research]
    found.outcomes |= run([*plan.jobs.values(), *measuring], "train and measure on val")
    trained = [key for key in found.keys if not found.outcomes[key].error]
    for evaluated in found.evaluated:
        if evaluated.purpose == "test" and trained:
            open_set(plan.out, evaluated, trained)
            jobs = [plan.measuring(key, evaluated) for key in trained]
            found.outcomes |= run(jobs, f"open {evaluated.name}")


def _write(found: _Results) -> dict[str, str]:
    """Writes tables and figures of all that is done, by this call and by earlier ones.

    Returns:
        Error by label of what failed in this call.
    """
    plan, looks = found.whole, openings(found.whole.out)
    costs, failures = {}, found.failures
    failed = {key for key, outcome in found.outcomes.items() if outcome.error}
    for key in dict.fromkeys(cell.key for cell in plan.cells):
        if plan.jobs[key].is_done and key not in failed:
            try:
                costs[key] = Cost.read(plan.run_folder(key))
            except (BenchmarkError, PrivacyError) as error:
                failures[f"{plan.jobs[key].label} [{key}]"] = str(error)
                failed.add(key)
    table: list[Row] = []
    for evaluated in found.shown:
        measuring = {key: plan.measuring(key, evaluated) for key in costs}
        lost = {key for key, job in measuring.items() if job.key in failed}
        table += rows(
            plan.cells,
            evaluated.name,
            run_folders={key: plan.run_folder(key) for key in costs},
            evaluations={
                key: plan.evaluation(key, evaluated)
                for key, job in measuring.items()
                if job.is_done and key not in lost
            },
            costs=costs,
            failed=failed | lost,
        )
    compared = list(differences(table))
    said = {evaluated: said_of(evaluated, looks) for evaluated in found.shown}
    published = read_published(plan.benchmark.published)
    titles = {regime.name: regime.title for regime in plan.benchmark.regimes}
    figures = {}
    for evaluated in found.shown:
        name = f"utility_{evaluated.name}.png"
        own = [row for row in table if row.evaluated == evaluated.name]
        write.draw(plan.out / name, own, titles, published)
        figures[f"AUROC on {evaluated.name} against the budget"] = name
    stored = write.content(
        plan,
        table,
        compared,
        evaluated=said,
        looks=looks,
        published=published,
        outcomes=found.outcomes,
        failures=failures,
    )
    written = write.tables(stored)
    texts = {
        "benchmark.md": write.markdown(written),
        "benchmark.html": write.html(written, figures),
        "benchmark.csv": write.comma_separated(table),
        # Sealed, as a report shows its epsilons beside those of statements.
        RESULT: json.dumps(with_seal(stored), indent=1) + "\n",
    }
    for name, text in texts.items():
        write_text_atomically(plan.out / name, text)
    return failures
