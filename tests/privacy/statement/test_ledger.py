import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from itertools import permutations
from typing import Any

import pytest

from data_prep.manifest import CropsManifest, Unit
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.cohort import Cohort, CohortEvidence, CropMark
from mammo_dp.privacy.statement.guarantee import taken_together
from mammo_dp.privacy.statement.ledger import Access, Met, PrivacyLedger, PublicData

DELTA = 1e-3
GAUSSIAN = Mechanism(noise_multiplier=1 / 1.043, sampling_rate=1.0, steps=1)
OTHER = Mechanism(noise_multiplier=4.0, sampling_rate=0.5, steps=20)


def cohort_of(
    *patients: str, dataset: str = "a", crops: int = 0, images: Mapping[str, str] | None = None
) -> Cohort:
    """Patients with one crop each in the evidence, named as they are but for those in ``images``.

    ``crops`` is public, where crops are drawn.
    """
    named = {p: p for p in patients} | dict(images or {})
    marks = {
        p: (CropMark(exact=name, near=sha256(name.encode()).hexdigest()),)
        for p, name in named.items()
    }
    return Cohort(
        tag=dataset + "".join(patients),
        dataset=dataset,
        split="train",
        patients=patients,
        key_id="k",
        crops=crops,
        private=CohortEvidence(manifest_sha256="", crops_of_patients=(), pixels=marks),
    )


def access(
    stage: str, cohort: Cohort, mechanism: Mechanism | None = GAUSSIAN, **values: Any
) -> Access:
    released: str = values.pop("released", stage)
    return Access(stage=stage, cohort=cohort, mechanism=mechanism, released=released, **values)


def test_stages_say_whom_of_another_cohort_they_saw() -> None:
    private, plain = access("A", cohort_of("p", "q")), access("B", cohort_of("r"), None)
    unknown = Access.of_unknown("C", "")
    ledger = PrivacyLedger().plus(private, plain, unknown)
    for asked, words, patients in (
        (cohort_of("q", "s", "t"), "A was trained on some of these patients.", {"q"}),
        (cohort_of("q", "r"), "A was trained on some of these patients. B was", {"q", "r"}),
        (cohort_of("p", "q"), "A was trained on these patients.", {"p", "q"}),
        (cohort_of("s", images={"s": "p"}), "A was trained on these patients.", {"s"}),
        (cohort_of("s"), "", set()),
    ):
        met = ledger.met(asked)
        assert met.surely.startswith(words)
        assert bool(met.surely) == bool(words)
        assert met.patients == frozenset(patients)
        assert met.perhaps == "It is unknown whose data C used."
    assert ledger.met(cohort_of()) == Met()


def test_public_weights_of_a_data_set_of_that_name_may_have_seen_its_patients() -> None:
    public = PublicData(source="x.pth", data="INbreast", licence="theirs", sha256="0" * 64)
    ledger = PrivacyLedger(public=(public,))
    assert (
        "may mean these patients' data set"
        in ledger.met(cohort_of("p", dataset="inbreast")).perhaps
    )
    assert ledger.met(cohort_of("p", dataset="bcdr")) == Met()


def test_stages_on_the_same_patients_compose() -> None:
    cohort = cohort_of("p", "q")
    ledger = PrivacyLedger().plus(access("gan", cohort), access("classifier", cohort, OTHER))
    (statement,) = ledger.statements(DELTA, released="classifier")
    expected = compose([GAUSSIAN, OTHER])
    assert statement.epsilon == pytest.approx(expected.epsilon(DELTA))
    assert statement.composed == (("gan", GAUSSIAN), ("classifier", OTHER))
    assert statement.own == OTHER
    assert statement.guarantee.epsilon_rdp >= statement.epsilon
    assert statement.patient is None
    assert statement.by_crops == ()
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
    assert exposed.because == "MCGAN was trained on some of these patients without DP."
    assert exposed.guarantee.risk.advantage == 1
    assert exposed.guarantee.risk.reconstruction_robustness == {1 / 3: 1.0}
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


