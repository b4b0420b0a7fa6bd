"""Commands start without what they do not use; help describes the function that runs."""

import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module

import pytest

from mammo_dp.commands import FUNCTIONS
from mammo_dp.main import main
from mammo_dp.signatures import first_line, stub

HEAVY = ("torch", "lightning", "timm", "opacus", "sklearn", "matplotlib", "cv2", "albumentations")
RISK = "privacy risk --noise_multiplier 4 --sampling_rate 0.1 --steps 100"
CALIBRATE = "privacy calibrate --target_epsilon 6 --sampling_rate 0.25 --steps 60"


def commands() -> Iterator[tuple[list[str], str]]:
    for command, found in FUNCTIONS.items():
        if isinstance(found, str):
            yield [command], found
        else:
            yield from (([command, name], target) for name, target in found.items())


def imported(lines: list[list[str]], forbidden: tuple[str, ...]) -> str:
    """What of the forbidden is imported by some command lines, each in turn."""
    code = (
        "import sys\n"
        "from mammo_dp.main import main\n"
        f"for line in {lines!r}:\n"
        "    try:\n"
        "        status = main(line)\n"
        "    except SystemExit as stop:\n"
        "        status = stop.code\n"
        f"    found = set({forbidden!r}) & set(sys.modules)\n"
        "    if found or status:\n"
        "        sys.exit(f'{line}: {status=}, imported {found}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, encoding="utf-8"
    )
    return done.stderr


def test_the_calculator_needs_numpy_scipy_and_dp_accounting() -> None:
    lines = [RISK.split(), CALIBRATE.split()]
    assert imported(lines, (*HEAVY, "pydicom", "distributed", "rich")) == ""


def test_help_of_every_command_imports_nothing_heavy() -> None:
    groups = [[command] for command, found in FUNCTIONS.items() if not isinstance(found, str)]
    own = [[name] for name in ("fit", "validate", "test", "benchmark", "pipeline", "demo")]
    lines = [[*words, "--help"] for words in (*groups, *own, *(words for words, _ in commands()))]
    assert imported(lines, (*HEAVY, "scipy", "pydicom")) == ""


@pytest.mark.parametrize("target", [target for _, target in commands()])
def test_help_describes_the_function_that_runs(target: str) -> None:
    module, _, name = target.partition(":")
    function = getattr(import_module(module), name)
    described = stub(target)
    assert inspect.signature(described) == inspect.signature(function)
    assert described.__doc__ == function.__doc__


def test_unknown_functions_are_named() -> None:
    for target in ("mammo_dp.runs:nothing", "mammo_dp.nowhere:run"):
        with pytest.raises(LookupError, match=target.partition(":")[0]):
            stub(target)
    with pytest.raises(LookupError, match="nothing"):
        first_line("mammo_dp.runs:nothing")
    with pytest.raises(LookupError, match=r"known: passes \*\*cells to no function of its module"):
        stub("data_prep.archives.cells:known")


def test_help_of_fit_leads_to_all_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    shown = capsys.readouterr().out
    for part in ("mammo_dp.DPCropClassifier", "--run_dir", "--trainer.max_steps", "--help_all"):
        assert part in shown
    with pytest.raises(SystemExit):
        main(["fit", "--help_all"])
    assert "--trainer.reload_dataloaders_every_n_epochs" in capsys.readouterr().out
