# SPDX-License-Identifier: Apache-2.0
"""Preparation that lets one patient change another: refused, or said by every statement."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_prep.errors import ArchiveError, DuplicateConflict, ManifestError
from data_prep.manifest import CropsManifest
from mammo_dp.benchmark.mixture import mix
from mammo_dp.main import main, run
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.lineage import (
    GIVEN_LOOKS,
    MERGED,
    PHANTOMS,
    UNPREPARED,
    collect_parents,
    data_ledger,
)
from mammo_dp.runs import config_sha256, open_run
from tests.data_prep.tiny_archive import TinyArchive, film
from tests.privacy.statement.verify.chain import DP, edit, rewrite_crops

PREPARE = "prepare cbis_ddsm --root archive --size 32 --val_fraction 0 --out"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyArchive:
    """Four patients; whoever wants writes more."""
    monkeypatch.chdir(tmp_path)
    tiny = TinyArchive(tmp_path / "archive")
    for number in range(1, 5):
        tiny.add(f"P_0000{number}", pathology=("BENIGN", "MALIGNANT")[number % 2])
    return tiny


def exclusions(folder: str) -> list[str]:
    stored: dict[str, Any] = json.loads(Path(folder, "privacy.json").read_text())
    return list(stored["exclusions"])


def said_of(path: str) -> tuple[str, ...]:
    return collect_parents([path]).exclusions


@pytest.mark.parametrize("pathology", ["BENIGN", "MALIGNANT"])
def test_a_crop_of_two_patients_stops_preparation(archive: TinyArchive, pathology: str) -> None:
    archive.add("P_00009", image=film(np.random.default_rng(0)), pathology=pathology)
    archive.write()
    with pytest.raises(DuplicateConflict, match=r"under two patients.*--across_patients merge"):
        run([*PREPARE.split(), "real"])
    assert not Path("real/crops.csv").exists()


@pytest.mark.parametrize("rule", ["refuse", "merge"])
def test_a_mammogram_of_two_patients_stops_preparation(archive: TinyArchive, rule: str) -> None:
    """Also where their lesions differ, so that no crop is of both."""
    mask = np.zeros((260, 200), np.uint8)
    mask[60:90, 40:70] = 255
    archive.add("P_00009", mask=mask)
    row, first = archive.rows["train"][-1], archive.rows["train"][0]
    row["image file path"] = first["image file path"]
    archive.write()
    with pytest.raises(ArchiveError, match=r"row 2 and .*row 6: one file of two patients"):
        run([*PREPARE.split(), "real", "--across_patients", rule])
    assert not Path("real/crops.csv").exists()


def test_ids_are_compared_before_anything_is_cut(archive: TinyArchive) -> None:
    """Also that of a patient of whom no crop would remain."""
    path = archive.add("P_0004", view="MLO")
    archive.write()
    path.write_bytes(b"damaged")
    with pytest.raises(ManifestError, match=r"row 5 and .*row 6: patient ids that differ"):
        run([*PREPARE.split(), "real"])


@pytest.mark.filterwarnings("ignore")  # of a fit of one step
def test_each_statement_says_that_patients_were_merged(
    archive: TinyArchive, capsys: pytest.CaptureFixture[str]
) -> None:
    image = film(np.random.default_rng(0))
    archive.add("P_00008", image=image)
    archive.add("P_00009", image=image)
    archive.write()
    run([*PREPARE.split(), "real", "--across_patients", "merge"])
    assert "patients merged, because they share an image: 2" in capsys.readouterr().out
    assert said_of("real") == said_of("real/crops.csv") == (MERGED,)
    Path("dp.yaml").write_text(yaml.safe_dump(DP))
    run(["fit", "--config", "dp.yaml", "--data.init_args.crops", "real", "--run_dir", "dp"])
    assert MERGED in exclusions("dp")
    assert MERGED in Path("dp/PRIVACY.md").read_text()
    assert main(["privacy", "verify", "dp"]) == 0
    run(["prepare", "phantoms", "--per_class", "4", "--size", "32", "--out", "phantoms"])
    mix("real", "phantoms", 2, "mixed")
    assert MERGED in exclusions("mixed")
    assert MERGED in collect_parents(["mixed"]).exclusions


def test_the_words_follow_from_the_flag_not_from_the_patients(archive: TinyArchive) -> None:
    archive.write()
    run([*PREPARE.split(), "merge", "--across_patients", "merge"])
    run([*PREPARE.split(), "refuse"])
    assert said_of("merge") == (MERGED,)
    assert said_of("refuse") == ()
    assert Path("merge/crops.csv").read_bytes() == Path("refuse/crops.csv").read_bytes()
    assert not any(char.isdigit() for char in MERGED)


def test_the_record_of_a_prepared_folder_cannot_be_rewritten(
    archive: TinyArchive, capsys: pytest.CaptureFixture[str]
) -> None:
    archive.write()
    run([*PREPARE.split(), "real", "--across_patients", "merge"])
    stored = json.loads(Path("real/privacy.json").read_text())
    assert stored["artefact"] is None  # no release
    assert MERGED in stored["exclusions"]
    assert main(["privacy", "verify", "real"]) == 0, capsys.readouterr().err

    def change(record: dict[str, Any]) -> None:
        record["config"]["across_patients"] = "refuse"
        record["config_sha256"] = config_sha256(record["command"], record["config"], record["seed"])

    edit("real/run.json", change)
    assert said_of("real") == (MERGED,)  # sealed
    assert main(["privacy", "verify", "real"]) == 1
    assert "run.config_sha256 is recorded as" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "origin", "makes"),
    [
        ("prepare cbis_ddsm", "phantom", False),
        ("prepare lesions", "synthetic:m", False),
        ("prepare crop_folder", "gan:0", False),
        ("prepare phantoms", "phantom", True),
        ("prepare phantoms", "synthetic:m", False),
        ("prepare phantoms", "evolved:0", False),
        ("prepare synthetic_folder", "synthetic:m", True),
        ("prepare synthetic_folder", "phantom", False),
    ],
)
def test_only_commands_that_make_crops_of_nobody_may_leave_some(
    tmp_path: Path,
    make_cohort: Callable[..., CropsManifest],
    command: str,
    origin: str,
    makes: bool,
) -> None:
    """Else whoever could write to an unfinished folder would make phantoms of patients."""
    made = make_cohort("made", origin=origin)
    record = open_run(tmp_path / "run", command=command, config={}, inputs={})
    if makes:
        data_ledger(record, made)
        return
    with pytest.raises(PrivacyError, match=f"crops of {origin}, which `{command}` does not make"):
        data_ledger(record, made)


def test_an_unknown_preparation_is_an_exclusion(archive: TinyArchive) -> None:
    """Without its record, or with another table."""
    archive.write()
    run([*PREPARE.split(), "real", "--across_patients", "merge"])
    shutil.copytree("real", "moved", ignore=shutil.ignore_patterns("*.json", "PRIVACY.md"))
    assert said_of("moved") == (UNPREPARED,)
    rewrite_crops("real", lambda rows: rows.reverse())
    assert said_of("real") == (UNPREPARED,)


def test_phantoms_with_looks_that_somebody_gave_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["prepare", "phantoms", "--per_class", "2", "--size", "16", "--out"]
    run([*line, "usual"])
    run([*line, "given", "--parameters.slant_range", "[0.0, 0.1]"])
    assert said_of("usual") == (PHANTOMS,)
    assert said_of("given") == (PHANTOMS, GIVEN_LOOKS)
    assert main(["privacy", "verify", "given"]) == 0, capsys.readouterr().err
