import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.manifest import CropsManifest, Unit
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.bounds.command import blind
from mammo_dp.attacks.bounds.corridor import CURVE_FPRS, Questions, corridor
from mammo_dp.attacks.bounds.schedules import of_run
from mammo_dp.main import main
from mammo_dp.privacy.accounting.account import Mechanism
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger
from mammo_dp.runs import file_sha256

Ask = Callable[..., str]
SHORT = ["--sampling_rate", "1", "--steps", "100"]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    def asked(*arguments: str, fails: bool = False) -> str:
        assert main(["attack", "bounds", *arguments]) == int(fails)
        printed = capsys.readouterr()
        return printed.err if fails else printed.out

    return asked


def test_budgets_become_json(ask: Ask) -> None:
    found = json.loads(ask(*SHORT, "--budgets", "[6, 1e9, none]", "--format", "json"))
    assert (found["unit"], found["adjacency"], found["delta"]) == ("patient", "zero-out", 1e-4)
    six, huge, none = found["budgets"]
    assert [one["name"] for one in found["budgets"]] == ["6", "1e+09", "none"]
    assert six["epsilon"] == pytest.approx(6, rel=1e-3)
    assert six["accountant"].startswith("PLD")
    noise = six["mechanism"]["noise_multiplier"]
    assert six["advantage"] == pytest.approx(math.erf(10 / noise / math.sqrt(8)), rel=2e-3)
    assert six["identification"]["0.01"] == pytest.approx(six["edgeworth"]["0.01"], rel=2e-3)
    assert six["relaxed"]["0.01"] < six["identification"]["0.01"]
    every = {view["edge"]: view for view in six["from_scratch"]["every_step"]}
    assert every[4]["ncc"] == pytest.approx(1 / math.sqrt(1 + 16 * noise**2 / 100))
    assert every[128]["mse"] == pytest.approx(0.31 * 128**2 * noise**2 / 100)
    assert not every[128]["bounds_anything"]
    assert huge["accountant"].startswith("RDP")
    assert huge["identification"] == {"0.01": 1.0, "0.1": 1.0}
    assert (none["epsilon"], none["mechanism"], none["advantage"]) == ("infinity", None, 1.0)
    assert none["from_scratch"]["every_step"][-1]["psnr"] is None
    assert any("bounds nothing" in caveat for caveat in found["caveats"])


