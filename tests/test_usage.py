"""What is wrong with a word of a command line is said in one sentence."""

from pathlib import Path

import pytest
import yaml

from mammo_dp.main import main
from mammo_dp.usage import in_words

CONFIG = {
    "model": {"class_path": "mammo_dp.CropClassifier", "init_args": {"image_size": 32}},
    "data": {"class_path": "mammo_dp.CropsDataModule", "init_args": {"crops": "crops"}},
}


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of what the command printed before it ended."""
    with pytest.raises(SystemExit):
        main(words)
    *_, last = capsys.readouterr().err.splitlines()
    return last


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--trainer.max_epochs", "abc"],
            "--trainer.max_epochs: 'abc' is not a whole number or null.",
        ),
        (
            ["--model.init_args.image_size", "big"],
            "--model.init_args.image_size: 'big' is not a whole",
        ),
        (["--model.init_args.learning_rate", "[1]"], "learning_rate: '[1]' is not a number."),
        (["--model.init_args.trainable", "x"], "trainable: 'x' is not one of 'all', 'last_blocks'"),
        (["--model.init_args.backbone_args", "3"], "'3' is not names with values or null."),
        (["--data.init_args.batch_size", "x"], "--data.init_args.batch_size: 'x' is not a whole"),
    ],
)
def test_a_fit_names_flag_and_value(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fit.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    line = ["fit", "--config", str(path), *words, "--run_dir", str(tmp_path / "run")]
    assert sentence in said(line, capsys)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("privacy risk --noise_multiplier a", "--noise_multiplier: 'a' is not a number."),
        ("prepare lesions --dry_run 3", "--dry_run: '3' is not true or false."),
        ("prepare phantoms --parameters.beta_range [1]", "beta_range: '[1]' is not a list of 2."),
        ("generate --seed 1.5", "--seed: '1.5' is not a whole number."),
        ("generate --attributes 3", "--attributes: '3' is not names with values or null."),
    ],
)
def test_other_commands_do_too(
    line: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sentence in said(line.split(), capsys)


def test_a_value_in_a_file_is_named_as_one_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fit.yaml"
    line = ["fit", "--config", str(path), "--run_dir", str(tmp_path / "run")]
    wrong = {"class_path": "mammo_dp.CropClassifier", "init_args": {"image_size": "big"}}
    path.write_text(yaml.safe_dump(CONFIG | {"model": wrong}))
    assert "--model.init_args.image_size: 'big' is not a whole number." in said(line, capsys)
    path.write_text(yaml.safe_dump(CONFIG | {"trainer": {"devices": ["x"]}}))
    assert "is not a list of whole numbers, text or a whole number." in said(line, capsys)


def test_messages_of_other_kinds_stay() -> None:
    for message in (
        "unrecognized arguments: --nothing 3",
        "Parser key \"a\":\n  Expected a <class 'pathlib.Path'>. Got value: 3",
        "Parser key \"model\":\n  Problem with given class_path 'a.B':\n    No module named a",
    ):
        assert in_words(message) == message
