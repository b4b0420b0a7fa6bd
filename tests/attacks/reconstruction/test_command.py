import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.manifest import CropsManifest
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.arrays import write_arrays
from mammo_dp.attacks.reconstruction import collect as collecting
from mammo_dp.attacks.reconstruction import command
from mammo_dp.attacks.reconstruction.command import reconstruction
from mammo_dp.attacks.reconstruction.isolated import observe, read_observations, write_observations
from mammo_dp.attacks.reconstruction.lists import CandidateScores, canary_lists, read_candidates
from mammo_dp.main import main
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.privacy.statement.seals import sealed_content
from mammo_dp.runs import file_sha256, read_run
from tests.fixtures import write_cohort

SETTINGS = {"patients": 3, "sampling_rate": 0.5, "steps": 4, "delta": 1e-3, "resamples": 100}


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> CropsManifest:
    folder = tmp_path_factory.mktemp("prior")
    return write_cohort(folder, origin="phantom", seed=5)


@pytest.fixture(scope="module", autouse=True)
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "SEARCH_STEPS", 2)
        patch.setattr(collecting, "CANARIES", 20)
        patch.setattr(collecting, "LIST", 5)
        yield


def attacked(folder: Path, cohort: CropsManifest, prior: CropsManifest | None) -> dict[str, Any]:
    reconstruction(
        crops=str(cohort.folder),
        prior=None if prior is None else str(prior.folder),
        out=str(folder),
        budgets=[4.0, "none"],
        resolutions=[128, 16, 8],
        **SETTINGS,  # type: ignore[arg-type]
    )
    result: dict[str, Any] = json.loads((folder / "reconstruction.json").read_text())
    return result


