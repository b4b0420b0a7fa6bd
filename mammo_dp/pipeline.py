# SPDX-License-Identifier: Apache-2.0
"""``pipeline`` and ``demo``: the stages of one YAML file, in one process, resumable.

A stage is a command line as a user would type it. What is finished is known from the run folders
alone: a finished stage returns at once, an unfinished one resumes, the first failure stops.
"""

import argparse
import itertools
import re
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.rule import Rule

from mammo_dp.runs import run_folder, write_text_atomically

Command = Callable[[Sequence[str]], None]

_DEMO = Path(__file__).with_name("demo.yaml")
_RESERVED = ("out", "here", "configs")


class PipelineError(ValueError):
    """A pipeline file is malformed, or an argument for it is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Content of a pipeline file.

    Attributes:
        path: The file.
        description: What it does, for ``--help``.
        arguments: Help of each command-line argument that the stages name, by name.
        configs: Configurations written beside the results as ``{configs}/NAME.yaml``.
        stages: Command lines, or grids of them; ``{name}`` stands for an argument, ``{out}`` for
            the output folder, ``{here}`` for the folder of the file.
    """

    path: Path
    description: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    configs: Mapping[str, Any] = field(default_factory=dict)
    stages: Sequence[str | Mapping[str, Any]]

    def __post_init__(self) -> None:
        """Refuses a file that could not run.

        Raises:
            PipelineError: For a stage that is neither a command line nor a grid, or a reserved or
                unknown name.
        """
        if reserved := sorted(set(self.arguments) & set(_RESERVED)):
            raise PipelineError(f"{self.path}: arguments {reserved} are reserved. Rename them.")
        for number, stage in enumerate(self.stages, start=1):
            if not isinstance(stage, str) and set(stage) != {"grid", "each"}:
                raise PipelineError(
                    f"{self.path}, stage {number}: is no command line and no grid with `each`."
                )
        known = {name: name for name in (*self.arguments, *_RESERVED)}
        list(self.command_lines(known))

    @classmethod
    def read(cls, path: Path) -> "Pipeline":
        """Reads a pipeline file.

        Raises:
            PipelineError: If the file is missing or malformed.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            return cls(path=path, **content)
        except PipelineError:
            raise
        except (OSError, TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
            raise PipelineError(
                f"{path}: is no pipeline ({error}). It has description, arguments, configs and "
                "stages."
            ) from error

    def command_lines(self, values: Mapping[str, str]) -> Iterator[list[str]]:
        """Stages as argument lists, grids unfolded.

        Args:
            values: Value of each name that a stage may use.

        Raises:
            PipelineError: For a name without a value.
        """
        for number, stage in enumerate(self.stages, start=1):
            grid = {} if isinstance(stage, str) else stage["grid"]
            line = stage if isinstance(stage, str) else stage["each"]
            for point in itertools.product(*grid.values()):
                names = {**values, **dict(zip(grid, map(str, point), strict=True))}
                if unknown := sorted(set(re.findall(r"\{(\w+)\}", line)) - set(names)):
                    raise PipelineError(
                        f"{self.path}, stage {number}: {unknown} have no value. Name them under "
                        "`arguments` or in the grid."
                    )
                yield [
                    re.sub(r"\{(\w+)\}", lambda match: names[match[1]], word)  # noqa: B023
                    for word in shlex.split(line)
                ]


def pipeline(arguments: Sequence[str], command: Command) -> None:
    """``mammo-dp pipeline FILE --out DIR [...]``.

    Args:
        arguments: Command-line words after ``pipeline``.
        command: Runs one stage.
    """
    parser = argparse.ArgumentParser(
        prog="mammo-dp pipeline",
        description="Runs the stages of one YAML file.",
        epilog="`mammo-dp pipeline FILE --help` lists the further flags that the file asks for.",
        add_help=False,
    )
    parser.add_argument("file", nargs="?", type=Path, help="pipeline file, see configs/pipeline/")
    known, _ = parser.parse_known_args(arguments)
    if known.file is None:
        parser.add_argument("--out", required=True, help="folder of all results")
        parser.print_help()
        if {"-h", "--help"} & set(arguments):
            return
        raise PipelineError("FILE: is missing. Give a pipeline file, see configs/pipeline/.")
    read = Pipeline.read(known.file)
    parser = _parser(f"mammo-dp pipeline {known.file}", read)
    parser.add_argument("file", type=Path, help="pipeline file")
    _run(read, vars(parser.parse_args(arguments)), command)


def demo(arguments: Sequence[str], command: Command) -> None:
    """``mammo-dp demo [--out DIR]``.

    Args:
        arguments: Command-line words after ``demo``.
        command: Runs one stage.
    """
    read = Pipeline.read(_DEMO)
    values = vars(_parser("mammo-dp demo", read, out="demo").parse_args(arguments))
    _run(read, values, command)


def _parser(program: str, read: Pipeline, out: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=read.description)
    parser.add_argument(
        "--out", default=out, required=out is None, help="folder of all results; resumed if begun"
    )
    for name, text in read.arguments.items():
        parser.add_argument(f"--{name}", required=True, help=text)
    return parser


def _run(read: Pipeline, values: Mapping[str, Any], command: Command) -> None:
    out = Path(values["out"])
    names = {name: str(values[name]) for name in read.arguments}
    with run_folder(
        out,
        command="pipeline",
        config={"configs": read.configs, "stages": read.stages, "arguments": names},
        inputs={},
    ):
        for name, config in read.configs.items():
            write_text_atomically(
                out / "configs" / f"{name}.yaml", yaml.safe_dump(config, sort_keys=False)
            )
        names |= {"out": str(out), "here": str(read.path.parent), "configs": str(out / "configs")}
        console, started = Console(), time.monotonic()
        lines = list(read.command_lines(names))
        for number, line in enumerate(lines, start=1):
            console.print(Rule(f"[{number}/{len(lines)}] {line[0]}", align="left", style="dim"))
            console.print(f"mammo-dp {shlex.join(line)}", style="dim", markup=False, soft_wrap=True)
            begun = time.monotonic()
            command(line)
            console.print(f"{time.monotonic() - begun:.0f} s", style="dim")
        console.print(
            Rule(f"{len(lines)} stages in {time.monotonic() - started:.0f} s", style="dim")
        )
