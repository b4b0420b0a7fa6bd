from pathlib import Path
from typing import Any

import pytest
import yaml

from classifier.features import SharedFeatures
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.ladder.command import (
    at_budget,
    on_crops,
    read_open,
    read_private,
    with_callbacks,
)

SHIPPED = Path(__file__).parents[3] / "configs/classifier/dp_finetune.yaml"


def changed(tmp_path: Path, part: str, **arguments: Any) -> Path:
    content = yaml.safe_load(SHIPPED.read_text())
    content[part]["init_args"] |= arguments
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_budget_replaces_every_target(tmp_path: Path) -> None:
    path = changed(tmp_path, "model", target_epsilon=None, target_tpr=0.05, target_fpr=0.01)
    found = at_budget(read_private(path), 20, crops="here", weights="w.ckpt")
    arguments = found["model"]["init_args"]
    assert arguments["target_epsilon"] == 20.0
    assert not [name for name in arguments if name.startswith("target_") and "epsilon" not in name]
    assert (arguments["weights"], found["data"]["init_args"]["crops"]) == ("w.ckpt", "here")
    assert "crops" not in yaml.safe_load(path.read_text())["data"]["init_args"]


def test_a_delta_that_is_left_open_is_written_out(tmp_path: Path) -> None:
    content = yaml.safe_load(changed(tmp_path, "model").read_text())
    del content["model"]["init_args"]["delta"]
    (tmp_path / "open.yaml").write_text(yaml.safe_dump(content))
    found = at_budget(read_private(tmp_path / "open.yaml"), 6, crops="here", weights=None)
    assert found["model"]["init_args"]["delta"] == 1e-4


def test_the_budget_none_takes_its_own_configuration() -> None:
    found = on_crops(read_open(SHIPPED.with_name("baseline.yaml")), crops="here", weights="w.ckpt")
    assert found["data"]["init_args"]["crops"] == "here"
    assert found["model"]["init_args"]["weights"] == "w.ckpt"
    with pytest.raises(AttackError, match="The budget none is for CropClassifier"):
        read_open(SHIPPED)


def test_callbacks_are_added_to_those_that_are_there() -> None:
    config = read_private(SHIPPED)
    config["trainer"]["callbacks"] = [{"class_path": "own"}]
    found = with_callbacks(config, {SharedFeatures: {"folder": "x"}})
    assert found["trainer"]["callbacks"] == [
        {"class_path": "own"},
        {"class_path": "classifier.features.SharedFeatures", "init_args": {"folder": "x"}},
    ]
    assert config["trainer"]["callbacks"] == [{"class_path": "own"}]


@pytest.mark.parametrize(
    ("part", "arguments", "message"),
    [
        ("model", {"trainable": "all"}, "trainable all"),
        ("data", {"unit": "crop"}, "unit crop"),
    ],
)
def test_what_has_no_signals_is_refused_before_any_fit(
    tmp_path: Path, part: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(AttackError, match=message):
        read_private(changed(tmp_path, part, **arguments))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AttackError, match="trains CropClassifier on CropsDataModule"):
        read_private(SHIPPED.with_name("baseline.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(AttackError, match="no configuration of a classifier"):
        read_private(tmp_path / "list.yaml")
