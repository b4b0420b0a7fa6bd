# SPDX-License-Identifier: Apache-2.0
"""The YAML of a benchmark: which regimes, made of which stages, at which budgets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml

from data_prep.manifest import Unit
from mammo_dp.benchmark.jobs import MIX


class BenchmarkError(ValueError):
    """The benchmark cannot run as asked; the message names the offender and the remedy."""


_MIX = "mix A B --per_class N"
GIVEN = ("real", "synthetic")  # sources of crops that come from the command line
Budget = float | Literal["none"]
Regimes = tuple["Regime", ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One fit.

    Attributes:
        fit: Configurations of ``mammo-dp fit``, from left to right.
        crops: Name of the crops that it trains on.
        weights: Name of the stage whose weights it starts from; none for a start of its own.
        seed: Seed of a stage that all cells share; none takes the seed of the cell.
        settings: Further flags of ``mammo-dp fit`` without the dashes, with their values.
    """

    fit: tuple[Path, ...]
    crops: str
    weights: str | None = None
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """One way to spend a budget.

    Attributes:
        name: Short name.
        title: What the table shows.
        private: Its last stage at a finite budget; none if it has no private form.
        none: Its last stage without a budget; none if it is never run without.
    """

    name: str
    title: str
    private: Stage | None = None
    none: Stage | None = None

    def stage(self, budget: Budget) -> Stage | None:
        """The last stage at a budget."""
        return self.none if budget == "none" else self.private


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Content of a benchmark file.

    Attributes:
        path: The file.
        title: Heading of the table.
        seeds: Seed of each repetition.
        budgets: Epsilon of the last stage, and ``"none"`` for training without privacy.
        units: What a finite budget protects.
        reference: Regime that the printed differences are taken to.
        crops: Command that makes crops, by name: ``prepare ...`` without ``--out``, or
            ``mix real synthetic --per_class N``.
        stages: Stages that cells share, by name.
        regimes: In the order of the table.
        published: File of published numbers to be shown beside ours.
    """

    path: Path
    title: str
    seeds: tuple[int, ...]
    budgets: tuple[Budget, ...]
    units: tuple[Unit, ...]
    reference: str
    crops: Mapping[str, str]
    stages: Mapping[str, Stage]
    regimes: Regimes
    published: Path | None = None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads and checks a benchmark file.

        Raises:
            BenchmarkError: Naming what is missing, unknown or malformed.
        """
        path = Path(path)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            stages = {
                name: _stage(path, f"stage {name}", stage)
                for name, stage in (content.pop("stages", None) or {}).items()
            }
            regimes = tuple(
                Regime(
                    name=name,
                    title=regime.pop("title", name),
                    **{form: _stage(path, f"regime {name}", s) for form, s in regime.items()},
                )
                for name, regime in content.pop("regimes").items()
            )
            published = content.pop("published", None)
            read = cls(
                path=path,
                seeds=tuple(content.pop("seeds")),
                budgets=tuple(content.pop("budgets")),
                units=tuple(content.pop("units")),
                crops=content.pop("crops", None) or {},
                stages=stages,
                regimes=regimes,
                published=None if published is None else path.parent / published,
                **content,
            )
        except BenchmarkError:
            raise
        except (OSError, AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
            raise BenchmarkError(
                f"{path}: is no benchmark ({type(error).__name__}: {error}). It has title, seeds, "
                "budgets, units, reference, crops, stages and regimes; see configs/benchmark/."
            ) from error
        read._check()
        return read

    def part(self, **chosen: Sequence[str] | None) -> Self:
        """The same benchmark on a part of its grid; cells keep their content.

        Args:
            chosen: Names to keep of ``regimes``, ``budgets``, ``units`` or ``seeds``; all if none.

        Raises:
            BenchmarkError: For a name that the file does not have.
        """
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for axis, names in chosen.items():
            known = {_name(value): value for value in values[axis]}
            if unknown := [name for name in names or () if name not in known]:
                raise BenchmarkError(
                    f"--{axis}: {self.path} has no {', '.join(unknown)}. Choose among "
                    f"{', '.join(known)}."
                )
            values[axis] = tuple(v for name, v in known.items() if not names or name in names)
        return type(self)(**values)

    def _check(self) -> None:
        """Refuses names that lead nowhere, before compute is spent.

        Raises:
            BenchmarkError: Naming the first of them.
        """
        crops, stages = set(GIVEN), set[str]()  # what stands above: nothing is made of itself
        for name, line in self.crops.items():
            words = line.split() if isinstance(line, str) else []
            if words[:1] not in ([MIX], ["prepare"]) or name in GIVEN:
                self._refuse(f"crops {name}: {line!r} is neither `prepare ...` nor `{_MIX}`")
            if words[0] == MIX and not _is_mix(words[1:], crops):
                above = ", ".join(sorted(crops))
                self._refuse(f"crops {name}: {line!r} is not `{_MIX}` of {above}, known so far")
            crops.add(name)
        forms = [("", s) for r in self.regimes for s in (r.private, r.none) if s is not None]
        for name, stage in (*self.stages.items(), *forms):
            if stage.crops not in crops:
                self._refuse(f"no crops are called {stage.crops!r}")
            if stage.weights is not None and stage.weights not in stages:
                self._refuse(f"no stage above is called {stage.weights!r}")
            stages.add(name)
        if unseeded := [name for name, stage in self.stages.items() if stage.seed is None]:
            self._refuse(f"stages {', '.join(unseeded)} are shared and need a `seed`")
        if self.reference not in {regime.name for regime in self.regimes}:
            self._refuse(f"reference: no regime is called {self.reference!r}")
        if bad := [b for b in self.budgets if b != "none" and not _is_epsilon(b)]:
            self._refuse(f"budgets {bad} are neither an epsilon above 0 nor `none`")
        if wrong := [unit for unit in self.units if unit not in get_args(Unit)]:
            self._refuse(f"units {wrong} are neither patient nor crop")

    def _refuse(self, what: str) -> None:
        raise BenchmarkError(f"{self.path}: {what}. Correct the file.")


def _stage(path: Path, where: str, content: Mapping[str, Any]) -> Stage:
    """Reads a stage; its configurations are looked for beside the benchmark file."""
    known = {"fit", "crops", "weights", "seed", "set"}
    if not isinstance(content, Mapping) or not {"fit", "crops"} <= set(content) <= known:
        raise BenchmarkError(
            f"{path}, {where}: {content!r} is no stage. Give `fit` (configurations) and `crops`, "
            "and if needed `weights`, `seed` and `set`."
        )
    configs = tuple((path.parent / name).resolve() for name in content["fit"])
    if absent := [str(config) for config in configs if not config.is_file()]:
        raise BenchmarkError(
            f"{path}, {where}: {', '.join(absent)} does not exist. Paths start from the folder of "
            "the benchmark file."
        )
    return Stage(
        fit=configs,
        crops=content["crops"],
        weights=content.get("weights"),
        seed=content.get("seed"),
        settings=content.get("set") or {},
    )


def _is_mix(words: Sequence[str], crops: set[str]) -> bool:
    """Whether two sources, both known, and a number of synthetic crops follow the word ``mix``."""
    *sources, flag, number = words if len(words) == 4 else ("", "", "", "")
    return set(sources) <= crops and flag == "--per_class" and number.isdigit() and int(number) > 0


def _name(value: object) -> str:
    """What stands for a value of an axis on the command line."""
    if isinstance(value, Regime):
        return value.name
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _is_epsilon(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One series of somebody else.

    Attributes:
        source: Authors, year, identifier.
        url: Where it can be read.
        data: What it was measured on.
        unit: What its epsilon protects.
        guarantee: Which stages its epsilon covers.
        regime: What was done.
        auroc: AUROC by epsilon.
    """

    source: str
    url: str
    data: str
    unit: str
    guarantee: str
    regime: str
    auroc: Mapping[float, float]

    def __post_init__(self) -> None:
        """Refuses numbers that no axis could hold.

        Raises:
            ValueError: Naming them.
        """
        pairs = self.auroc.items() if isinstance(self.auroc, Mapping) else ()
        if not pairs or not all(_is_number(e) and e > 0 and _is_number(a) for e, a in pairs):
            raise ValueError(f"auroc {self.auroc!r} is no AUROC by epsilon above 0")


def read_published(path: Path | None) -> list[Published]:
    """Reads a file of published numbers; none for no file.

    Raises:
        BenchmarkError: If it is missing or malformed.
    """
    if path is None:
        return []
    try:
        return [Published(**entry) for entry in yaml.safe_load(path.read_text(encoding="utf-8"))]
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        fields = ", ".join(Published.__dataclass_fields__)
        raise BenchmarkError(
            f"{path}: holds no published numbers ({error}). Give a list of entries with {fields}."
        ) from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
