# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep import cluster
from data_prep.manifest import CropsManifest
from mammo_dp.main import main
from mammo_dp.runs import LOCK, alone_in

Write = Callable[..., Path]


@pytest.mark.slow
def test_a_grid_is_run_once_measured_opened_and_resumed(
    write: Write,
    cohort: CropsManifest,
    make_cohort: Callable[..., CropsManifest],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = make_cohort("elsewhere", seed=5, origin="another-archive")
    CropsManifest.write(other.folder, [replace(crop, split="test") for crop in other.crops])
    line = ["benchmark", "--config", str(write()), "--crops", str(cohort.folder)]
    line += ["--workers", "0", "--out", str(tmp_path / "out")]
    part = ["--regimes", "dp", "same", "mixed", "--units", "patient", "--seeds", "0"]
    assert main([*line, *part]) == 0
    result = read(tmp_path / "out")
    assert not result["failures"]
    assert list(result["skipped"]) == ["mixed"]
    one, same = (row for row in result["rows"] if row["seeds"])
    assert one["metrics"] == same["metrics"]  # one job, two names
    assert one["end_to_end"]["unit"] == "patient"
    assert one["end_to_end"]["epsilon"] <= 6
    (difference,) = result["differences"]
    assert difference["auroc"]["value"] == 0
    (key,) = {cell["key"] for cell in result["cells"] if cell["regime"] == "dp"} & {
        path.name for path in (tmp_path / "out" / "jobs").iterdir()
    }
    run_folder = tmp_path / "out" / "jobs" / key
    assert (run_folder / "features").is_symlink()
    finished = json.loads((run_folder / "run.json").read_text())["finished"]

    assert main([*line, *part, "--external", str(other.folder)]) == 0
    result = read(tmp_path / "out")
    assert measured(result) == {("val", "dp"), ("val", "same")} | {
        ("elsewhere", "dp"),
        ("elsewhere", "same"),
    }
    assert [look["cells"] for look in result["openings"]] == [1]
    assert json.loads((run_folder / "run.json").read_text())["finished"] == finished
    assert (tmp_path / "out" / "utility_elsewhere.png").exists()
    assert "opened once" in (tmp_path / "out" / "benchmark.md").read_text()

    before = result  # another part: no row and no set of before vanishes
    assert main([*line, "--regimes", "plain", "--seeds", "1"]) == 0
    result = read(tmp_path / "out")
    assert measured(result) == measured(before) | {("val", "plain")}
    assert result["openings"] == before["openings"]
    text = (tmp_path / "out" / "benchmark.md").read_text()
    assert "| DP | 6 | crop | 0 of 2 | not finished |" in text
    assert "failed" not in text

    capsys.readouterr()
    kept = {path: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    line[line.index(str(cohort.folder))] = str(make_cohort("others", seed=6).folder)
    assert main([*line, *part]) == 1
    assert "val was measured on other crops" in capsys.readouterr().err
    write(title="Another")
    line[line.index(str(tmp_path / "others"))] = str(cohort.folder)
    assert main([*line, *part]) == 1
    assert "its title is 'Test', and 'Another' in" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_folder_says_what_it_is_of_before_anything_runs(
    write: Write,
    cohort: CropsManifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_WITHIN_S", 0.2)
    line = ["benchmark", "--config", str(write()), "--crops", str(cohort.folder)]
    line += ["--scheduler", "tcp://127.0.0.1:9", "--out", str(tmp_path / "out")]
    assert main(line) == 1
    assert "does not answer" in capsys.readouterr().err
    assert "| DP | 6 | crop | 0 of 2 | not finished |" in (
        (tmp_path / "out" / "benchmark.md").read_text()
    )
    write(title="Another")
    assert main(line) == 1
    assert "its title is 'Test'" in capsys.readouterr().err


def test_a_folder_belongs_to_one_command_at_a_time(
    write: Write, cohort: CropsManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two at once would write tables without each other's rows, and lose looks at test sets."""
    line = ["benchmark", "--config", str(write()), "--crops", str(cohort.folder)]
    line += ["--workers", "0", "--out", str(tmp_path / "out")]
    with alone_in(tmp_path / "out"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(main, line).result() == 1
        assert "out: another thread of this process is at work" in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]


def test_a_lock_that_a_kill_left_behind_is_no_result(
    write: Write,
    cohort: CropsManifest,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_ANSWER_WITHIN_S", 0.2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).touch()
    line = ["benchmark", "--config", str(write()), "--crops", str(cohort.folder)]
    assert main([*line, "--scheduler", "tcp://127.0.0.1:9", "--out", str(tmp_path / "out")]) == 1
    assert "does not answer" in capsys.readouterr().err  # it began
    assert not (tmp_path / "out" / LOCK).exists()


def read(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "benchmark.json").read_text()))


def measured(result: dict[str, Any]) -> set[tuple[str, str]]:
    return {(row["set"], row["regime"]) for row in result["rows"] if row["metrics"]}


def test_what_cannot_run_is_refused_before_anything_is_written(
    write: Write,
    cohort: CropsManifest,
    make_cohort: Callable[..., CropsManifest],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    same = make_cohort("same")
    CropsManifest.write(same.folder, [replace(crop, split="test") for crop in same.crops])
    line = ["benchmark", "--config", str(write()), "--crops", str(cohort.folder)]
    line += ["--out", str(tmp_path / "out")]
    for flags, named in (
        (["--regimes", "best"], "has no best"),
        (["--regimes", "mixed"], "--synthetic was not given"),
        (["--external", str(same.folder)], "in train or val"),
        (["--synthetic", str(same.folder)], "24 of its crops are patients'"),
        (["--workers", "-1"], "--workers -1"),
    ):
        assert main([*line, *flags]) == 1
        assert named in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    line[-1] = str(same.folder)  # crops, not results
    before = sorted(same.folder.rglob("*"))
    assert main(line) == 1
    assert f"--out {same.folder}: holds files, and no benchmark began" in capsys.readouterr().err
    assert sorted(same.folder.rglob("*")) == before
