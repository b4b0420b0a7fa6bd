# SPDX-License-Identifier: Apache-2.0
"""A benchmark file on a body that trains in a second, and command lines without torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

BODY = {
    "backbone": "vit_tiny_patch16_224",
    "backbone_args": {"patch_size": 16, "embed_dim": 24, "depth": 1, "num_heads": 2},
    "image_size": 32,
    "trainable": "head",
}
PRIVATE = {
    "model": {
        "class_path": "mammo_dp.DPCropClassifier",
        "init_args": {**BODY, "target_epsilon": 6.0, "delta": 1e-3, "views": 1},
    },
    "data": {
        "class_path": "mammo_dp.DPCropsDataModule",
        "init_args": {"rate": 1.0},
    },
    "trainer": {"max_steps": 2, "accelerator": "cpu"},
}
PLAIN = {
    "model": {"class_path": "mammo_dp.CropClassifier", "init_args": BODY},
    "data": {"class_path": "mammo_dp.CropsDataModule", "init_args": {"augment": "none"}},
    "trainer": {"max_steps": 2, "accelerator": "cpu"},
}


def content() -> dict[str, Any]:
    return {
        "title": "Test",
        "seeds": [0, 1],
        "budgets": [6, "none"],
        "units": ["patient", "crop"],
        "reference": "dp",
        "crops": {
            "phantoms": "prepare phantoms --per_class 4",
            "both": "mix real synthetic --per_class 6",
        },
        "stages": {"body": {"fit": ["plain.yaml"], "crops": "phantoms", "seed": 0}},
        "regimes": {
            "dp": {"title": "DP", "private": {"fit": ["private.yaml"], "crops": "real"}},
            "same": {"title": "DP again", "private": {"fit": ["private.yaml"], "crops": "real"}},
            "start": {"private": {"fit": ["private.yaml"], "crops": "real", "weights": "body"}},
            "mixed": {"private": {"fit": ["private.yaml"], "crops": "both"}},
            "plain": {"title": "Plain", "none": {"fit": ["plain.yaml"], "crops": "real"}},
        },
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes the benchmark file with some of its values replaced."""

    def written(**changes: Any) -> Path:
        folder = tmp_path / "configs"
        folder.mkdir(exist_ok=True)
        (folder / "private.yaml").write_text(yaml.safe_dump(PRIVATE, sort_keys=False))
        (folder / "plain.yaml").write_text(yaml.safe_dump(PLAIN, sort_keys=False))
        path = folder / "benchmark.yaml"
        path.write_text(yaml.safe_dump(content() | changes, sort_keys=False))
        return path

    return written
