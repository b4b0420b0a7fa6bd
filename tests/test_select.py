"""``privacy select``, through the front door, on a tiny cohort."""

import io
import itertools
import json
import math
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import mammo_dp.select
from data_prep.manifest import CropsManifest
from mammo_dp.main import main, run
from mammo_dp.privacy.accounting.account import compose, mechanism_from_json
from mammo_dp.privacy.accounting.selection import SelectionPlan, concordance
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.classifier import DPCropClassifier
from tests.privacy.statement.verify.chain import DP, forge, reconfigure
from tests.privacy.training.fits import quiet

pytestmark = quiet
GRID = "{model.init_args.learning_rate: [0.1, 0.01, 0.001]}"
PRIVATE = ("--score_noise_multiplier", "2")


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many fits the next selections draw, in place of the law."""
    numbers = [2]
    monkeypatch.setattr(SelectionPlan, "draw", lambda _: numbers.pop(0))
    return numbers


def line(
    folder: Path, cohort: CropsManifest, *words: str, config: dict[str, Any] = DP, grid: str = GRID
) -> list[str]:
    path = folder / "dp.yaml"
    path.write_text(yaml.safe_dump(config))
    start = ["privacy", "select", "--fit", str(path), "--crops", str(cohort.folder)]
    return [*start, "--out", str(folder / "out"), "--grid", grid, "--mean", "3", *words]


@pytest.fixture(scope="module")
def chosen_from_two(cohort: CropsManifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished selection of the best of two fits; tests that change files copy it."""
    folder = tmp_path_factory.mktemp("chosen")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr(SelectionPlan, "draw", lambda _: 2)
        run(line(folder, cohort, *PRIVATE))
    (folder / "printed.txt").write_text(printed.getvalue())
    return folder


@pytest.fixture
def finished(chosen_from_two: Path, tmp_path: Path) -> Path:
    """A copy of what was released."""
    return shutil.copytree(chosen_from_two / "out" / "released", tmp_path / "released")


