# SPDX-License-Identifier: Apache-2.0
"""``benchmark``: its flags. What it needs is imported once they are known."""

import argparse
import os
from collections.abc import Callable, Sequence

Command = Callable[[Sequence[str]], None]

_DESCRIPTION = """\
Runs regimes x budgets x units x seeds as independent jobs and compares them in one table.

A job is named by the hash of what it computes: equal cells run once, and what is finished is never
run again, whatever was killed in between. Val is for research; test sets are opened after all
training and recorded in OUT/openings.json. Epsilon comes from the sealed statement of each cell.
Writes benchmark.json, benchmark.csv, benchmark.md, benchmark.html (a fragment) and figures."""


def benchmark(arguments: Sequence[str], command: Command) -> None:
    """``mammo-dp benchmark --config FILE --crops DIR --out DIR [...]``.

    Args:
        arguments: Command-line words after ``benchmark``.
        command: Runs one command line of ``mammo-dp`` on a worker; found there by its name.
    """
    options = _parser().parse_args(arguments)
    from mammo_dp.benchmark.run import run_benchmark

    run_benchmark(options, command)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mammo-dp benchmark",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--config", required=True, help="benchmark file, see configs/benchmark/")
    add("--crops", required=True, help="crops of patients with the splits train and val")
    add("--out", required=True, help="folder of all results of this benchmark; resumed if begun")
    add("--synthetic", help="synthetic crops with their statement; without, regimes are skipped")
    add(
        "--external",
        nargs="+",
        action="extend",
        default=[],
        metavar="DIR",
        help="crops of other patients, opened as test sets after all training",
    )
    add("--open_test", action="store_true", help="open the split test of --crops, too")
    add("--scheduler", help="address such as tcp://host:8786; default: workers of this machine")
    add(
        "--workers",
        type=int,
        default=_processors(),
        help="processes on this machine, default %(default)s; 0 runs all cells in this one",
    )
    add("--threads", type=int, default=1, help="threads in each worker, default %(default)s")
    for axis in ("regimes", "budgets", "units", "seeds"):
        add(f"--{axis}", nargs="+", metavar="NAME", help=f"only these {axis} of the file")
    return parser


def _processors() -> int:
    """Processors that this process may use; all of the machine where a system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
