# SPDX-License-Identifier: Apache-2.0
"""Who is trained on crops to see what their labels teach: two cheap classifiers.

One is a kernel machine on a description that nothing else here uses, so no generator was held to
it. The other is the default classifier of this package, which synthetic crops are made for. An
MCGAN with ``matching`` was held to its measurements, which favours such crops; the kernel machine
does not. The same classifiers serve all sources, so that a difference is one of the crops.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from classifier.fixed_features import FixedFeatures
from data_prep.phantoms.crops import phantom_stream
from mammo_dp.fidelity.descriptor import describe
from mammo_dp.fidelity.samples import Images, Rows
from mammo_dp.privacy.training.descent import LARGEST_RATE_TIMES_STEPS

Floats = NDArray[np.float64]
Labelled = tuple[Floats, Rows]  # descriptions (N, d), labels (N,)

SIZE = 64  # pixels; where the default classifier looks
STEPS = 32  # of its descent without privacy
_PHANTOMS, _SEED, _BATCH = 500, 20_000, 64  # phantoms of each class; far from the seeds of users


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A classifier as functions.

    Attributes:
        words: What it is.
        describe: Maps crops ``(N, size, size)`` in ``[0, 1]`` to descriptions ``(N, d)``.
        scores: Maps described training crops with labels, and described test crops, to scores of
            these, which grow with malignancy.
    """

    words: str
    describe: Callable[[Images], Floats]
    scores: Callable[[Labelled, Floats], Floats]


def machine_scores(train: Labelled, test: Floats) -> Floats:
    """Scores by a support vector machine.

    Args:
        train: Descriptions ``(N, d)`` and labels, both classes present.
        test: Descriptions, shape ``(M, d)``.
    """
    # a test crop far outside the training law would otherwise be infinitely far from all vectors
    clip = FunctionTransformer(np.clip, kw_args={"a_min": -5, "a_max": 5})
    machine = make_pipeline(StandardScaler(), clip, SVC(C=1.0, gamma="auto"))
    found: Floats = machine.fit(*train).decision_function(test)
    return found


def descent_scores(train: Labelled, test: Floats) -> Floats:
    """Logits of a linear head after plain steps on the mean cross-entropy, from zero.

    Args:
        train: Features ``(N, d)`` of variance about 1 and labels.
        test: Features, shape ``(M, d)``.
    """
    features, malignant = train
    weight, bias = np.zeros(features.shape[1]), 0.0
    for _ in range(STEPS):
        error = expit(features @ weight + bias) - malignant
        weight -= LARGEST_RATE_TIMES_STEPS / STEPS * (features.T @ error) / len(features)
        bias -= LARGEST_RATE_TIMES_STEPS / STEPS * float(error.mean())
    found: Floats = test @ weight + bias
    return found


@torch.no_grad()
def whitened_measurements(images: Images) -> Floats:
    """Features of the default classifier, whitened on phantoms, shape ``(N, components)``."""
    body = _body()
    parts = [
        body.forward_features(_inputs(torch.from_numpy(images[start : start + _BATCH])))
        for start in range(0, len(images), _BATCH)
    ]
    found: Floats = torch.cat(parts).double().numpy()
    return found


@functools.cache
def _body() -> FixedFeatures:
    """The body; a few seconds of drawing, once a process."""
    body = FixedFeatures().eval()
    phantoms = phantom_stream(per_class=_PHANTOMS, size=SIZE, seed=_SEED)
    drawn = np.stack([phantom.image for phantom in phantoms]).astype(np.float32)
    parts = torch.split(torch.from_numpy(drawn), _BATCH)
    body.whiten(torch.cat([body.numbers(_inputs(part)) for part in parts]))
    return body


def _inputs(images: torch.Tensor) -> torch.Tensor:
    """``(B, size, size)`` in ``[0, 1]`` to ``(B, 1, size, size)`` in ``[-1, 1]``."""
    return images[:, None] * 2 - 1


STUDENTS: Mapping[str, Student] = {
    "machine": Student(
        words="support vector machine, Gaussian kernel (C = 1, gamma = 1 / 425), on oriented "
        "gradients, rings and scales, standardised on its training crops and clipped at 5",
        describe=describe,
        scores=machine_scores,
    ),
    "descent": Student(
        words="linear head by plain descent on crop_measurements, whitened on "
        f"{2 * _PHANTOMS:,} phantoms: the default classifier without privacy",
        describe=whitened_measurements,
        scores=descent_scores,
    ),
}
