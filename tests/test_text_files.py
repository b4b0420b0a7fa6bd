"""Text is UTF-8 whatever the machine says; third-party imports are declared."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data_prep", "gan", "classifier", "mammo_dp")
FILES = sorted(
    path for package in (*PACKAGES, "benchmarks") for path in (ROOT / package).rglob("*.py")
)
NOT_TEXT = {"Image", "DrawnCrops", "os", "tables"}  # whose functions open no text file


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def without_encoding(tree: ast.AST) -> list[int]:
    """Lines of calls that read or write text in the encoding of the machine."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and is_text(node)
        and not any(keyword.arg in ("encoding", None) for keyword in node.keywords)
    ]


def is_text(call: ast.Call) -> bool:
    function, given = call.func, {keyword.arg: keyword.value for keyword in call.keywords}
    owner = getattr(function, "value", None)
    if isinstance(owner, ast.Name) and owner.id in NOT_TEXT:
        return False
    if isinstance(function, ast.Attribute) and function.attr in ("read_text", "write_text"):
        return len(call.args) <= (function.attr == "write_text")  # else the encoding follows
    text = given.get("text")
    if isinstance(text, ast.Constant) and text.value is True:  # of a subprocess
        return True
    if isinstance(function, ast.Name):
        place, is_open = 1, function.id == "open"
    elif isinstance(function, ast.Attribute):
        place, is_open = 0, function.attr == "open"
    else:
        return False
    mode = given.get("mode", call.args[place] if len(call.args) > place else ast.Constant("r"))
    return is_open and not (isinstance(mode, ast.Constant) and "b" in str(mode.value))


def test_text_is_utf_8() -> None:
    assert [(path, lines) for path in FILES if (lines := without_encoding(parsed(path)))] == []


@pytest.mark.parametrize(
    "line",
    [
        "path.read_text()",
        "path.write_text(text)",
        "path.open()",
        "path.open('w', newline='')",
        "open(path)",
        "subprocess.run(line, text=True)",
    ],
)
def test_the_check_finds(line: str) -> None:
    assert without_encoding(ast.parse(line)) == [1]
    with_encoding = line.replace(")", ", encoding='utf-8')").replace("(,", "(")
    assert without_encoding(ast.parse(with_encoding)) == []
    assert without_encoding(ast.parse("path.open('rb'), open(path, 'wb'), Image.open(p)")) == []


def test_what_the_screen_cannot_show_stops_nothing() -> None:
    code = (
        "import sys\n"
        "from mammo_dp import main\n"
        "main.run = lambda words: print('\\u03b5 = \\u221e', file=sys.stderr) or print('\\u2265')\n"
        "sys.exit(main.main(['report']))\n"
    )
    environment = {"PYTHONIOENCODING": "ascii:strict", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (0, b"?", b"? = ?")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    beside = {script.stem for script in path.parent.glob("*.py")}  # of a script that is run
    ours = {*PACKAGES, "tests", *(beside if path.parent.name == "benchmarks" else ())}
    return found - set(sys.stdlib_module_names) - ours


def test_every_import_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    declared = {
        re.split(r"[\[<>=!;, ]", line)[0].lower()
        for line in (*project["dependencies"], *optional["export"], *optional["diffusion"])
    }
    names = packages_distributions()
    undeclared = {
        module: names.get(module, ["?"])
        for path in FILES
        for module in imported(path)
        if declared.isdisjoint(name.lower() for name in names.get(module, []))
    }
    assert undeclared == {}
