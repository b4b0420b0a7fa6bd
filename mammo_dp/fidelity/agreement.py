# SPDX-License-Identifier: Apache-2.0
"""Label agreement: classifiers that are trained on one source of crops and tested on another.

One classifier is a kernel machine on a descriptor that no generator was matched to. The other is
the default classifier of this package, which synthetic crops are made for. An MCGAN with
``matching`` was trained to match its measurements, which favours such crops; the kernel machine
does not. The same classifiers serve all sources, so that a difference is one of the crops.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from classifier.evaluate import Estimate, resampled_weights
from classifier.fixed_features import FixedFeatures
from data_prep.descriptors.independent import describe
from data_prep.phantoms.crops import phantom_stream
from mammo_dp.fidelity.samples import LEVEL, Images, Rows
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
    found: Floats = kernel_machine().fit(*train).decision_function(test)
    return found


def kernel_machine() -> Pipeline:
    """A support vector machine on standardised descriptions, not yet fitted."""
    # a test crop far outside the training law would otherwise be infinitely far from all vectors
    clip = FunctionTransformer(np.clip, kw_args={"a_min": -5, "a_max": 5})
    return make_pipeline(StandardScaler(), clip, SVC(C=1.0, gamma="auto"))


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


def resampled_aurocs(
    malignant: Rows,
    patient: Rows,
    by_seed: Mapping[str, Sequence[Floats]],
    *,
    draws: int,
    seed: int,
) -> dict[str, Floats]:
    """AUROC of several classifiers on the same resamples of patients.

    A resample draws patients of the test crops and, for each classifier, as many of its seeds, both
    with replacement, and averages over the seeds drawn. All classifiers see the same patients, so
    differences of two rows are paired.

    Args:
        malignant: Labels of the test crops, shape ``(N,)``.
        patient: Their patients, shape ``(N,)``.
        by_seed: Scores of the test crops by each seed of a classifier, each of shape ``(N,)``.
        draws: Number of resamples; those with one class only are left out.
        seed: Start of the draws.

    Returns:
        For each classifier the value on the crops as they are, mean over seeds, and then the values
        of the resamples.
    """
    rng = np.random.default_rng(seed)
    counts = resampled_weights(patient, draws, rng)
    ill, benign = malignant == 1, malignant == 0
    counts = counts[(counts[:, ill].sum(1) > 0) & (counts[:, benign].sum(1) > 0)]
    weights = np.concatenate([np.ones((1, len(malignant))), counts])
    found = {}
    for name, seeds in by_seed.items():
        areas = np.stack(
            [_weighted_auroc(score[ill], score[benign], weights, ill) for score in seeds]
        )
        drawn = rng.integers(len(seeds), size=(len(seeds), areas.shape[1]))
        drawn[:, 0] = np.arange(len(seeds))
        found[name] = np.take_along_axis(areas, drawn, axis=0).mean(0)
    return found


def with_interval(values: Floats) -> Estimate:
    """The first value, with the central interval of the others."""
    low, high = np.quantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(values[0]), float(low), float(high))


def _weighted_auroc(
    ill: Floats, benign: Floats, weights: Floats, is_ill: NDArray[np.bool_]
) -> Floats:
    """AUROC for each row of weights ``(R, N)``; ties count half."""
    wins = (ill[:, None] > benign) + 0.5 * (ill[:, None] == benign)
    up, down = weights[:, is_ill], weights[:, ~is_ill]
    area: Floats = ((up @ wins) * down).sum(1) / (up.sum(1) * down.sum(1))
    return area
