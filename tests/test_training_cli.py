"""``fit``, ``test`` and their run folders, through the front door."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only

from classifier.module import CropClassifier
from classifier.stress import MEASURES
from data_prep.distortions import DISTORTIONS
from data_prep.errors import DataError
from data_prep.manifest import CropsManifest
from mammo_dp.main import main, run
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.cohort import Cohort
from mammo_dp.privacy.statement.lineage import PHANTOMS
from mammo_dp.runs import RunError, file_sha256, read_run

BODY = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_args": {"patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3},
    "image_size": 32,
}
TINY: dict[str, Any] = {
    "model": {
        "class_path": "mammo_dp.CropClassifier",
        "init_args": BODY,
    },
    "data": {
        "class_path": "mammo_dp.CropsDataModule",
        "init_args": {"augment": "none", "batch_size": 8},
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
}
DP: dict[str, Any] = {
    "model": {
        "class_path": "mammo_dp.DPCropClassifier",
        "init_args": {
            **BODY,
            "trainable": "norm_bias",
            "target_epsilon": 8.0,
            "delta": 1e-3,
        },
    },
    "data": {
        "class_path": "mammo_dp.DPCropsDataModule",
        "init_args": {"augment": "none", "rate": 0.5},
    },
    "trainer": {
        "max_steps": 6,
        "accelerator": "cpu",
        "limit_val_batches": 0,
        "enable_progress_bar": False,
    },
}


def fit_line(tmp_path: Path, cohort: CropsManifest, content: object, name: str) -> list[str]:
    config = tmp_path / f"{name}.yaml"
    config.write_text(yaml.safe_dump(content))
    crops = ["--data.init_args.crops", str(cohort.folder)]
    return ["fit", "--config", str(config), *crops, "--run_dir", str(tmp_path / name)]


def test_fit_then_test_fill_run_folders(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    line, folder = fit_line(tmp_path, cohort, TINY, "plain"), tmp_path / "plain"
    run(line)
    record = read_run(folder)
    assert record.is_finished
    written = {"checkpoints/last.ckpt", "config.yaml", "privacy.json", "crop_rule.json"}
    assert set(record.outputs) >= written
    assert record.inputs["data"].sha256 == cohort.sha256
    released = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert "optimizer_states" not in released
    statement = json.loads((folder / "privacy.json").read_text())["statements"][0]
    assert statement["epsilon"] == "infinity"
    assert "without DP" in statement["because"]

    capsys.readouterr()
    run(["test", "--run", str(folder)])
    shown = capsys.readouterr().out
    assert re.search(r"metrics.json: AUROC [.\d]+ \[[.\d]+, [.\d]+\], interval over \d+ pat", shown)
    assert (folder / "test_val" / "predictions.csv").exists()
    assert (
        read_run(folder / "test_val").inputs["checkpoint"].sha256
        == (record.outputs["checkpoints/last.ckpt"])
    )
    for again in (line, ["test", "--run", str(folder)]):
        capsys.readouterr()
        run(again)
        assert "Already finished" in capsys.readouterr().out


def test_a_test_on_patients_who_trained_says_so(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    run(fit_line(tmp_path, cohort, TINY, "plain"))
    trained = {crop.patient for crop in cohort.crops if crop.split == "train"}
    one = min(patient for patient in trained)
    shutil.copytree(cohort.folder, tmp_path / "again")  # with another share of val
    crops = [replace(c, split="val") if c.patient == one else c for c in cohort.crops]
    CropsManifest.write(tmp_path / "again", crops)
    line = ["test", "--run", str(tmp_path / "plain")]
    found = {}
    for name in (str(cohort.folder), str(tmp_path / "again")):
        capsys.readouterr()
        run([*line, "--data.init_args.crops", name, "--run_dir", str(tmp_path / "out" / name[-5:])])
        stored = json.loads((tmp_path / "out" / name[-5:] / "metrics.json").read_text())
        found[name[-5:]] = (stored["seen"], "no measure of new patients" in capsys.readouterr().out)
    line += ["--stress", "--data.init_args.crops", str(tmp_path / "again")]
    run([*line, "--run_dir", str(tmp_path / "stress")])
    stored = json.loads((tmp_path / "stress" / "stress.json").read_text())
    found["stress"] = (stored["seen"], "no measure of new patients" in capsys.readouterr().out)
    assert found.pop("stress") == found["again"]
    weights = file_sha256(tmp_path / "plain" / "checkpoints" / "last.ckpt")
    assert found.pop("again") == (
        f"CropClassifier ({weights[:12]}) was trained on some of these patients.",
        True,
    )
    assert list(found.values()) == [("", False)]
    for name in ("privacy.json", "PRIVACY.md"):  # a folder may be named after a person
        assert "plain" not in (tmp_path / "plain" / name).read_text()


def test_a_test_says_where_nobody_knows_whether_its_patients_are_new(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "plain"
    run(fit_line(tmp_path, cohort, TINY, "plain"))
    (folder / "privacy.json").unlink()
    for flags, file in (([], "test_val/metrics.json"), (["--stress"], "stress_val/stress.json")):
        run(["test", *flags, "--run", str(folder)])
        stored = json.loads((folder / file).read_text())
        assert (stored["seen"], bool(stored["perhaps_seen"])) == ("", True)
        said = f"Nobody knows whether these are new patients: {stored['perhaps_seen']}"
        assert said in capsys.readouterr().out


def test_another_configuration_in_the_same_folder_is_refused(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    line = fit_line(tmp_path, cohort, TINY, "plain")
    run(line)
    before = (tmp_path / "plain" / "checkpoints" / "last.ckpt").read_bytes()
    assert main([*line, "--trainer.max_epochs", "3"]) == 1
    assert "trainer.max_epochs: 2, now 3" in capsys.readouterr().err
    assert (tmp_path / "plain" / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (DP, ["Training: 1 of 6 steps", "Training: 6 of 6 steps, 0 s left"]),
        (
            TINY,
            [
                "Training: 1 of 6 batches (epoch 1 of 2)",
                "Training: 6 of 6 batches (epoch 2 of 2), 0 s",
            ],
        ),
    ],
    ids=["private", "plain"],
)
def test_a_fit_tells_a_file_how_far_it_is(
    tmp_path: Path,
    cohort: CropsManifest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: dict[str, Any],
    lines: list[str],
) -> None:
    monkeypatch.setattr("mammo_dp.training_progress.EVERY_S", 0.0)
    shown = {**content, "trainer": {**content["trainer"], "enable_progress_bar": True}}
    run(fit_line(tmp_path, cohort, shown, "told"))
    printed = capsys.readouterr()
    told = [line for line in printed.err.splitlines() if line.startswith("Training")]
    assert "Epoch" not in printed.out
    assert told[0].startswith(lines[0])
    assert told[-1].startswith(lines[1])
    assert len(told) == int(lines[1].split()[1])


def test_the_bar_in_a_terminal_counts_to_no_epoch_where_steps_end_a_fit(
    tmp_path: Path,
    cohort: CropsManifest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    shown = {**DP, "trainer": {**DP["trainer"], "enable_progress_bar": True}}
    run(fit_line(tmp_path, cohort, shown, "bar"))
    printed = capsys.readouterr()
    assert "Epoch 0:" in printed.out
    assert "/-2" not in printed.out
    assert "Training" not in printed.err


@pytest.mark.parametrize("killed_in", ["close_run", "Path.unlink"])
def test_a_fit_that_is_killed_at_its_very_end_does_not_train_again(
    tmp_path: Path, cohort: CropsManifest, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    line, last = (
        fit_line(tmp_path, cohort, DP, "private"),
        tmp_path / "private/checkpoints/last.ckpt",
    )
    unlink = Path.unlink

    def killed(*arguments: Any, **keywords: Any) -> None:
        if killed_in == "Path.unlink" and arguments[0].name != "resume.ckpt":
            return unlink(*arguments, **keywords)
        raise ConnectionAbortedError("power cut")

    with monkeypatch.context() as patch:
        owner = "" if killed_in.startswith("Path") else "mammo_dp.training_cli."
        patch.setattr(owner + killed_in.replace("Path", "pathlib.Path"), killed)
        with pytest.raises(ConnectionAbortedError):
            run(line)
    first = torch.load(last, weights_only=True)["state_dict"]
    # What was kept may be of an earlier step, or lost.
    (last.parent / "resume.ckpt").unlink(missing_ok=True)
    (last.parent / "resume.ckpt.part").write_bytes(b"state of patients")
    run(line)
    assert read_run(tmp_path / "private").is_finished
    assert list(last.parent.iterdir()) == [last]
    assert not [name for name in read_run(tmp_path / "private").outputs if "resume" in name]
    again = torch.load(last, weights_only=True)["state_dict"]
    assert first.keys() == again.keys()  # noise is fresh at each start, so further steps would show
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert main(["privacy", "verify", str(tmp_path / "private")]) == 0


def run_until_the_statement(line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that is killed after its weights are written."""

    def killed(*arguments: Any) -> None:
        raise ConnectionAbortedError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("mammo_dp.training_cli.write_fit_statement", killed)
        with pytest.raises(ConnectionAbortedError):
            run(line)


