# SPDX-License-Identifier: Apache-2.0
"""A test scores alike, whether or not features of its crops are kept."""

import itertools
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from classifier.backbones import Trainable, head
from classifier.features import SharedFeatures
from classifier.module import CropClassifier
from classifier.predictions import FILE_NAME, read_predictions
from data_prep.datamodule import CropsDataModule
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.training.calibration import DPCalibration
from tests.classifier.test_module import SMALL, data, trainer
from tests.classifier.test_token_transformer import BODY

pytestmark = pytest.mark.filterwarnings("ignore:The '.*' does not have many workers")

Precision = Literal["bf16-true", "bf16-mixed"]
SWIN: dict[str, Any] = {
    "backbone": "swin_tiny_patch4_window7_224",
    "image_size": 32,
    "backbone_args": {
        "embed_dim": 12,
        "depths": [1, 1],
        "num_heads": [1, 2],
        "patch_size": 2,
        "window_size": 4,
    },
}
MEASURED: dict[str, Any] = {
    "backbone": "crop_measurements",
    "image_size": 32,
    "backbone_args": {"components": 1},
}


def scores(
    folder: Path, net: CropClassifier, crops: CropsDataModule, *callbacks: SharedFeatures
) -> NDArray[np.float64]:
    folder.mkdir()
    trainer(folder, callbacks=[*callbacks]).test(net, crops, verbose=False)
    found: NDArray[np.float64] = read_predictions(folder / FILE_NAME).logit
    return found


def awake(net: CropClassifier) -> CropClassifier:
    """With a head that tells crops apart, and adapters that do something."""
    torch.nn.init.normal_(head(net.net).weight)
    for name, parameter in net.net.named_parameters():
        if "lora_up" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize(
    ("body", "trainable"),
    [
        *itertools.product([SMALL, SWIN, BODY], ["all", "last_blocks", "lora", "head"]),
        *[(MEASURED, "all"), (MEASURED, "head")],  # it has no blocks
    ],
)
def test_scores_are_those_of_the_crops(
    cohort: CropsManifest, tmp_path: Path, body: dict[str, Any], trainable: Trainable
) -> None:
    net = awake(CropClassifier(**body | {"trainable": trainable}))
    plain = scores(tmp_path / "plain", net, data(cohort))
    shared = SharedFeatures(str(tmp_path / "kept"))
    for name in ("first", "second"):
        np.testing.assert_allclose(
            scores(tmp_path / name, net, data(cohort), shared), plain, atol=1e-4
        )
    (kept,) = (tmp_path / "kept").iterdir()
    torch.save(torch.zeros_like(torch.load(kept, weights_only=True)), kept)
    blind = scores(tmp_path / "third", net, data(cohort), shared)  # nothing is computed anew
    assert blind.std() < 1e-5
    assert not np.allclose(blind, plain, atol=1e-2)


@pytest.mark.parametrize("body", [SMALL, MEASURED])  # of one feature too
def test_a_calibrated_model_is_scored_as_without(
    cohort: CropsManifest, tmp_path: Path, body: dict[str, Any]
) -> None:
    net = awake(DPCalibration(**body))
    with torch.no_grad():
        net.net.calibration.weight.fill_(3.0)  # type: ignore[union-attr, operator]
    plain = scores(tmp_path / "plain", net, data(cohort))
    shared = SharedFeatures(str(tmp_path / "kept"))
    np.testing.assert_allclose(
        scores(tmp_path / "first", net, data(cohort), shared), plain, atol=1e-4
    )


@pytest.mark.parametrize("precision", get_args(Precision))
def test_at_another_precision_crops_are_scored(
    cohort: CropsManifest, tmp_path: Path, precision: Precision
) -> None:
    found, net = [], awake(CropClassifier(**SMALL))
    for name, callbacks in (("plain", []), ("kept", [SharedFeatures(str(tmp_path / "shared"))])):
        (tmp_path / name).mkdir()
        some = trainer(tmp_path / name, callbacks=callbacks, precision=precision)
        some.test(net, data(cohort), verbose=False)
        found.append(read_predictions(tmp_path / name / FILE_NAME).logit)
    np.testing.assert_array_equal(found[0], found[1])


def test_the_next_model_is_not_scored_on_features_of_the_last(
    cohort: CropsManifest, tmp_path: Path
) -> None:
    crops, one, other = data(cohort), *(awake(CropClassifier(**SMALL)) for _ in range(2))
    plain = scores(tmp_path / "plain", other, data(cohort))
    scores(tmp_path / "first", one, crops, SharedFeatures(str(tmp_path / "kept")))
    np.testing.assert_allclose(scores(tmp_path / "next", other, crops), plain, atol=1e-4)
