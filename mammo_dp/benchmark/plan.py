# SPDX-License-Identifier: Apache-2.0
"""Jobs of a benchmark file, each named by the hash of its content."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from data_prep.manifest import Unit
from mammo_dp.benchmark.jobs import MIX, Job
from mammo_dp.benchmark.protocol import EvaluationSet
from mammo_dp.benchmark.spec import GIVEN, Benchmark, Budget, Regime, Stage
from mammo_dp.runs import RELEASED, input_sha256, write_text_atomically

CONFIGS = "configs"  # folder of the benchmark: what its fits are asked for
_DIGITS = 16  # of a content hash in the name of a folder
# Speed and screen only: the weights are those of the same fit without these flags.
_QUIET = ("--trainer.enable_progress_bar", "false")
_NO_VALIDATION = ("--trainer.limit_val_batches", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One point of the grid.

    Attributes:
        regime: Name of the regime.
        budget: Epsilon of the last stage, or ``"none"``.
        unit: What the budget protects; none without a budget.
        seed: Seed of the repetition.
        key: Job that computes it; cells of equal content share one.
    """

    regime: str
    budget: Budget
    unit: Unit | None
    seed: int
    key: str


@dataclass(slots=True, kw_only=True)
class Plan:
    """All jobs and cells of a benchmark.

    Attributes:
        out: Folder of the benchmark.
        benchmark: The file.
        given: Folders of crops from the command line, by name.
        jobs: By key; what a job needs stands before it.
        cells: Points of the grid, in the order of the table.
        skipped: Reason why a regime is left out, by name.
        frozen: Configurations as jobs read them, by file; see :meth:`freeze`.
    """

    out: Path
    benchmark: Benchmark
    given: Mapping[str, Path]
    jobs: dict[str, Job] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    frozen: dict[Path, Mapping[str, Any]] = field(default_factory=dict)
    _first: dict[str, str] = field(default_factory=dict)  # job that computes features for others
    _hashes: dict[Path, str] = field(default_factory=dict)  # of what is read, hashed once

    @classmethod
    def of(cls, benchmark: Benchmark, *, out: Path, given: Mapping[str, Path]) -> "Plan":
        """Lists the cells and jobs of a benchmark; writes nothing.

        Args:
            benchmark: The file.
            out: Folder of the benchmark.
            given: Folders of crops by name: ``real``, and ``synthetic`` where there are some.
        """
        plan = cls(out=out, benchmark=benchmark, given=given)
        for regime in benchmark.regimes:
            if missing := plan._missing(regime):
                plan.skipped[regime.name] = f"needs {missing} crops, and --{missing} was not given"
                continue
            for budget in benchmark.budgets:
                stage = regime.stage(budget)
                units: tuple[Unit | None, ...] = (None,) if budget == "none" else benchmark.units
                for unit in units if stage is not None else ():
                    for seed in benchmark.seeds:
                        key = plan._fit(stage, budget, unit, seed, regime.name)
                        cell = Cell(
                            regime=regime.name, budget=budget, unit=unit, seed=seed, key=key
                        )
                        plan.cells.append(cell)
        return plan

    def freeze(self) -> None:
        """Writes a copy of each configuration, so that each cell runs what it was named by.

        All are written each time: one that somebody changed meanwhile would be run under that name.
        """
        for path, config in self.frozen.items():
            write_text_atomically(path, yaml.safe_dump(config, sort_keys=False))

    def run_folder(self, key: str) -> Path:
        """Run folder of a job."""
        return self.out / "jobs" / key

    def evaluation(self, key: str, evaluated: EvaluationSet) -> Path:
        """Where a model is measured on a set; another set of the same name has another folder."""
        digits = evaluated.sha256[:_DIGITS]
        return self.run_folder(key) / f"test_{evaluated.name}_{digits}"

    def measuring(self, key: str, evaluated: EvaluationSet) -> Job:
        """The job that measures a finished model on a set."""
        folder = self.evaluation(key, evaluated)
        line = (
            *("test", "--run", str(self.run_folder(key)), "--run_dir", str(folder)),
            *("--data.init_args.crops", str(evaluated.folder)),
            *("--data.init_args.evaluate_split", evaluated.split),
            *self._shared_features,
            *_QUIET,
        )
        return Job(
            key=f"{key}-{folder.name}",
            label=f"{evaluated.name}: {self.jobs[key].label}",
            lines=(line,),
            folders=(folder,),
            measured=(folder,),
            needs=(key,),
            log=self._log(f"{key}-{folder.name}"),
        )

    @property
    def _shared_features(self) -> tuple[str, ...]:
        """Flags by which a fit or a test finds the features that others computed."""
        return (
            "--trainer.callbacks+=classifier.features.SharedFeatures",
            *("--trainer.callbacks.folder", str(self.out / "features")),
        )

    def _missing(self, regime: Regime) -> str:
        """Crops that a regime needs and that were not given; empty if there are none."""
        for stage in (regime.private, regime.none):
            while stage is not None:
                for name in self._sources(stage.crops):
                    if name in GIVEN and name not in self.given:
                        return name
                stage = self.benchmark.stages.get(stage.weights or "")
        return ""

    def _sources(self, name: str) -> tuple[str, ...]:
        words = self.benchmark.crops.get(name, "").split()
        if words[:1] == [MIX]:
            return tuple(source for word in words[1:3] for source in self._sources(word))
        return (name,)

    def _crops(self, name: str) -> tuple[Path, str, tuple[str, ...]]:
        """Folder, content hash and jobs of crops."""
        if name in self.given:
            return self.given[name], self._sha256(self.given[name]), ()
        words = self.benchmark.crops[name].split()
        if words[0] == MIX:
            parts, per_class = [self._crops(word) for word in words[1:3]], words[-1]
            key = _hash([MIX, [sha256 for _, sha256, _ in parts], per_class])
            folders = (str(folder) for folder, _, _ in parts)
            line = (MIX, *folders, per_class, str(self.run_folder(key)))
            needs = tuple(job for _, _, jobs in parts for job in jobs)
        else:
            values = (word.rpartition("=")[2] for word in words[2:])  # after the source's name
            key, needs = _hash([*words, *self._contents(values, folders=True)]), ()
            line = (*words, "--out", str(self.run_folder(key)))
        self._add(
            Job(key=key, label=name, lines=(line,), folders=(), needs=needs, log=self._log(key))
        )
        return self.run_folder(key), key, (key,)

    def _fit(
        self,
        stage: Stage | None,
        budget: Budget,
        unit: Unit | None,
        seed: int,
        label: str,
    ) -> str:
        """Adds the jobs of a stage and of all that it starts from.

        Returns:
            Key of the stage's own job.
        """
        assert stage is not None
        folder, content, needs = self._crops(stage.crops)
        seed = seed if stage.seed is None else stage.seed
        settings: dict[str, Any] = {**stage.settings}
        if unit is not None:
            settings |= {"model.init_args.target_epsilon": budget, "data.init_args.unit": unit}
        weights = None
        if stage.weights is not None:
            parent = self.benchmark.stages[stage.weights]
            weights = self._fit(parent, "none", None, seed, stage.weights)
            needs = (*needs, weights)
        configs = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in stage.fit]
        frozen = [self._frozen(config) for config in configs]
        files = self._contents(_texts([configs, settings]), folders=False)
        key = _hash([configs, content, weights, seed, settings, *files])
        line = ["fit", *(word for path in frozen for word in ("--config", str(path)))]
        line += ["--seed_everything", str(seed), "--data.init_args.crops", str(folder)]
        if weights is not None:
            line += ["--model.init_args.weights", str(self.run_folder(weights) / RELEASED)]
        line += self._shared_features
        for name, value in settings.items():
            line += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        line += [*_QUIET, *_NO_VALIDATION, "--run_dir", str(self.run_folder(key))]
        # Bodies differ by their weights, or by the seed; what a public network sees, by the crops.
        body = _hash([content, seed if weights is None else weights])
        first = {self._first.setdefault(one, key) for one in (content, body)} - {key}
        parts = [label, f"epsilon {budget:g} per {unit}" if unit is not None else "no budget"]
        self._add(
            Job(
                key=key,
                label=", ".join([*parts, f"seed {seed}"]),
                lines=(tuple(line),),
                folders=(),
                needs=needs,
                after=tuple(sorted(first)),
                log=self._log(key),
            )
        )
        return key

    def _contents(self, texts: Iterable[str], *, folders: bool) -> list[str]:
        """Hashes of what lies at the paths among some words, seen from where jobs run.

        Results of this benchmark are left out: whoever reads one is named by its key already.

        Args:
            texts: Words, of which some are paths.
            folders: Whether folders count; those in a configuration are written to.
        """
        found = []
        for text in filter(None, texts):
            with suppress(OSError, RuntimeError):  # a text that is too long or odd for a path
                path = Path(text).expanduser().resolve()
                counts = path.is_file() or (folders and path.is_dir())
                if counts and not path.is_relative_to(self.out.resolve()):
                    found.append(self._sha256(path))
        return found

    def _sha256(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = input_sha256(path)
        return self._hashes[path]

    def _frozen(self, config: Mapping[str, Any]) -> Path:
        path = self.out / CONFIGS / f"{_hash(config)}.yaml"
        self.frozen[path] = config
        return path

    def _add(self, job: Job) -> None:
        self.jobs.setdefault(job.key, replace(job, folders=(self.run_folder(job.key),)))

    def _log(self, key: str) -> Path:
        return self.out / "logs" / f"{key}.log"


def _texts(value: object) -> Iterator[str]:
    """All texts among plain values."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value


def _hash(content: object) -> str:
    plain = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()[:_DIGITS]
