# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path
from typing import Any

import pytest

from mammo_dp.main import main
from mammo_dp.privacy.commands import attacks_in_words
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.document import FILE_NAME, TEXT_NAME, write_statement
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.privacy.statement.seals import sealed_result
from mammo_dp.runs import close_run, open_run


def cell(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "bound": 0.5}


ATTACK: dict[str, Any] = {
    "unit": "patient",
    "members": 578,
    "nonmembers": 102,
    "level": 0.95,
    "attacks": {
        "rmia": {
            "threat_model": "Sees probabilities.",
            "auc": cell(0.61),
            "control": 0.503,
            "advantage": cell(0.2),
            "tpr_at_fpr": {"0.01": cell(0.07)},
            "exceeds_bound": False,
        }
    },
    "not_tried": {"lira-online": "no shadow heads were asked for"},
}
AUDIT: dict[str, Any] = {
    "threat_model": "Sees every update.",
    "canaries": 1000,
    "stage": {
        "epsilon": 8.0,
        "unit": "patient",
        "delta": 1e-4,
        "adjacency": "zero-out",
        "accountant": "PLD",
    },
    "best": {"epsilon": 1.2, "ceiling": 5.1},
    "refutes": False,
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    write_statement(folder, PrivacyLedger())
    return folder


def attack(run: Path, name: str, content: dict[str, Any], privacy: Path | None = None) -> Path:
    inputs = {"privacy": privacy or run / FILE_NAME}
    record = open_run(run / name, command="attack", config={}, inputs=inputs)
    path = record.folder / ("audit.json" if "canaries" in content else "attack.json")
    path.write_text(json.dumps(sealed_result(content, record)))
    close_run(record)
    return path


def test_a_run_without_attacks_says_nothing_of_them(run: Path) -> None:
    assert attacks_in_words(run) == []


def test_explain_shows_attacks_apart_from_a_statement_that_stays_as_it_was(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [(run / name).read_bytes() for name in (FILE_NAME, TEXT_NAME)]
    attack(run, "attack_membership", ATTACK)
    attack(run, "attack_audit", AUDIT)
    assert main(["privacy", "explain", str(run)]) == 0
    text = capsys.readouterr().out
    for part in (
        "## What attackers achieved here",
        "Not part of the sealed statement",
        "| rmia | 0.610 [0.560, 0.660] (control 0.503) | 0.200 [0.150, 0.250] | 0.500 |",
        "Sees probabilities.",
        "lira-online: not tried; no shadow heads were asked for",
        "epsilon >= 1.2 (ceiling 5.1, claimed 8 per patient at delta 0.0001, zero-out, by PLD, "
        "for this stage alone)",
        "None exceeds the bounds above.",
    ):
        assert part in text
    assert [(run / name).read_bytes() for name in (FILE_NAME, TEXT_NAME)] == before


def test_findings_are_called_so(run: Path) -> None:
    broken = {"rmia": ATTACK["attacks"]["rmia"] | {"exceeds_bound": True}}
    attack(run, "attack_membership", ATTACK | {"attacks": broken})
    attack(run, "attack_audit", AUDIT | {"refutes": True})
    text = "\n".join(attacks_in_words(run))
    assert "FINDING: rmia exceeds the bounds above" in text
    assert "FINDING: the claim is refuted" in text


def test_attacks_on_another_statement_or_unfinished_ones_are_not_shown(
    run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    other.write_text("{}")
    attack(run, "attack_membership", ATTACK, privacy=other)
    open_run(run / "begun", command="attack", config={}, inputs={"privacy": run / FILE_NAME})
    (run / "begun" / "attack.json").write_text(json.dumps(ATTACK))
    text = "\n".join(attacks_in_words(run))
    assert "`attack_membership` is about another statement" in text
    assert "rmia" not in text


def test_a_result_that_was_found_elsewhere_is_not_shown(run: Path) -> None:
    """Sealed as it is: that of a better model says nothing of this one."""
    path = attack(run, "attack_membership", ATTACK)
    other = run.parent / "other"
    other.mkdir()
    write_statement(other, PrivacyLedger())
    (other / FILE_NAME).write_text((other / FILE_NAME).read_text() + "\n")
    elsewhere = attack(other, "attack_membership", ATTACK)
    path.write_bytes(elsewhere.read_bytes())
    with pytest.raises(PrivacyError, match="the result of another run"):
        attacks_in_words(run)


def test_a_damaged_result_is_named(run: Path) -> None:
    path = attack(run, "attack_membership", ATTACK)
    path.write_text(path.read_text().replace("0.5", "0.4"))
    with pytest.raises(PrivacyError, match=r"attack.json: .*does not fit its seal"):
        attacks_in_words(run)
    path.write_text('{"members": 3}')
    with pytest.raises(PrivacyError, match=r"attack.json: is no readable result"):
        attacks_in_words(run)