@pytest.fixture(scope="module")
def finished(
    cohort: CropsManifest, prior: CropsManifest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "attack"
    attacked(folder, cohort, prior)
    return folder


def test_results_stand_beside_blind_guesses_closed_forms_and_threats(
    cohort: CropsManifest, finished: Path
) -> None:
    result = sealed_content((finished / "reconstruction.json").read_text())
    assert read_run(finished).is_finished
    assert (finished / "sheet.png").stat().st_size > 1000
    private, open_ = result["budgets"]
    assert list(private["isolated"]) == ["16", "8"]  # 128 does not divide 32
    for budget in (private, open_):
        for found in budget["isolated"].values():
            assert set(found["attacks"]) == {"from_scratch", "centred", "prior"}
            assert set(found["blind"]) == {"blank", "mean", "nearest"}
            assert set(found["attacks"]["prior"]) == {"mse", "psnr", "ncc", "ssim", "closed_form"}
    assert private["isolated"]["16"]["attacks"]["from_scratch"]["closed_form"]["mse"] > 0
    assert private["epsilon"] == pytest.approx(4.0, rel=0.01)
    assert private["accountant"].startswith("PLD, dp-accounting")
    assert set(private["lists"]) == {"named", "recognised_0.01"}
    assert open_["epsilon"] == "infinity"
    assert open_["isolated"]["16"]["attacks"]["prior"]["psnr"]["low"] > 40
    assert {"isolated", "lists", "traps", "rows", "search"} == set(result["threat_models"])
    text = json.dumps(result)
    assert not any(crop.patient_id in text for crop in cohort.crops)


def test_saved_signals_are_scored_again_without_running_a_model(
    cohort: CropsManifest,
    prior: CropsManifest,
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = json.loads((finished / "reconstruction.json").read_text())
    shutil.copytree(finished, tmp_path / "attack")
    record = json.loads((tmp_path / "attack" / "run.json").read_text())
    (tmp_path / "attack" / "run.json").write_text(json.dumps(record | {"finished": None}))
    (tmp_path / "attack" / "reconstruction.json").unlink()
    for name in ("observe", "canary_lists", "spring", "read_rows", "invert"):
        monkeypatch.setattr(collecting, name, None)
    assert attacked(tmp_path / "attack", cohort, prior) == first


def test_without_a_prior_no_number_needs_one(cohort: CropsManifest, tmp_path: Path) -> None:
    result = attacked(tmp_path / "attack", cohort, None)
    found = result["budgets"][0]
    assert set(found["isolated"]["8"]["attacks"]) == {"from_scratch", "centred"}
    assert set(found["isolated"]["8"]["blind"]) == {"blank"}
    assert found["traps"] == {}


def test_of_a_run_epsilon_stands_beside_what_holds_end_to_end(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own steps have a finite epsilon; a fit without DP on the same patients came before."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_text("weights")
    sha256 = file_sha256(run / "checkpoints" / "last.ckpt")
    steps = Mechanism(noise_multiplier=4.0, sampling_rate=0.5, steps=4)
    private = Access.of_training(
        "private", cohort, "train", mechanism=steps, released=sha256, public_size=5
    )
    ledger = PrivacyLedger().plus(Access.of_training("GAN", cohort, "train")).plus(private)
    write_statement(run, ledger, delta=1e-3, artefact=run / "checkpoints" / "last.ckpt")
    words = {"crops": str(cohort.folder), "run": str(run), "patients": 2, "resamples": 100}
    reconstruction(out=str(tmp_path / "out"), resolutions=[4], **words)  # type: ignore[arg-type]
    (found,) = json.loads((tmp_path / "out" / "reconstruction.json").read_text())["budgets"]
    assert 0 < found["epsilon"] < 3
    assert found["end_to_end"].startswith("No guarantee, epsilon = infinity")
    assert f"end to end: {found['end_to_end']}" in capsys.readouterr().out
    path = run / "privacy.json"
    path.write_text(path.read_text().replace('"noise_multiplier": 4.0', '"noise_multiplier": 40.0'))
    with pytest.raises(AttackError, match="does not fit its seal"):
        reconstruction(out=str(tmp_path / "new"), resolutions=[4], **words)  # type: ignore[arg-type]


def test_a_guarantee_that_is_read_better_than_it_allows_fails_the_command(
    cohort: CropsManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(mechanism: Mechanism, **settings: int) -> CandidateScores:
        scores = canary_lists(mechanism, **settings)
        return replace(scores, targets=scores.targets + 100)

    monkeypatch.setattr(collecting, "canary_lists", careless)
    with pytest.raises(AttackError, match="at 4 a list was read better than the guarantee"):
        attacked(tmp_path / "attack", cohort, None)
    assert not read_run(tmp_path / "attack").is_finished


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kappa": [0.0]}, "is no probability"),
        ({"kappa": [0.1, 1.0]}, "is no probability"),
        ({"patients": 1}, "at least 2 patients"),
        ({"resamples": 9}, "100 resamples"),
        ({"resolutions": [5]}, "none divides the 32 px"),
        ({"split": "test"}, "split 'test' holds no crop"),
        ({"budgets": []}, "budgets: is empty"),
    ],
)
def test_what_cannot_be_attacked_is_refused_before_anything_runs(
    cohort: CropsManifest, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    settings: dict[str, Any] = {"budgets": ["none"], **SETTINGS, **changes}
    with pytest.raises(AttackError, match=message):
        reconstruction(crops=str(cohort.folder), out=str(tmp_path / "out"), **settings)
    assert not (tmp_path / "out" / command.SIGNALS).exists()


def test_a_prior_that_holds_the_targets_or_other_sizes_is_refused(
    cohort: CropsManifest, tmp_path: Path, make_cohort: Callable[..., CropsManifest]
) -> None:
    with pytest.raises(AttackError, match="the prior would hold the answer"):
        attacked(tmp_path / "own", cohort, cohort)
    same_patients = make_cohort("again", seed=9)
    assert not {c.sha256 for c in same_patients.crops} & {c.sha256 for c in cohort.crops}
    with pytest.raises(AttackError, match="or their patients, are also in the attacked"):
        attacked(tmp_path / "patients", cohort, same_patients)
    small = make_cohort(size=16, origin="phantom")
    with pytest.raises(AttackError, match="Prepare both at one size"):
        attacked(tmp_path / "small", cohort, small)


def test_a_sheet_shows_patients_where_attacked_crops_or_those_of_the_prior_do(
    cohort: CropsManifest, prior: CropsManifest, make_cohort: Callable[..., CropsManifest]
) -> None:
    real = make_cohort("real", origin="cbis-ddsm", seed=2)
    assert not collecting.targets_of(cohort, "train", prior, 2).real
    assert collecting.targets_of(cohort, "train", real, 2).real
    assert collecting.targets_of(real, "train", None, 2).real


def test_what_was_executed_is_shown_and_not_a_budget_that_no_noise_reaches(
    cohort: CropsManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--crops", str(cohort.folder), "--out", str(tmp_path / "attack"), "--patients", "2"]
    flags += ["--budgets", "[1e9]", "--sampling_rate", "1", "--steps", "1", "--resamples", "100"]
    assert main(["attack", "reconstruction", *flags, "--resolutions", "[8]"]) == 0
    (budget,) = json.loads((tmp_path / "attack" / "reconstruction.json").read_text())["budgets"]
    assert budget["epsilon"] < 1e6
    shown = capsys.readouterr().out
    assert f"epsilon {budget['epsilon']:.3g}: NCC" in shown
    assert "per patient, delta 0.0001, zero-out, by PLD" in shown
    assert "1e+09" not in shown
    assert budget["search"]["targets"] == 2


def test_files_without_signals_are_refused(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((2, 8, 8))
    seen = observe(images, noise_multiplier=1.0, rounds=2, resolution=8, key=0)
    write_observations(tmp_path / "seen.npz", seen)
    again = read_observations(tmp_path / "seen.npz")
    np.testing.assert_allclose(again.plain.seen, seen.plain.seen, rtol=1e-6)
    assert again.offset is None
    write_arrays(tmp_path / "odd.npz", {"x": np.zeros(1)})
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "empty.npz").write_bytes(b"")
    (tmp_path / "half.npz").write_bytes((tmp_path / "seen.npz").read_bytes()[:-99])
    with pytest.raises(AttackError, match="holds no signals"):
        read_observations(tmp_path / "odd.npz")
    with pytest.raises(AttackError, match="holds no signals"):
        read_candidates(tmp_path / "odd.npz")
    for missing in ("text.npz", "none.npz", "empty.npz", "half.npz"):
        with pytest.raises(AttackError, match="holds no signals"):
            read_observations(tmp_path / missing)


def test_the_command_is_on_the_front_door(
    cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--crops", str(cohort.folder), "--out", "nowhere", "--kappa", "[2]"]
    assert main(["attack", "reconstruction", *flags]) == 1
    assert "kappa=2" in capsys.readouterr().err
