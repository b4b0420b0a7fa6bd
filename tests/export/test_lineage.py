# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.export.lineage import Lineage
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.runs import input_sha256
from tests.export.conftest import run_of_fit


def lineage_of(source: Path) -> Lineage:
    return Lineage.of(source, input_sha256(source))


def test_a_generator_without_dp_says_none(checkpoint: Path) -> None:
    lineage = lineage_of(checkpoint)
    assert lineage.folder == checkpoint.parent.parent
    assert lineage.datasets == ["cbis-ddsm"]
    assert lineage.sentence.startswith("none: No guarantee, epsilon = infinity, for each patient")
    assert "MCGAN (mcgan) was trained on these patients without DP" in lineage.sentence


def test_a_private_generator_says_epsilon_and_all_it_means_nothing_without(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    mechanism = Mechanism(noise_multiplier=4.0, sampling_rate=1.0, steps=4)
    sentence = lineage_of(run_of_fit(tmp_path / "dpgan", cohort, mechanism)).sentence
    assert sentence.startswith("differential privacy: epsilon = ")
    for part in (
        "at delta = 0.001",
        "for each patient of phantom-archive/train (4 patients)",
        "zero-out, by PLD",
        "4 noisy steps (noise multiplier 4, sampling rate 1)",
    ):
        assert part in sentence


def test_a_generator_that_saw_no_patient_says_so(tmp_path: Path) -> None:
    assert lineage_of(run_of_fit(tmp_path / "free", None)).sentence == "no private data."


def test_a_statement_is_copied_byte_by_byte(checkpoint: Path, tmp_path: Path) -> None:
    lineage = lineage_of(checkpoint)
    lineage.copy_to(tmp_path)
    for name in ("privacy.json", "PRIVACY.md"):
        assert (tmp_path / name).read_bytes() == (lineage.folder / name).read_bytes()


def test_what_has_no_statement_is_refused(tmp_path: Path, cohort: CropsManifest) -> None:
    with pytest.raises(PrivacyError, match="no release: crops of patients stand in it"):
        lineage_of(cohort.folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(PrivacyError, match=r"comes without privacy.json.*Export what a command of"):
        lineage_of(empty)
    path = run_of_fit(tmp_path / "run", cohort)
    stray = tmp_path / "stray.ckpt"
    stray.write_bytes(path.read_bytes())
    with pytest.raises(PrivacyError, match=r"comes without privacy\.json"):
        lineage_of(stray)


def test_a_forged_statement_is_refused(tmp_path: Path, cohort: CropsManifest) -> None:
    path = run_of_fit(tmp_path / "run", cohort)
    statement = tmp_path / "run" / "privacy.json"
    stored = json.loads(statement.read_text())
    stored["summary"] = "No patient data was used."
    statement.write_text(json.dumps(stored))
    with pytest.raises(PrivacyError, match="does not fit its seal"):
        lineage_of(path)


def test_another_checkpoint_under_the_same_statement_is_refused(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    path = run_of_fit(tmp_path / "run", cohort)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(PrivacyError, match="is about another file"):
        lineage_of(path)
