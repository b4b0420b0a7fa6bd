# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from dataclasses import replace

import pytest

from mammo_dp.report.collect import ReportError, Row, collect
from mammo_dp.report.sentences import choose, facts, featured, lead, summary
from mammo_dp.runs import RunInput
from tests.report.conftest import Tree

Make = Callable[..., Tree]


def test_the_page_is_about_the_best_model_with_a_guarantee_unless_one_is_named(
    make_tree: Make,
) -> None:
    rows = collect(make_tree((1, 6)).runs)
    assert choose(rows, None).name == "dp/eps6_phantom"  # the void one ranks better
    assert choose(rows, "baseline").name == "baseline"
    with pytest.raises(ReportError, match=r"release is 'x', evaluated are: baseline, dp/eps1_"):
        choose(rows, "x")


def on(row: Row, crops: str) -> Row:
    """The same numbers, said to be of other crops."""
    data = RunInput(path=f"data/{crops}", sha256=crops)
    inputs = {**row.evaluation.inputs, "data": data}
    return replace(row, evaluation=replace(row.evaluation, inputs=inputs))


def test_the_best_is_chosen_among_models_that_were_measured_on_the_same_patients(
    make_tree: Make,
) -> None:
    baseline, one, six, sixty = collect(make_tree((1, 6, 60), ("phantom",)).runs)
    rows = [baseline, one, six, on(sixty, "other")]
    assert choose([baseline, one, six, sixty], None) is sixty
    seen = replace(sixty, measured={**sixty.measured, "seen": "Its start was trained on them."})
    assert choose([baseline, one, six, seen], None) is not seen
    assert choose(rows, None) is six  # the other one has a larger AUROC, on other patients
    said = lead(six, rows, None)
    assert "largest AUROC of those with a guarantee that were measured on the same patients" in said
    assert [row.name for _, row in featured(rows, rows[3])] == [sixty.name]

    apart = [on(row, str(number)) for number, row in enumerate(rows)]
    assert choose(apart, None) is apart[1]  # the smallest epsilon
    said = lead(apart[1], apart, None)
    assert "largest AUROC" not in said
    assert "No other model with a guarantee was measured on the same patients" in said
    assert "`--release NAME`" in said


def test_without_a_guarantee_the_best_is_of_the_same_patients_too(make_tree: Make) -> None:
    rows = collect(make_tree((6,), ("gan",)).runs)
    apart = [on(row, str(number)) for number, row in enumerate(rows)]
    said = lead(apart[0], apart, None)
    assert "No model here has a guarantee. No other model was measured on the same" in said
    assert "largest AUROC" not in said
    more = [*rows, replace(apart[0], name="elsewhere")]
    said = lead(choose(more, None), more, None)
    assert "this one has the largest AUROC of those that were measured on the same" in said


def test_the_summary_calls_a_model_the_best_only_of_its_own_patients(make_tree: Make) -> None:
    tree = make_tree((6,), ("phantom",))
    baseline, six = collect(tree.runs)
    there = on(replace(six, measured={**six.measured, "auroc": {"value": 0.9}}), "other")
    text = " ".join(summary([baseline, six, there]))
    assert "reaches AUROC 0.610 [0.560, 0.660] on cohort/val." in text
    assert "reaches AUROC 0.900" in text
    assert "on other/val." in text
    assert "0.752 [0.702, 0.802] on cohort/val." in text


def test_without_any_guarantee_the_best_model_is_shown_as_such(make_tree: Make) -> None:
    rows = collect(make_tree((6,), ("gan",)).runs)
    chosen = choose(rows, None)
    assert chosen.name == "baseline"
    assert "No model here has a guarantee" in lead(chosen, rows, None)


def test_the_lead_says_what_how_well_at_what_price_and_what_was_tried(tree: Tree) -> None:
    rows = collect(tree.runs)
    text = lead(rows[1], rows, "dp/eps6_phantom")
    for words in (
        "the final weights of dp/eps6_phantom, CropClassifier, started from phantom crops",
        "AUROC 0.610 [0.560, 0.660]",
        "For each patient of phantom-archive/train, ε = 5.48 end to end (unit patient, "
        "delta 0.0001, zero-out, PLD, dp-accounting 0.6.0)",
        "The membership attack, loss-threshold, gains an advantage of",
        "where the statement allows 0.499; no attack exceeds its bound.",
    ):
        assert words in text
    assert "largest AUROC" not in text
    assert "that choice looked at patients" in lead(rows[1], rows, None)
    assert "Patients of phantom-archive/train have no guarantee" in lead(rows[2], rows, None)


def test_tiles_show_infinity_as_open_and_a_missing_attack_as_missing(tree: Tree) -> None:
    _, phantom, gan = collect(tree.runs)
    utility, guarantee, attack = facts(phantom)
    assert (utility.value, guarantee.value, guarantee.open) == ("0.610", "5.48", False)
    assert "unit patient, delta 0.0001, zero-out, PLD" in guarantee.beside
    assert "allowed: 0.499" in attack.beside
    assert (facts(gan)[1].value, facts(gan)[1].open) == ("∞", True)
    gan.__dict__["attacker"] = None
    gan.__dict__["attack"] = None
    assert facts(gan)[2].value == "none tried"
    assert "No attack was tried on it." in lead(gan, [gan], None)


def test_a_model_without_patients_costs_nothing(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    tree.test("pretrain_phantom", 0.55)
    row = next(row for row in collect(tree.runs) if row.name == "pretrain_phantom")
    assert facts(row)[1].value == "0"


def test_curves_show_the_chosen_model_and_the_best_without_guarantee(tree: Tree) -> None:
    rows = collect(tree.runs)
    assert [name for name, _ in featured(rows, rows[1])] == [
        "dp/eps6_phantom, ε 5.48 end to end",
        "baseline, no privacy",
        "dp/eps6_gan, no end-to-end guarantee",
    ]
