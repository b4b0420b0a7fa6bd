# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest

from mammo_dp.report.collect import ReportError, collect
from mammo_dp.report.sentences import choose, facts, featured, lead
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
