# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.main import main

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
    line += ["--workers", "0", "--regimes", "dp", "same", "mixed", "--units", "patient"]
    line += ["--seeds", "0", "--out", str(tmp_path / "out")]
    assert main(line) == 0
    result = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert not result["failures"]
    assert list(result["skipped"]) == ["mixed"]
    one, same = result["rows"]
    assert one["metrics"] == same["metrics"]  # one job, two names
    assert one["end_to_end"]["unit"] == "patient"
    assert one["end_to_end"]["epsilon"] <= 6
    (difference,) = result["differences"]
    assert difference["auroc"]["value"] == 0
    (key,) = {cell["key"] for cell in result["cells"]}
    run_folder = tmp_path / "out" / "jobs" / key
    assert (run_folder / "features").is_symlink()
    finished = json.loads((run_folder / "run.json").read_text())["finished"]

    assert main([*line, "--external", str(other.folder)]) == 0
    result = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert [row["set"] for row in result["rows"]] == ["val", "val", "elsewhere", "elsewhere"]
    assert [look["cells"] for look in result["openings"]] == [1]
    assert json.loads((run_folder / "run.json").read_text())["finished"] == finished
    assert (tmp_path / "out" / "utility_elsewhere.png").exists()
    assert "opened once" in (tmp_path / "out" / "benchmark.md").read_text()


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
    assert not (tmp_path / "out" / "jobs").exists()
    line[-1] = str(same.folder)  # crops, not results
    before = sorted(same.folder.rglob("*"))
    assert main(line) == 1
    assert f"--out {same.folder}: holds files, and no benchmark began" in capsys.readouterr().err
    assert sorted(same.folder.rglob("*")) == before
