# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from data_prep.manifest import CropsManifest
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.audit.canary_fit import Observed
from mammo_dp.attacks.audit.command import Stage, attack_audit, audited, best_guesses, stage_of
from mammo_dp.main import main
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.privacy.statement.seals import identity_of_run, seal_doubt
from mammo_dp.runs import file_sha256, read_run
from tests.attacks.audit.mutants import config, private_run
from tests.fixtures import write_cohort
from tests.privacy.training.fits import quiet
from tests.stated import seal_again

pytestmark = quiet

SAMPLED = Mechanism(noise_multiplier=2.0, sampling_rate=0.5, steps=4)
FULL = replace(SAMPLED, sampling_rate=1.0)


def claim(mechanism: Mechanism = SAMPLED) -> Stage:
    curve = compose([mechanism])
    return Stage(
        mechanism=mechanism,
        unit="patient",
        epsilon=curve.epsilon(1e-4),
        accountant=curve.source,
        delta=1e-4,
    )


STAGE = claim()


def seen(
    executed: Mechanism, accounted: Mechanism | None = None, *, canaries: int = 1000, seed: int = 0
) -> Observed:
    """A fit as the mechanism is defined."""
    rng = np.random.default_rng(seed)
    inside = rng.random(canaries) < 0.5

    def products(steps: int) -> NDArray[np.float64]:
        drawn = inside & (rng.random((steps, canaries)) < executed.sampling_rate)
        return drawn + executed.noise_multiplier * rng.standard_normal((steps, canaries))

    return Observed(
        products=products(executed.steps),
        again=products(2),
        inside=inside,
        accounted=accounted or executed,
    )


# From observations to bounds and findings.


@pytest.mark.parametrize("mechanism", [SAMPLED, FULL])
def test_a_loop_that_does_as_stated_is_not_refuted(mechanism: Mechanism) -> None:
    found = audited(claim(mechanism), seen(mechanism))
    assert found.findings == ()
    assert not found.refutes
    for bound in found.bounds.values():
        assert 0 < bound.epsilon <= bound.ceiling
        assert bound.epsilon < found.stage.epsilon
    conduct = found.conduct
    assert conduct.noise.low < 2 < conduct.noise.high
    assert conduct.part.low < mechanism.sampling_rate < conduct.part.high
    assert (conduct.updates, conduct.same_noise) == (4, 0)


def test_a_bound_that_chance_puts_above_the_claim_refutes_nothing() -> None:
    found = audited(STAGE, seen(SAMPLED))
    high = replace(found.bounds["curve_run"], epsilon=STAGE.epsilon * 1.01)
    found = replace(found, bounds=dict(found.bounds) | {"curve_run": high})
    assert not found.refutes
    assert any("audit again" in line for line in found.lines())


@pytest.mark.slow
def test_of_80_audits_of_a_loop_that_does_as_stated_none_refutes_it() -> None:
    """With full batches the attack comes close to the claim, so bounds of 95% lie above some."""
    exact = claim(FULL)
    found = [audited(exact, seen(FULL, canaries=300, seed=seed)) for seed in range(80)]
    assert not any(each.refutes for each in found)


def test_the_curve_of_subsampled_noise_gives_the_larger_bound_and_ceiling() -> None:
    found = audited(STAGE, seen(SAMPLED))
    assert set(found.bounds) == {"one_run", "canary_run", "curve_run"}
    one, curve = found.bounds["one_run"], found.bounds["curve_run"]
    assert one.epsilon < curve.epsilon < STAGE.epsilon
    assert one.ceiling < curve.ceiling
    assert found.as_json()["curve_run"]["assumes"] == "sampling rate and steps as stated"


def test_full_batches_allow_the_closer_bound_of_a_gaussian_curve() -> None:
    found = audited(claim(FULL), seen(FULL))
    assert set(found.bounds) == {"one_run", "canary_run", "gaussian_run"}
    canary, gaussian = found.bounds["canary_run"], found.bounds["gaussian_run"]
    assert canary.epsilon < gaussian.epsilon < found.stage.epsilon
    assert gaussian.ceiling > canary.ceiling
    loud = audited(claim(FULL), seen(replace(FULL, noise_multiplier=1.0), FULL))
    assert loud.bounds["gaussian_run"].epsilon > loud.stage.epsilon
    assert loud.refuted_by == ("gaussian_run",)
    assert found.as_json()["gaussian_run"]["assumes"] == "Gaussian trade-off curve"