@pytest.mark.parametrize("settings", [{}, {"trainable": "lora", "ema_decay": 0.9}])
def test_weights_that_may_have_been_seen_are_those_that_are_released(
    tmp_path: Path,
    cohort: CropsManifest,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    """Killed before the statement, at a step whose state was not due to be kept."""
    model = DP["model"] | {"init_args": DP["model"]["init_args"] | settings}
    config = DP | {"model": model, "trainer": DP["trainer"] | {"max_steps": 41}}
    line, last = fit_line(tmp_path, cohort, config, "private"), "private/checkpoints/last.ckpt"

    run_until_the_statement(line, monkeypatch)
    first = torch.load(tmp_path / last, weights_only=True)["state_dict"]
    run(line)
    again = torch.load(tmp_path / last, weights_only=True)
    assert again["accountant"]["history"][0][2] == 41
    assert all(torch.equal(first[name], again["state_dict"][name]) for name in first)
    assert main(["privacy", "verify", str(tmp_path / "private")]) == 0


def test_weights_without_statement_or_state_are_made_no_second_time(
    tmp_path: Path,
    cohort: CropsManifest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = fit_line(tmp_path, cohort, DP, "private")

    run_until_the_statement(line, monkeypatch)
    (tmp_path / "private/checkpoints/resume.ckpt").unlink()  # damaged by a full disk
    last = tmp_path / "private/checkpoints/last.ckpt"
    before = last.read_bytes()
    assert main(line) == 1
    assert "was written by an earlier start" in capsys.readouterr().err
    assert last.read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model.dict_kwargs.foo", "1"], "unexpected keyword argument 'foo'"),
        (
            ["--trainer.callbacks+=Timer", "--trainer.callbacks.duration", "00:00:10:00"],
            "an argument cannot be written into config.yaml",
        ),
        (
            [
                "--trainer.callbacks+=GradientAccumulationScheduler",
                "--trainer.callbacks.scheduling",
                "{0: 2}",
            ],
            "or a schedule of it: two draws would be accounted as one",
        ),
    ],
    ids=("unknown argument", "not to be written", "accumulation"),
)
def test_what_a_fit_cannot_take_is_said_in_a_sentence(
    tmp_path: Path,
    cohort: CropsManifest,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    said: str,
) -> None:
    assert main([*fit_line(tmp_path, cohort, DP, "private"), *flags]) == 1
    assert said in capsys.readouterr().err
    assert not (tmp_path / "private").exists()


