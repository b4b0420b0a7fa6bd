# SPDX-License-Identifier: Apache-2.0
"""Commands that are plain typed functions: flags, ``--config`` and help come from the signature.

Those that write data are recorded: the folder gets ``run.json`` and a privacy statement.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import data_prep  # noqa: F401  declares what torchvision lacks before lightning is imported

# isort: split
from jsonargparse import SUPPRESS, ArgumentParser, auto_cli

from mammo_dp.runs import RunRecord, close_run, forget_run, open_run

_MADE = ("crops", "checkpoint")  # inputs that other stages made

Function = Callable[..., None]
# Flags that name what a command reads; their content is hashed into run.json.
_INPUTS = ("root", "crops", "checkpoint", "provenance")


def run_command(command: str, arguments: Sequence[str]) -> None:
    """Parses the flags of one command and runs it.

    Args:
        command: Name in the command table.
        arguments: Subcommand, if the command has some, and flags.
    """
    auto_cli(
        _functions(command),
        args=list(arguments),
        prog=f"mammo-dp {command}",
        as_positional=False,
        parser_class=_Parser,
    )


class _Parser(ArgumentParser):
    """Takes by position, too, the one argument that a function takes by position."""

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


def _functions(command: str) -> Function | dict[str, Any]:
    """What a command runs; imported here, so that no command pays for another."""
    match command:
        case "prepare":
            from data_prep import prepare

            return {
                name: recorded(getattr(prepare, name), f"prepare {name}")
                for name in (
                    "cbis_ddsm",
                    "crop_folder",
                    "synthetic_folder",
                    "phantoms",
                    "phantom_archive",
                )
            }
        case "generate":
            from gan.generate import generate

            return recorded(generate, "generate")
        case "relabel":
            from classifier.relabel import relabel

            return recorded(relabel, "relabel")
        case "interpolate":
            from gan.interpolate import interpolate

            return recorded(interpolate, "interpolate")
        case "evolve":
            from mammo_dp.privacy.evolution.evolve import evolve
            from mammo_dp.privacy.evolution.rounds import write_evolution_statement

            return recorded(evolve, "evolve", write_evolution_statement)
        case "export":
            from mammo_dp.exchange.classifier import classifier
            from mammo_dp.exchange.medigan import medigan
            from mammo_dp.exchange.synthetic_set import synthetic_set

            return {
                "classifier": classifier,
                "medigan": recorded(medigan, "export medigan"),
                "set": recorded(synthetic_set, "export set"),
            }
        case "fidelity":
            from mammo_dp.fidelity.command import fidelity

            return fidelity
        case "attack":
            from mammo_dp.attacks.audit_run import audit_run
            from mammo_dp.attacks.bounds.command import bounds
            from mammo_dp.attacks.membership.command import membership
            from mammo_dp.attacks.reconstruction.command import reconstruction
            from mammo_dp.attacks.synthetic.command import synthetic
            from mammo_dp.ladder import ladder

            return {
                "audit": audit_run,
                "bounds": bounds,
                "ladder": ladder,
                "membership": membership,
                "reconstruction": reconstruction,
                "synthetic": synthetic,
            }
        case "privacy":
            from mammo_dp.privacy import commands as statements
            from mammo_dp.privacy.accounting import commands as accounts
            from mammo_dp.select import select

            return {
                "risk": accounts.risk,
                "calibrate": accounts.calibrate,
                "explain": statements.explain,
                "verify": statements.verify,
                "compose": statements.compose,
                "select": select,
            }
        case "calibrate":
            from mammo_dp.predict.calibrate import calibrate

            return calibrate
        case "predict":
            from mammo_dp.predict.command import predict

            return predict
        case "report":
            from mammo_dp.report.page import report

            return report
    raise KeyError(command)


def recorded(
    function: Function, command: str, write_statement: Callable[[RunRecord], None] | None = None
) -> Function:
    """Wraps a function that fills the folder ``out``, so that the folder is a run.

    Args:
        function: Takes ``out`` and, among other keywords, what it reads.
        command: Name to be written into ``run.json``.
        write_statement: Writes the privacy statement of the crops that the command made. Without
            it, the statement of crops passes on what was spent on the inputs.

    Returns:
        The same signature. A finished folder is left alone, an unfinished one is filled again. A
        call that was refused before it wrote anything leaves the folder free for the right flags.
    """

    @functools.wraps(function)
    def run(**values: Any) -> None:
        record = open_run(
            values["out"],
            command=command,
            config={name: value for name, value in values.items() if name != "out"},
            inputs={name: Path(values[name]) for name in _INPUTS if values.get(name)},
            seed=values.get("seed"),
        )
        if record.is_finished:
            print(f"{record.folder}: already finished; nothing to do.")
            return
        if read := [record.inputs[name].path for name in _MADE if name in record.inputs]:
            from mammo_dp.privacy.statement.lineage import collect_parents, warn_of_unknown

            warn_of_unknown(collect_parents(read))
        try:
            function(**values)
        except Exception:
            forget_run(record)
            raise
        if (record.folder / "crops.csv").exists():
            from mammo_dp.privacy.statement.lineage import write_data_statement

            (write_statement or write_data_statement)(record)
        close_run(record)

    return run
