import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.errors import ManifestError
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.accounting import Mechanism
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.ledger import Access, PrivacyLedger
from mammo_dp.privacy.release import data_ledger
from mammo_dp.privacy.statement import (
    EXCLUSIONS,
    NO_PATIENTS,
    collect_parents,
    read_ledger,
    write_statement,
)
from mammo_dp.runs import close_run, file_sha256, open_run

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
    assert stored["schema"] == 2
    assert stored["artefact"] == {"path": "last.ckpt", "sha256": file_sha256(weights)}
    (statement,) = stored["statements"]
    assert statement["cohort"] == cohort.sha256
    assert statement["cohort_name"] == "phantom-archive/train"
    assert (statement["unit"], statement["units"], statement["delta"]) == ("patient", 4, 1e-3)
    assert statement["crops_per_patient"] is None
    assert not {"crops", "most_crops_of_a_unit"} & set(statement)
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
    for row in statement["epsilon_by_crops"]:
        assert f"| {row['crops']} | {row['epsilon']:.4g} |" in text
    assert [row["crops"] for row in statement["epsilon_by_crops"]] == [1, 2, 3, 4, 5, 6]
    assert "Declared largest number of crops of one patient: 6." in text


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


def test_lineage_reaches_a_classifier_through_generated_crops(
    tmp_path: Path, cohort: CropsManifest, make_cohort: Callable[..., CropsManifest]
) -> None:
    gan = run_folder(tmp_path / "gan", cohort, None)
    generated = make_cohort("generated", origin=f"gan:{file_sha256(gan)}")
    write_statement(
        generated.folder, collect_parents([gan]), artefact=generated.folder / "crops.csv"
    )
    ledger = collect_parents([generated.folder, cohort.folder]).plus(
        Access.of_training("classifier", cohort, "train", mechanism=MECHANISM, released="c")
    )
    (statement,) = ledger.statements(1e-3, released="c")
    assert math.isinf(statement.epsilon)
    assert statement.because == "fit was trained on these patients without DP."
    assert statement.own == MECHANISM


def test_generated_crops_without_a_statement_are_refused(
    make_cohort: Callable[..., CropsManifest],
) -> None:
    for origin in ("gan:00", "synthetic:mcgan"):
        generated = make_cohort(origin.replace(":", "_"), origin=origin)
        with pytest.raises(PrivacyError, match=rf"crops of {origin} without privacy.json"):
            collect_parents([generated.folder])
    phantoms = make_cohort("phantoms", origin="phantom")
    assert collect_parents([phantoms.folder, phantoms.folder / "crops.csv"]) == PrivacyLedger()
    with pytest.raises(ManifestError):
        collect_parents([phantoms.folder / "images"])


def test_labels_of_a_classifier_without_a_statement_are_refused(
    make_cohort: Callable[..., CropsManifest],
) -> None:
    phantoms = make_cohort("phantoms", origin="phantom")
    judged = [replace(crop, label_source="classifier") for crop in phantoms.crops]
    CropsManifest.write(phantoms.folder, judged)
    with pytest.raises(PrivacyError, match=r"crops of phantom without privacy.json.*classifier"):
        collect_parents([phantoms.folder])


def test_crops_of_a_run_that_was_killed_are_refused(
    make_cohort: Callable[..., CropsManifest],
) -> None:
    phantoms = make_cohort("phantoms", origin="phantom").folder
    table = (phantoms / "crops.csv").read_bytes()
    record = open_run(phantoms.parent / "run", command="prepare phantoms", config={}, inputs={})
    (record.folder / "crops.csv").write_bytes(table)
    with pytest.raises(PrivacyError, match=r"is unfinished and has no privacy\.json yet"):
        collect_parents([record.folder])
    close_run(record)
    assert collect_parents([record.folder]) == PrivacyLedger()


def test_any_table_of_crops_is_asked_for_what_stands_behind_it(
    make_cohort: Callable[..., CropsManifest],
) -> None:
    generated = make_cohort("generated", origin="gan:00")
    part = (generated.folder / "crops.csv").rename(generated.folder / "part.csv")
    with pytest.raises(PrivacyError, match="crops of gan:00 without"):
        collect_parents([part])


@pytest.mark.parametrize("trained_on", ["", "[cbis-ddsm, inbreast]", "7"])
def test_a_provenance_that_names_no_data_set_is_refused(
    tmp_path: Path, make_cohort: Callable[..., CropsManifest], trained_on: str
) -> None:
    imported = make_cohort("imported", origin="synthetic:m")
    provenance = tmp_path / "from.yaml"
    provenance.write_text(f"generator: g\ntrained_on: {trained_on}\n")
    record = open_run(tmp_path / "r", command="p", config={}, inputs={"provenance": provenance})
    with pytest.raises(PrivacyError, match=r"is no provenance.*trained_on is"):
        data_ledger(record, imported)


def test_weights_from_outside_become_an_exclusion(tmp_path: Path) -> None:
    weights = tmp_path / "timm.pth"
    weights.write_text("weights")
    ledger = collect_parents([weights])
    (exclusion,) = ledger.exclusions
    assert file_sha256(weights) in exclusion
    write_statement(tmp_path, ledger)
    assert exclusion in (tmp_path / "PRIVACY.md").read_text()
    assert read_ledger(tmp_path) == ledger


def test_the_statement_beside_exported_weights_is_counted(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    run = run_folder(tmp_path / "run", cohort).parent
    export = tmp_path / "classifier"
    export.mkdir()
    for name in ("privacy.json", "PRIVACY.md"):
        shutil.copyfile(run / name, export / name)
    weights = export / "model.safetensors"
    weights.write_text("tensors")
    ledger = collect_parents([weights])
    assert ledger.accesses == read_ledger(run).accesses
    (doubt,) = ledger.exclusions
    assert file_sha256(weights) in doubt


def test_a_statement_that_does_not_fit_its_artefact_is_refused(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    weights = run_folder(tmp_path / "run", cohort)
    other = weights.with_name("resume.ckpt")
    other.write_text("other")
    with pytest.raises(PrivacyError, match=r"resume.ckpt: the statement .* is about last.ckpt"):
        collect_parents([other])
    weights.write_text("swapped")
    with pytest.raises(PrivacyError, match=r"last.ckpt: is not the file"):
        collect_parents([weights])
    weights.unlink()
    with pytest.raises(PrivacyError, match=r"last.ckpt: is not the file"):
        read_ledger(weights.parent)


@pytest.mark.parametrize("content", ["", "{}", '{"schema": 1}', "[]"])
def test_an_unreadable_statement_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "privacy.json").write_text(content)
    with pytest.raises(PrivacyError, match="no readable privacy statement"):
        read_ledger(tmp_path)


def test_a_run_that_states_nothing_releases_nothing(tmp_path: Path) -> None:
    open_run(tmp_path / "run", command="fit", config={}, inputs={}, seed=1)
    weights = tmp_path / "run" / "last.ckpt"
    weights.write_text("weights")
    with pytest.raises(PrivacyError, match="run the stage that makes the folder again"):
        collect_parents([weights])
    write_statement(tmp_path / "run", PrivacyLedger())
    with pytest.raises(PrivacyError, match="is about nothing"):
        collect_parents([weights])
