# SPDX-License-Identifier: Apache-2.0
"""Commands that are plain typed functions: flags, ``--config`` and help come from the signature.

Those that write data are recorded: the folder gets ``run.json`` and a privacy statement.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import SUPPRESS, ArgumentParser, auto_cli

from data_prep.authentication import authenticated_by
from mammo_dp.runs import RunRecord, run_folder
from mammo_dp.signatures import stub
from mammo_dp.usage import in_words

_MADE = ("crops", "checkpoint", "features", "means")  # inputs that other stages made

Function = Callable[..., None]
# Flags that name what a command reads; their content is hashed into run.json.
_INPUTS = (
    *("root", "table", "images", "masks", "boxes", "crops", "checkpoint", "features", "means"),
    "provenance",
)
# Flags that change where and how fast a command runs, not what it makes.
_SPEED = frozenset({"workers", "scheduler", "dry_run"})

# Where the function of each command stands, as module:function.
FUNCTIONS: Mapping[str, str | Mapping[str, str]] = {
    "prepare": {
        name: f"data_prep.prepare:{name}"
        for name in (
            "lesions",
            "cbis_ddsm",
            "cbis_ddsm_jpeg",
            "bcdr",
            "bcs_dbt",
            "inbreast",
            "vindr",
            "cmmd",
            "embed",
            "rsna",
            "kau_bcmd",
            "crop_folder",
            "synthetic_folder",
            "phantoms",
            "phantom_archive",
            "phantom_tomosynthesis",
        )
    },
    "generate": "gan.generate:generate",
    "relabel": "classifier.relabel:relabel",
    "interpolate": "gan.interpolate:interpolate",
    "evolve": "mammo_dp.privacy.evolution.evolve:evolve",
    "release-means": "mammo_dp.privacy.means.release:release_means",
    "export": {
        "classifier": "mammo_dp.export.classifier:classifier",
        "medigan": "mammo_dp.export.medigan:medigan",
        "set": "mammo_dp.export.synthetic_set:synthetic_set",
    },
    "match-means": "mammo_dp.privacy.means.match:match_means",
    "guide-means": "mammo_dp.privacy.means.guide:guide_means",
    "fidelity": "mammo_dp.fidelity.command:fidelity",
    "attack": {
        "audit": "mammo_dp.attacks.audit.command:audit_run",
        "bounds": "mammo_dp.attacks.bounds.command:bounds",
        "ladder": "mammo_dp.attacks.ladder.command:ladder",
        "membership": "mammo_dp.attacks.membership.command:membership",
        "reconstruction": "mammo_dp.attacks.reconstruction.command:reconstruction",
        "synthetic": "mammo_dp.attacks.synthetic.command:synthetic",
    },
    "privacy": {
        "risk": "mammo_dp.privacy.accounting.commands:risk",
        "calibrate": "mammo_dp.privacy.accounting.commands:calibrate",
        "explain": "mammo_dp.privacy.commands:explain",
        "verify": "mammo_dp.privacy.commands:verify",
        "compose": "mammo_dp.privacy.commands:compose",
        "select": "mammo_dp.select:select",
    },
    "calibrate-scores": "mammo_dp.export.calibrate_scores:calibrate_scores",
    "predict": "mammo_dp.export.predict:predict",
    "report": "mammo_dp.report.page:report",
}
# Those that fill the folder `out`, which then is a run.
_RECORDED = frozenset(
    {
        *(f"prepare {name}" for name in FUNCTIONS["prepare"]),
        "generate",
        "relabel",
        "interpolate",
        "evolve",
        "release-means",
        "match-means",
        "guide-means",
        "export medigan",
        "export set",
    }
)


# Commands that spend on patients by an account of their own, and what writes their statement.
_STATEMENTS = {
    "evolve": "mammo_dp.privacy.evolution.rounds:write_evolution_statement",
    "release-means": "mammo_dp.privacy.means.release:write_means_statement",
}


def run_command(command: str, arguments: Sequence[str]) -> None:
    """Parses the flags of one command and runs it.

    Only the command that was asked for is imported, and none to print help.

    Args:
        command: Name in the command table.
        arguments: Subcommand, if the command has some, and flags.
    """
    found = FUNCTIONS[command]
    asks_help = not {"-h", "--help"}.isdisjoint(arguments)
    components: Function | dict[str, Any]
    if isinstance(found, str):
        components = stub(found) if asks_help else _function(command, found)
    elif (chosen := next((word for word in arguments if word in found), None)) is None:
        components = {name: stub(target) for name, target in found.items()}
    else:
        target = found[chosen]
        one = stub(target) if asks_help else _function(f"{command} {chosen}", target)
        components = {chosen: one}
    auto_cli(
        components,
        args=list(arguments),
        prog=f"mammo-dp {command}",
        as_positional=False,
        parser_class=_Parser,
    )


def _function(command: str, target: str) -> Function:
    module, _, name = target.partition(":")
    function: Function = getattr(import_module(module), name)
    if command not in _RECORDED:
        return function
    writer = None
    if (own := _STATEMENTS.get(command)) is not None:
        module, _, name = own.partition(":")
        writer = getattr(import_module(module), name)
    return recorded(function, command, writer)


class _Parser(ArgumentParser):
    """Takes by position, too, the one argument that a function takes by position.

    What is wrong with a word of the command it says in a sentence.
    """

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints usage and what is wrong, and ends the process with status 2."""
        super().error(in_words(message), ex)

    def add_function_arguments(self, function: Function, *args: Any, **kwargs: Any) -> list[str]:
        """Adds flags as usual, and for ``verify(run, *, format)`` the words ``verify RUN``."""
        added: list[str] = super().add_function_arguments(function, *args, **kwargs)
        by_position = [
            parameter
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        if len(by_position) == 1:
            (one,) = by_position
            several = one.annotation is not str
            self.add_argument(
                one.name,
                nargs="*" if several else "?",
                type=str,
                default=SUPPRESS,
                help=f"In place of --{one.name}.",
            )
        return added


def recorded(
    function: Function, command: str, write_statement: Callable[[RunRecord], None] | None = None
) -> Function:
    """Wraps a function that fills the folder ``out``, so that the folder is a run.

    Args:
        function: Takes ``out`` and, among other keywords, what it reads.
        command: Name to be written into ``run.json``.
        write_statement: Writes the privacy statement of what the command made. Without it, the
            statement of crops passes on what was spent on the inputs.

    Returns:
        The same signature. A finished folder is left alone, an unfinished one is filled again. A
        call that was refused before it wrote anything leaves the folder free for the right flags.
        A dry run makes no folder.
    """

    @functools.wraps(function)
    def run(**values: Any) -> None:
        if values.get("dry_run"):
            function(**values)
            return
        left_out = _SPEED | {"out"}
        with run_folder(
            values["out"],
            command=command,
            config={name: value for name, value in values.items() if name not in left_out},
            inputs={name: Path(values[name]) for name in _INPUTS if values.get(name)},
            seed=values.get("seed"),
        ) as record:
            if record.is_finished_as_said():
                return
            from mammo_dp.privacy.statement.seals import authentication_code

            if read := [record.inputs[name].path for name in _MADE if name in record.inputs]:
                from mammo_dp.privacy.statement.lineage import collect_parents, warn_of_unknown

                warn_of_unknown(collect_parents(read))
            with authenticated_by(authentication_code):
                function(**values)
            if write_statement is not None:
                write_statement(record)
            elif (record.folder / "crops.csv").exists():
                from mammo_dp.privacy.statement.lineage import write_data_statement

                write_data_statement(record)

    return run
