# SPDX-License-Identifier: Apache-2.0
"""Exports give the logits of the run, whatever kind of timm model its body is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from data_prep.manifest import CropsManifest
from mammo_dp.export.classifier import classifier
from mammo_dp.export.shared_classifier import SharedClassifier
from tests.export.classifiers import run_of_classifier
from tests.fixtures import KEY, write_cohort

VIT: dict[str, Any] = {"embed_dim": 12, "depth": 1, "num_heads": 2}
BODIES: dict[str, dict[str, Any]] = {
    "cnn": {"backbone": "test_resnet", "image_size": 32, "backbone_args": {}},
    "hybrid": {"backbone": "vit_tiny_r_s16_p8_224", "image_size": 32, "backbone_args": VIT},
    "vit": {
        "backbone": "vit_tiny_patch16_224",
        "image_size": 16,
        "backbone_args": VIT | {"patch_size": 8},
    },
    "swin": {
        "backbone": "swin_tiny_patch4_window7_224",
        "image_size": 32,
        "backbone_args": {
            "embed_dim": 8,
            "depths": [2],
            "num_heads": [2],
            "window_size": 4,
        },
    },
    "dinov2": {
        "backbone": "vit_small_patch14_reg4_dinov2",
        "image_size": 28,
        "backbone_args": VIT,
    },
    "convnext": {
        "backbone": "test_convnext",
        "image_size": 32,
        "backbone_args": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
    },
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One released classifier with random weights for each kind of body."""
    folder = tmp_path_factory.mktemp("bodies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MAMMO_DP_COHORT_KEY", KEY)
        cohort: CropsManifest = write_cohort(folder / "cohort", size=16)
        return {
            kind: run_of_classifier(folder / kind, cohort, **body) for kind, body in BODIES.items()
        }


def crops(run: Path) -> torch.Tensor:
    size = SharedClassifier.read(run).image_size
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 1, size, size, generator=generator) * 2 - 1


@torch.inference_mode()
def logits(run: Path) -> torch.Tensor:
    found: torch.Tensor = SharedClassifier.read(run).released.model(crops(run))
    assert found.std() > 1e-3  # weights that lose the image would agree in anything
    return found


@pytest.mark.parametrize("kind", BODIES)
def test_the_folder_gives_the_logits_of_the_run(
    kind: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    run, folder = runs[kind], tmp_path / "out" / "classifier"
    classifier(run=str(run), out=str(folder.parent))
    assert torch.equal(logits(folder), logits(run))
    assert 'timm.create_model("local-dir:THIS_FOLDER"' in (folder / "README.md").read_text()
    alone = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        assert torch.equal(alone(crops(run)).squeeze(-1), logits(run))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hybrid", "swin"])  # test_classifier: a plain ViT
def test_the_graph_gives_the_logits_of_the_run(
    kind: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    classifier(run=str(runs[kind]), out=str(tmp_path / "out"), format="onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "out" / "classifier" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    found = session.run(["logit"], {"image": crops(runs[kind]).numpy()})[0]
    np.testing.assert_allclose(found, logits(runs[kind]), atol=1e-5, rtol=1e-5)
