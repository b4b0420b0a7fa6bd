# SPDX-License-Identifier: Apache-2.0
"""300 of the damaged inputs of ``benchmarks/fuzz.py``."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    # By its path: another distribution installs a package called benchmarks.
    spec = importlib.util.spec_from_file_location("mammo_dp_fuzz", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_whole_files_are_read_alike_however_they_are_written(fuzz: ModuleType) -> None:
    dicom = {fuzz._true_crop(whole) for whole in fuzz.dicom_files()}
    assert len(dicom) == 1
    for whole in fuzz.picture_files():
        assert fuzz._true_crop(whole)[1] == next(iter(dicom))[1]


def test_damage_is_rejected_or_changes_nothing(fuzz: ModuleType) -> None:
    counts = fuzz.run(300, seed=1)
    assert counts.bad == []
    outcomes = counts.outcomes
    assert sum(outcomes.values()) == 300
    # The cases are of use: some are read, some are refused, of each kind.
    for kind in ("dicom", "picture"):
        assert outcomes[kind, "same"] > 0
        assert outcomes[kind, "rejected unreadable"] > 30
    assert outcomes["table", "refused ArchiveError"] > 10
    assert sum(count for (kind, _), count in outcomes.items() if kind == "folder") == 15


def test_a_reader_that_lets_things_through_is_found_out(
    fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    counts = fuzz.run(100, seed=1, kinds=["picture"])
    assert counts.outcomes["picture", "SILENT"] > 0
    monkeypatch.undo()
    monkeypatch.setattr(fuzz, "locate", None)
    counts = fuzz.run(20, seed=1, kinds=["dicom"])
    assert any(outcome.startswith("TRACEBACK") for _, outcome in counts.outcomes)
