# SPDX-License-Identifier: Apache-2.0
"""Feature spaces: our phantom encoder, a classifier of ours, or a model of timm."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from classifier.backbones import build
from classifier.features import body_features
from classifier.released import load_classifier
from classifier.weights import HUB, load_weights
from mammo_dp.fidelity.encoder import Recipe, phantom_encoder
from mammo_dp.fidelity.samples import FidelityError, Images
from mammo_dp.runs import file_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """A feature space with the name that stands beside each number taken in it.

    Attributes:
        name: What it is and what it was trained on.
        sha256: Hash of its weights.
        features: Maps images in ``[0, 1]``, shape ``(N, size, size)``, to ``(N, d)``.
    """

    name: str
    sha256: str
    features: Callable[[Images], NDArray[np.float64]]


def choose(
    size: int, *, encoder: str | None = None, timm: str | None = None, weights: str | None = None
) -> Extractor:
    """The feature space that was asked for; our phantom encoder if none was.

    Args:
        size: Edge of the crops, in pixels.
        encoder: Checkpoint of a ``CropClassifier``.
        timm: Name of a timm model.
        weights: File of its weights; from the hub if not given.

    Raises:
        FidelityError: If two spaces were asked for.
        WeightsError: If weights do not fit or cannot be had.
    """
    if encoder and timm:
        raise FidelityError(f"{encoder=} and {timm=} are two feature spaces. Choose one.")
    if weights and not timm:
        raise FidelityError(f"{weights=} belongs to a timm model. Name it with --timm.")
    if encoder:
        model = load_classifier(Path(encoder))
        edge = int(model.hparams["image_size"])
        name = f"crop classifier {model.hparams['backbone']}, body, at {edge} px"
        return Extractor(name=name, sha256=file_sha256(encoder), features=_body(model.net, edge))
    if timm:
        net = build(timm, image_size=size)
        loaded = load_weights(net, weights or HUB, backbone=timm)
        return Extractor(
            name=f"timm {timm}, body, at {size} px, weights {loaded.path}",
            sha256=loaded.sha256,
            features=_body(net, size),
        )
    recipe = Recipe(size=size)
    own = phantom_encoder(recipe)
    return Extractor(
        name=(
            f"phantom encoder, trained on {2 * recipe.per_class} phantoms of {size} px "
            f"(AUROC {own.phantom_auroc:.2f} on others)"
        ),
        sha256=own.sha256,
        features=own,
    )


def _body(net: nn.Module, size: int) -> Callable[[Images], NDArray[np.float64]]:
    """What the head of a model sees; crops of another size are resized."""

    def features(images: Images) -> NDArray[np.float64]:
        tensor: Tensor = torch.from_numpy(np.ascontiguousarray(images))[:, None] * 2 - 1
        if tensor.shape[-1] != size:
            tensor = interpolate(tensor, size=(size, size), mode="bilinear", antialias=True)
        return body_features(net.eval(), tensor).double().numpy()

    return features