def test_one_callback_need_not_be_a_list(tmp_path: Path, cohort: CropsManifest) -> None:
    one = {"class_path": "lightning.pytorch.callbacks.ModelSummary"}
    config = DP | {"trainer": DP["trainer"] | {"callbacks": one}}
    run(fit_line(tmp_path, cohort, config, "private"))
    assert read_run(tmp_path / "private").is_finished


def test_a_lone_fit_is_alone_whatever_the_environment_calls_it(
    tmp_path: Path,
    cohort: CropsManifest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As under torchrun, or with a variable that a queue has left."""
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    line = fit_line(tmp_path, cohort, DP, "private")
    with run_folder_of(line, tmp_path):
        assert main(line) == 1
        assert "another process is at work" in capsys.readouterr().err
    assert main([*line, "--trainer.devices", "auto"]) == 1
    assert "--trainer.devices: the environment calls this a further" in capsys.readouterr().err
    assert main(line) == 0
    assert (tmp_path / "private/config.yaml").is_file()


@contextmanager
def run_folder_of(line: list[str], tmp_path: Path) -> Iterator[None]:
    """Another process is at work on this run."""
    folder = tmp_path / "private"
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mammo_dp import runs\n"
        f"runs._take(Path({str(folder)!r}))\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield
        other.kill()
    shutil.rmtree(folder)


def test_a_private_fit_that_ends_early_and_is_killed_goes_on(
    tmp_path: Path, cohort: CropsManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = fit_line(tmp_path, cohort, DP, "private")
    line += ["--trainer.limit_train_batches", "3", "--trainer.max_epochs", "1"]
    run_until_the_statement(line, monkeypatch)
    run(line)
    assert read_run(tmp_path / "private").is_finished


def test_released_weights_count_no_crops_of_others(tmp_path: Path, cohort: CropsManifest) -> None:
    run(fit_line(tmp_path, cohort, DP, "private"))
    last = tmp_path / "private/checkpoints/last.ckpt"
    assert "loops" not in torch.load(last, weights_only=True)


def test_a_stopped_fit_goes_on_and_loses_nothing(
    tmp_path: Path, cohort: CropsManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(fit_line(tmp_path, cohort, TINY, "whole"))
    line, steps = fit_line(tmp_path, cohort, TINY, "stopped"), CropClassifier.training_step

    def power_cut(self: CropClassifier, batch: object, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == 1:
            raise ConnectionAbortedError("power cut")
        return steps(self, batch, batch_idx)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(CropClassifier, "training_step", power_cut)
        with pytest.raises(ConnectionAbortedError):
            run(line)
    assert not read_run(tmp_path / "stopped").is_finished
    assert (tmp_path / "stopped" / "checkpoints" / "resume.ckpt").exists()
    run(line)
    assert read_run(tmp_path / "stopped").is_finished
    assert not (tmp_path / "stopped" / "checkpoints" / "resume.ckpt").exists()
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        for name in ("whole", "stopped")
    )
    assert one["global_step"] == other["global_step"]
    assert sorted(path.name for path in (tmp_path / "stopped" / "logs").iterdir()) == [
        "version_0",
        "version_1",
    ]


def test_dp_fit_states_what_it_spent(tmp_path: Path, cohort: CropsManifest) -> None:
    constants = ["--model.init_args.malignant_weight", "2", "--model.init_args.prior", "0.3"]
    run([*fit_line(tmp_path, cohort, DP, "dp"), *constants])
    stored = json.loads((tmp_path / "dp" / "privacy.json").read_text())
    (statement,) = stored["statements"]
    assert statement["unit"] == "patient"
    assert statement["units"] == 4
    assert statement["steps"] == 6
    assert statement["sampling_rate"] == 0.5
    assert 7.5 < statement["epsilon"] <= 8.0
    assert statement["cohort"] == Cohort.of_manifest(cohort, "train").tag
    for name in ("delta", "adjacency", "accountant", "noise_multiplier", "risk", "because"):
        assert statement[name]
    assert any("Metrics" in exclusion for exclusion in stored["exclusions"])
    assert stored["exclusions"][0].startswith("malignant_weight 2 and prior 0.3: constants")
    assert main(["privacy", "verify", str(tmp_path / "dp")]) == 0
    everything = "".join(
        path.read_text(errors="replace") for path in (tmp_path / "dp").rglob("*") if path.is_file()
    )
    assert "P000" not in everything  # no patient id in any output, log or checkpoint


def test_ancestor_without_dp_on_the_same_patients_makes_epsilon_infinite(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    run(fit_line(tmp_path, cohort, TINY, "plain"))
    weights = ["--model.init_args.weights", str(tmp_path / "plain" / "checkpoints" / "last.ckpt")]
    run([*fit_line(tmp_path, cohort, DP, "dp"), *weights])
    (statement,) = json.loads((tmp_path / "dp" / "privacy.json").read_text())["statements"]
    assert statement["epsilon"] == "infinity"
    assert statement["noise_multiplier"] > 0


def test_what_the_phantoms_owe_to_real_crops_reaches_every_descendant(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    phantoms = str(tmp_path / "phantoms")
    run(["prepare", "phantoms", "--per_class", "10", "--size", "32", "--out", phantoms])
    line = fit_line(tmp_path, cohort, TINY, "pretrain")
    run([*line, "--data.init_args.crops", phantoms])
    weights = str(tmp_path / "pretrain" / "checkpoints" / "last.ckpt")
    run([*fit_line(tmp_path, cohort, DP, "dp"), "--model.init_args.weights", weights])
    stored = json.loads((tmp_path / "dp" / "privacy.json").read_text())
    assert stored["statements"][0]["epsilon"] <= 8.0
    assert PHANTOMS in stored["exclusions"]


def test_a_fixed_seed_leaves_no_guarantee_to_the_fit_and_its_descendants(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    fast = ["--data.init_args.rate", "1.0", "--trainer.max_steps", "1"]
    weights = ["--model.init_args.weights", str(tmp_path / "seeded/checkpoints/last.ckpt")]
    more = ["--model.init_args.weights", str(tmp_path / "dp/checkpoints/last.ckpt")]
    run([*fit_line(tmp_path, cohort, DP, "seeded"), *fast, "--data.init_args.insecure_seed", "0"])
    run([*fit_line(tmp_path, cohort, DP, "dp"), *fast, *weights])
    run([*fit_line(tmp_path, cohort, DP, "further"), *fast, *more])
    run([*fit_line(tmp_path, cohort, DP, "without"), *fast])
    for name in ("seeded", "dp", "further"):
        (statement,) = json.loads((tmp_path / name / "privacy.json").read_text())["statements"]
        assert statement["epsilon"] == "infinity"
        seeded = file_sha256(tmp_path / "seeded" / "checkpoints" / "last.ckpt")
        assert f"DPCropClassifier ({seeded[:12]})" in statement["because"]
        assert "a fixed seed, for tests" in statement["because"]
        assert "a fixed seed, for tests" in (tmp_path / name / "PRIVACY.md").read_text()
        run(["privacy", "verify", str(tmp_path / name)])  # and what it comes from
    (statement,) = json.loads((tmp_path / "without" / "privacy.json").read_text())["statements"]
    assert statement["epsilon"] <= 8.0


def test_an_edited_record_does_not_hide_a_fixed_seed(
    tmp_path: Path, cohort: CropsManifest, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = ["--data.init_args.rate", "1.0", "--trainer.max_steps", "1"]
    run([*fit_line(tmp_path, cohort, DP, "seeded"), *fast, "--data.init_args.insecure_seed", "7"])
    path = tmp_path / "seeded" / "privacy.json"
    path.write_text(path.read_text().replace("with draws and noise of a fixed seed", "with care"))
    assert main(["privacy", "verify", str(tmp_path / "seeded")]) == 1
    assert "does not fit its seal" in capsys.readouterr().err


def test_weights_without_their_lineage_leave_no_guarantee_and_a_warning(
    tmp_path: Path, cohort: CropsManifest, caplog: pytest.LogCaptureFixture
) -> None:
    run(fit_line(tmp_path, cohort, TINY, "plain"))
    copied = tmp_path / "copied.ckpt"
    copied.write_bytes((tmp_path / "plain" / "checkpoints" / "last.ckpt").read_bytes())
    line = fit_line(tmp_path, cohort, DP, "dp")
    run([*line, "--model.init_args.weights", str(copied)])
    assert "unknown whose data the training of copied.ckpt used" in caplog.text
    for statement in json.loads((tmp_path / "dp" / "privacy.json").read_text())["statements"]:
        assert statement["epsilon"] == "infinity"
        assert "copied.ckpt" in statement["because"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fit"], "--run_dir: is missing"),
        (["fit", "--run", "x", "--run_dir", "y"], "belongs to validate and test"),
        (["fit", "--run_dir", "y", "--ckpt_path", "z"], "would override the configuration"),
        (["test", "--run_dir", "y"], "--run: is missing"),
        (["test", "--run", "nowhere"], "holds no config.yaml"),
    ],
)
def test_wrong_usage_is_named(
    tmp_path: Path, cohort: CropsManifest, words: list[str], message: str
) -> None:
    config = fit_line(tmp_path, cohort, TINY, "plain")[1:5]
    with pytest.raises(RunError, match=message):
        run([words[0], *config, *words[1:]])


def test_a_configuration_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(
        RunError, match=r"--config nowhere/a.yaml: does not exist.* lie in .*configs"
    ):
        run(["fit", "--config", "nowhere/a.yaml", "--run_dir", "y"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.init_args.wights", "x"], "argument 'wights'. Did you mean 'weights'?"),
        (["--model.init_args.zzz", "1"], "argument 'zzz'. The flag --model.help"),
    ],
)
def test_a_misspelt_argument_is_named_in_one_sentence(
    tmp_path: Path,
    cohort: CropsManifest,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        run([*fit_line(tmp_path, cohort, TINY, "plain"), *words])
    shown = capsys.readouterr().err
    assert message in shown
    assert "Union" not in shown
    assert len(shown.splitlines()) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["test"], "test and validate --run RUN"),
        (["fit", "--data.init_args.crops", "x"], "'crops' belongs to no class yet. Give --config"),
    ],
)
def test_a_command_without_model_and_data_says_what_to_give(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("accelerator", ["cuda", "gpuu"])
def test_a_device_that_is_not_there_is_refused_and_leaves_no_folder(
    accelerator: str, tmp_path: Path, cohort: CropsManifest
) -> None:
    if accelerator == "cuda" and torch.cuda.is_available():
        pytest.skip("a device is there")
    line = fit_line(tmp_path, cohort, TINY, "plain")
    with pytest.raises(RunError, match=r"--trainer.*--trainer.accelerator cpu runs everywhere"):
        run([*line, "--trainer.accelerator", accelerator])
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("seed_everything", "-1"),
        ("seed_everything", "4294967296"),
        ("data.init_args.batch_size", "0"),
        ("data.init_args.num_workers", "-1"),
        ("trainer.devices", "-1"),
        ("trainer.devices", "x"),
        ("trainer.val_check_interval", "0"),
        ("trainer.check_val_every_n_epoch", "0"),
    ],
)
def test_a_number_that_cannot_be_is_refused_and_leaves_no_folder(
    flag: str, value: str, tmp_path: Path, cohort: CropsManifest
) -> None:
    line = fit_line(tmp_path, cohort, TINY, "plain")
    with pytest.raises((RunError, DataError), match=flag.split(".")[-1]):
        run([*line, f"--{flag}", value])
    assert not (tmp_path / "plain").exists()


def test_a_seed_that_cannot_be_is_refused_by_a_private_fit(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    line = [*fit_line(tmp_path, cohort, DP, "private"), "--data.init_args.insecure_seed", "-1"]
    with pytest.raises(PrivacyError, match="insecure_seed=-1"):
        run(line)


def test_delta_above_one_per_patient_is_refused(tmp_path: Path, cohort: CropsManifest) -> None:
    line = fit_line(tmp_path, cohort, DP, "dp")
    with pytest.raises(PrivacyError, match="delta"):
        run([*line, "--model.init_args.delta", "0.25"])
    assert not (tmp_path / "dp").exists()


def test_delta_too_large_for_the_patients_of_a_parent_is_refused_before_training(
    tmp_path: Path, cohort: CropsManifest, make_cohort: Callable[..., CropsManifest]
) -> None:
    larger = make_cohort("larger", patients=12)  # 8 of them in train, 4 in that of the other
    run([*fit_line(tmp_path, larger, DP, "parent"), "--model.init_args.delta", "0.1"])
    weights = str(tmp_path / "parent" / "checkpoints" / "last.ckpt")
    line = [*fit_line(tmp_path, cohort, DP, "dp"), "--model.init_args.weights", weights]
    with pytest.raises(PrivacyError, match=r"delta=0\.2 is not below 1/8"):
        run([*line, "--model.init_args.delta", "0.2"])
    assert not (tmp_path / "dp").exists()


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained"])
def test_weights_past_the_lineage_are_refused(
    tmp_path: Path, cohort: CropsManifest, name: str
) -> None:
    model = {
        "class_path": "mammo_dp.CropClassifier",
        "init_args": {**BODY, "backbone_args": {name: "leaky.ckpt"}},
    }
    line = fit_line(tmp_path, cohort, {**TINY, "model": model}, "plain")
    with pytest.raises(RunError, match=f"backbone_args: {name} would load weights"):
        run(line)
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize(
    ("config", "flags", "message"),
    [
        (DP, ["--model.init_args.target_advantage", "0.1"], r"budget: .*exactly one target"),
        (DP, ["--model.init_args.target_epsilon", "null"], "budget: no target given"),
        (DP, ["--model.init_args.backbone", "vit_giga"], "'vit_giga' is unknown to timm"),
        (DP, ["--model.init_args.lora_rank", "0", "--model.init_args.trainable", "lora"], "=0"),
        (TINY, ["--model.init_args.learning_rate", "-1"], "learning_rate=-1"),
    ],
)
def test_what_a_model_says_of_its_arguments_reaches_the_user(
    tmp_path: Path,
    cohort: CropsManifest,
    capsys: pytest.CaptureFixture[str],
    config: object,
    flags: list[str],
    message: str,
) -> None:
    assert main([*fit_line(tmp_path, cohort, config, "run"), *flags]) == 1
    assert not (tmp_path / "run").exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mammo-dp")]
    assert line.startswith("mammo-dp fit: ")
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "holds volumes of 4 slices, where crops in the plane are needed"),
        (["--data.init_args.depth", "4"], "CropClassifier: takes crops in the plane"),
        (["--data.init_args.depth", "8"], "volumes of 4 slices, where volumes of 8 slices"),
    ],
)
def test_a_model_of_crops_refuses_volumes(
    tmp_path: Path,
    volumes: CropsManifest,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    assert main([*fit_line(tmp_path, volumes, TINY, "run"), *flags]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mammo-dp")]
    assert message in line


def test_fidelity_refuses_volumes_beside_crops(
    tmp_path: Path,
    volumes: CropsManifest,
    cohort: CropsManifest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sets = ["--real", str(cohort.folder), "--synthetic", str(volumes.folder)]
    assert main(["fidelity", *sets, "--out", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr().err
    assert f"{volumes.folder}/crops.csv: holds volumes of 4 slices" in shown
    sets = ["--real", str(volumes.folder), "--synthetic", str(cohort.folder)]
    assert main(["fidelity", *sets, "--out", str(tmp_path / "deep")]) == 1
    assert "holds crops in the plane, where volumes of 4 slices" in capsys.readouterr().err


def test_a_generator_is_neither_tested_nor_validated_and_leaves_no_folder(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    generator = {
        **TINY,
        "model": {
            "class_path": "mammo_dp.MCGAN",
            "init_args": {"image_size": 32, "channels": 4, "latent": 8},
        },
    }
    run(fit_line(tmp_path, cohort, generator, "mcgan"))
    folder = tmp_path / "mcgan"
    for command in ("test", "validate"):
        with pytest.raises(RunError, match=rf"nothing to {command}\. .*generate.*fidelity"):
            run([command, "--run", str(folder)])
        assert not (folder / f"{command}_val").exists()


def test_stress_scores_the_same_crops_distorted(tmp_path: Path, cohort: CropsManifest) -> None:
    line, folder = fit_line(tmp_path, cohort, TINY, "plain"), tmp_path / "plain"
    run(line)
    run(["test", "--run", str(folder)])
    run(["test", "--stress", "--run", str(folder)])
    stored = json.loads((folder / "stress_val" / "stress.json").read_text())
    measured = json.loads((folder / "test_val" / "metrics.json").read_text())
    assert [row["distortion"] for row in stored["rows"]] == ["none", *DISTORTIONS]
    for name in ("crops", "patients", "malignant", "level", "resamples", "split"):
        assert stored[name] == measured[name]
    for name in MEASURES:
        assert stored["rows"][0]["measures"][name] == measured[name]
    briers = {row["measures"]["brier"]["value"] for row in stored["rows"]}
    assert len(briers) == len(stored["rows"])
    record = read_run(folder / "stress_val")
    assert record.is_finished
    assert record.command == "test"
    assert record.inputs == read_run(folder / "test_val").inputs
    assert set(record.outputs) == {"config.yaml", "stress.json", "stress.csv"}
    with pytest.raises(RunError, match="--stress: belongs to test"):
        run(["validate", "--stress", "--run", str(folder)])