def test_text_names_adversaries_baselines_and_conditions(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = ask(*SHORT, "--budgets", "[20, none]", "--kappa", "[0.3]", "--resolutions", "[8, 16]")
    for words in (
        "per patient, zero-out, epsilon at delta = 0.0001",
        "by PLD, dp-accounting",
        "kappa 0.3",
        "16 px",
        "assumption",
        "blind: blank image",
        "give --crops and --reference",
        "does worse than a blank image",
        "flatters an attack",
    ):
        assert words in text
    assert "128 px" not in text


def test_one_chance_of_a_guess_needs_no_list(ask: Ask) -> None:
    for kappa in ("0.3", "[0.3]"):
        found = ask(*SHORT, "--budgets", "[none]", "--kappa", kappa, "--format", "json")
        assert list(json.loads(found)["budgets"][0]["identification"]) == ["0.01", "0.1", "0.3"]


def test_blind_baselines_come_from_other_peoples_crops(
    ask: Ask, make_cohort: Callable[..., CropsManifest]
) -> None:
    crops, other = make_cohort("own", seed=0), make_cohort("other", seed=1, origin="phantom")
    flags = ["--crops", str(crops.folder), "--reference", str(other.folder)]
    text = ask(*SHORT, "--budgets", "[6]", "--resolutions", "[8, 32]", "--format", "json", *flags)
    found = json.loads(text)
    assert [one["edge"] for one in found["blind"]] == [8, 32]
    assert 0.8 < found["blind"][0]["mean_ncc"] <= found["blind"][0]["nearest_ncc"] + 0.05
    assert found["mean_square"] == found["blind"][-1]["blank_mse"]
    assert "blind: mean image" in ask(*SHORT, "--budgets", "[6]", *flags)
    for same in (crops, other):
        flags = ["--crops", str(same.folder), "--reference", str(same.folder)]
        found = ask(*SHORT, "--budgets", "[6]", *flags, fails=True)
        assert "24 crops of the reference, or their patients, are among those" in found


def test_blind_guesses_equal_a_double_loop() -> None:
    rng = np.random.default_rng(0)
    targets, reference = rng.random((5, 8, 8)), rng.random((7, 8, 8))
    found = blind(targets, reference, 4)
    small = [of.reshape(-1, 4, 2, 4, 2).mean((2, 4)) for of in (targets, reference)]
    mean = small[1].mean(axis=0)
    nearest = [min(small[1], key=lambda y: float(((x - y) ** 2).sum())) for x in small[0]]
    pairs = list(zip(small[0], nearest, strict=True))
    assert found.mean_mse == pytest.approx(np.mean([((x - mean) ** 2).mean() for x in small[0]]))
    assert found.nearest_mse == pytest.approx(np.mean([((x - y) ** 2).mean() for x, y in pairs]))
    ncc = [np.corrcoef(x.ravel(), y.ravel())[0, 1] for x, y in pairs]
    assert found.nearest_ncc == pytest.approx(np.mean(ncc))
    assert found.blank_mse == pytest.approx((small[0] ** 2).mean())
    flat = blind(targets, np.ones((3, 8, 8)), 4)
    assert (flat.mean_ncc, flat.nearest_ncc) == (0, 0)


def released(
    folder: Path,
    manifest: CropsManifest,
    mechanism: Mechanism | None,
    unit: Unit = "patient",
    **declared: Any,
) -> Path:
    folder.mkdir(parents=True)
    (folder / "last.ckpt").write_bytes(b"weights")
    access = Access.of_training(
        "fit",
        manifest,
        "train",
        unit=unit,
        mechanism=mechanism,
        released=file_sha256(folder / "last.ckpt"),
        **declared,
    )
    ledger = PrivacyLedger().plus(access)
    write_statement(folder, ledger, delta=1e-3, artefact=folder / "last.ckpt")
    return folder


def test_a_run_is_read_from_its_statement(ask: Ask, tmp_path: Path, cohort: CropsManifest) -> None:
    mechanism = Mechanism(noise_multiplier=40, sampling_rate=1, steps=30)
    run = released(tmp_path / "run", cohort, mechanism)
    found = json.loads(ask("--run", str(run), "--format", "json"))
    (one,) = found["budgets"]
    assert found["delta"] == 1e-3
    assert one["mechanism"] == mechanism.as_json()
    assert "epsilon" in one["end_to_end"]
    assert "0.25" in one["identification"]  # four patients
    (text,) = of_run(run)
    assert text.patients == 4


def test_an_altered_statement_is_not_quoted_as_if_it_held(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    mechanism = Mechanism(noise_multiplier=40, sampling_rate=1, steps=30)
    path = released(tmp_path / "run", cohort, mechanism) / "privacy.json"
    path.write_text(path.read_text().replace('"noise_multiplier": 40', '"noise_multiplier": 400'))
    (schedule,) = of_run(path.parent)
    assert schedule.end_to_end.startswith("The statement of run does not fit its seal")


def test_a_run_per_crop_is_bounded_per_patient(tmp_path: Path, cohort: CropsManifest) -> None:
    mechanism = Mechanism(noise_multiplier=40, sampling_rate=1, steps=1)
    run = released(tmp_path / "run", cohort, mechanism, unit="crop", crops_per_patient=6)
    (schedule,) = of_run(run)
    assert schedule.mechanism is not None
    assert schedule.mechanism.crops_of_unit == 6
    (undeclared,) = of_run(released(tmp_path / "undeclared", cohort, mechanism, unit="crop"))
    assert undeclared.mechanism is None  # nothing bounds it
    (none,) = of_run(released(tmp_path / "open", cohort, None))
    assert none.mechanism is None


def test_bounds_hold_for_the_adjacency_of_the_run(
    ask: Ask, tmp_path: Path, cohort: CropsManifest
) -> None:
    mechanism = Mechanism(noise_multiplier=40, sampling_rate=1, steps=1)
    run = released(tmp_path / "run", cohort, mechanism, public_size=50)
    found = json.loads(ask("--run", str(run), "--format", "json"))
    assert found["adjacency"] == "add-or-remove"
    assert "0.02" in found["budgets"][0]["identification"]  # one of the 50 that are declared
    assert "per patient, add-or-remove, epsilon at delta" in ask("--run", str(run))


def test_the_trade_off_is_concave_and_above_chance() -> None:
    bound = corridor(
        Mechanism(noise_multiplier=4, sampling_rate=0.5, steps=20),
        Questions(kappas=(0.1,), mean_square=0.3),
    )
    assert bound.edgeworth is None  # too few steps for an expansion
    assert bound.relaxed is None
    slopes = np.diff(bound.trade_off) / np.diff(CURVE_FPRS)
    assert (np.diff(slopes) < 1e-3 * slopes[0]).all()
    assert all(tpr >= fpr for tpr, fpr in zip(bound.trade_off, CURVE_FPRS, strict=True))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "Give both, or --run"),
        (["--run", "nowhere", "--steps", "3"], "Give a run, or sampling_rate and steps"),
        (["--run", "nowhere"], "no readable privacy statement"),
        ([*SHORT, "--kappa", "[1.0]"], "kappa=1.0 is no probability"),
        ([*SHORT, "--correlation", "1"], "correlation=1.0 is no probability"),
        ([*SHORT, "--budgets", "[]"], "budgets: is empty"),
        ([*SHORT, "--budgets", "[-1]"], "epsilon=-1"),
        ([*SHORT, "--budgets", "[6]", "--resolutions", "[1]"], "pixels=1"),
        ([*SHORT, "--crops", "somewhere"], "Give both or neither"),
    ],
)
def test_bad_input_says_what_to_do(ask: Ask, flags: list[str], message: str) -> None:
    assert message in ask(*flags, fails=True)


def test_a_run_that_saw_no_patient_is_refused(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"weights")
    write_statement(tmp_path, PrivacyLedger(), artefact=tmp_path / "last.ckpt")
    with pytest.raises(AttackError, match="touched no patient"):
        of_run(tmp_path)