def statement(folder: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((folder / "out" / "released" / "privacy.json").read_text())
    return stored


@pytest.mark.slow
def test_the_best_is_released_with_the_cost_of_the_choice(
    chosen_from_two: Path,
    tmp_path: Path,
    cohort: CropsManifest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(chosen_from_two / "out", tmp_path / "out", symlinks=True)
    out, stored = tmp_path / "out", statement(tmp_path)
    private = out / "candidates"
    fits = json.loads((private / "draws.json").read_text())["fits"]
    assert len(fits) == 2
    scores = {
        one["name"]: json.loads((private / f"{one['name']}.json").read_text())["score"]
        for one in fits
    }
    best = max(scores, key=lambda name: scores[name])
    released = out / "released" / "checkpoints" / "last.ckpt"
    assert released.read_bytes() == (private / best / "checkpoints" / "last.ckpt").read_bytes()

    (access,) = stored["accesses"]
    mechanism = mechanism_from_json(access["mechanism"])
    assert access["mechanism"]["law"] == "logarithmic"
    assert access["mechanism"]["score_noise_multiplier"] == 2
    (one,) = stored["statements"]
    assert one["epsilon"] == pytest.approx(compose([mechanism]).epsilon(1e-3), rel=1e-9)
    assert one["epsilon"] > 8  # the budget of one fit
    assert one["steps"] == 4  # of one fit, which is not all: selection stands beside it
    assert one["selection"] == {"law": "logarithmic", "mean": 3, "score_noise_multiplier": 2}
    text = (out / "released" / "PRIVACY.md").read_text()
    assert "the best of a random number of fits (logarithmic law, mean 3)" in text
    assert "how many there were stay private" in text
    printed = (chosen_from_two / "printed.txt").read_text()
    assert printed.rstrip().endswith(stored["summary"])
    assert main(["attack", "bounds", "--run", str(out / "released")]) == 1
    assert "the release is the best of a random number of fits" in capsys.readouterr().err

    assert main(["privacy", "verify", str(out / "released")]) == 0, capsys.readouterr().err
    run(["test", "--run", str(out / "released")])
    run(["report", "--runs", str(out / "released"), "--out", str(tmp_path / "report")])
    assert "the best of several fits" in (tmp_path / "report" / "report.html").read_text()
    before = released.stat().st_mtime_ns
    run(line(tmp_path, cohort, *PRIVATE))
    assert released.stat().st_mtime_ns == before
    assert {path.name for path in (out / "released").iterdir()}.isdisjoint({"logs", "features"})


@pytest.mark.slow
def test_a_choice_by_other_patients_leaves_these_without_a_guarantee(
    tmp_path: Path, cohort: CropsManifest, draws: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    run(line(tmp_path, cohort, "--score_split", "val"))
    training, others = statement(tmp_path)["statements"]
    assert 8 < training["epsilon"] < math.inf
    assert others["epsilon"] == "infinity"
    assert "was chosen by metrics on these patients without DP" in others["because"]
    released = tmp_path / "out" / "released"
    assert main(["privacy", "verify", str(released)]) == 0, capsys.readouterr().err
    forge(str(released), lambda stored: stored["accesses"].pop(), key=True)
    assert main(["privacy", "verify", str(released)]) == 1
    assert "lists no access to phantom-archive/val" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [("mean", 30.0), ("law", "geometric"), ("score_noise_multiplier", 9.0)],
)
def test_verify_holds_the_account_against_what_was_declared(
    finished: Path, capsys: pytest.CaptureFixture[str], name: str, value: object
) -> None:
    released = str(finished)
    assert main(["privacy", "verify", released]) == 0, capsys.readouterr().err
    reconfigure(f"selection.{name}", value, released)
    assert main(["privacy", "verify", released]) == 1
    assert f"selection.{name} is recorded as" in capsys.readouterr().err


def test_verify_finds_a_selection_stated_as_one_fit(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    released = str(finished)

    def unselect(stored: dict[str, Any]) -> None:
        (access,) = stored["accesses"]
        (access["mechanism"],) = access["mechanism"]["mechanisms"]

    forge(released, unselect, key=True)
    assert main(["privacy", "verify", released]) == 1
    assert "selection is recorded as None" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_selection_draws_and_fits_nothing_twice(
    tmp_path: Path, cohort: CropsManifest, draws: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    draws[:] = [3, 7]
    words, train, started = line(tmp_path, cohort, *PRIVATE), mammo_dp.select._train, []

    def until_the_second(arguments: list[str]) -> None:
        if "--print_config" not in arguments:
            started.append(arguments[0])
            if started.count("fit") == 2:
                raise ConnectionAbortedError("power cut")
        train(arguments)

    with monkeypatch.context() as patch:
        patch.setattr(mammo_dp.select, "_train", until_the_second)
        with pytest.raises(ConnectionAbortedError):
            run(words)
    private = tmp_path / "out" / "candidates"
    kept = {path: path.read_bytes() for path in private.rglob("*") if path.is_file()}
    assert len(list(private.glob("*/checkpoints/last.ckpt"))) == 1
    assert not (tmp_path / "out" / "released").exists()
    run(words)
    assert draws == [7]  # not drawn again
    assert len(list(private.glob("*/checkpoints/last.ckpt"))) == 3
    assert {path: path.read_bytes() for path in kept} == kept
    assert statement(tmp_path)["statements"][0]["epsilon"] > 8


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["draws.json", "a score", "half a file"])
def test_what_was_drawn_cannot_be_replaced(
    chosen_from_two: Path,
    tmp_path: Path,
    cohort: CropsManifest,
    changed: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(chosen_from_two / "out", tmp_path / "out", symlinks=True)
    words, private = line(tmp_path, cohort, *PRIVATE), tmp_path / "out" / "candidates"
    record = tmp_path / "out" / "run.json"
    unfinished = json.loads(record.read_text()) | {"finished": None}
    record.write_text(json.dumps(unfinished))
    shutil.rmtree(tmp_path / "out" / "released")
    (score, *_) = (path for path in private.glob("*.json") if path.name != "draws.json")
    path = private / changed if changed == "draws.json" else score
    text = path.read_text()
    stored = json.loads(text)
    stored |= {"fits": stored["fits"][:1]} if changed == "draws.json" else {"score": 99.0}
    path.write_text(text[:40] if changed == "half a file" else json.dumps(stored))
    assert main(words) == 1
    said = capsys.readouterr().err
    assert (
        f"{path}: {'cannot be read' if changed == 'half a file' else 'does not fit its seal'}"
        in said
    )


@pytest.fixture
def unfinished(chosen_from_two: Path, tmp_path: Path) -> Path:
    """The selection as it stood before its end."""
    out = shutil.copytree(chosen_from_two / "out", tmp_path / "out", symlinks=True)
    record = out / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"finished": None}))
    return out


@pytest.mark.slow
def test_what_may_have_been_taken_is_chosen_once(
    unfinished: Path, tmp_path: Path, cohort: CropsManifest, draws: list[int]
) -> None:
    shutil.rmtree(unfinished / "candidates")  # large, and private
    weights = unfinished / "released" / "checkpoints" / "last.ckpt"
    before = weights.read_bytes()
    run(line(tmp_path, cohort, *PRIVATE))
    assert draws == [2]  # nothing was drawn
    assert weights.read_bytes() == before
    assert json.loads((unfinished / "run.json").read_text())["finished"]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [True, False])
