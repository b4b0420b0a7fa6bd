import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.manifest import CropsManifest
from data_prep.symmetries import symmetric
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.membership.results import read_result
from mammo_dp.attacks.membership.signals import read_signals
from mammo_dp.attacks.synthetic import command
from mammo_dp.attacks.synthetic.command import require_independent, signals_of, synthetic
from mammo_dp.attacks.synthetic.methods import METHODS, SPACES
from mammo_dp.main import main
from mammo_dp.runs import read_run
from tests.attacks.synthetic.sets import drawn, write
from tests.stated import write_stated

MEMBERS = 80  # crops of 20 patients; 10 patients are others
NAMES = [method.in_space(space).name for space in SPACES for method in METHODS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("synthetic")


@pytest.fixture(scope="module")
def cohort(folder: Path) -> CropsManifest:
    return write(folder / "cohort", *drawn(120, 0), patients="P", members=MEMBERS)


@pytest.fixture(scope="module")
def copies(folder: Path, cohort: CropsManifest) -> CropsManifest:
    """Members, turned by a quarter and with grain."""
    rows = cohort.rows("train")
    grain = np.random.default_rng(0).normal(0, 300, (MEMBERS, 32, 32))
    pixels = (symmetric(cohort.images(rows), 5) + grain).clip(0, 65535).astype(np.uint16)
    made = write(folder / "copies", pixels, [cohort.crops[row].malignant for row in rows])
    write_stated(made.folder, cohort)
    return made


@pytest.fixture(scope="module")
def fresh(folder: Path, cohort: CropsManifest) -> CropsManifest:
    made = write(folder / "fresh", *drawn(80, 1))
    write_stated(made.folder, cohort)
    return made


@pytest.fixture(scope="module")
def reference(folder: Path) -> CropsManifest:
    return write(folder / "reference", *drawn(80, 2))


def attacked(
    out: Path, released: CropsManifest, cohort: CropsManifest, *flags: str
) -> dict[str, Any]:
    folders = ("--synthetic", str(released.folder), "--crops", str(cohort.folder))
    words = ["attack", "synthetic", *folders, "--out", str(out), *flags]
    assert main(words) == 0
    assert read_run(out).is_finished
    return read_result(out / "attack.json")


@pytest.fixture(scope="module")
def found(
    folder: Path, cohort: CropsManifest, copies: CropsManifest, reference: CropsManifest
) -> dict[str, Any]:
    flags = ("--reference", str(reference.folder))
    return attacked(folder / "found", copies, cohort, *flags)


@pytest.mark.parametrize("name", NAMES)
def test_turned_copies_give_their_patients_away_to_each_attack(
    name: str, found: dict[str, Any]
) -> None:
    assert found["attacks"][name]["auc"]["low"] > 0.6
    assert found["members"] == 20
    assert not found["exceeds_bound"]  # nothing was promised


def test_independent_crops_give_nobody_away(
    folder: Path, cohort: CropsManifest, fresh: CropsManifest, reference: CropsManifest
) -> None:
    flags = ("--reference", str(reference.folder))
    result = attacked(folder / "nothing", fresh, cohort, *flags)
    areas = [result["attacks"][name]["auc"] for name in NAMES]
    assert sum(area["low"] <= 0.5 <= area["high"] for area in areas) >= len(NAMES) - 2
    assert all(0.2 < area["value"] < 0.8 for area in areas)


def test_a_broken_promise_is_reported(
    cohort: CropsManifest, copies: CropsManifest, tmp_path: Path
) -> None:
    labels = [crop.malignant for crop in copies.crops]
    promised = write(tmp_path / "promised", copies.images(copies.rows()), labels)
    risk = {
        "advantage": 0.01,
        "tpr_at_fpr": {"0.01": 0.02, "0.001": 0.003},
        "reconstruction_robustness": {},
    }
    write_stated(promised.folder, cohort, unit="crop", epsilon=0.01, risk=risk)
    result = attacked(tmp_path / "attack", promised, cohort)
    assert result["exceeds_bound"]
    assert result["members"] == MEMBERS


def test_an_interrupted_attack_scores_its_signals_and_measures_nothing_again(
    cohort: CropsManifest,
    fresh: CropsManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folders = str(fresh.folder), str(cohort.folder)
    with monkeypatch.context() as patch:
        patch.setattr(command, "score", killed)
        with pytest.raises(KeyboardInterrupt):
            synthetic(synthetic=folders[0], crops=folders[1], out=str(tmp_path / "a"))
    with monkeypatch.context() as patch:
        patch.setattr(command, "signals_of", killed)
        result = attacked(tmp_path / "a", fresh, cohort)
    saved = read_signals(tmp_path / "a" / "scores.csv")
    assert set(result["attacks"]) == set(saved.columns)
    shown = capsys.readouterr().out
    assert "nearest-sample, pixels: AUC" in shown
    assert "authenticity, features: AUC" in shown


def test_what_would_measure_nothing_is_refused(
    cohort: CropsManifest, fresh: CropsManifest, reference: CropsManifest, tmp_path: Path
) -> None:
    with pytest.raises(AttackError, match=r"holds crops of patients. Give a synthetic set"):
        require_independent(cohort, cohort, None)
    with pytest.raises(
        AttackError, match=r"120 crops of the reference, or their patients, are in the cohort"
    ):
        require_independent(cohort, fresh, cohort)
    with pytest.raises(
        AttackError, match=r"was trained on these patients. That is split .train. of the cohort"
    ):
        require_independent(cohort, reference, fresh)
    others = write(tmp_path / "others", *drawn(8, 3), patients="Q")
    require_independent(cohort, fresh, others)
    benign = write(tmp_path / "benign", drawn(4, 4)[0], [False] * 4)
    with pytest.raises(AttackError, match="reference: no malignant crop"):
        signals_of(cohort, fresh, benign, "train", "val")
    with pytest.raises(AttackError, match="split 'test' holds no crop"):
        signals_of(cohort, fresh, None, "train", "test")
    alone = write(tmp_path / "alone", *drawn(5, 5), patients="R", members=4)
    with pytest.raises(AttackError, match="malignant crops belong to one patient"):
        signals_of(alone, fresh, None, "train", "val")

    def attack(**settings: Any) -> None:
        folders = str(fresh.folder), str(cohort.folder)
        synthetic(synthetic=folders[0], crops=folders[1], out=str(tmp_path / "a"), **settings)

    with pytest.raises(AttackError, match="must be different patients"):
        attack(nonmember_split="train")
    other = shutil.copytree(fresh.folder, tmp_path / "other")
    CropsManifest.write(other, fresh.crops[:-1])
    with pytest.raises(AttackError, match=r"privacy.json: is not about what is attacked"):
        synthetic(synthetic=str(other), crops=str(cohort.folder), out=str(tmp_path / "b"))
