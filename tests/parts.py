# SPDX-License-Identifier: Apache-2.0
"""Hooks of pytest: a marker for the tests of each part, the order of files, and no idle work."""

import gc
import os
import re
from pathlib import Path

import pytest

from tests.started import fork_once

# Before linear algebra is imported: as many processes test as there are cores, and their threads
# would wait for each other.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
gc.disable()  # imports make many objects and hardly any rubbish; on again before the first test

ROOT = Path(__file__).parent.parent
# Folders below tests/ and mammo_dp/, or packages of their own.
PARTS = (
    *("data_prep", "gan", "classifier", "privacy", "attacks"),
    *("report", "export", "benchmark", "fidelity"),
)
FILES = {"test_docs.py": "docs", "test_select.py": "privacy"}  # those outside


def part_of(path: Path) -> str:
    """Part that a file or folder belongs to; empty for what concerns several."""
    names = path.relative_to(ROOT).parts if path.is_relative_to(ROOT) else ()
    names = names[1:] if names[:1] in (("tests",), ("mammo_dp",)) else names
    return names[0] if names[:1] and names[0] in PARTS else FILES.get(path.name, "")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """``-m privacy`` does not import other parts, which takes longer than many of them run."""
    chosen = re.fullmatch(r"(\w+)( and not \w+)*", config.getoption("markexpr") or "")
    if chosen is None or chosen[1] not in {*PARTS, *FILES.values()}:
        return None
    part, name = part_of(collection_path), collection_path.name
    if name in ("conftest.py", "__init__.py") or (collection_path.is_dir() and not part):
        return None
    return True if part != chosen[1] else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests by their part; files with slow tests go first, so that no process waits for one.

    Files stay whole: what their tests share is made once.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    for item in items:
        if part := part_of(item.path):
            item.add_marker(part)
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """What was imported stays, so the garbage collector need not look at it again and again."""
    gc.freeze()
    gc.enable()
    fork_once()
