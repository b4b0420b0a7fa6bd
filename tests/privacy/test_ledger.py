import math
from collections.abc import Callable

import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.privacy.accounting import Mechanism, compose
from mammo_dp.privacy.cohorts import Cohort
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.ledger import Access, PrivacyLedger

DELTA = 1e-3
GAUSSIAN = Mechanism(noise_multiplier=1 / 1.043, sampling_rate=1.0, steps=1)
OTHER = Mechanism(noise_multiplier=4.0, sampling_rate=0.5, steps=20)


def cohort_of(*patients: str, dataset: str = "a") -> Cohort:
    return Cohort(
        sha256=dataset + "".join(patients),
        dataset=dataset,
        split="train",
        patients=patients,
        key_id="k",
        crops=2 * len(patients),
        crops_of_patients=((2, len(patients)),),
    )


def access(
    stage: str, cohort: Cohort, mechanism: Mechanism | None = GAUSSIAN, **values: str
) -> Access:
    released = values.pop("released", stage)
    return Access(stage=stage, cohort=cohort, mechanism=mechanism, released=released, **values)  # type: ignore[arg-type]


def test_stages_on_the_same_patients_compose() -> None:
    cohort = cohort_of("p", "q")
    ledger = PrivacyLedger().plus(access("gan", cohort), access("classifier", cohort, OTHER))
    (statement,) = ledger.statements(DELTA, released="classifier")
    expected = compose([GAUSSIAN, OTHER])
    assert statement.epsilon == pytest.approx(expected.epsilon(DELTA))
    assert statement.composed == (("gan", GAUSSIAN), ("classifier", OTHER))
    assert statement.own == OTHER
    assert statement.epsilon_rdp >= statement.epsilon
    assert "composed" in statement.because


def test_disjoint_cohorts_pay_for_their_own_stages_only() -> None:
    ledger = PrivacyLedger().plus(
        access("gan", cohort_of("p", "q")), access("classifier", cohort_of("r", "s"), OTHER)
    )
    first, second = ledger.statements(DELTA, released="classifier")
    assert first.epsilon == pytest.approx(compose([GAUSSIAN]).epsilon(DELTA))
    assert second.epsilon == pytest.approx(compose([OTHER]).epsilon(DELTA))
    assert first.own is None
    assert second.own == OTHER


def test_a_stage_without_dp_makes_epsilon_infinite_and_says_why() -> None:
    cohort, others = cohort_of("p", "q", "r"), cohort_of("x", "y", dataset="b")
    ledger = PrivacyLedger().plus(
        access("MCGAN", cohort_of("q", dataset="a"), None),
        access("classifier", cohort),
        access("other", others),
    )
    statements = {s.cohort: s for s in ledger.statements(DELTA)}
    exposed = statements[cohort]
    assert math.isinf(exposed.epsilon)
    assert exposed.because == "MCGAN was trained on 1 of these 3 patients without DP."
    assert exposed.risk.advantage == 1
    assert exposed.risk.reconstruction_robustness == {1 / 3: 1.0}
    assert exposed.as_json()["epsilon"] == exposed.as_json()["epsilon_rdp"] == "infinity"
    assert math.isfinite(statements[others].epsilon)


def test_outside_generators_count_against_the_data_set_they_name() -> None:
    cohort = cohort_of("p", "q", dataset="cbis-ddsm")
    for dataset, infinite in (("cbis-ddsm", True), ("", True), ("inbreast", False)):
        ledger = PrivacyLedger().plus(
            Access.of_unknown("medigan 00008", dataset), access("classifier", cohort)
        )
        statements = {s.cohort: s for s in ledger.statements(DELTA)}
        assert math.isinf(statements[cohort].epsilon) is infinite
        (unknown,) = [s for c, s in statements.items() if c != cohort]
        assert math.isinf(unknown.epsilon)
        assert "number unknown" in unknown.sentence


def test_phantoms_cost_nothing(make_cohort: Callable[..., CropsManifest]) -> None:
    phantoms = make_cohort(origin="phantom")
    ledger = PrivacyLedger().plus(Access.of_training("pre-training", phantoms, "train"))
    assert ledger.statements(DELTA) == []


def test_what_is_reached_on_two_paths_counts_once() -> None:
    cohort = cohort_of("p", "q")
    gan = PrivacyLedger(accesses=(access("gan", cohort),), exclusions=("weights",))
    joined = PrivacyLedger().joined([gan, gan])
    assert joined == gan
    (statement,) = joined.statements(DELTA)
    assert statement.epsilon == pytest.approx(compose([GAUSSIAN]).epsilon(DELTA))
    anonymous = PrivacyLedger(accesses=(Access(stage="x", cohort=cohort, mechanism=GAUSSIAN),))
    assert len(PrivacyLedger().joined([anonymous, anonymous]).accesses) == 2


def test_two_runs_of_equal_settings_count_twice() -> None:
    cohort = cohort_of("p", "q")
    ledger = PrivacyLedger().plus(
        access("fit", cohort, released="1"), access("fit", cohort, released="2")
    )
    (statement,) = ledger.statements(DELTA)
    assert len(statement.composed) == 2


def test_different_units_do_not_compose() -> None:
    cohort = cohort_of("p", "q")
    ledger = PrivacyLedger().plus(
        access("gan", cohort, unit="crop"), access("classifier", cohort, unit="patient")
    )
    (statement,) = ledger.statements(DELTA)
    assert math.isinf(statement.epsilon)
    assert "gan and classifier protect different units" in statement.because
    assert statement.unit == "patient"


def test_a_crop_statement_says_that_patients_have_less() -> None:
    ledger = PrivacyLedger().plus(access("fit", cohort_of("p", "q"), unit="crop"))
    (statement,) = ledger.statements(DELTA)
    assert statement.unit == "crop"
    assert statement.as_json()["units"] == 4
    assert statement.as_json()["most_crops_of_a_unit"] == 1
    assert "patient with several crops has a weaker guarantee" in statement.exclusions[0]


@pytest.mark.parametrize("unit", ["patient", "crop"])
@pytest.mark.parametrize("mechanism", [GAUSSIAN, None])
def test_statement_always_prints_its_unit(unit: str, mechanism: Mechanism | None) -> None:
    ledger = PrivacyLedger().plus(access("fit", cohort_of("p", "q"), mechanism, unit=unit))
    (statement,) = ledger.statements(DELTA)
    assert f"for each {statement.unit} of a/train (" in statement.sentence
    if mechanism is not None:
        assert statement.unit == unit
        assert "add-or-remove, by PLD" in statement.sentence
        assert f"delta = {DELTA:g}" in statement.sentence


def test_delta_must_stay_below_one_over_units() -> None:
    ledger = PrivacyLedger().plus(access("fit", cohort_of("p", "q")))
    with pytest.raises(PrivacyError, match=r"delta=0.5 is not below 1/2"):
        ledger.statements(0.5)


def test_accesses_survive_json(cohort: CropsManifest) -> None:
    for mechanism in (OTHER, None):
        before = Access.of_training(
            "fit", cohort, "train", unit="crop", mechanism=mechanism, released="f", note="n"
        )
        assert Access.from_json(before.as_json()) == before
