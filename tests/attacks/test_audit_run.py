# SPDX-License-Identifier: Apache-2.0
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mammo_dp.attacks.audit import Scores
from mammo_dp.attacks.audit_run import Stage, attack_audit, audited, best_guesses, stage_of
from mammo_dp.attacks.canaries import canary_scores
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


def private_run(
    folder: Path,
    cohort: Path,
    mechanism: Mechanism | None,
    *,
    delta: float = 1e-4,
) -> Path:
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
    write_statement(folder, ledger, delta=delta, artefact=folder / "last.ckpt")
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


@pytest.mark.parametrize(
    ("canaries", "delta", "message"),
    [
        (5, 1e-4, "canaries=5 at delta 0.0001, which allows 5000"),
        (100, 0.1, "which allows 5. Give"),
    ],
)
def test_too_few_canaries_are_refused(
    tmp_path: Path, canaries: int, delta: float, message: str
) -> None:
    run = private_run(tmp_path / "run", tmp_path / "cohort", STAGE.mechanism, delta=delta)
    with pytest.raises(AttackError, match=message):
        attack_audit(run=run, canaries=canaries)
    assert not (run / "attack_audit").exists()


def test_what_was_drawn_alone_is_audited_as_a_crop(tmp_path: Path) -> None:
    run = private_run(tmp_path / "run", tmp_path / "cohort", STAGE.mechanism)
    assert stage_of(run).unit == "patient"
    stored = json.loads((run / "privacy.json").read_text())
    stored["statements"][0]["crops_of_unit"] = 4  # as where an earlier stage drew patients
    (run / "privacy.json").write_text(json.dumps(stored))
    assert stage_of(run).unit == "crop"


def test_full_batches_allow_the_closer_bound_of_a_gaussian_curve(drawn: Drawn) -> None:
    assert audited(STAGE, *drawn).gaussian_run is None
    full = Mechanism(noise_multiplier=2.0, sampling_rate=1.0, steps=4)
    claimed = replace(STAGE, mechanism=full, epsilon=compose([full]).epsilon(1e-4))
    rng = np.random.default_rng(0)
    inside = rng.random(1000) < 0.5

    def observed(noise: float) -> Scores:
        products = inside + noise * rng.standard_normal((4, 1000))
        return canary_scores(products, noise_multiplier=2.0, sampling_rate=1.0)

    found = audited(claimed, observed(2.0), inside)
    assert found.gaussian_run is not None
    assert found.canary_run.epsilon < found.gaussian_run.epsilon < claimed.epsilon
    assert found.gaussian_run.ceiling > found.canary_run.ceiling
    assert (len(found.lines()), found.refutes) == (4, False)
    loud = audited(claimed, observed(1.0), inside)
    assert loud.gaussian_run is not None
    assert loud.gaussian_run.epsilon > claimed.epsilon
    assert loud.refutes
    assert found.as_json()["gaussian_run"]["assumes"] == "Gaussian trade-off curve"
