# SPDX-License-Identifier: Apache-2.0
"""README and docs: commands that they show parse, and what they name is there."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from mammo_dp.main import COMMANDS, main, run

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
MADE = {  # by mkdocs, see docs/site_pages.py
    DOCS / name
    for name in ("reference/api.md", "reference/commands.md", "contributing.md", "changelog.md")
}
SUBCOMMANDS = ("prepare", "export", "attack", "privacy")
OWN_PARSERS = ("demo", "pipeline", "benchmark")  # know no --print_config
OF_A_RUN = ("test", "validate")  # their configuration is that of the fit


def lines_of(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```console\n(.*?)```", page.read_text(), flags=re.DOTALL)
    words = [
        shlex.split(part, comments=True)
        for line in "".join(blocks).replace("\\\n", " ").splitlines()
        for part in line.removeprefix("$ ").split(" && ")
    ]
    return [line[1:] for line in words if line[:1] == ["mammo-dp"]]


LINES = [line for page in PAGES for line in lines_of(page)]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def kind(line: list[str]) -> str:
    words = line[:2] if line[0] in SUBCOMMANDS else line[:1]
    return " ".join([*words, *sorted({word for word in line if word.startswith("--")})])


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


def test_every_command_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert {line[0] for line in LINES} == set(COMMANDS)
    for command in SUBCOMMANDS:
        with pytest.raises(SystemExit):
            main([command, "--help"])
        found = re.search(r"\{(\w+(?:,\w+)+)\}", capsys.readouterr().out)
        assert found is not None
        assert {line[1] for line in LINES if line[0] == command} == set(found[1].split(","))


@pytest.mark.parametrize(
    "line",
    {kind(line): line for line in LINES if line[0] not in (*OWN_PARSERS, *OF_A_RUN)}.values(),
    ids=kind,
)
def test_shown_commands_parse(
    line: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        run([*line, "--print_config"])
    assert stop.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_compile(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            found = page.parent / path if path else page
            assert found.exists() or found.resolve() in MADE, target
            assert not anchor or anchor in anchors(found), target
    for path in re.findall(r"\bconfigs/[\w/]+\.yaml", text):
        assert (ROOT / path).is_file(), path


def test_extras_are_named_as_the_project_names_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in PAGES:
        installs = re.findall(r"pip install ([^`#\n]*\[\w+\]\"?)", page.read_text())
        for what in installs:  # from source: the project is on no index
            name = re.fullmatch(r'-e "\.\[(\w+)\]"', what)
            assert name is not None, what
            assert name[1] in project["optional-dependencies"]