def of_crops(mechanism: Mechanism, crops: int) -> Mechanism:
    return replace(mechanism, crops_of_unit=crops)


@pytest.mark.slow
def test_crops_get_their_number_and_patients_theirs_beside_it() -> None:
    cohort = cohort_of("p", "q", "r", crops=9)
    ledger = PrivacyLedger().plus(access("fit", cohort, OTHER, unit="crop", crops_per_patient=6))
    (statement,) = ledger.statements(DELTA, released="fit")
    exact = {n: compose([of_crops(OTHER, n)]).epsilon(DELTA) for n in range(1, 7)}
    assert statement.unit == "crop"
    assert statement.epsilon == exact[1]
    assert statement.patient is not None
    assert (statement.patient.unit, statement.patient.epsilon) == ("patient", exact[6])
    assert statement.by_crops == tuple(exact.items())  # nothing of what the patients have
    assert statement.patient.risk.advantage > statement.guarantee.risk.advantage
    assert list(statement.guarantee.risk.reconstruction_robustness) == [1 / 9]
    assert list(statement.patient.risk.reconstruction_robustness) == [1 / 3]
    for phrase in (
        f"epsilon = {exact[1]:.4g} at delta = 0.001 for each crop of a/train (9 crops), ",
        f"; epsilon = {exact[6]:.4g} at delta = 0.001 for each patient of a/train (3 patients, "
        "up to 6 crops each), zero-out, by PLD",
    ):
        assert phrase in statement.sentence
    stored = statement.as_json()
    assert (stored["units"], stored["units_patient"], stored["crops_per_patient"]) == (9, 3, 6)
    assert (stored["epsilon"], stored["epsilon_patient"]) == (exact[1], exact[6])
    assert stored["risk_patient"] == statement.patient.risk.as_json()
    assert stored["epsilon_by_crops"][-1] == {"crops": 6, "epsilon": exact[6]}
    assert "drew and clipped each crop alone" in stored["because_patient"]


@pytest.mark.parametrize("first", [1, 3])
def test_folders_with_other_crops_of_the_same_patients_keep_what_each_declared(first: int) -> None:
    cohort, most = cohort_of("p", "q", "r"), {1: 3, 3: 1}
    stages = [
        access(name, cohort, OTHER, unit="crop", crops_per_patient=crops)
        for name, crops in (("one", first), ("other", most[first]))
    ]
    (statement,) = PrivacyLedger().plus(*stages).statements(DELTA)
    (alone,) = PrivacyLedger().plus(stages[first == 1]).statements(DELTA)
    assert statement.patient is not None
    assert alone.patient is not None
    exact = compose([of_crops(OTHER, 1), of_crops(OTHER, 3)]).epsilon(DELTA)
    assert statement.patient.epsilon == pytest.approx(exact)
    assert exact > alone.patient.epsilon
    assert statement.crops_per_patient == 3
    assert dict(statement.by_crops) == pytest.approx(
        {
            1: compose([OTHER, OTHER]).epsilon(DELTA),
            2: compose([OTHER, of_crops(OTHER, 2)]).epsilon(DELTA),
            3: exact,
        }
    )


def test_mixed_units_compose_exactly_per_patient() -> None:
    cohort = cohort_of("p", "q", "r", crops=8)
    ledger = PrivacyLedger().plus(
        access("gan", cohort, OTHER, unit="crop", crops_per_patient=4),
        access("classifier", cohort, unit="patient"),
    )
    (statement,) = ledger.statements(DELTA)
    assert (statement.unit, statement.patient) == ("patient", None)
    exact = compose([of_crops(OTHER, 4), GAUSSIAN]).epsilon(DELTA)
    assert statement.epsilon == exact
    assert statement.by_crops[0] == (1, compose([OTHER, GAUSSIAN]).epsilon(DELTA))
    assert statement.by_crops[0][1] < statement.by_crops[1][1] < exact
    assert statement.by_crops[-1] == (4, exact)
    assert "for each patient of a/train (3 patients)" in statement.sentence
    assert "gan drew and clipped each crop alone" in statement.because
    assert statement.composed == (("gan", of_crops(OTHER, 4)), ("classifier", GAUSSIAN))