def test_only_the_fit_that_was_scored_is_released(
    unfinished: Path,
    tmp_path: Path,
    cohort: CropsManifest,
    capsys: pytest.CaptureFixture[str],
    lost: bool,
) -> None:
    shutil.rmtree(unfinished / "released")
    one, other = (path for path in (unfinished / "candidates").iterdir() if path.is_dir())
    if lost:
        shutil.rmtree(one)
        shutil.rmtree(other)
    else:
        weights = [folder / "checkpoints" / "last.ckpt" for folder in (one, other)]
        mine, theirs = (path.read_bytes() for path in weights)
        weights[0].write_bytes(theirs)
        weights[1].write_bytes(mine)
    assert main(line(tmp_path, cohort, *PRIVATE)) == 1
    assert "is not what was scored and chosen" in capsys.readouterr().err
    assert not (unfinished / "released").exists()


@pytest.mark.slow
def test_a_score_is_of_all_patients_whatever_lies_there(
    unfinished: Path, tmp_path: Path, cohort: CropsManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(unfinished / "released")
    (score, *_) = (p for p in (unfinished / "candidates").glob("*.json") if p.stem != "draws")
    score.unlink()
    table = unfinished / "candidates" / score.stem / "test_train" / "predictions.csv"
    whole = table.read_text()
    table.write_text("".join(whole.splitlines(keepends=True)[:3]))
    scored = []

    def watched(patient: Any, *more: Any) -> float:  # noqa: ANN401
        scored.append(len(set(patient.tolist())))
        return concordance(patient, *more)

    monkeypatch.setattr(mammo_dp.select, "concordance", watched)
    run(line(tmp_path, cohort, *PRIVATE))
    assert scored == [len(cohort.units(cohort.rows("train"), "patient"))]
    assert table.read_text() == whole


def test_a_fit_that_ends_early_has_no_account_in_a_selection(
    tmp_path: Path,
    cohort: CropsManifest,
    draws: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The one that is chosen may be the shortest, and the choice has seen all."""

    def stop(self: DPCropClassifier, *arguments: object) -> None:
        self.trainer.should_stop = True

    monkeypatch.setattr(DPCropClassifier, "on_train_batch_end", stop)
    assert main(line(tmp_path, cohort, *PRIVATE)) == 1
    assert "selection: the fit took 1 of 4 steps" in capsys.readouterr().err


@pytest.mark.slow
def test_a_fit_of_another_selection_is_no_candidate(
    chosen_from_two: Path,
    tmp_path: Path,
    cohort: CropsManifest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A chain of selections, each beginning with the best of the one before, is no selection."""
    words, train = line(tmp_path, cohort, *PRIVATE), mammo_dp.select._train

    def stopped(arguments: list[str]) -> None:
        if "--print_config" not in arguments:
            raise ConnectionAbortedError("power cut")
        train(arguments)

    with monkeypatch.context() as patch:
        patch.setattr(mammo_dp.select, "_train", stopped)
        with pytest.raises(ConnectionAbortedError):
            run(words)
    private = tmp_path / "out" / "candidates"
    drawn = json.loads((private / "draws.json").read_text())["fits"]
    for one in drawn:
        shutil.copytree(chosen_from_two / "out" / "released", private / one["name"])
    assert main(words) == 1
    assert "selection" in (said := capsys.readouterr().err)
    assert "another configuration" in said


@pytest.mark.parametrize(
    ("weight", "converged"), [(1.0, True), (math.nan, False), (-math.inf, False), (1e30, False)]
)
def test_weights_that_diverged_are_told_by_themselves(
    tmp_path: Path, weight: float, converged: bool
) -> None:
    torch.save({"state_dict": {"head": torch.tensor([1.0, weight])}}, tmp_path / "last.ckpt")
    assert mammo_dp.select._has_converged(tmp_path / "last.ckpt") == converged


@pytest.mark.slow
def test_weights_that_diverged_lose(
    tmp_path: Path, cohort: CropsManifest, draws: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    fits: list[Path] = []

    def first_diverged(weights: Path) -> bool:
        fits.append(weights)
        return len(fits) > 1

    monkeypatch.setattr(mammo_dp.select, "_has_converged", first_diverged)
    run(line(tmp_path, cohort, *PRIVATE))
    private = tmp_path / "out" / "candidates"
    assert json.loads((private / f"{fits[0].parts[-3]}.json").read_text())["score"] is None
    released = tmp_path / "out" / "released" / "checkpoints" / "last.ckpt"
    assert released.read_bytes() == fits[1].read_bytes()


def cheaper(folder: Path, *, key: bool) -> None:
    """Rewrites the statement of a candidate: a hundred times as much noise."""

    def louder(stored: dict[str, Any]) -> None:
        stored["accesses"][0]["mechanism"]["mechanisms"][0]["noise_multiplier"] *= 100

    forge(str(folder), louder, key=key)


@pytest.mark.slow
@pytest.mark.parametrize("key", [False, True])
@pytest.mark.parametrize("when", ["before its score", "after it"])
def test_a_statement_that_somebody_changed_is_not_released(
    unfinished: Path,
    tmp_path: Path,
    cohort: CropsManifest,
    capsys: pytest.CaptureFixture[str],
    when: str,
    key: bool,
) -> None:
    shutil.rmtree(unfinished / "released")
    private = unfinished / "candidates"
    for fit in (path for path in private.iterdir() if path.is_dir()):
        cheaper(fit, key=key)
        if when == "before its score":
            (private / f"{fit.name}.json").unlink()
    assert main(line(tmp_path, cohort, *PRIVATE)) == 1
    said = capsys.readouterr().err
    assert "privacy.json: " in said
    assert ("comes on top" if when == "before its score" else "is not what was scored") in said
    assert not (unfinished / "released").exists()


@pytest.mark.slow
def test_a_score_that_was_deleted_is_the_same_again(
    unfinished: Path, tmp_path: Path, cohort: CropsManifest
) -> None:
    """Else whoever may delete it has it measured until a fit wins."""
    released = (unfinished / "released" / "checkpoints" / "last.ckpt").read_bytes()
    shutil.rmtree(unfinished / "released")
    scores = [p for p in (unfinished / "candidates").glob("*.json") if p.stem != "draws"]
    before = {path: path.read_bytes() for path in scores}
    for path in scores:
        path.unlink()
    run(line(tmp_path, cohort, *PRIVATE))
    assert {path: path.read_bytes() for path in scores} == before
    assert (unfinished / "released" / "checkpoints" / "last.ckpt").read_bytes() == released


def test_draws_that_were_deleted_are_not_made_again(
    unfinished: Path, tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(unfinished / "released")
    (unfinished / "candidates" / "draws.json").unlink()
    assert main(line(tmp_path, cohort, *PRIVATE)) == 1
    assert "would be a second selection" in capsys.readouterr().err


@pytest.mark.slow
def test_what_lies_beside_a_candidate_is_not_released(
    unfinished: Path, tmp_path: Path, cohort: CropsManifest
) -> None:
    before = {path.name for path in (unfinished / "released").iterdir()}
    shutil.rmtree(unfinished / "released")
    for fit in (path for path in (unfinished / "candidates").iterdir() if path.is_dir()):
        (fit / "patients.csv").write_text("Jane Doe")
    run(line(tmp_path, cohort, *PRIVATE))
    assert {path.name for path in (unfinished / "released").iterdir()} == before


@pytest.mark.slow
def test_files_are_read_once(
    tmp_path: Path, cohort: CropsManifest, draws: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who edits the configuration for the next experiment changes no fit of this selection."""
    words, train = line(tmp_path, cohort, *PRIVATE), mammo_dp.select._train
    changed = {**DP["model"]["init_args"], "target_epsilon": 200}

    def edited(arguments: list[str]) -> None:
        train(arguments)
        if arguments[0] == "test":
            config = DP | {"model": DP["model"] | {"init_args": changed}}
            (tmp_path / "dp.yaml").write_text(yaml.safe_dump(config))

    monkeypatch.setattr(mammo_dp.select, "_train", edited)
    run(words)
    fits = list((tmp_path / "out" / "candidates").glob("*/config.yaml"))
    targets = [
        yaml.safe_load(path.read_text())["model"]["init_args"]["target_epsilon"] for path in fits
    ]
    assert targets == [8, 8]


@pytest.mark.slow
@pytest.mark.parametrize("before", ["fit", "test"])
def test_crops_that_were_replaced_meanwhile_end_the_selection(
    tmp_path: Path,
    cohort: CropsManifest,
    make_cohort: Callable[..., CropsManifest],
    draws: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    before: str,
) -> None:
    """The choice would depend on patients whom no statement names."""
    mine = replace(cohort, folder=tmp_path / "mine")
    shutil.copytree(cohort.folder, mine.folder)
    other, train = make_cohort("other", origin="other"), mammo_dp.select._train

    def replaced(arguments: list[str]) -> None:
        if arguments[0] == before and "--print_config" not in arguments:
            shutil.rmtree(mine.folder)
            shutil.copytree(other.folder, mine.folder)
        train(arguments)

    monkeypatch.setattr(mammo_dp.select, "_train", replaced)
    assert main(line(tmp_path, mine, *PRIVATE)) == 1
    assert "data differ from what the selection began with" in capsys.readouterr().err
    assert not (tmp_path / "out" / "released").exists()


@pytest.mark.slow
def test_a_candidate_has_no_guarantee_until_it_is_chosen(
    unfinished: Path, tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    for one in (path for path in (unfinished / "candidates").iterdir() if path.is_dir()):
        said = json.loads((one / "privacy.json").read_text())
        assert [each["epsilon"] for each in said["statements"]] == ["infinity"]
        assert "as a candidate of a selection" in said["statements"][0]["because"]
        assert main(["privacy", "verify", str(one)]) == 0, capsys.readouterr().err
    shutil.rmtree(unfinished / "released")
    shutil.copytree(one, unfinished / "released")
    assert main(line(tmp_path, cohort, *PRIVATE)) == 1
    assert "holds a candidate that this selection did not choose" in capsys.readouterr().err


def test_dry_run_prints_the_cost_and_writes_nothing(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    run(line(tmp_path, cohort, *PRIVATE, "--dry_run", "true"))
    text = " ".join(capsys.readouterr().out.split())
    assert "One fit: epsilon = 7.99" in text or "One fit: epsilon = 8 " in text
    assert "law, mean 3" in text
    assert "95 % at most 9." in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Give one of them"),
        ((*PRIVATE, "--score_split", "val"), "Give one of them"),
        ((*PRIVATE, "--mean", "0.5"), "mean=0.5 fits"),
        (("--score_noise_multiplier", "0"), "score_noise_multiplier=0.0"),
        (("--score_split", "test"), "'test'"),
        (("--score_split", "train"), "is the split that trains"),
        ((*PRIVATE, "--grid", "{model.init_args.target_epsilon: [1, 2]}"), "changes what a fit sp"),
        ((*PRIVATE, "--grid", "{data.init_args.rate: [0.5, 1]}"), "changes what a fit spends"),
        ((*PRIVATE, "--grid", "{trainer.max_steps: [5, 6]}"), "changes what a fit spends"),
        ((*PRIVATE, "--grid", "{model.init_args.weights: [a, b]}"), "changes what a fit spends"),
        ((*PRIVATE, "--grid", "{model.init_args.learning_rate: [0.1]}"), "nothing to choose"),
        ((*PRIVATE, "--grid", "{model.init_args.learning_rate: []}"), "without values"),
        ((*PRIVATE, "--grid", "{}"), "nothing to choose"),
    ],
)
def test_what_has_no_account_is_refused_before_compute(
    tmp_path: Path,
    cohort: CropsManifest,
    words: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(line(tmp_path, cohort, *words)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "released").exists()
    assert not list((tmp_path / "out").glob("candidates/*.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--selection={law: geometric, mean: 3, score_split: train}", "is the split that trains"),
        ("--data.init_args.unit=crop", "unit is 'crop'"),
    ],
)
def test_a_fit_refuses_a_selection_without_an_account(
    tmp_path: Path, cohort: CropsManifest, words: str, message: str
) -> None:
    (tmp_path / "dp.yaml").write_text(yaml.safe_dump(DP))
    start = ["fit", "--config", str(tmp_path / "dp.yaml"), "--run_dir", str(tmp_path / "run")]
    plan = "--selection={law: geometric, mean: 3, score_split: val}"
    with pytest.raises(PrivacyError, match=message):
        run([*start, "--data.init_args.crops", str(cohort.folder), plan, words])
    assert not (tmp_path / "run").exists()


def test_a_fit_without_privacy_takes_part_in_no_selection(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    content = DP | {
        "model": {
            "class_path": "mammo_dp.CropClassifier",
            "init_args": {
                name: value
                for name, value in DP["model"]["init_args"].items()
                if name not in ("target_epsilon", "delta")
            },
        },
        "data": {"class_path": "mammo_dp.CropsDataModule", "init_args": {"augment": "none"}},
    }
    assert main(line(tmp_path, cohort, *PRIVATE, config=content)) == 1
    assert "is no private fit" in capsys.readouterr().err


def test_a_private_generator_takes_part_in_no_selection(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["privacy", "select", "--fit", "configs/gan/dp_mcgan.yaml", "--dry_run", "true"]
    words += ["--crops", str(cohort.folder), "--out", str(tmp_path / "out"), *PRIVATE]
    assert main([*words, "--grid", '{"model.init_args.momentum": [0.0, 0.5]}']) == 1
    assert "is no private fit" in capsys.readouterr().err


def test_one_patient_moves_the_concordance_by_at_most_its_sensitivity() -> None:
    rng = np.random.default_rng(0)
    largest = 0.0
    for trial in range(300):
        units = int(rng.integers(2, 7))
        patient = rng.permutation(np.repeat(np.arange(units), rng.integers(1, 4, units)))
        if trial % 2:  # the worst case: one patient of another class, told apart from all others
            malignant, logit = (patient == 0).astype(int), (patient == 0) * 1.0
        else:
            malignant, logit = rng.integers(0, 2, len(patient)), rng.normal(size=len(patient))
        whole = naive_concordance(patient, malignant, logit, units)
        found = concordance(patient, malignant, logit)
        assert found == pytest.approx(whole, abs=1e-12)
        assert abs(found) <= 0.5 + 1e-12
        for blanked in range(units):  # the same number of patients, one of them without crops
            kept = patient != blanked
            rest = naive_concordance(patient[kept], malignant[kept], logit[kept], units)
            assert abs(whole - rest) <= 1 / units + 1e-12
            largest = max(largest, abs(whole - rest) * units)
        for two in itertools.combinations(range(units), 2):  # of one person
            kept = ~np.isin(patient, two)
            rest = naive_concordance(patient[kept], malignant[kept], logit[kept], units)
            assert abs(whole - rest) <= 2 / units + 1e-12
    assert largest == pytest.approx(1.0)  # it is attained, so no smaller noise would do


def naive_concordance(patient: Any, malignant: Any, logit: Any, units: int) -> float:  # noqa: ANN401
    crops: list[list[tuple[int, float]]] = [[] for _ in range(units)]
    for who, label, score in zip(patient, malignant, logit, strict=True):
        crops[who].append((label, score))
    total = 0.0
    for one in range(units):
        for other in range(one):
            pairs = [(a, b) for a in crops[one] for b in crops[other]]
            signs = [
                (int(a[0]) - int(b[0])) * (int(a[1] > b[1]) - int(a[1] < b[1])) / 2
                for a, b in pairs
                if a[0] != b[0]
            ]
            total += sum(signs) / len(pairs) if pairs else 0.0
    return total / (units * (units - 1) / 2)