Rows = NDArray[np.float64]


def repeated(observed: Observed, change: Callable[[Rows, Rows], tuple[Rows, Rows]]) -> Observed:
    products, again = change(observed.products, observed.again)
    return replace(observed, products=products, again=again)


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        (seen(replace(SAMPLED, noise_multiplier=1.0), SAMPLED), "noise multiplier is 1"),
        (seen(replace(SAMPLED, noise_multiplier=1.8), SAMPLED), "noise multiplier is 1.8"),
        (seen(FULL, SAMPLED), "clipping norms a step on average"),
        (seen(replace(SAMPLED, sampling_rate=0.75), SAMPLED), "clipping norms a step on average"),
        (seen(replace(SAMPLED, steps=6), SAMPLED), "6 updates of the weights were seen, 4 are"),
        (seen(replace(SAMPLED, steps=5)), "settings of the run spend epsilon"),
        (
            repeated(seen(SAMPLED), lambda products, again: (products, products[-2:])),
            "2 of the pairs of updates have the same noise",
        ),
        (
            repeated(seen(SAMPLED), lambda p, again: (np.concatenate([p[:2], p[:2]]), again)),
            "2 of the pairs of updates have the same noise",
        ),
    ],
)
def test_what_is_worse_than_stated_is_a_finding(observed: Observed, message: str) -> None:
    found = audited(STAGE, observed)
    assert found.refutes
    assert any(message in finding for finding in found.findings)
    assert any(line.startswith("FINDING: ") and message in line for line in found.lines())
    assert found.as_json()["findings"] == list(found.findings)


def test_three_times_the_part_of_one_unit_is_a_finding() -> None:
    loud = seen(SAMPLED)
    loud.products[:, loud.inside] += 2 * (loud.products[:, loud.inside] > 0.5)
    assert any("clipping norms a step" in finding for finding in audited(STAGE, loud).findings)


def test_more_privacy_than_stated_is_no_finding() -> None:
    for more in (
        replace(SAMPLED, noise_multiplier=3.0),
        replace(SAMPLED, sampling_rate=0.2),
        replace(SAMPLED, steps=3),
    ):
        assert audited(STAGE, seen(more)).findings == ()


@pytest.mark.slow
def test_a_claim_of_ten_times_the_noise_is_refuted_by_bounds_alone() -> None:
    loud = seen(SAMPLED, canaries=4000)
    found = audited(claim(replace(SAMPLED, noise_multiplier=20.0)), loud)
    assert found.exceeds_curve
    assert found.best.epsilon > found.stage.epsilon
    assert found.refuted_by
    assert any("REFUTED" in line for line in found.lines())


def test_scores_that_know_nothing_bound_nothing() -> None:
    blind = seen(SAMPLED)
    blind = replace(blind, products=np.random.default_rng(5).normal(0, 2, (4, 1000)))
    found = audited(STAGE, blind)
    assert not found.refutes
    assert found.best.epsilon < 0.3


def test_each_bound_is_printed_with_ceiling_and_claim() -> None:
    line = audited(STAGE, seen(SAMPLED)).lines()[0]
    claim = ("claimed", "per patient", "delta 0.0001", "zero-out", "PLD", "for this stage alone")
    for part in ("epsilon >=", "ceiling", *claim):
        assert part in line


def test_guesses_are_fixed_by_the_claim_alone() -> None:
    assert best_guesses(STAGE, 200, 0.95) == best_guesses(STAGE, 200, 0.95)
    weak = replace(STAGE, mechanism=replace(STAGE.mechanism, noise_multiplier=50.0))
    some, others = best_guesses(weak, 200, 0.95)
    assert some in (4, 10, 20, 40, 60, 100)
    assert others in (some, 0)


# Through the command line; faults of the loop are in test_mutations.py.


def stated_run(
    folder: Path, cohort: Path, mechanism: Mechanism | None, *, delta: float = 1e-4
) -> Path:
    """A statement without a fit, and the settings of one."""
    config(folder).rename(folder / "config.yaml")
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


def audit_of(run: Path, *more: str) -> int:
    return main(["attack", "audit", "--run", str(run), *more])