def test_a_patients_statement_shows_its_own_stage_as_it_acts_on_a_patient() -> None:
    cohort = cohort_of("p", "q", "r", crops=8)
    ledger = PrivacyLedger().plus(
        access("gan", cohort, unit="patient"),
        access("fit", cohort, OTHER, unit="crop", crops_per_patient=4),
    )
    (statement,) = ledger.statements(DELTA, released="fit")
    assert statement.own == of_crops(OTHER, 4)
    assert statement.as_json()["crops_of_unit"] == 4


def test_over_disjoint_cohorts_the_largest_epsilon_holds() -> None:
    private = [access("a", cohort_of("p", "q")), access("b", cohort_of("r", "s"), OTHER)]
    statements = PrivacyLedger().plus(*private).statements(DELTA)
    largest = max(statement.epsilon for statement in statements)
    assert taken_together(statements).startswith(
        f"Taken together, epsilon = {largest:.4g} at delta = 0.001 for each patient of these 2"
    )
    assert taken_together(statements[:1]) == ""
    open_stage = access("MCGAN", cohort_of("x", dataset="b"), None)
    statements = PrivacyLedger().plus(*private, open_stage).statements(DELTA)
    assert "some patients of these 3 cohorts have no guarantee" in taken_together(statements)


@pytest.mark.slow
def test_patients_shared_with_another_cohort_may_have_its_most_crops() -> None:
    mine, others = cohort_of("p", "q"), cohort_of("q", "r", dataset="b")
    ledger = PrivacyLedger().plus(
        access("fit", mine, OTHER, unit="crop", crops_per_patient=2),
        access("other", others, OTHER, unit="crop", crops_per_patient=4),
    )
    first, second = ledger.statements(DELTA)
    exact = compose([of_crops(OTHER, 2), of_crops(OTHER, 4)]).epsilon(DELTA)
    assert first.patient is not None
    assert second.patient is not None
    assert first.patient.epsilon == exact
    assert second.patient.epsilon == pytest.approx(exact)
    assert [crops for crops, _ in second.by_crops] == [1, 2, 3, 4]


def test_undeclared_crops_leave_patients_without_a_guarantee() -> None:
    cohort = cohort_of("p", "q")
    ledger = PrivacyLedger().plus(access("fit", cohort, OTHER, unit="crop"))
    (statement,) = ledger.statements(DELTA)
    assert statement.epsilon == compose([OTHER]).epsilon(DELTA)
    assert statement.patient is not None
    assert math.isinf(statement.patient.epsilon)
    assert statement.patient.risk.advantage == 1.0
    assert statement.by_crops == ()
    assert statement.as_json()["epsilon_patient"] == "infinity"
    assert (
        "; no guarantee, epsilon = infinity, for each patient of a/train (2 patients): "
        "fit drew each crop of a/train alone, and how many crops one patient has at most was not "
        "declared (crops_per_patient)."
    ) in statement.sentence
    mixed = ledger.plus(access("classifier", cohort))
    (statement,) = mixed.statements(DELTA)
    assert statement.unit == "patient"
    assert math.isinf(statement.epsilon)


def test_what_protects_no_crop_protects_no_patient() -> None:
    cohort = cohort_of("p", "q")
    ledger = PrivacyLedger().plus(
        access("gan", cohort, None), access("fit", cohort, OTHER, unit="crop")
    )
    (statement,) = ledger.statements(DELTA)
    assert statement.patient is not None
    assert math.isinf(statement.epsilon)
    assert math.isinf(statement.patient.epsilon)
    assert statement.patient.because == "gan was trained on these patients without DP."


