import json
import re
from collections.abc import Callable

import pytest

from mammo_dp.main import main

Ask = Callable[..., str]  # arguments to what is printed
SCHEDULE = ["--sampling_rate", "0.1111111", "--steps", "2700", "--delta", "1e-4"]
SHORT = ["--sampling_rate", "0.5", "--steps", "10"]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    def asked(*arguments: str, fails: bool = False) -> str:
        assert main(["privacy", *arguments]) == int(fails)
        printed = capsys.readouterr()
        return printed.err if fails else printed.out

    return asked


def test_risk_prints_json(ask: Ask) -> None:
    found = json.loads(ask("risk", "--noise_multiplier", "4.34", *SCHEDULE, "--format", "json"))
    assert found["epsilon"] == pytest.approx(5.48, rel=0.02)
    assert found["advantage"] == pytest.approx(0.498, rel=0.02)
    assert found["reconstruction_robustness"]["0.000905797"] == pytest.approx(0.039, rel=0.02)
    assert set(found["tpr_at_fpr"]) == {"0.001", "0.01", "0.1"}
    assert found["accountant"].startswith("PLD")
    assert (found["delta"], found["unit"], found["adjacency"]) == (1e-4, "patient", "zero-out")
    assert (found["noise_multiplier"], found["steps"]) == (4.34, 2700)
    assert not [name for name in found if name.endswith("_patient")]


def test_crops_add_what_patients_have_in_equal_words(ask: Ask) -> None:
    question = ["risk", "--noise_multiplier", "0.961", *SCHEDULE, "--unit", "crop"]
    question += ["--crops_per_patient", "14"]
    found = json.loads(ask(*question, "--format", "json"))
    assert (found["unit"], found["crops_per_patient"]) == ("crop", 14)
    assert found["epsilon"] == pytest.approx(56.1, rel=0.02)
    assert found["epsilon_patient"] == pytest.approx(4.9e3, rel=0.02)
    assert found["advantage_patient"] == 1.0
    assert set(found["tpr_at_fpr_patient"]) == {"0.001", "0.01", "0.1"}
    text = ask(*question)
    numbers = {"per crop": "epsilon", "per patient with 14 crops": "epsilon_patient"}
    for unit, name in numbers.items():
        line = f"{unit}: epsilon = {found[name]:.4g} at delta = 0.0001, zero-out, by PLD"
        assert line in text
    assert text.count("tells members from others") == 2


def test_crops_without_a_count_are_not_passed_off_as_patients(ask: Ask) -> None:
    text = ask("risk", "--noise_multiplier", "3", *SHORT, "--unit", "crop")
    assert "per patient: weaker for all who have several crops" in text


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (["--target_epsilon", "3"], "epsilon"),
        (["--target_advantage", "0.3"], "advantage"),
        (["--target_tpr", "0.05", "--target_fpr", "0.01"], "tpr_at_fpr"),
        (["--target_reconstruction", "0.05", "--kappa", "0.0009"], "reconstruction_robustness"),
    ],
)
def test_calibrate_prints_noise_that_holds(ask: Ask, target: list[str], name: str) -> None:
    found = json.loads(ask("calibrate", *target, *SHORT, "--format", "json"))
    spent, limit = found[name], float(target[1])
    if isinstance(spent, dict):
        spent = spent[target[3]]
    assert spent <= limit < spent * 1.01
    assert found["target"].endswith("per patient")
    again = ask("risk", "--noise_multiplier", str(found["noise_multiplier"]), *SHORT)
    assert f"epsilon = {found['epsilon']:.4g}" in again


def test_one_kappa_or_several(ask: Ask) -> None:
    defaults = ["0.000905797", "0.01", "0.1"]
    for given, added in (("0.0009", ["0.0009"]), ("[0.02, 0.5]", ["0.02", "0.5"])):
        question = ["risk", "--noise_multiplier", "3", *SHORT, "--kappa", given]
        found = json.loads(ask(*question, "--format", "json"))["reconstruction_robustness"]
        assert sorted(found) == sorted([*added, *defaults])
    error = ask(
        *("calibrate", *SHORT, "--target_reconstruction", "0.5", "--kappa", "[0.1, 0.2]"),
        fails=True,
    )
    assert "2 values of kappa" in error


def test_text_says_what_the_numbers_mean(ask: Ask) -> None:
    text = ask("calibrate", "--target_epsilon", "3", *SHORT)
    parts = ("per patient", "zero-out", "by PLD", "noise multiplier", "FPR 0.01", "delta =")
    for part in parts:
        assert part in text
    assert "an attacker who knows all other patients and how many there are, and" in text


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (["risk", "--noise_multiplier", "1", *SHORT, "--delta", "1"], "delta=1"),
        (
            ["risk", "--noise_multiplier", "1", *SHORT, "--crops_per_patient", "2"],
            "drawn and clipped as a whole",
        ),
        (
            ["risk", "--noise_multiplier", "1", *SHORT, "--unit=crop", "--crops_per_patient=0"],
            "crops_per_patient=0",
        ),
        (["calibrate", *SHORT], "no target given"),
        (["calibrate", *SHORT, "--target_epsilon=1", "--target_tpr=0.5"], "epsilon and tpr given"),
        (["calibrate", *SHORT, "--target_reconstruction=0.5"], "0 values of kappa"),
    ],
)
def test_questions_without_an_answer_are_refused(
    ask: Ask, question: list[str], message: str
) -> None:
    assert message in ask(*question, fails=True)


def test_infinity_is_a_word_in_json(ask: Ask) -> None:
    question = ["risk", "--noise_multiplier", "1", *SHORT, "--delta", "1e-30", "--format", "json"]
    assert json.loads(ask(*question))["epsilon"] == "infinity"


def test_epsilon_1e9_is_certain_risk(ask: Ask) -> None:
    found = json.loads(ask("calibrate", "--target_epsilon", "1e9", *SCHEDULE, "--format", "json"))
    assert found["epsilon"] == pytest.approx(1e9, rel=0.01)
    assert found["advantage"] == 1.0
    assert set(found["reconstruction_robustness"].values()) == {1.0}


@pytest.mark.parametrize("delta", ["1e-16", "1e-25", "1e-200"])
@pytest.mark.parametrize("crops", [[], ["--unit", "crop", "--crops_per_patient", "3"]])
@pytest.mark.parametrize("format", ["text", "json"])
def test_an_epsilon_that_is_infinite_for_a_small_delta_says_which_delta_works(
    ask: Ask, delta: str, crops: list[str], format: str
) -> None:
    question = ["risk", "--noise_multiplier", "4", *SHORT, *crops, "--format", format]
    found = ask(*question, "--delta", delta)
    notes = re.findall(r"Give a delta of at least ([\d.e-]+)\.", found)
    assert len(notes) == (2 if crops else 1)  # one for each unit
    found = ask(*question, "--delta", max(notes, key=float))
    assert "Give a delta" not in found
    assert "inf" not in found.lower()


def test_a_target_at_too_small_a_delta_names_one_that_works(ask: Ask) -> None:
    error = ask("calibrate", "--target_epsilon", "6", *SHORT, "--delta", "1e-20", fails=True)
    (smallest,) = re.findall(r"at least ([\d.e-]+)\.", error)
    assert "noise multiplier" in ask(
        "calibrate", "--target_epsilon", "6", *SHORT, "--delta", smallest
    )
