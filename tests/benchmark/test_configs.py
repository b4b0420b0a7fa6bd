# SPDX-License-Identifier: Apache-2.0
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from classifier.module import CropClassifier

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
BODY = {"backbone", "backbone_args", "image_size", "trainable"}


def arguments(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["model"]["init_args"]
    return found


@pytest.mark.parametrize("folder", ["classifier", "classifier/vit"])
def test_no_setting_of_a_private_descent_outlives_the_change_to_one_without(folder: str) -> None:
    private = arguments(CONFIGS / folder / "dp_finetune.yaml").keys()
    kept = private & signature(CropClassifier).parameters.keys() - BODY
    assert kept <= arguments(CONFIGS / "benchmark" / "nonprivate.yaml").keys()
