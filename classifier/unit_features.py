# SPDX-License-Identifier: Apache-2.0
"""Features of length 1: what the head of a classifier sees of crops, for queries of patients."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from classifier.features import body_features
from classifier.module import CropClassifier
from data_prep.datamodule import model_input
from data_prep.manifest import CropsManifest
from data_prep.progress import watched
from data_prep.transforms import pipeline

_AT_ONCE = 64  # crops in memory


def unit_features(model: CropClassifier, pixels: NDArray[np.uint16]) -> NDArray[np.float64]:
    """What the head of a classifier sees of crops as they are, brought to length 1.

    Each crop goes through the network alone, so that its row is a function of this crop, to the
    last bit: in a batch, rounding depends on the others, and with it what one patient changes.

    Args:
        model: Whose body gives the features.
        pixels: Shape ``(N, size, size)``, in ``[0, 65535]``, N > 0.

    Returns:
        Shape ``(N, d)``.
    """
    as_it_is = pipeline("none", int(model.hparams["image_size"]))
    rows = [normalize(body_features(model.net, model_input(one, as_it_is)[None])) for one in pixels]
    features: NDArray[np.float64] = torch.cat(rows).double().numpy()
    return features


def features_of(
    model: CropClassifier, manifest: CropsManifest, rows: Sequence[int]
) -> NDArray[np.float64]:
    """Features of crops of a manifest, with progress; see :func:`unit_features`.

    Args:
        model: Whose body gives the features.
        manifest: Table of crops.
        rows: Rows of it, at least one.

    Returns:
        Shape ``(rows, d)``.
    """
    starts = range(0, len(rows), _AT_ONCE)
    found = [
        unit_features(model, manifest.images(rows[start : start + _AT_ONCE]))
        for start in watched(starts, "Computing features")
    ]
    return np.concatenate(found)
