# SPDX-License-Identifier: Apache-2.0
"""Lines of progress in a file."""

import pytest

from data_prep import progress
from data_prep.progress import watched


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)


def test_steps_of_a_range_count_what_is_worked_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(watched(range(0, 150, 64), "Reading crops")) == [0, 64, 128]
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == [f"Reading crops: {done} of 150" for done in (0, 64, 128)]


def test_a_range_that_goes_on_counts_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(watched(range(3, 5), "Voting")) == [3, 4]
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == ["Voting: 0 of 2", "Voting: 1 of 2"]


def test_other_work_counts_items(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(watched("abc", "Copying")) == ["a", "b", "c"]
    told = [line.split(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert told == [f"Copying: {done} of 3" for done in range(3)]
