# SPDX-License-Identifier: Apache-2.0
"""README and docs: commands parse, Python and YAML run or parse, and what is named is there."""

import re
import runpy
import shlex
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from data_prep.manifest import CropsManifest
from mammo_dp.attacks.membership.scores import ATTACKS
from mammo_dp.attacks.synthetic.methods import METHODS
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
EXECUTED = ("README.md", "docs/tutorials/own_network.md", "docs/tutorials/attack.md")
OWN_NETWORK = "my_network.py"  # as the tutorial tells to call it
# Beside ours.
PROGRAMS = {"pip", "python", "python3", "git", "cd", "cp", "mkdir", ".", "pre-commit", ".ci/run"}


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), flags=re.DOTALL)


def shell_lines(page: Path) -> list[list[str]]:
    """Words of each shown command, without variables that are set before it."""
    lines = [
        shlex.split(part, comments=True)
        for line in "".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
        for part in line.removeprefix("$ ").split(" && ")
    ]
    for line in lines:
        while re.match(r"[A-Z_]+=", line[0]):
            del line[0]
    return lines


SHELL = [line for page in PAGES for line in shell_lines(page)]
LINES = [line[1:] for line in SHELL if line[0] == "mammo-dp"]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def kind(line: list[str]) -> str:
    words = line[:2] if line[0] in SUBCOMMANDS else line[:1]
    return " ".join([*words, *sorted({word for word in line if word.startswith("--")})])


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", text_of(page), flags=re.MULTILINE)
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
    line: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    network, *_ = blocks(DOCS / "tutorials" / "own_network.md", "python")
    (tmp_path / OWN_NETWORK).write_text(network, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        run([*line, "--print_config"])
    assert stop.value.code == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    {kind(line): line for line in LINES if line[0] in (*OWN_PARSERS, *OF_A_RUN)}.values(),
    ids=kind,
)
def test_flags_of_the_other_commands_are_in_their_help(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with suppress(SystemExit):  # of argparse
        main([line[0], "--help"])
    known = set(re.findall(r"--[\w.]+", capsys.readouterr().out))
    if line[0] == "pipeline":  # its file declares further ones
        stages = yaml.safe_load((ROOT / line[1]).read_text(encoding="utf-8"))
        known |= {f"--{name}" for name in stages.get("arguments", {})}
    assert {word for word in line if word.startswith("--")} <= known


def test_other_programs_are_known_and_their_files_exist() -> None:
    for line in SHELL:
        assert line[0] in PROGRAMS | {"mammo-dp"}, line
        if line[0] != "git":
            for word in line:
                if word.startswith(("tests/", "benchmarks/", ".ci/")):
                    assert (ROOT / word).exists(), word


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_and_yaml_blocks_parse(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
    for block in blocks(page, "yaml"):
        assert yaml.safe_load(block)
    assert not blocks(page, "(?:bash|sh|py)"), "say console or python, so that it is tested"


@pytest.mark.filterwarnings("ignore")  # what Lightning says to who runs it by hand
@pytest.mark.parametrize("page", EXECUTED)
def test_examples_run(
    page: str,
    cohort: CropsManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "real").symlink_to(cohort.folder)
    monkeypatch.chdir(tmp_path)
    block, *others = blocks(ROOT / page, "python")
    script = tmp_path / OWN_NETWORK
    script.write_text(block, encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")
    for number, other in enumerate(others):
        beside = tmp_path / f"other_{number}.py"
        beside.write_text(other, encoding="utf-8")
        runpy.run_path(str(beside), run_name="__main__")
    said = capsys.readouterr().out
    if page == "README.md":
        assert "epsilon 5.99" in said or "epsilon 6.00" in said
        assert "at most 0.19" in said
    elif "own_network" in page:  # forty lines, and the budget is kept
        assert len([line for line in block.splitlines() if line.strip()]) <= 42
        epsilon = float(re.findall(r"epsilon ([\d.]+)", said)[-1])
        assert 5.9 < epsilon <= 6
    else:
        assert "AUC 0.6" in said


def test_every_example_is_run() -> None:
    assert {name(page) for page in PAGES if blocks(page, "python")} == set(EXECUTED)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = text_of(page)
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            found = page.parent / path if path else page
            assert found.exists() or found.resolve() in MADE, target
            assert not anchor or anchor in anchors(found), target
    assert re.findall(r"(?:\bcommits?|clone of)\s+([A-Z]{2}\w*)", text) == []  # hashes to fill in
    for path in re.findall(r"\bconfigs/[\w/]+\.yaml", text):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"`([\w/]+/\w+\.py)`", text):  # the threat model's are below tests/
        if "/NAME" not in path:
            assert (ROOT / path).is_file() or (ROOT / "tests" / path).is_file(), path


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("docs/tutorials/attack.md", tuple(ATTACKS)),
        ("docs/generators.md", tuple(method.name for method in METHODS)),
    ],
    ids=("membership", "synthetic"),
)
def test_attacks_are_named_where_they_are_explained(page: str, names: tuple[str, ...]) -> None:
    text = text_of(ROOT / page)
    assert [one for one in names if f"`{one}`" not in text] == []


def test_extras_are_named_as_the_project_names_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in PAGES:
        installs = re.findall(r"pip install ([^`#\n]*\[\w+\]\"?)", text_of(page))
        for what in installs:  # from source: the project is on no index
            name = re.fullmatch(r'-e "\.\[(\w+)\]"', what)
            assert name is not None, what
            assert name[1] in project["optional-dependencies"]
