# SPDX-License-Identifier: Apache-2.0
"""Lines of progress in a file."""

import pytest

from data_prep import progress
from data_prep.progress import RECENT, ProgressLines, watched


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


def test_the_time_left_follows_the_last_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    lines = ProgressLines("Training", every=1.0)
    # the first item takes 60 s, the next ones 1 s each, and from the 11th on 3 s each
    seconds = [60] + 9 * [1] + 20 * [3]
    left = []
    for done, took in enumerate(seconds, start=1):
        clock[0] += took
        lines.tell(done, 30)
        (line,) = capsys.readouterr().err.splitlines()
        left.append(line.partition(", ")[2])
    assert left[:3] == ["", "28 s left", "27 s left"]  # nothing is known after one
    assert left[9] == "20 s left"
    assert left[9 + RECENT] == f"{3 * (20 - RECENT)} s left"
    assert left[-1] == "0 s left"
