# SPDX-License-Identifier: Apache-2.0
"""The command table: ``mammo-dp --help`` prints it and imports nothing else."""

import errno
import io
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

COMMANDS = {
    "demo": "the whole chain on embedded procedural data, in minutes; start here",
    "prepare": "DICOM archive, crop folder, synthetic folder or phantoms -> crops",
    "fit": "train a model on crops -> run folder with privacy statement",
    "validate": "measure a run",
    "test": "measure a run -> predictions.csv, metrics.json",
    "calibrate-scores": "probabilities of a run, calibrated on a cohort with privacy -> run folder",
    "predict": "a run scores crops, or boxes in DICOM mammograms -> predictions.csv",
    "generate": "generator checkpoint -> labelled synthetic crops",
    "evolve": "patients' noisy votes choose phantoms or generated crops -> labelled crops",
    "release-means": "patients -> noisy mean features of each class, for phantoms to match",
    "match-means": "phantoms + released means -> those of them whose classes have these means",
    "guide-means": "diffusion checkpoint + released means -> crops drawn towards these means",
    "relabel": "synthetic crops + classifier -> the same crops, labelled by it, or if both agree",
    "interpolate": "generator checkpoint -> sheets between crops and between classes",
    "export": "classifier -> ONNX, Hugging Face; generator -> medigan; crops -> folder, DICOM",
    "fidelity": "synthetic crops against real ones -> distances, agreement, copies",
    "attack": "attack a run -> scores and what an attacker achieved",
    "privacy": "epsilon <-> noise <-> risk; explain, verify, compose; choose among fits",
    "report": "run folders -> table, figures, one HTML page",
    "benchmark": "regimes x budgets x units x seeds on any workers -> one table",
    "pipeline": "the stages of one YAML file, resumable",
}
_TRAINING = ("fit", "validate", "test")
_PACKAGES = ("data_prep", "gan", "classifier", "mammo_dp")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``mammo-dp``.

    Args:
        arguments: Command and flags; those of the process if none.

    Returns:
        Exit status: 0 done, 1 the command failed for a reason it names, 2 wrong usage, 130
        interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from mammo_dp import __version__

        print(f"mammo-dp {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        near = get_close_matches(arguments[0], COMMANDS, n=1)
        meant = f" Did you mean {near[0]}?" if near else ""
        print(
            f"mammo-dp: unknown command {arguments[0]!r}.{meant} `mammo-dp --help` lists all.",
            file=sys.stderr,
        )
        return 2
    if clash := name_clash():
        print(f"mammo-dp: {clash}", file=sys.stderr)
        return 1
    for stream in (sys.stdout, sys.stderr):  # a screen without a sign shows a question mark
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Waiting threads yield their core: on a shared machine, spinning ones make a small network
    # several times slower. Read by OpenMP when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _log_once()
    try:
        run(arguments)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as stop:  # Lightning ends the process itself
        if isinstance(stop.__context__, KeyboardInterrupt):
            return _interrupted()
        raise
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"mammo-dp {arguments[0]}: {_in_words(error)}", file=sys.stderr)
        return 1
    except Exception as error:
        if (full := _full_disk(error)) is not None:
            print(f"mammo-dp {arguments[0]}: {_in_words(full)}", file=sys.stderr)
            return 1
        # Errors that our packages define are written for users; all others are bugs.
        if type(error).__module__.partition(".")[0] not in _PACKAGES:
            raise
        print(f"mammo-dp {arguments[0]}: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupted() -> int:
    print("mammo-dp: interrupted. Run the same command to resume.", file=sys.stderr)
    return 130


def run(arguments: Sequence[str]) -> None:
    """Runs one command in this process and lets its errors pass.

    Args:
        arguments: Command and flags.
    """
    command, *rest = arguments
    if command in _TRAINING and rest in (["-h"], ["--help"]):
        _load("mammo_dp.training_help", "print_help")(command)
    elif command in _TRAINING:
        _load("mammo_dp.training_cli", "train")(arguments)
    elif command in ("pipeline", "demo"):
        _load("mammo_dp.pipeline", command)(rest, run)
    elif command == "benchmark":
        _load("mammo_dp.benchmark.command", command)(rest, run)
    else:
        _load("mammo_dp.commands", "run_command")(command, rest)


def usage() -> str:
    """The table of commands."""
    width = max(map(len, COMMANDS)) + 2
    rows = "\n".join(f"  {name:<{width}}{text}" for name, text in COMMANDS.items())
    return textwrap.dedent(
        """\
        mammo-dp: from mammograms that must not leak to a classifier with a privacy statement.

        usage: mammo-dp COMMAND [FLAGS]      mammo-dp COMMAND --help

        {rows}

        Malignant is 1 everywhere. The unit of privacy is the patient unless `crop` is chosen."""
    ).format(rows=rows)


def name_clash() -> str | None:
    """Looks for foreign packages in place of ours: ``gan`` and ``classifier`` are common names.

    Returns:
        A sentence that names the intruder and the remedy, or none.
    """
    home = Path(__file__).resolve().parent.parent
    for name in _PACKAGES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != home / name:
            return (
                f"package {name!r} comes from {found}, not from {home}. Another distribution with "
                "that name is installed; use a fresh virtual environment and install from source."
            )
    return None


def _log_once() -> None:
    """Log lines go to the error stream by one handler, before libraries install their own.

    Opacus adds one on import, and Lightning one of its own that passes each line on to it.
    """
    import logging

    if logging.getLogger().handlers:
        return

    class ErrorStream(logging.StreamHandler):  # type: ignore[type-arg]  # of Python 3.11
        """Asks for the stream at each line, since cells of a benchmark redirect it."""

        def emit(self, record: logging.LogRecord) -> None:
            self.stream = sys.stderr
            super().emit(record)

    logging.basicConfig(format="%(message)s", handlers=[ErrorStream()])
    logging.getLogger("lightning").propagate = False


def _in_words(error: OSError) -> str:
    """What the system refused, and what to do."""
    if error.errno not in _FULL:
        where = f"{error.filename}: " if error.filename else ""
        return (
            f"{where}{error.strerror or error}. Check the path, and that you may read and write "
            "there; nothing finished was lost."
        )
    written = error.filename2 or error.filename  # of a copy, the second
    where = f" as {written} was written" if written else ""
    return (
        f"the disk or its quota is full{where} ({error.strerror}). Free some space and run the "
        "same command again; nothing finished was lost."
    )


def _full_disk(error: BaseException) -> OSError | None:
    """The full disk behind an error of another type, such as torch's for a checkpoint."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return None


def _load(module: str, name: str) -> Callable[..., object]:
    function: Callable[..., object] = getattr(import_module(module), name)
    return function
