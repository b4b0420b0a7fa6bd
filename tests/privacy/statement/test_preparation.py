# SPDX-License-Identifier: Apache-2.0
"""Preparation that lets one patient change another: refused, or said by every statement."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_prep.errors import DuplicateConflict
from mammo_dp.benchmark.mixture import mix
from mammo_dp.main import main, run
from mammo_dp.privacy.statement.lineage import MERGED, collect_parents, preparation_exclusions
from tests.data_prep.tiny_archive import TinyArchive, film
from tests.privacy.statement.verify.chain import DP

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


@pytest.mark.parametrize("pathology", ["BENIGN", "MALIGNANT"])
def test_a_crop_of_two_patients_stops_preparation(archive: TinyArchive, pathology: str) -> None:
    archive.add("P_00009", image=film(np.random.default_rng(0)), pathology=pathology)
    archive.write()
    with pytest.raises(DuplicateConflict, match=r"under two patients.*--across_patients merge"):
        run([*PREPARE.split(), "real"])
    assert not Path("real/crops.csv").exists()


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
    assert preparation_exclusions("real") == preparation_exclusions("real/crops.csv") == (MERGED,)
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
    assert preparation_exclusions("merge") == (MERGED,)
    assert preparation_exclusions("refuse") == preparation_exclusions("archive") == ()
    assert Path("merge/crops.csv").read_bytes() == Path("refuse/crops.csv").read_bytes()
    assert not any(char.isdigit() for char in MERGED)