@pytest.mark.slow
def test_command_repeats_the_fit_and_scores_saved_canaries_again(
    cohort: CropsManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = private_run(tmp_path, cohort)
    assert audit_of(run, "--canaries", "60") == 0
    assert "one run: epsilon >= " in capsys.readouterr().out
    stored = json.loads((run / "attack_audit" / "audit.json").read_text())
    assert (stored["canaries"], stored["refutes"]) == (60, False)
    assert stored["stage"]["epsilon"] == pytest.approx(6, rel=0.01)
    assert stored["conduct"]["updates"] == stored["stage"]["mechanism"]["steps"] == 6
    assert stored["conduct"]["epsilon"] == pytest.approx(6, rel=0.01)
    again = attack_audit(run=run, canaries=60)
    assert not seal_doubt(stored)
    del stored["seal"]
    assert stored.pop("run") == identity_of_run(read_run(run / "attack_audit"))
    assert json.loads(json.dumps(again.as_json())) == stored


def test_a_statement_that_says_less_than_the_settings_spend_is_refuted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stated_run(tmp_path / "run", tmp_path / "cohort", replace(SAMPLED, steps=6))
    assert audit_of(run, "--canaries", "60") == 1
    said = capsys.readouterr()
    assert "FINDING: the settings of the run spend epsilon" in said.out
    assert "FINDING" in said.err
    stored = json.loads((run / "attack_audit" / "audit.json").read_text())
    assert stored["refutes"]
    assert audit_of(run, "--canaries", "60") == 1  # a finished folder too


def test_a_claim_about_other_weights_is_not_audited(tmp_path: Path) -> None:
    run = stated_run(tmp_path / "run", tmp_path / "cohort", SAMPLED)
    (run / "last.ckpt").write_text("of a fit without DP")
    with pytest.raises(AttackError, match=r"last\.ckpt: is not what .*privacy\.json is about"):
        attack_audit(run=run)


def test_the_claim_of_weights_that_are_gone_is_not_audited(tmp_path: Path) -> None:
    run = stated_run(tmp_path / "run", tmp_path / "cohort", SAMPLED)
    (run / "last.ckpt").unlink()
    with pytest.raises(AttackError, match=r"last\.ckpt: is not what .*privacy\.json is about"):
        attack_audit(run=run)


def test_a_claim_that_somebody_changed_is_not_audited(tmp_path: Path) -> None:
    """Or an audit would repeat the fit with the noise that somebody wrote, and find it there."""
    run = stated_run(tmp_path / "run", tmp_path / "cohort", SAMPLED)
    path = run / "privacy.json"
    path.write_text(path.read_text().replace('"noise_multiplier": 2.0', '"noise_multiplier": 20.0'))
    with pytest.raises(AttackError, match="does not fit its seal"):
        attack_audit(run=run)
    assert not (run / "attack_audit").exists()


def test_a_run_without_noise_has_no_claim_to_audit(tmp_path: Path) -> None:
    run = stated_run(tmp_path / "run", tmp_path / "cohort", None)
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
    run = stated_run(tmp_path / "run", tmp_path / "cohort", SAMPLED, delta=delta)
    with pytest.raises(AttackError, match=message):
        attack_audit(run=run, canaries=canaries)
    assert not (run / "attack_audit").exists()


def test_settings_that_are_no_private_fit_are_refused(tmp_path: Path) -> None:
    run = stated_run(tmp_path / "run", tmp_path / "cohort", SAMPLED)
    stored = yaml.safe_load((run / "config.yaml").read_text())
    for model, message in (
        ("mammo_dp.CropClassifier", "does not train privately"),
        ("mammo_dp.NoSuch", "holds no settings of a fit"),
    ):
        stored["model"]["class_path"] = model
        (run / "config.yaml").write_text(yaml.safe_dump(stored))
        with pytest.raises(AttackError, match=message):
            attack_audit(run=run)
    (run / "config.yaml").unlink()
    with pytest.raises(AttackError, match="holds no settings of a fit"):
        attack_audit(run=run)


def test_what_was_drawn_alone_is_audited_as_a_crop(tmp_path: Path) -> None:
    run = stated_run(tmp_path / "run", tmp_path / "cohort", STAGE.mechanism)
    assert stage_of(run).unit == "patient"
    stored = json.loads((run / "privacy.json").read_text())
    stored["statements"][0]["crops_of_unit"] = 4  # as where an earlier stage drew patients
    seal_again(run / "privacy.json", stored)
    assert stage_of(run).unit == "crop"