@pytest.mark.parametrize("unit", ["patient", "crop"])
@pytest.mark.parametrize("mechanism", [GAUSSIAN, None])
def test_statement_always_prints_its_unit(unit: str, mechanism: Mechanism | None) -> None:
    ledger = PrivacyLedger().plus(access("fit", cohort_of("p", "q"), mechanism, unit=unit))
    (statement,) = ledger.statements(DELTA)
    assert f"for each {statement.unit} of a/train (" in statement.sentence
    if mechanism is not None:
        assert statement.unit == unit
        assert "zero-out, by PLD" in statement.sentence
        assert f"delta = {DELTA:g}" in statement.sentence


def test_delta_must_stay_below_one_over_units() -> None:
    ledger = PrivacyLedger().plus(access("fit", cohort_of("p", "q")))
    with pytest.raises(PrivacyError, match=r"delta=0.5 is not below 1/2"):
        ledger.statements(0.5)
    ledger = PrivacyLedger().plus(access("fit", cohort_of("p", "q", crops=4), unit="crop"))
    with pytest.raises(PrivacyError, match=r"delta=0.3 is not below 1/4.*crops"):
        ledger.statements(0.3)
    mixed = ledger.plus(access("gan", cohort_of("p", "q")))
    assert mixed.statements(0.3)  # no number of crops is stated


def test_accesses_survive_json(cohort: CropsManifest) -> None:
    for mechanism in (OTHER, None):
        before = Access.of_training(
            "fit",
            cohort,
            "train",
            unit="crop",
            mechanism=mechanism,
            released="f",
            note="n",
            public_size=20,
            crops_per_patient=5,
        )
        assert Access.from_json(before.as_json()) == before


def test_one_true_divisor_leaves_zero_out_for_all() -> None:
    cohort = cohort_of("p", "q")
    constant = access("gan", cohort, public_size=600)
    (alone,) = PrivacyLedger().plus(constant).statements(DELTA)
    (true,) = PrivacyLedger().plus(access("gan", cohort)).statements(DELTA)
    assert (alone.adjacency, true.adjacency) == ("add-or-remove", "zero-out")
    assert alone.epsilon == true.epsilon  # one account
    both = PrivacyLedger().plus(constant, access("classifier", cohort, OTHER))
    (statement,) = both.statements(DELTA)
    assert statement.adjacency == statement.as_json()["adjacency"] == "zero-out"
    assert statement.guarantee.units == 2
    larger = access("classifier", cohort, OTHER, public_size=700)
    (statement,) = PrivacyLedger().plus(constant, larger).statements(DELTA)
    assert (statement.adjacency, statement.guarantee.units) == ("add-or-remove", 700)


def test_a_stage_on_some_of_the_patients_counts_for_the_adjacency() -> None:
    mine, others = cohort_of("p", "q"), cohort_of("q", "r", dataset="b")
    for size, expected in ((40, "add-or-remove"), (None, "zero-out")):
        ledger = PrivacyLedger().plus(
            access("gan", mine, public_size=30), access("fit", others, OTHER, public_size=size)
        )
        assert {s.adjacency for s in ledger.statements(DELTA)} == {expected}
    apart = cohort_of("x", "y", dataset="c")
    ledger = PrivacyLedger().plus(access("gan", mine, public_size=30), access("fit", apart, OTHER))
    first, second = ledger.statements(DELTA)
    assert (first.adjacency, second.adjacency) == ("add-or-remove", "zero-out")
    assert ", zero-out, by PLD" in taken_together([first, second])
    assert ", add-or-remove, by PLD" in taken_together([first, first])


@pytest.mark.parametrize("unit", ["patient", "crop"])
def test_a_declared_size_takes_the_place_of_the_true_one(unit: str) -> None:
    """Two cohorts, one without its last patient: nothing but their own keyed names differs."""
    found = []
    for patients in (("p", "q", "r"), ("p", "q")):
        cohort = cohort_of(*patients)
        fit = access("fit", cohort, OTHER, unit=unit, public_size=50, crops_per_patient=5)
        (statement,) = PrivacyLedger().plus(fit).statements(DELTA)
        stored = statement.as_json()
        assert stored.pop("cohort") == cohort.tag
        found.append((statement.sentence, stored))
    assert found[0] == found[1]
    sentence, stored = found[0]
    assert (stored["units"], stored["adjacency"]) == (50, "add-or-remove")
    assert f"(50 {unit}s, declared), add-or-remove, by PLD" in sentence
    if unit == "crop":  # how many patients there are was not declared
        assert stored["units_patient"] is None
        assert "(number unknown, up to 5 crops each)" in sentence


