# SPDX-License-Identifier: Apache-2.0
"""Pages that mkdocs makes at build time: commands, public names, CONTRIBUTING.md, CHANGELOG.md.

The commands come from the parsers themselves, by way of ``mammo-dp COMMAND --help``.
"""

import contextlib
import io
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 96  # of help texts, in characters
SUBJECTS = {
    "data_prep": "Crops",
    "mammo_dp.privacy": "Privacy",
    "classifier": "Classifiers",
    "gan": "Generators",
    "mammo_dp.attacks": "Attacks",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages; mkdocs calls this once per build."""
    sys.path.insert(0, str(ROOT))
    for name, content in {
        "reference/commands.md": commands(),
        "reference/api.md": public_names(),
        "contributing.md": from_top_level("CONTRIBUTING.md"),
        "changelog.md": from_top_level("CHANGELOG.md"),
    }.items():
        files.append(File.generated(config, name, content=content))
    return files


def from_top_level(name: str) -> str:
    """A page that lies beside ``docs/``, with links as seen from within."""
    return (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")


def commands() -> str:
    """Every command and subcommand with the help text that it prints."""
    table = dict(re.findall(r"^  ([\w-]+)  +(\S.*)$", help_of(), flags=re.MULTILINE))
    return "\n\n".join(
        [
            "# Commands",
            "Generated from the parsers: this is what `--help` prints. Every command takes "
            "`--config FILE` with the same names in YAML where its help says so.",
            *(part for name, text in table.items() for part in command(name, text)),
        ]
    )


def command(name: str, text: str) -> Iterator[str]:
    """Heading, purpose and help text of a command and of its subcommands."""
    yield f"## {name}"
    yield f"{text[0].upper()}{text[1:].rstrip('.')}."
    shown = help_of(name)
    usage, _, rest = shown.partition("\n\n")
    if name in ("fit", "validate", "test"):
        yield (
            "Model and data are any class, such as those of [Python: public names](api.md); their "
            "arguments are `--model.init_args.NAME` and `--data.init_args.NAME`. `--trainer.NAME` "
            "are the arguments of Lightning's `Trainer`, which `mammo-dp fit --help_all` lists. "
            "`mammo-dp fit --model.help CLASS` lists those of a class."
        )
    yield fenced(shown)
    if "\nsubcommands:" in rest and (found := re.search(r"\{(\w+(?:,\w+)+)\}", usage)):
        for sub in found[1].split(","):
            yield f"### {name} {sub}"
            yield fenced(help_of(name, sub))


def help_of(*words: str) -> str:
    """What a command prints about itself.

    Args:
        words: Command, and subcommand if it has some; none for the table of commands.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, function = project["scripts"]["mammo-dp"].partition(":")
    main = getattr(import_module(module), function)
    printed = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS")
        if before is not None:
            os.environ["COLUMNS"] = before
    if not printed.getvalue():
        raise RuntimeError(f"mammo-dp {' '.join(words)}: printed no help.")
    # Defaults below the folder that the site is built in would differ from machine to machine.
    return printed.getvalue().replace(str(ROOT), "...")


def fenced(text: str) -> str:
    """A block of plain text."""
    return f"```text\n{text.strip()}\n```"


def public_names() -> str:
    """Every public name, by subject; mkdocstrings fills in the rest. Imports no torch."""
    import mammo_dp

    subjects: dict[str, list[str]] = {subject: [] for subject in (*SUBJECTS.values(), "More")}
    for name, home in mammo_dp.MODULES.items():
        subject = next((s for package, s in SUBJECTS.items() if home.startswith(package)), "More")
        subjects[subject].append(f"mammo_dp.{name}")
    parts = [
        "# Python: public names",
        "What `import mammo_dp` offers. Names are loaded on first use. Everything else may move "
        "from one version to the next.",
    ]
    for subject, names in subjects.items():
        if names:
            parts += [f"## {subject}", *(f"::: {name}" for name in names)]
    return "\n\n".join(parts)
