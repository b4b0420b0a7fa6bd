import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.manifest import CropsManifest, Unit
from mammo_dp.privacy.accounting.account import Mechanism, Noisy, Selection
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.cohort import Cohort
from mammo_dp.privacy.statement.document import (
    EXCLUSIONS,
    NO_PATIENTS,
    read_statement,
    read_statements,
    write_statement,
)
from mammo_dp.privacy.statement.guarantee import PrivacyStatement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger, PublicData
from mammo_dp.privacy.statement.lineage import data_ledger
from mammo_dp.runs import file_sha256, open_run

MECHANISM = Mechanism(noise_multiplier=2.0, sampling_rate=0.5, steps=10, clipping_norm=0.7)


def run_folder(
    folder: Path, manifest: CropsManifest, mechanism: Mechanism | None = MECHANISM
) -> Path:
    """A fit's folder with weights and statement."""
    record = open_run(folder, command="fit", config={"at": str(folder)}, inputs={}, seed=1)
    weights = record.folder / "last.ckpt"
    weights.write_text(str(folder))
    released = file_sha256(weights)
    ledger = PrivacyLedger().plus(
        Access.of_training("fit", manifest, "train", mechanism=mechanism, released=released)
    )
    write_statement(record.folder, ledger, delta=1e-3, artefact=weights, precision="32-true")
    return weights


def test_statement_holds_every_field(tmp_path: Path, cohort: CropsManifest) -> None:
    weights = run_folder(tmp_path / "run", cohort)
    stored = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert stored["schema"] == 3
    assert stored["artefact"] == {"path": "last.ckpt", "sha256": file_sha256(weights)}
    (statement,) = stored["statements"]
    assert statement["cohort"] == Cohort.of_manifest(cohort, "train").tag
    assert statement["own"]
    assert statement["cohort_name"] == "phantom-archive/train"
    assert (statement["unit"], statement["units"], statement["delta"]) == ("patient", 4, 1e-3)
    assert 0 < statement["epsilon"] <= statement["epsilon_rdp"]
    assert statement["adjacency"] == "zero-out"
    assert statement["accountant"].startswith("PLD, dp-accounting ")
    assert statement["mechanisms"] == [{**MECHANISM.as_json(), "stage": "fit"}]
    assert (statement["noise_multiplier"], statement["sampling_rate"], statement["steps"]) == (
        2.0,
        0.5,
        10,
    )
    assert set(statement["risk"]["tpr_at_fpr"]) == {"0.001", "0.01", "0.1"}
    assert list(statement["risk"]["reconstruction_robustness"]) == ["0.25"]
    assert "10 noisy steps" in statement["because"]
    assert statement["covers"]
    assert set(EXCLUSIONS) <= set(stored["exclusions"])
    assert stored["precision"] == "32-true"
    assert stored["accesses"][0]["mechanism"] == MECHANISM.as_json()
    assert f"{statement['epsilon']:.4g}" in stored["summary"]


