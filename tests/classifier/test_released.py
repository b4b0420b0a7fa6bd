from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classifier.module import CropClassifier
from classifier.released import (
    Calibration,
    ReleasedClassifier,
    ReleasedError,
    load_classifier,
    settings_of,
)

BODY: dict[str, Any] = {
    "backbone_args": {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2},
    "image_size": 16,
}


def save(path: Path, model: CropClassifier, **more: torch.Tensor) -> Path:
    state = {**model.state_dict(), **more}
    torch.save({"state_dict": state, "hyper_parameters": dict(model.hparams)}, path)
    return path


def test_a_released_model_scores_as_the_one_that_was_saved(tmp_path: Path) -> None:
    model = CropClassifier(**BODY, trainable="lora", lora_rank=2, learning_rate=0.1).eval()
    images = torch.rand(3, 1, 16, 16) * 2 - 1
    loaded = load_classifier(save(tmp_path / "last.ckpt", model))
    assert not loaded.training
    assert torch.equal(loaded(images), model(images))
    again = CropClassifier(**settings_of(loaded))
    assert again.state_dict().keys() == model.state_dict().keys()


def test_a_learning_rate_that_followed_from_noise_is_not_needed(tmp_path: Path) -> None:
    model = CropClassifier(**BODY)
    model.hparams["learning_rate"] = None
    assert not load_classifier(save(tmp_path / "last.ckpt", model)).training


def test_calibration_is_read_beside_the_net_and_moves_logits(tmp_path: Path) -> None:
    model = CropClassifier(**BODY)
    path = tmp_path / "last.ckpt"
    assert ReleasedClassifier.read(save(path, model)).calibration is None
    fitted = {
        "net.calibration.weight": torch.tensor([[0.5]]),
        "net.calibration.bias": torch.tensor([-1.0]),
    }
    calibration = ReleasedClassifier.read(save(path, model, **fitted)).calibration
    assert calibration == Calibration(slope=0.5, intercept=-1.0)
    assert np.array_equal(calibration(np.array([0.0, 4.0])), [-1.0, 1.0])


def test_what_is_no_classifier_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(ReleasedError, match="is no file, so the run released nothing"):
        load_classifier(path)
    save(path, CropClassifier(**BODY))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ReleasedError, match="cannot be read as a checkpoint"):
        load_classifier(path)
    torch.save({"state_dict": {"generator.w": torch.ones(1)}, "hyper_parameters": {}}, path)
    with pytest.raises(ReleasedError, match=r"is no crop classifier; it holds generator\. Give"):
        load_classifier(path)
    other = CropClassifier(**BODY)
    torch.save(
        {"state_dict": other.state_dict(), "hyper_parameters": BODY | {"image_size": 32}}, path
    )
    with pytest.raises(ReleasedError, match="pos_embed missing, unexpected or of another shape"):
        load_classifier(path)
    torch.save(
        {"state_dict": other.state_dict(), "hyper_parameters": {"backbone": "vit_giga"}}, path
    )
    with pytest.raises(ReleasedError, match=r"its settings build no model .*vit_giga"):
        load_classifier(path)
