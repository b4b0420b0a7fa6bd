import stat
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.cohort import Cohort, CohortEvidence, CropMark
from mammo_dp.privacy.statement.seals import KEY_VARIABLE, cohort_key


def known(*patients: str, dataset: str = "a", key_id: str = "k") -> Cohort:
    """Patients with one crop each, told apart by their names."""
    marks = {p: (CropMark(exact=p, near=sha256(p.encode()).hexdigest()),) for p in patients}
    return Cohort(
        tag="".join(patients),
        dataset=dataset,
        split="train",
        patients=patients,
        key_id=key_id,
        private=CohortEvidence(manifest_sha256="", crops_of_patients=(), pixels=marks),
    )


def test_a_cohort_counts_patients_and_names_none(cohort: CropsManifest) -> None:
    train = Cohort.of_manifest(cohort, "train")
    rows = cohort.rows("train")
    assert train.name == "phantom-archive/train"
    assert len(train.patients or ()) == 4
    assert train.private is not None
    of_patients = train.private.crops_of_patients
    assert sum(patients for _, patients in of_patients) == 4
    assert sum(crops * patients for crops, patients in of_patients) == len(rows)
    assert Cohort.from_json(train.as_json()) == train
    for patient in {crop.patient_id for crop in cohort.crops}:
        assert patient not in str(train.as_json())


def test_hashes_depend_on_the_key_and_on_the_data_set(
    cohort: CropsManifest,
    make_cohort: Callable[..., CropsManifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = Cohort.of_manifest(cohort, "train")
    elsewhere = Cohort.of_manifest(make_cohort(origin="cbis-ddsm"), "train")
    assert not set(mine.patients or ()) & set(elsewhere.patients or ())
    monkeypatch.setenv(KEY_VARIABLE, "11" * 32)
    rekeyed = Cohort.of_manifest(cohort, "train")
    assert rekeyed.key_id != mine.key_id
    assert not set(mine.patients or ()) & set(rekeyed.patients or ())
    assert "another key" in mine.overlap(rekeyed)


def test_synthetic_crops_have_no_patients(make_cohort: Callable[..., CropsManifest]) -> None:
    phantoms = Cohort.of_manifest(make_cohort(origin="phantom"), "train")
    assert phantoms.is_empty
    assert phantoms.overlap(known("p")) == known("p").overlap(phantoms) == ""


def test_overlap_tells_all_from_some_and_counts_none() -> None:
    one = known("p", "q", "r")
    assert one.overlap(one) == "on these patients"
    assert one.overlap(known("p", "q", "r", "s")) == "on these patients"
    assert one.overlap(known("q", "x", dataset="b")) == "on some of these patients"
    assert one.overlap(known("x", "y")) == ""


def test_patients_of_data_sets_of_like_name_may_be_the_same() -> None:
    """Their identities have other names in them, and tell nothing."""
    mine = known("p", "q", dataset="cbis-ddsm")
    for other in ("ddsm", "CBIS-DDSM crops", "ddsm+inbreast"):
        assert "data set of like name" in mine.overlap(known("x", dataset=other))
    for other in ("CBIS_DDSM", "inbreast", "cbis-ddsm+inbreast"):
        assert mine.overlap(known("x", dataset=other)) == ""


def test_unknown_patients_overlap_unless_the_data_sets_are_named_and_differ() -> None:
    mine = known("p", dataset="cbis-ddsm")
    assert "taken to be these" in mine.overlap(Cohort.unknown("cbis-ddsm"))
    assert "taken to be these" in mine.overlap(Cohort.unknown(""))
    assert "taken to be these" in Cohort.unknown("inbreast+cbis-ddsm").overlap(mine)
    assert mine.overlap(Cohort.unknown("inbreast")) == ""
    spellings = ("CBIS-DDSM", "cbis_ddsm", "CBIS", "inbreast, CBIS DDSM", "?", "DDSM and MIAS")
    for spelling in (*spellings, "the public DDSM", "MIAS/DDSM (1999)"):
        assert "taken to be these" in mine.overlap(Cohort.unknown(spelling))
        assert "taken to be these" in Cohort.unknown(spelling).overlap(mine)
    assert Cohort.unknown("inbreast").patients is None
    assert Cohort.unknown("").name == "unknown data"


def test_a_key_is_made_once_and_kept_for_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    key = cohort_key()
    path = tmp_path / "mammo_dp" / "cohort.key"
    assert cohort_key() == key == bytes.fromhex(path.read_text())
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ["xyz", "00", "11" * 31])
def test_a_broken_key_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, text)
    with pytest.raises(PrivacyError, match=f"{KEY_VARIABLE}: holds no key.*64 hexadecimal"):
        cohort_key()