def test_text_prints_each_epsilon_with_unit_delta_adjacency_and_accountant(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    run_folder(tmp_path / "run", cohort)
    text = (tmp_path / "run" / "PRIVACY.md").read_text()
    assert "epsilon = " in text
    for line in text.splitlines():
        if "epsilon = " in line:
            assert "per patient" in line or "for each patient" in line
            assert "delta" in line
            assert "by PLD, dp-accounting" in line or "Renyi" in line
    for exclusion in EXCLUSIONS:
        assert exclusion in text
    for crop in cohort.crops:
        assert crop.patient_id not in text


def test_crops_and_patients_stand_side_by_side(tmp_path: Path, cohort: CropsManifest) -> None:
    ledger = PrivacyLedger().plus(
        Access.of_training(
            "fit", cohort, "train", unit="crop", mechanism=MECHANISM, crops_per_patient=6
        )
    )
    write_statement(tmp_path, ledger, delta=1e-3)
    stored = json.loads((tmp_path / "privacy.json").read_text())
    (statement,) = stored["statements"]
    text = (tmp_path / "PRIVACY.md").read_text()
    assert 0 < statement["epsilon"] < statement["epsilon_patient"]
    assert "## phantom-archive/train, per crop and per patient" in text
    both = [line for line in text.splitlines() if "for each crop" in line]
    assert both
    assert all("for each patient" in line for line in both)
    for unit in ("crop", "patient"):
        assert text.count(f"Had the data of any one {unit}") == 1
        assert text.count(f"who knows all other {unit}s and how many there are, and") == 1
    assert "Declared largest number of crops of one patient: 6." in text
    for row in statement["epsilon_by_crops"]:
        assert f"| {row['crops']} | {row['epsilon']:.4g} |" in text
    assert [row["crops"] for row in statement["epsilon_by_crops"]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("size", [None, 600])
def test_words_are_those_of_the_adjacency(
    size: int | None, tmp_path: Path, cohort: CropsManifest
) -> None:
    fit = Access.of_training("fit", cohort, "train", mechanism=MECHANISM, public_size=size)
    write_statement(tmp_path, PrivacyLedger().plus(fit), delta=1e-3)
    text = (tmp_path / "PRIVACY.md").read_text()
    zero_out = (
        "zero-out, by PLD",
        "Had the data of any one patient with all crops, views and labels been blanked, their "
        "number being the same and public, every outcome",
        "an attacker who knows all other patients and how many there are, and the release",
    )
    present = (
        "add-or-remove, by PLD",
        "Had any one patient with all crops, views and labels been absent, every outcome",
        "an attacker who knows all other patients, and the release",
    )
    said, unsaid = (zero_out, present) if size is None else (present, zero_out)
    for phrase in said:
        assert phrase in text
    for phrase in unsaid:
        assert phrase not in text


def test_infinity_is_said_in_words(tmp_path: Path, cohort: CropsManifest) -> None:
    run_folder(tmp_path / "run", cohort, None)
    stored = json.loads((tmp_path / "run" / "privacy.json").read_text())
    (statement,) = stored["statements"]
    assert statement["epsilon"] == "infinity"
    assert statement["steps"] is None
    assert "fit was trained on these patients without DP." in stored["summary"]
    text = (tmp_path / "run" / "PRIVACY.md").read_text()
    assert "No guarantee, epsilon = infinity, for each patient" in text
    assert "Nothing bounds" in text


def test_phantoms_need_no_statement(
    tmp_path: Path, make_cohort: Callable[..., CropsManifest]
) -> None:
    run_folder(tmp_path / "run", make_cohort(origin="phantom"))
    stored = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert stored["summary"] == NO_PATIENTS
    assert stored["statements"] == stored["accesses"] == []
    assert NO_PATIENTS in (tmp_path / "run" / "PRIVACY.md").read_text()
    outside = ("Code that is no part of mammo_dp took part in a fit (mine.Data).",)
    weights = tmp_path / "run" / "weights"
    weights.write_text("x")
    write_statement(tmp_path / "run", PrivacyLedger(exclusions=outside), artefact=weights)
    summary = json.loads((tmp_path / "run" / "privacy.json").read_text())["summary"]
    assert summary.startswith("No patient data was used, if code from outside")


def test_what_initial_weights_were_trained_on_stands_beside_no_patient(
    tmp_path: Path, make_cohort: Callable[..., CropsManifest]
) -> None:
    """They may be patients of others."""
    run_folder(tmp_path / "run", make_cohort(origin="phantom"))
    weights = tmp_path / "run" / "weights"
    weights.write_text("x")
    public = PublicData(source="inbreast.pth", data="INbreast", licence="theirs", sha256="0" * 64)
    write_statement(tmp_path / "run", PrivacyLedger(public=(public,)), artefact=weights)
    summary = json.loads((tmp_path / "run" / "privacy.json").read_text())["summary"]
    assert summary == "No patient data was used. Initial weights were trained on: INbreast."


@pytest.mark.parametrize(
    "trained_on",
    ["", "[cbis-ddsm, inbreast]", "7", "2024-99-99", "\xe4", "|\n  a\n  ## Privacy", "'<b>'"],
)
def test_a_provenance_that_names_no_data_set_is_refused(
    tmp_path: Path, make_cohort: Callable[..., CropsManifest], trained_on: str
) -> None:
    imported = make_cohort("imported", origin="synthetic:m")
    provenance = tmp_path / "from.yaml"
    provenance.write_bytes(f"generator: g\ntrained_on: {trained_on}\n".encode("latin-1"))
    record = open_run(
        tmp_path / "r",
        command="prepare synthetic_folder",
        config={},
        inputs={"provenance": provenance},
    )
    with pytest.raises(PrivacyError, match=r"is no provenance.*trained_on"):
        data_ledger(record, imported)


@pytest.mark.parametrize(
    "content", ["", "{}", '{"schema": 1}', '{"schema": 2, "accesses": []}', "[]"]
)
def test_an_unreadable_statement_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "privacy.json").write_text(content)
    with pytest.raises(PrivacyError, match=r"no readable privacy statement.*run the stage"):
        read_statement(tmp_path)


@pytest.mark.parametrize(
    ("unit", "mechanism"),
    [
        ("patient", MECHANISM),
        ("crop", MECHANISM),
        ("patient", None),
        ("patient", Selection(mechanisms=(MECHANISM,), law="logarithmic", mean=3.0)),
    ],
)
def test_statements_are_read_as_they_were_written(
    tmp_path: Path, cohort: CropsManifest, unit: Unit, mechanism: Noisy | None
) -> None:
    folder = open_run(tmp_path / "run", command="fit", config={}, inputs={}, seed=1).folder
    weights = folder / "last.ckpt"
    weights.write_text("weights")
    ledger = PrivacyLedger().plus(
        Access.of_training(
            "fit",
            cohort,
            "train",
            unit=unit,
            mechanism=mechanism,
            released=file_sha256(weights),
            crops_per_patient=9 if unit == "crop" else None,
        ),
        Access.of_unknown("a parent", ""),
    )
    write_statement(folder, ledger, delta=1e-3, artefact=weights)
    stored = json.loads((folder / "privacy.json").read_text())["statements"]
    read = read_statements(folder)
    assert len(read) == 2
    assert [statement.as_json() for statement in read] == stored
    (derived, unknown) = ledger.statements(1e-3, file_sha256(weights))
    for one, other in zip(read, (derived, unknown), strict=True):
        assert one.sentence == other.sentence
        assert (one.unit, one.epsilon, one.patient_epsilon, one.own_epsilon) == (
            other.unit,
            other.epsilon,
            other.patient_epsilon,
            other.own_epsilon,
        )
        assert one.cohort.tag == other.cohort.tag


def test_an_entry_of_another_form_is_refused() -> None:
    with pytest.raises(PrivacyError, match="read_statements"):
        PrivacyStatement.from_json({"epsilon": 3})
