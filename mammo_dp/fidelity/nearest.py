# SPDX-License-Identifier: Apache-2.0
"""The nearest real crops of synthetic ones, in features and in pixels, and the copying test."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from data_prep.symmetries import SYMMETRIES, symmetric
from mammo_dp.fidelity.copying import Copying, copying, to_patients
from mammo_dp.fidelity.manifold import squared_distances
from mammo_dp.fidelity.samples import Images, Rows, Samples

Features = NDArray[np.float64]
Space = Callable[[Images], Features]
_PIXELS = 32  # edge in pixel space: copies with grain or small shifts stay near


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Real crops in one space, under the eight symmetries of the square.

    Attributes:
        views: Features under each symmetry, each of shape ``(m, d)``, as they are first.
        malignant: Shape ``(m,)``.
        patient: Position of each crop's patient, shape ``(m,)``.
        is_training: Which patients are training patients, shape ``(patients,)``.
    """

    views: tuple[Features, ...]
    malignant: Rows
    patient: Rows
    is_training: NDArray[np.bool_]


def gallery(training: Samples, held_out: Samples, space: Space) -> Gallery:
    """Training and held-out crops, in this order, in one space."""
    images = np.concatenate([training.images, held_out.images])
    ids, patient = np.unique(
        np.concatenate([training.patient, held_out.patient]), return_inverse=True
    )
    return Gallery(
        views=tuple(space(symmetric(images, number)) for number in range(SYMMETRIES)),
        malignant=np.concatenate([training.malignant, held_out.malignant]),
        patient=patient,
        is_training=np.isin(ids, training.patient),
    )


def copying_of(
    features: Features, malignant: Rows, real: Gallery, *, draws: int, seed: int
) -> dict[str, Copying]:
    """The copying test over both classes (``"all"``) and within each.

    Args:
        features: Synthetic crops in the space of the gallery, shape ``(n, d)``.
        malignant: Their labels, shape ``(n,)``.
        real: Training and held-out crops.
        draws: Draws of patients and crops for the ratios.
        seed: Start of draws and exchanges.
    """
    classes = {}
    for label, name in enumerate(("benign", "malignant")):
        own = real.malignant == label
        views = [view[own] for view in real.views]
        part = to_patients(features[malignant == label], views, real.patient[own])
        missing = len(real.is_training) - part.shape[1]
        classes[name] = np.pad(part, ((0, 0), (0, missing)), constant_values=np.inf)
    patients = len(real.is_training)
    counts = [np.bincount(real.patient, real.malignant == c, patients) for c in (0, 1)]
    _, alike = np.unique(np.stack(counts, 1), axis=0, return_inverse=True)
    groups = {"all": list(classes.values())} | {name: [part] for name, part in classes.items()}
    return {
        name: copying(parts, real.is_training, alike.ravel(), draws=draws, seed=seed)
        for name, parts in groups.items()
    }


def nearest_training_crop(
    features: Features, malignant: int, real: Gallery
) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """Nearest training crop of the same class for each synthetic crop.

    Args:
        features: Synthetic crops of one class, shape ``(n, d)``.
        malignant: The class.
        real: Training and held-out crops.

    Returns:
        Row in the gallery, number of the symmetry and distance, each of shape ``(n,)``.
    """
    rows = np.flatnonzero(real.is_training[real.patient] & (real.malignant == malignant))
    squares = np.stack([squared_distances(features, view[rows]) for view in real.views])
    best = squares.transpose(1, 0, 2).reshape(len(features), -1)
    place = best.argmin(1)
    return rows[place % len(rows)], place // len(rows), np.sqrt(best.min(1))


def pixels(images: Images) -> Features:
    """Crops at 32 px by area averaging, each with mean 0 and length 1.

    Brightness and contrast drop out: the squared distance is ``2 - 2 * correlation``.
    """
    small = np.stack(
        [
            cv2.resize(
                np.ascontiguousarray(image), (_PIXELS, _PIXELS), interpolation=cv2.INTER_AREA
            )
            for image in images
        ]
    )
    flat = small.reshape(len(small), -1).astype(np.float64)
    flat -= flat.mean(1, keepdims=True)
    unit: Features = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-12)
    return unit