def test_delta_is_held_against_the_declared_size() -> None:
    ledger = PrivacyLedger().plus(access("fit", cohort_of("p", "q"), public_size=2000))
    with pytest.raises(PrivacyError, match=r"delta=0.001 is not below 1/2000"):
        ledger.statements(DELTA)


def test_delta_is_held_against_the_true_number_where_it_is_known() -> None:
    """Also of patients who are in another stage of the lineage than the one that is stated now."""
    four = cohort_of(*"pqrs")
    assert four.private is not None
    four = replace(four, private=replace(four.private, crops_of_patients=((5, 4),)))
    of_patients = access("fit", four, public_size=2)
    of_crops = access("fit", four, unit="crop", crops_per_patient=5, public_size=2)
    others = access("later", cohort_of("x", dataset="other"), OTHER, public_size=1)
    for private, delta, message in (
        (of_patients, 0.4, "delta=0.4 is not below 1/4"),
        (of_crops, 0.1, "delta=0.1 is not below 1/20"),
    ):
        with pytest.raises(PrivacyError, match=message):
            PrivacyLedger().plus(private, others).statements(delta)
    assert PrivacyLedger().plus(of_patients, others).statements(0.2)


def test_how_many_crops_patients_have_changes_no_byte_of_a_statement() -> None:
    """Zero-out: the same patients, one of them with fewer crops."""
    found = []
    for most in (2, 5):
        cohort = cohort_of("p", "q", "r")
        assert cohort.private is not None
        evidence = replace(cohort.private, crops_of_patients=((most, 3),))
        cohort = replace(cohort, private=evidence)
        fit = access("fit", cohort, OTHER)
        (statement,) = PrivacyLedger().plus(fit).statements(DELTA)
        found.append((statement.sentence, statement.as_json()))
    assert found[0] == found[1]


# Patient p has one image in one folder and another in the next, which a clinic has as its q's.
OURS = cohort_of("p", "x")
OURS_TOO = cohort_of("p", "x", images={"p": "second"})
THEIRS = cohort_of("q", dataset="b", images={"q": "second"})
SOME_OF_OURS = cohort_of("p", "y", images={"p": "third"})


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_a_person_is_known_by_the_crops_of_every_folder(order: Sequence[int]) -> None:
    stages = [access("a", OURS), access("b", OURS_TOO), access("clinic", THEIRS, None)]
    ledger = PrivacyLedger(accesses=tuple(stages[i] for i in order))
    assert all(math.isinf(statement.epsilon) for statement in ledger.statements(DELTA))
    read = PrivacyLedger.joined(PrivacyLedger(), [without_evidence(ledger)])
    assert all(math.isinf(statement.epsilon) for statement in read.statements(DELTA))


@pytest.mark.parametrize("order", [*permutations(range(3))])
def test_a_person_is_known_by_way_of_other_cohorts(order: Sequence[int]) -> None:
    stages = [access("b", OURS_TOO), access("c", SOME_OF_OURS), access("clinic", THEIRS, None)]
    ledger = PrivacyLedger(accesses=tuple(stages[i] for i in order))
    said = {s.cohort.tag: s.because for s in ledger.statements(DELTA)}
    assert "clinic was trained on some of these patients without DP." in said["apy"]
    assert all(math.isinf(statement.epsilon) for statement in ledger.statements(DELTA))
    copies = replace(THEIRS, tag="", patients=None)  # of an imported set
    marks = {"": [mark for _, mark in THEIRS.private.marks()]}  # type: ignore[union-attr]
    copies = replace(copies, private=CohortEvidence.from_json(evidence_of(marks)))
    imported = PrivacyLedger(accesses=(access("gan", copies, None), *stages[:2]))
    assert all(math.isinf(statement.epsilon) for statement in imported.statements(DELTA))


