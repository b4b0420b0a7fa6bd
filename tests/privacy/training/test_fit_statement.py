"""The names by which a statement is held against a configuration are those of the arguments."""

import inspect
from pathlib import Path

import pytest

from classifier import weights
from classifier.module import CropClassifier
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.lineage import collect_parents
from mammo_dp.privacy.training.calibration import DPCalibration
from mammo_dp.privacy.training.classifier import DPCropClassifier
from mammo_dp.privacy.training.datamodule import DPCropsDataModule
from mammo_dp.privacy.training.fit_statement import (
    CLASS_SETTINGS,
    DATA_SETTINGS,
    MODEL_SETTINGS,
    PUBLIC_STARTS,
    START_SETTING,
    FitSettings,
    class_constants,
    fit_parents,
)
from mammo_dp.privacy.training.generator import DPMCGAN
from mammo_dp.runs import open_run


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (DPCropClassifier, MODEL_SETTINGS),
        (DPCalibration, MODEL_SETTINGS),
        (DPMCGAN, MODEL_SETTINGS),
        (DPCropsDataModule, DATA_SETTINGS),
        (CropClassifier, (START_SETTING, *CLASS_SETTINGS)),
    ],
)
def test_a_renamed_argument_is_noticed(kind: type, names: tuple[str, ...]) -> None:
    assert set(names) <= set(inspect.signature(kind).parameters)


def test_starts_that_are_no_file_have_one_name() -> None:
    assert PUBLIC_STARTS == (weights.HUB, weights.PACKAGE)


def test_settings_that_a_class_lacks_are_named() -> None:
    config = {
        "model": {"class_path": "other.Model", "init_args": {"delta": 1e-5}},
        "data": {"init_args": dict.fromkeys(DATA_SETTINGS)},
        "trainer": {"max_steps": 3},
    }
    settings = FitSettings.of(config)
    assert settings.missing == ("clipping_norm",)
    assert (settings.model["delta"], settings.max_steps, settings.plan) == (1e-5, 3, None)
    assert FitSettings.of({"model": None}).missing == (*MODEL_SETTINGS, *DATA_SETTINGS)


def test_class_weights_and_prior_are_stated_where_they_are_given() -> None:
    def said(**settings: object) -> tuple[str, ...]:
        return class_constants({"model": {"init_args": settings}})

    assert said() == said(malignant_weight=1.0, prior=None) == class_constants({}) == ()
    (both,) = said(malignant_weight=2, prior=0.1)
    assert both.startswith("malignant_weight 2 and prior 0.1: constants of the configuration")
    assert "counting labels" in both


def test_what_a_configuration_leaves_open_is_inherited(tmp_path: Path) -> None:
    """Not only the fit says it: whatever descends from the weights does."""
    config = {"model": {"init_args": {"malignant_weight": 2}}}
    record = open_run(tmp_path / "fit", command="fit", config=config, inputs={})
    weights = tmp_path / "fit" / "last.ckpt"
    weights.write_text("weights")
    write_statement(record.folder, fit_parents(record), artefact=weights)
    assert collect_parents([weights]).exclusions == class_constants(config) != ()
