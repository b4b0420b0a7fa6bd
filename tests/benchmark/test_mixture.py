# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.benchmark.mixture import mix
from mammo_dp.benchmark.spec import BenchmarkError
from mammo_dp.privacy.commands import verified
from mammo_dp.privacy.statement.document import (
    NO_PATIENTS,
    NO_RELEASE,
    read_statement,
    require_ledger,
    write_statement,
)
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.privacy.statement.lineage import write_data_statement
from mammo_dp.runs import close_run, open_run


@pytest.fixture
def made(make_cohort: Callable[..., CropsManifest]) -> CropsManifest:
    """Generated crops whose generator saw patients of the cohort's origin."""
    manifest = make_cohort("made", origin="gan:0", crops=60, seed=3)
    access = Access.of_unknown("A generator", "phantom-archive")
    ledger = PrivacyLedger(accesses=(access,))
    write_statement(manifest.folder, ledger, artefact=manifest.folder / "crops.csv")
    return manifest


def test_training_patients_meet_the_stated_number_of_synthetic_crops_of_each_class(
    cohort: CropsManifest, made: CropsManifest, tmp_path: Path
) -> None:
    mix(str(cohort.folder), str(made.folder), 8, str(tmp_path / "mixed"))
    mixed = CropsManifest.read(tmp_path / "mixed")
    own = [cohort.crops[row] for row in cohort.rows("train")]
    for malignant in (False, True):
        real = [c for c in mixed.crops if not c.is_synthetic and c.malignant == malignant]
        synthetic = [c for c in mixed.crops if c.is_synthetic and c.malignant == malignant]
        assert len(real) == sum(c.malignant == malignant for c in own)
        assert len(synthetic) == 8
    assert {crop.split for crop in mixed.crops} == {"train"}
    assert len(mixed.images(mixed.rows())) == len(own) + 16


def test_what_stands_behind_the_synthetic_crops_goes_on(
    cohort: CropsManifest, made: CropsManifest, tmp_path: Path
) -> None:
    mix(str(cohort.folder), str(made.folder), 8, str(tmp_path / "mixed"))
    ledger = require_ledger(tmp_path / "mixed", CropsManifest.read(tmp_path / "mixed").sha256)
    (access,) = ledger.accesses
    assert (access.stage, access.cohort.dataset) == ("A generator", "phantom-archive")


def test_a_folder_with_patients_releases_nothing(
    cohort: CropsManifest, make_cohort: Callable[..., CropsManifest], tmp_path: Path
) -> None:
    phantoms = make_cohort("phantoms", origin="phantom", crops=60, seed=3)
    mix(str(cohort.folder), str(phantoms.folder), 8, str(tmp_path / "mixed"))
    said = (tmp_path / "mixed" / "PRIVACY.md").read_text()
    assert "Released" not in said
    assert NO_RELEASE in said
    assert NO_PATIENTS not in said
    assert read_statement(tmp_path / "mixed")["summary"] == NO_RELEASE
    assert "this folder is not to be released" in said


def test_verify_accepts_mixed_crops_and_sees_a_forged_one(
    cohort: CropsManifest, make_cohort: Callable[..., CropsManifest], tmp_path: Path
) -> None:
    record = open_run(tmp_path / "phantoms", command="prepare phantoms", config={}, inputs={})
    phantoms = make_cohort("phantoms", origin="phantom", crops=60, seed=3)
    write_data_statement(record)
    close_run(record)
    mix(str(cohort.folder), str(phantoms.folder), 8, str(tmp_path / "mixed"))
    assert not verified(tmp_path / "mixed").findings.found
    statement = tmp_path / "mixed" / "privacy.json"
    statement.write_text(statement.read_text().replace("set by hand", "not set"))
    assert verified(tmp_path / "mixed").findings.found


def test_too_few_synthetic_crops_are_refused(
    cohort: CropsManifest, make_cohort: Callable[..., CropsManifest], tmp_path: Path
) -> None:
    few = make_cohort("few", origin="phantom", crops=6)
    with pytest.raises(BenchmarkError, match="lacks 10 synthetic"):
        mix(str(cohort.folder), str(few.folder), 8, str(tmp_path / "mixed"))