def evidence_of(marks: Mapping[str, Sequence[CropMark]]) -> dict[str, Any]:
    pixels = {patient: [[m.exact, m.near] for m in found] for patient, found in marks.items()}
    return {"manifest_sha256": "", "crops_of_patients": [], "pixels": pixels}


def without_evidence(ledger: PrivacyLedger) -> PrivacyLedger:
    """As it is read from a folder that was shared."""
    shared = [Access.from_json(access.as_json()) for access in ledger.accesses]
    return replace(ledger, accesses=tuple(shared), compared=ledger.comparisons)


def test_several_patients_who_are_one_person_are_accounted_for_each() -> None:
    """A clinic has as one patient, and with both crops, whom we have as two."""
    one = replace(cohort_of("n", "x", dataset="b"), private=None)
    images = [CropMark(exact=p, near=sha256(p.encode()).hexdigest()) for p in ("p", "q")]
    one = one.with_evidence(CohortEvidence.from_json(evidence_of({"n": images, "x": []})))
    ours = access("ours", cohort_of("p", "q"), OTHER)
    clinic = access("clinic", one, GAUSSIAN)
    true = compose([of_crops(OTHER, 2), GAUSSIAN]).epsilon(DELTA)
    for accesses in ((ours, clinic), (clinic, ours)):
        ledger = PrivacyLedger(accesses=accesses)
        for known in (ledger, PrivacyLedger().joined([without_evidence(ledger)])):
            for statement in known.statements(DELTA):
                assert statement.epsilon == pytest.approx(true)
                assert "several patients of ours are one person" in statement.because
    by_crop = replace(ours, unit="crop", crops_per_patient=3)
    for statement in PrivacyLedger(accesses=(by_crop, clinic)).statements(DELTA):
        expected = compose([of_crops(OTHER, 6), GAUSSIAN]).epsilon(DELTA)
        assert statement.guarantees[-1].epsilon == pytest.approx(expected)
    (alone,) = PrivacyLedger(accesses=(ours,)).statements(DELTA)  # nobody knows
    assert alone.epsilon == pytest.approx(compose([OTHER]).epsilon(DELTA))


def test_what_was_compared_without_a_third_says_nothing_of_what_it_joins() -> None:
    """A person is p here, q there, and one who knows both comes when their crops are gone."""
    p, q = access("p", cohort_of("p", dataset="a")), access("q", cohort_of("q", dataset="b"))
    images = [CropMark(exact=p, near=sha256(p.encode()).hexdigest()) for p in ("p", "q")]
    joins = cohort_of("r", dataset="c").with_evidence(
        CohortEvidence.from_json(evidence_of({"r": images}))
    )
    r = access("r", joins)
    apart, thrice = PrivacyLedger(accesses=(p, q)), compose([GAUSSIAN] * 3).epsilon(DELTA)
    for statement in without_evidence(apart).plus(r).statements(DELTA):
        assert statement.epsilon == pytest.approx(thrice)
    pairs = [PrivacyLedger(accesses=pair) for pair in ((p, q), (p, r), (q, r))]
    for statement in PrivacyLedger().joined(map(without_evidence, pairs)).statements(DELTA):
        assert statement.epsilon == pytest.approx(thrice)
    # Who are not one person, and were compared with the third, stay apart.
    both = cohort_of("p", "q", dataset="c")
    hub = access("hub", Cohort.unknown("a"), None)  # meets p alone
    whole = PrivacyLedger(accesses=(p, q, access("both", both)))
    for known in (
        whole,
        without_evidence(whole),
        PrivacyLedger().joined([without_evidence(whole)]),
    ):
        assert "p was" not in known.plus(hub).statements(DELTA)[1].because
        found = [statement.epsilon for statement in known.statements(DELTA)]
        twice = compose([GAUSSIAN] * 2).epsilon(DELTA)
        assert found == pytest.approx([twice, twice, thrice])


