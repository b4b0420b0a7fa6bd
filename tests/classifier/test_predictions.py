# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest

from classifier.predictions import (
    Predictions,
    PredictionsError,
    read_predictions,
    write_predictions,
)


def some(**changes: object) -> Predictions:
    columns: dict[str, object] = {
        "row": np.array([5, 2, 9]),
        "patient": np.array([1, 0, 1]),
        "malignant": np.array([1, 0, 1]),
        "logit": np.array([1 / 3, -800.0, 800.0]),
    }
    return Predictions(**(columns | changes))  # type: ignore[arg-type]


def test_reading_gives_back_what_was_written_in_order_of_rows(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p.csv", some())
    found = read_predictions(tmp_path / "p.csv")
    assert found.row.tolist() == [2, 5, 9]
    assert found.patient.tolist() == [0, 1, 1]
    assert found.malignant.tolist() == [0, 1, 1]
    assert found.logit.tolist() == [-800.0, 1 / 3, 800.0]
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_probability_is_the_logistic_function_even_far_out() -> None:
    np.testing.assert_allclose(some().probability, [1 / (1 + np.exp(-1 / 3)), 0, 1], atol=1e-15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logit": np.array([0.0])}, r"lengths \[3, 3, 3, 1\]"),
        ({"row": np.array([5, 5, 9])}, "appears twice"),
        ({"malignant": np.array([1, 2, 0])}, "neither 0 nor 1"),
        ({"logit": np.array([0.0, np.nan, np.inf])}, r"2 crops are not finite, first of row 2"),
    ],
)
def test_columns_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        some(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row,patient\n1,2\n", r"p.csv: columns \['malignant', 'logit', 'probability'\]"),
        ("row,patient,malignant,logit,probability\n1,2,yes,0,0\n", "row 2: malignant is 'yes'"),
        ("row,patient,malignant,logit,probability\n1,2,1\n", "row 2: logit is None"),
        ("row,patient,malignant,logit,probability\n1,2,1,nan,0\n", "p.csv: .*not finite"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(PredictionsError, match=message):
        read_predictions(tmp_path / "p.csv")
