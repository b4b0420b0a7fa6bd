# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mammo_dp.attacks.audit import Scores
from mammo_dp.attacks.audit_run import Stage, attack_audit, audited, best_guesses, stage_of
from mammo_dp.attacks.canary_fit import fit_canaries
from mammo_dp.attacks.signals import AttackError
from mammo_dp.main import main
from mammo_dp.privacy.accounting import Mechanism, compose
from mammo_dp.privacy.ledger import Access, PrivacyLedger
from mammo_dp.privacy.statement import write_statement
from mammo_dp.runs import file_sha256
from tests.conftest import write_cohort

Drawn = tuple[Scores, NDArray[np.bool_]]
CURVE = compose([Mechanism(noise_multiplier=2.0, sampling_rate=0.5, steps=4)])
STAGE = Stage(
    mechanism=Mechanism(noise_multiplier=2.0, sampling_rate=0.5, steps=4),
    unit="patient",
    epsilon=CURVE.epsilon(1e-4),
    accountant=CURVE.source,
    delta=1e-4,
)


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    inside = np.random.default_rng(1).random(1000) < 0.5
    scores = fit_canaries(
        STAGE.mechanism, inside, unit="patient", epsilon=STAGE.epsilon, delta=1e-4
    )
    return scores, inside


def test_the_real_loop_keeps_what_is_claimed(drawn: Drawn) -> None:
    found = audited(STAGE, *drawn)
    assert not found.refutes
    assert 0 < found.one_run.epsilon < STAGE.epsilon
    assert found.one_run.epsilon <= found.one_run.ceiling


def test_a_claim_of_ten_times_the_noise_is_refuted(drawn: Drawn) -> None:
    loud = replace(STAGE.mechanism, noise_multiplier=20.0)
    claimed = replace(STAGE, mechanism=loud, epsilon=compose([loud]).epsilon(1e-4))
    assert audited(claimed, *drawn).refutes
    assert "REFUTED" in audited(claimed, *drawn).lines()[-1]


def test_scores_that_know_nothing_refute_nothing() -> None:
    rng = np.random.default_rng(0)
    found = audited(STAGE, rng.normal(size=400), rng.random(400) < 0.5)
    assert not found.refutes
    assert found.one_run.epsilon < 0.2


def test_each_bound_is_printed_with_ceiling_and_claim(drawn: Drawn) -> None:
    line = audited(STAGE, *drawn).lines()[0]
    for part in ("epsilon >=", "ceiling", "claimed", "per patient", "delta 0.0001", "PLD"):
        assert part in line


def test_guesses_are_fixed_by_the_claim_alone() -> None:
    assert best_guesses(STAGE, 200, 0.95) == best_guesses(STAGE, 200, 0.95)
    weak = replace(STAGE, mechanism=replace(STAGE.mechanism, noise_multiplier=50.0))
    assert best_guesses(weak, 200, 0.95) in (4, 10, 20, 40, 60, 100)


def private_run(folder: Path, cohort: Path, mechanism: Mechanism | None) -> Path:
    folder.mkdir()
    (folder / "last.ckpt").write_text("weights")
    access = Access.of_training(
        "fit",
        write_cohort(cohort),
        "train",
        mechanism=mechanism,
        released=file_sha256(folder / "last.ckpt"),
    )
    ledger = PrivacyLedger(accesses=(access,))
    write_statement(folder, ledger, delta=1e-4, artefact=folder / "last.ckpt")
    return folder


def test_command_repeats_the_noise_of_the_statement_and_scores_saved_canaries_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = private_run(tmp_path / "run", tmp_path / "cohort", STAGE.mechanism)
    assert stage_of(run).mechanism == STAGE.mechanism
    assert main(["attack", "audit", "--run", str(run), "--canaries", "60"]) == 0
    assert "one run: epsilon >= " in capsys.readouterr().out
    stored = json.loads((run / "attack_audit" / "audit.json").read_text())
    assert (stored["canaries"], stored["refutes"]) == (60, False)
    assert stored["stage"]["epsilon"] == pytest.approx(STAGE.epsilon)
    again = attack_audit(run=run, canaries=60)
    assert again.as_json() == stored


def test_a_run_without_noise_has_no_claim_to_audit(tmp_path: Path) -> None:
    run = private_run(tmp_path / "run", tmp_path / "cohort", None)
    with pytest.raises(AttackError, match="names no private training of its own"):
        attack_audit(run=run)
    with pytest.raises(AttackError, match="canaries=5"):
        attack_audit(run=run, canaries=5)