def person(*images: str, dataset: str) -> Access:
    """A fit on one patient with these images."""
    marks = [CropMark(exact=i, near=sha256(i.encode()).hexdigest()) for i in images]
    evidence = CohortEvidence.from_json(evidence_of({dataset: marks}))
    return access(dataset, cohort_of(dataset, dataset=dataset).with_evidence(evidence))


def test_a_chain_that_was_compared_in_parts_is_not_known() -> None:
    i, j = person("0", dataset="i"), person("2", dataset="j")
    k, m = person("1", "2", dataset="k"), person("0", "1", dataset="m")
    parts = [(i, m, k), (i, k, j), (m, k, j), (i, m, j)]
    shared = [without_evidence(PrivacyLedger(accesses=part)) for part in parts]
    whole = PrivacyLedger(accesses=(i, m, k, j))
    expected = compose([GAUSSIAN] * 4).epsilon(DELTA)
    for ledger in (whole, without_evidence(whole), PrivacyLedger().joined(shared)):
        found = [statement.epsilon for statement in ledger.statements(DELTA)]
        assert found == pytest.approx([expected] * 4)


def test_that_several_are_one_person_holds_for_each_use_of_them() -> None:
    one = person("p", "q", dataset="n")
    ours = cohort_of("p", "q")
    first = PrivacyLedger(accesses=(access("first", ours, OTHER), one))
    again = PrivacyLedger(accesses=(access("again", ours, OTHER),))
    more = PrivacyLedger(accesses=(access("more", cohort_of("p", "q", "w"), OTHER),))
    known = PrivacyLedger().joined([first, again, more])
    shared = PrivacyLedger().joined([without_evidence(first), without_evidence(again), more])
    true = compose([of_crops(OTHER, 2)] * 3 + [GAUSSIAN]).epsilon(DELTA)
    for ledger in (known, shared):
        assert ledger.statements(DELTA)[0].epsilon == pytest.approx(true)


def test_delta_is_held_against_declared_crops_where_patients_are_not_declared() -> None:
    by_crop = access("a", cohort_of("p", "q"), unit="crop", crops_per_patient=1, public_size=13)
    by_patient = access("b", cohort_of("q", dataset="b"), public_size=3)
    ledger = PrivacyLedger(accesses=(by_crop, by_patient))
    assert ledger.statements(1 / 14)
    with pytest.raises(PrivacyError, match=r"1/13|13 crops"):
        ledger.statements(0.3)


def test_copies_in_an_imported_set_are_not_forgotten() -> None:
    marks = {"": [mark for _, mark in THEIRS.private.marks()]}  # type: ignore[union-attr]
    evidence = CohortEvidence.from_json(evidence_of(marks))
    bought = replace(Cohort.unknown("elsewhere"), key_id="k", private=evidence)
    gan = access("gan", bought, None)
    ours, strangers = access("ours", OURS_TOO), access("strangers", cohort_of("z", dataset="c"))
    ledger = PrivacyLedger(accesses=(gan, ours, strangers))
    for known in (ledger, without_evidence(ledger)):
        found = {s.cohort.name: s.epsilon for s in known.statements(DELTA)}
        assert [math.isinf(found[name]) for name in ("a/train", "c/train")] == [True, False]
    # Where one side lacks its crops, nothing was compared, whatever the names.
    for one, other in (
        (without_evidence(ledger).accesses[0], ours),
        (gan, without_evidence(ledger).accesses[2]),
    ):
        *_, said = PrivacyLedger(accesses=(one, other)).statements(DELTA)
        assert "could not be compared" in said.because
        assert math.isinf(said.epsilon)
    named = replace(gan, cohort=Cohort.unknown("elsewhere"))  # there never were crops of it
    *_, said = PrivacyLedger(accesses=(named, ours)).statements(DELTA)
    assert math.isfinite(said.epsilon)


