# SPDX-License-Identifier: Apache-2.0
import csv
import io
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.statement.cohort import Cohort
from mammo_dp.privacy.statement.guarantee import PrivacyStatement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.report.collect import Row, collect
from mammo_dp.report.sentences import in_words, lead, summary
from mammo_dp.report.tables import (
    MAIN,
    RISK,
    caption,
    comma_separated,
    conditions,
    end_to_end,
    epsilon,
    main_cells,
    main_rows,
    markdown,
    number,
    print_table,
    risk_cells,
)
from tests.report.conftest import Tree

Make = Callable[..., Tree]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.9001, "0.901"),
        (5.48, "5.48"),
        (5.481, "5.49"),
        (6.0, "6.00"),
        (1234.0, "1240"),
        (9.999, "10.0"),
        (0.9999, "1.00"),
        (0.0, "0"),
        (math.inf, "∞"),
    ],
)
def test_a_printed_epsilon_is_never_smaller_than_the_true_one(value: float, shown: str) -> None:
    assert epsilon(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0042, "0.0042"), (0.5, "0.500"), (math.nan, "—"), (None, "—")]
)
def test_small_numbers_keep_their_digits(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_cells_have_a_column_each(tree: Tree) -> None:
    rows = collect(tree.runs)
    assert {len(main_cells(row)) for row in rows} == {len(MAIN)}
    assert {len(risk_cells(row)) for row in rows} == {len(RISK)}
    gan = dict(zip(MAIN, main_cells(rows[2]), strict=True))
    assert (gan["ε end to end"], gan["ε of this stage only"]) == ("∞", "5.49")
    assert (gan["Unit"], gan["δ"]) == ("patient", "0.0001")


def test_rows_of_several_sets_say_which_they_are_of(make_tree: Make) -> None:
    tree = make_tree()
    first = collect(tree.runs)[1]
    assert main_rows([first])[0][8] == "0.610 [0.560, 0.660]"
    second = replace(first, measured={**first.measured, "split": "test"})
    assert [cells[8] for cells in main_rows([first, second])] == [
        "0.610 [0.560, 0.660] on val",
        "0.610 [0.560, 0.660] on test",
    ]
    text = markdown([first, second])
    assert text.count("loss-threshold |") == 1  # one model, attacked once


def test_patients_who_trained_are_named_below_the_table_and_in_the_lead(make_tree: Make) -> None:
    first = collect(make_tree().runs)[1]
    said = {
        "seen": "A was trained on these patients.",
        "perhaps_seen": "Whose data B used is open.",
    }
    seen = replace(first, measured={**first.measured, **said})
    text = conditions([first, seen])
    assert text.count("no measure of new patients: A was trained on these patients.") == 1
    assert text.count("saw patients of val: Whose data B used is open.") == 1
    assert "no measure of new patients: A was trained" in lead(seen, [seen], None)
    assert "new patients" not in lead(first, [first], None) + conditions([first])


def test_conditions_of_no_epsilon_are_not_begun(make_tree: Make) -> None:
    rows = collect(make_tree(epsilons=()).runs)
    assert "Each finite ε" not in conditions(rows)


def test_a_crops_epsilon_never_stands_without_the_patients() -> None:
    cohort = Cohort(
        tag="c",
        dataset="a",
        split="train",
        patients=("p", "q"),
        crops=5,
    )
    mechanism = Mechanism(noise_multiplier=4.0, sampling_rate=0.5, steps=20)
    ledger = PrivacyLedger().plus(
        Access(
            stage="fit",
            cohort=cohort,
            unit="crop",
            mechanism=mechanism,
            released="w",
            crops_per_patient=4,
        )
    )
    (stated,) = ledger.statements(1e-3, "w")
    statement = PrivacyStatement.from_json(stated.as_json())
    assert stated.patient is not None
    assert statement.patient_epsilon == stated.patient.epsilon > 3 * stated.epsilon
    crop, patient = epsilon(stated.epsilon), epsilon(stated.patient.epsilon)
    assert end_to_end(statement) == f"{crop} per crop, {patient} per patient"
    assert f"ε = {crop} per crop, {patient} per patient end to end" in " ".join(
        in_words(statement, own=True)
    )


def test_patients_count_where_crops_are_the_unit(tree: Tree) -> None:
    """A crop has epsilon 2 and a patient none: that is no model with a guarantee."""
    row = collect(tree.runs)[1]
    beside = {f"{name}_patient": value for name, value in row.privacy["statements"][0].items()}
    row.privacy["statements"][0] |= beside | {"unit": "crop", "epsilon_patient": "infinity"}
    row.__dict__.pop("statements", None)  # read before the unit was changed
    assert math.isfinite(row.statements[0].epsilon)
    assert math.isinf(row.epsilon)
    assert row.guarantee is None
    assert "have no guarantee: ε = 5.48 per crop, ∞ per patient end" in lead(row, [row], None)
    assert "epsilon of a patient is infinity" in " ".join(summary([row]))


def test_comma_separated_values_carry_full_precision_and_all_conditions(tree: Tree) -> None:
    rows = collect(tree.runs)
    lines = list(csv.DictReader(io.StringIO(comma_separated(rows))))
    assert [line["epsilon_end_to_end"] for line in lines] == ["infinity", "5.48", "infinity"]
    for line, row in zip(lines, rows, strict=True):
        assert float(line["auroc"]) == row.metrics["auroc"].value
        assert (line["unit"], line["delta"], line["adjacency"]) == (
            "patient",
            "0.0001",
            "zero-out",
        )
        assert line["accountant"].startswith("PLD" if row.is_private else "")
        assert "learning rate" in line["excludes"]
        assert line["attack_exceeds_bound"] == "0"
        assert line["calibration_slope_low"] == ""


def test_two_cohorts_have_two_lines_and_no_single_epsilon(tree: Tree) -> None:
    row = collect(tree.runs)[1]
    other = dict(row.privacy["statements"][0]) | {
        "cohort": "e" * 64,
        "cohort_name": "other/train",
        "epsilon": 2.0,
        "noise_multiplier": None,
    }
    row.privacy["statements"].append(other)
    row.__dict__.pop("statements", None)  # read before the cohort was added
    lines = list(csv.DictReader(io.StringIO(comma_separated([row]))))
    assert [line["epsilon_end_to_end"] for line in lines] == ["5.48", "2.0"]
    assert lines[1]["epsilon_of_this_stage_only"] == ""
    assert main_cells(row)[3] == "phantom-archive/train: 5.48; other/train: 2.00"


def test_each_form_of_the_table_says_what_epsilon_holds_for(tree: Tree) -> None:
    rows = collect(tree.runs)
    console = Console(width=110, record=True, file=io.StringIO())
    print_table(rows, console)
    screen = " ".join(console.export_text().split())
    for text in (markdown(rows), screen, caption(rows)):
        for words in (
            "unit patient",
            "delta 0.0001",
            "zero-out",
            "PLD, dp-accounting",
            "No ε covers: metrics and predictions",
            "no guarantee by itself",
        ):
            assert words in text
    assert "0.610 [0.560, 0.660]" in screen


def test_no_number_is_cut_off_on_a_narrow_screen(tree: Tree) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    rows = collect(tree.runs)
    print_table(rows, console)
    text = console.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for row in main_rows(rows):  # on one line
        (line,) = (line for line in text.splitlines() if line.split()[:1] == [row[0]])
        assert all(row[place] in line for place in (3, 4, 7, 8)), row[0]


def test_unit_and_delta_have_columns_where_rows_differ_in_them(tree: Tree) -> None:
    def printed(rows: list[Row]) -> str:
        console = Console(width=110, record=True, file=io.StringIO())
        print_table(rows, console)
        return console.export_text().partition("Measured on")[0]

    rows = collect(tree.runs)
    assert "Unit" not in printed(rows)
    private = next(row for row in rows if row.own and row.own.accountant)
    private.privacy["statements"][0]["delta"] = 1e-5
    private.__dict__.pop("statements")
    assert "1e-05" in printed(rows)
    assert "Unit" in printed(rows)


def test_a_cohort_of_one_has_no_chance_among_all(make_tree: Make) -> None:
    row = collect(make_tree().runs)[1]
    row.privacy["statements"][0]["risk"]["reconstruction_robustness"] = {}
    row.__dict__.pop("statements", None)  # read before the bound was taken away
    assert risk_cells(row)[-1] == "—"


def test_a_model_without_patients_is_silent_about_them(make_tree: Make) -> None:
    tree = make_tree(epsilons=())
    tree.test("pretrain_phantom", 0.55)
    row = next(row for row in collect(tree.runs) if row.name == "pretrain_phantom")
    assert main_cells(row)[3:7] == ("0, no patient", "—", "—", "—")
    assert "finite ε holds" not in caption([row])
    assert comma_separated([row]).splitlines()[1].startswith("pretrain_phantom,")
