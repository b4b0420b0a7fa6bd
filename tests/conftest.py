"""Hooks of pytest. Shared fixtures are in :mod:`tests.fixtures`."""

from importlib import import_module

import pytest

from tests.parts import (  # noqa: F401  hooks
    pytest_collection_finish,
    pytest_collection_modifyitems,
    pytest_ignore_collect,
)


def pytest_configure(config: pytest.Config) -> None:
    """Loads the fixtures, but not where xdist only hands out tests: they import for seconds."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.register(import_module("tests.fixtures"))
