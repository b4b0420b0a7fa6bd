# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.benchmark.results import Cost
from mammo_dp.benchmark.spec import BenchmarkError
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.statement.document import EXCLUSIONS, ledger_of, write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.runs import file_sha256

STEPS = Mechanism(noise_multiplier=6.0, sampling_rate=1.0, steps=4)


def stated(folder: Path, cohort: CropsManifest, unit: str, mechanism: Mechanism | None) -> Path:
    weights = folder / "weights"
    weights.write_text("weights")
    access = Access.of_training(
        "A fit",
        cohort,
        "train",
        unit="crop" if unit == "crop" else "patient",
        mechanism=mechanism,
        crops_per_patient=6,
        released=file_sha256(weights),
    )
    ledger = PrivacyLedger(accesses=(access,))
    write_statement(folder, ledger, delta=1e-3, artefact=weights)
    return folder


def test_epsilon_is_that_of_the_statement_with_its_unit(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    cost = Cost.read(stated(tmp_path, cohort, "crop", STEPS))
    (entry,) = json.loads((tmp_path / "privacy.json").read_text())["statements"]
    assert (cost.unit, cost.epsilon) == ("crop", entry["epsilon"])
    assert cost.epsilon_patient == entry["epsilon_patient"] > cost.epsilon
    assert cost.advantage == entry["risk"]["advantage"]


def test_a_fit_without_privacy_has_none_and_bounds_nothing(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    cost = Cost.read(stated(tmp_path, cohort, "patient", None))
    assert cost.epsilon == float("inf")
    assert (cost.advantage, cost.tpr, cost.reconstruction) == (1, 1, 1)


def test_what_the_lineage_leaves_open_goes_with_epsilon(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    path = stated(tmp_path, cohort, "patient", STEPS) / "privacy.json"
    ledger = replace(ledger_of(json.loads(path.read_text())), exclusions=("Class weights.",))
    write_statement(tmp_path, ledger, delta=1e-3, artefact=tmp_path / "weights")
    cost = Cost.read(tmp_path)
    assert 0 < cost.epsilon < float("inf")
    assert cost.exclusions[0] == "Class weights."
    assert set(EXCLUSIONS) < set(cost.exclusions)


def test_no_patient_costs_nothing(tmp_path: Path) -> None:
    write_statement(tmp_path, PrivacyLedger())
    assert (Cost.read(tmp_path).epsilon, Cost.read(tmp_path).unit) == (0, "")


def test_a_statement_that_was_changed_or_is_about_other_weights_is_refused(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    path = stated(tmp_path, cohort, "patient", None) / "privacy.json"
    path.write_text(path.read_text().replace('"infinity"', "1.0"))
    with pytest.raises(BenchmarkError, match="seal"):
        Cost.read(tmp_path)
    (tmp_path / "weights").write_text("other weights")
    with pytest.raises(BenchmarkError, match="seal"):
        Cost.read(tmp_path)
    (tmp_path / "weights").write_text("weights")
    stated(tmp_path, cohort, "patient", None)
    (tmp_path / "weights").write_text("other weights")
    with pytest.raises(BenchmarkError, match="is not about the weights beside it"):
        Cost.read(tmp_path)
