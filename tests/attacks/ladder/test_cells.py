import json
from pathlib import Path

import pytest

from classifier.evaluate import Estimate
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.ladder.cells import Cell, Rung, findings
from mammo_dp.attacks.ladder.measurements import membership_cells
from mammo_dp.attacks.membership.results import SCHEMA
from mammo_dp.privacy.statement.seals import with_seal


def rung(*cells: Cell) -> Rung:
    return Rung(
        name="6",
        noise_multiplier=4.0,
        epsilon=5.99,
        accountant="PLD",
        auroc=Estimate(0.6, 0.5, 0.7),
        patients=102,
        bounds={},
        cells=cells,
    )


def stored(tmp_path: Path, epsilon: float | str, exceeds: bool, schema: int = SCHEMA) -> Path:
    def cell(value: float) -> dict[str, float]:
        return {"value": value, "low": value - 0.1, "high": value + 0.1, "bound": 0.9}

    attack = {"auc": cell(0.6), "tpr_at_fpr": {"0.01": cell(0.2)}, "exceeds_bound": exceeds}
    content = {
        "schema": schema,
        "bound_from": {"epsilon": epsilon},
        "attacks": {"RMIA": attack},
        "blind": {"label-only": {"auc": cell(0.5), "tpr_at_fpr": {"0.01": cell(0.01)}}},
    }
    (tmp_path / "attack.json").write_text(json.dumps(with_seal(content)))
    return tmp_path / "attack.json"


def test_a_cell_reads_attack_bound_blind() -> None:
    cell = Cell.of(Estimate(0.25, 0.2, 0.3), rung=5, attack="a", metric="AUC", bound=0.9, blind=0.5)
    assert cell.text == "0.250 [0.200, 0.300] / 0.900 / 0.500"
    bare = Cell.of(Estimate(0.25, 0.25, 0.25), rung=5, attack="a", metric="AUC")
    assert bare.text == "0.250 / - / -"


def test_membership_is_a_guarantee_where_epsilon_is_finite(tmp_path: Path) -> None:
    area, rate = membership_cells(stored(tmp_path, 6.0, exceeds=True))
    assert (area.metric, area.value, area.bound, area.blind) == ("AUC", 0.6, 0.9, 0.5)
    assert (rate.metric, rate.value, rate.kind) == ("TPR at FPR 0.01", 0.2, "guarantee")
    assert len(findings([rung(area, rate)])) == 2
    assert "budget 6: RMIA reaches AUC" in findings([rung(area)])[0]


def test_a_result_of_another_schema_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, 6.0, exceeds=False, schema=1)
    with pytest.raises(AttackError, match="schema 1, known is"):
        membership_cells(path)


def test_without_a_guarantee_nothing_is_refuted(tmp_path: Path) -> None:
    area, rate = membership_cells(stored(tmp_path, "infinity", exceeds=True))
    assert (area.kind, area.bound) == ("none", None)
    assert findings([rung(area, rate)]) == []


def test_an_infinite_epsilon_is_a_word() -> None:
    shown = rung().as_json()
    assert shown["epsilon"] == pytest.approx(5.99)
    assert json.dumps(shown, allow_nan=False)