def test_what_was_compared_holds_for_the_crops_that_were() -> None:
    clinic = access("clinic", THEIRS, None)
    strangers = PrivacyLedger(accesses=(access("a", OURS), clinic))
    shared = without_evidence(strangers)
    for ledger in (strangers, shared):
        assert math.isfinite(ledger.statements(DELTA)[0].epsilon)
    # The same patients, whose crops were never compared with those of the clinic.
    unseen = without_evidence(PrivacyLedger(accesses=(access("b", OURS_TOO),)))
    ours, _ = shared.joined([unseen]).statements(DELTA)
    assert "crops could not be compared, taken to be these, without DP" in ours.because
    # One who knows all crops finds out, whatever was said before.
    known = PrivacyLedger(accesses=(access("b", OURS_TOO),))
    for one, other in ((strangers, known), (known, strangers)):
        for statement in one.joined([other]).statements(DELTA):
            assert math.isinf(statement.epsilon)


def test_the_path_that_knows_the_crops_counts() -> None:
    ledger = PrivacyLedger(accesses=(access("a", OURS), access("b", cohort_of("z", dataset="c"))))
    apart = replace(without_evidence(ledger), compared={})
    assert "composed" in apart.statements(DELTA)[0].because
    for joined in (apart.joined([ledger]), ledger.joined([apart])):
        assert "composed" not in joined.statements(DELTA)[0].because


def test_an_unknown_folder_of_the_same_patients_may_hold_crops_of_others() -> None:
    """Whoever is in it, and whose crops it shares, cannot be said."""
    hidden = without_evidence(PrivacyLedger(accesses=(access("c", SOME_OF_OURS),))).accesses
    ledger = PrivacyLedger(accesses=(access("a", OURS), *hidden, access("clinic", THEIRS, None)))
    ours, *_ = ledger.statements(DELTA)
    assert "crops could not be compared" in ours.because
    assert math.isinf(ours.epsilon)


@pytest.mark.parametrize("void", ["with a fixed seed, for tests", "by a clock that stood still"])
@pytest.mark.parametrize("unit", ["patient", "crop"])
def test_a_mechanism_that_guarantees_nothing_is_infinite_whatever_its_account_says(
    void: str, unit: Unit
) -> None:
    mechanism = Mechanism(noise_multiplier=50.0, sampling_rate=1.0, steps=1)
    whose = cohort_of("x", "y")
    kept = replace(access("own", whose, mechanism), unit=unit)
    voided = replace(access("seeded", whose, mechanism), unit=unit, void=void)
    elsewhere = replace(voided, cohort=cohort_of("z", dataset="b"))
    for accesses in ((voided,), (voided, kept), (kept, voided)):
        (statement,) = PrivacyLedger(accesses=accesses).statements(1e-3)
        assert all(math.isinf(guarantee.epsilon) for guarantee in statement.guarantees)
        assert f"seeded was trained on these patients {void}." in statement.because
        assert "own" not in statement.because
        (statement,) = PrivacyLedger(accesses=accesses).statements(1e-3, released="seeded")
        assert statement.own is None  # whoever shows or bounds the last stage alone has no number
        assert math.isinf(statement.own_epsilon)
        assert statement.accountant == ""
    mine, other = PrivacyLedger(accesses=(kept, elsewhere)).statements(1e-3)
    assert math.isfinite(mine.epsilon)
    assert math.isinf(other.epsilon)
    assert Access.from_json(voided.as_json()) == voided


def test_a_delta_without_an_epsilon_is_infinite_and_says_which_would_have_one() -> None:
    mechanism = Mechanism(noise_multiplier=4.0, sampling_rate=1.0, steps=5)
    ledger = PrivacyLedger(accesses=(access("own", cohort_of("x", "y"), mechanism),))
    for delta in (1e-16, 1e-40):
        (statement,) = ledger.statements(delta)
        assert math.isinf(statement.epsilon)
        assert "Give a delta of at least 6.1e-15" in statement.sentence
    (statement,) = ledger.statements(6.1e-15)
    assert math.isfinite(statement.epsilon)
    assert "Give a delta" not in statement.because
