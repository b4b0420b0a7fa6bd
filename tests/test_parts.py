"""Markers by folder, see ``tests/parts.py``."""

from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
FOLDERS = {path.parent.name for path in HERE.glob("*/test_*.py")} | {"attacks", "privacy"}


def hooks(config: pytest.Config) -> Any:  # noqa: ANN401  a module
    """The ``conftest.py`` that takes the hooks in, as pytest loaded it."""
    file = str(HERE / "conftest.py")
    return next(p for p in config.pluginmanager.get_plugins() if getattr(p, "__file__", "") == file)


def test_every_folder_of_tests_has_a_marker_and_its_tests_carry_it(
    request: pytest.FixtureRequest,
) -> None:
    registered = {line.partition(":")[0] for line in request.config.getini("markers")}
    assert registered >= FOLDERS
    for item in request.session.items:
        if item.path.is_relative_to(HERE):
            folder = item.path.relative_to(HERE).parts[0]
            assert folder not in FOLDERS or item.get_closest_marker(folder), item.nodeid


@pytest.mark.parametrize(
    ("expression", "collected"),
    [("fidelity", {"fidelity"}), ("fidelity and not slow", {"fidelity"}), ("docs", {"docs"})],
)
def test_other_parts_are_not_even_imported(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    expression: str,
    collected: set[str],
) -> None:
    config = request.config
    monkeypatch.setattr(config.option, "markexpr", expression)

    def ignored(path: str) -> bool:
        return bool(hooks(config).pytest_ignore_collect(HERE.parent / path, config))

    assert ignored("tests/gan")
    assert ignored("mammo_dp/privacy")
    assert not ignored("tests")
    assert not ignored("mammo_dp")
    assert not ignored("tests/conftest.py")
    assert ignored("tests/fidelity") == ("fidelity" not in collected)
    assert ignored("tests/test_docs.py") == ("docs" not in collected)


@pytest.mark.parametrize("expression", ["", "slow", "gan or fidelity", "not fidelity"])
def test_other_expressions_collect_everything(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, expression: str
) -> None:
    monkeypatch.setattr(request.config.option, "markexpr", expression)
    assert not hooks(request.config).pytest_ignore_collect(HERE / "gan", request.config)
