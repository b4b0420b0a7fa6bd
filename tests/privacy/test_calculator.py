import json

import pytest

from mammo_dp.privacy import calculator
from mammo_dp.privacy.errors import PrivacyError


def test_risk_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    calculator.risk(noise_multiplier=4.34, sampling_rate=1 / 9, steps=2700, format="json")
    found = json.loads(capsys.readouterr().out)
    assert found["epsilon"] == pytest.approx(5.48, rel=0.02)
    assert found["advantage"] == pytest.approx(0.498, rel=0.02)
    assert found["reconstruction_robustness"]["0.000905797"] == pytest.approx(0.039, rel=0.02)
    assert set(found["tpr_at_fpr"]) == {"0.001", "0.01", "0.1"}
    assert found["accountant"].startswith("PLD")
    assert found["delta"] == 1e-4


def test_calibrate_prints_noise_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    calculator.calibrate(
        target_epsilon=3.0, sampling_rate=0.5, steps=10, kappa=[0.02], format="json"
    )
    found = json.loads(capsys.readouterr().out)
    assert found["epsilon"] <= 3.0 < found["epsilon"] * 1.01
    assert list(found["reconstruction_robustness"]) == ["0.02"]


def test_text_says_what_the_numbers_mean(capsys: pytest.CaptureFixture[str]) -> None:
    calculator.calibrate(target_epsilon=3.0, sampling_rate=0.5, steps=10)
    text = capsys.readouterr().out
    for part in ("per sampled unit", "add-or-remove", "by PLD", "noise multiplier", "FPR 0.01"):
        assert part in text


def test_delta_must_be_a_chance() -> None:
    with pytest.raises(PrivacyError, match="delta=1"):
        calculator.risk(noise_multiplier=1.0, sampling_rate=0.5, steps=1, delta=1.0)
