# SPDX-License-Identifier: Apache-2.0
"""Whether synthetic crops lie nearer to the training patients than to held-out patients.

Distances are taken within a class, to whole patients (the nearest of their crops), in the nearest
of the eight symmetries of the square, since generators are trained on crops turned and mirrored.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from classifier.evaluate import Estimate
from data_prep.symmetries import SYMMETRIES, symmetric
from mammo_dp.fidelity.distances import squared_distances
from mammo_dp.fidelity.samples import FidelityError, Images, Rows, Samples, estimate

LOW = 0.01  # quantile of the ratio that shows a few copies among many crops
PERMUTATIONS = 1999
_BLOCK = 1024  # synthetic crops at a time
FALSE_POSITIVE_RATE = 0.01
Distances = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Copying:
    """How much nearer synthetic crops lie to training patients than to held-out ones.

    Attributes:
        ratio: Median over crops of the distance to the nearest training patient over that to the
            nearest held-out one, equal numbers of patients on both sides; 1 without copying.
        low_ratio: The same at the quantile ``LOW`` of the crops. It is below 1 without copying too.
        low_ratio_reversed: The quantile ``LOW`` of the inverse ratio: what ``low_ratio`` would be
            without copying.
        p_value: Probability of an excess of closeness to the training patients as large as this
            one, if training and held-out patients were interchangeable.
        crops: Synthetic crops compared.
        patients: Training patients and held-out patients.
    """

    ratio: Estimate
    low_ratio: Estimate
    low_ratio_reversed: Estimate
    p_value: float
    crops: int
    patients: tuple[int, int]


def to_patients(
    synthetic: NDArray[np.float64], views: Sequence[NDArray[np.float64]], patient: NDArray[np.int64]
) -> Distances:
    """Distance of each synthetic crop to each patient.

    Args:
        synthetic: Features of the synthetic crops, shape ``(n, d)``.
        views: Features of the real crops under each symmetry, each of shape ``(m, d)``.
        patient: Patient of each real crop, shape ``(m,)``, in ``[0, patients)``.

    Returns:
        Shape ``(n, patients)``, infinite for a patient without crops here.
    """
    found = np.full((patient.max() + 1, len(synthetic)), np.inf)
    for block in _blocks(len(synthetic)):
        part = synthetic[block]
        nearest = np.minimum.reduce([squared_distances(part, view) for view in views])
        np.minimum.at(found[:, block], patient, nearest.T)
    return np.sqrt(found).T


def _blocks(count: int) -> Iterator[slice]:
    """Blocks of synthetic crops, so that distances to all views are never in memory at once."""
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


def copying(
    distances: Sequence[Distances],
    is_training: NDArray[np.bool_],
    group: NDArray[np.int64],
    *,
    draws: int,
    seed: int,
) -> Copying:
    """Compares closeness to training patients with closeness to held-out patients.

    The test: each synthetic crop is near its nearest patient by ``1 - d1 / d2``, where d1 and d2
    are its distances to the nearest and second-nearest of all patients; 1 is an exact copy. A
    patient's attraction is the sum over the crops that it is nearest to. If the generator saw no
    patient, training and held-out ones with equally many crops are interchangeable, so the sum over
    the training patients is compared with its values under random exchanges of such patients:
    whatever the data, the probability of a false positive at level p is at most p. The test can
    tell no fewer copies than its groups allow: with a share s of training patients, k copied
    patients have at least the probability ``s ** k``.

    Args:
        distances: For each class, distances of its synthetic crops to all patients, ``(n_c, P)``.
        is_training: Which patients the generator was trained on, shape ``(P,)``.
        group: Patients with equal numbers are exchanged, shape ``(P,)``.
        draws: Draws of patients and crops for the ratios.
        seed: Start of draws and exchanges.

    Raises:
        FidelityError: If there are fewer than four patients on either side.
    """
    training, held_out = np.flatnonzero(is_training), np.flatnonzero(~is_training)
    if min(len(training), len(held_out)) < 4:
        raise FidelityError(
            f"Copying needs training and held-out patients; there are {len(training)} and "
            f"{len(held_out)}. Choose other splits, or more crops."
        )
    rng = np.random.default_rng(seed)
    ratios = np.array([_ratios(distances, training, held_out, rng) for _ in range(draws)])
    attraction = np.sum([_attraction(part) for part in distances], axis=0)
    return Copying(
        ratio=estimate(np.exp(ratios[:, 0])),
        low_ratio=estimate(np.exp(ratios[:, 1])),
        low_ratio_reversed=estimate(np.exp(-ratios[:, 2])),
        p_value=_exchange_p(attraction, is_training, group, rng),
        crops=sum(len(part) for part in distances),
        patients=(len(training), len(held_out)),
    )


def _ratios(
    distances: Sequence[Distances],
    training: NDArray[np.int64],
    held_out: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Median, low and high quantile of the log ratio, for half the crops and half the patients.

    Of both sides equally many patients are drawn, among those with crops of the class.
    """
    logs = []
    for part in distances:
        has_crops = np.isfinite(part.min(0))
        sides = [side[has_crops[side]] for side in (training, held_out)]
        count = max(1, min(map(len, sides)) // 2)
        crops = rng.choice(len(part), max(1, len(part) // 2), replace=False)
        near = [
            part[np.ix_(crops, rng.choice(side, count, replace=False))].min(1) for side in sides
        ]
        floor = 1e-6 * np.median(near[1])  # exact copies have no logarithm
        logs.append(np.log(np.maximum(near[0], floor) / np.maximum(near[1], floor)))
    low, middle, high = np.quantile(np.concatenate(logs), [LOW, 0.5, 1 - LOW])
    return float(middle), float(low), float(high)


def _attraction(distances: Distances) -> NDArray[np.float64]:
    """Sum over crops of ``1 - d1 / d2``, assigned to the nearest patient; shape ``(P,)``."""
    nearest = distances.argmin(1)
    first, second = np.partition(distances, 1, axis=1)[:, :2].T
    closeness = 1 - first / np.maximum(second, np.finfo(float).tiny)
    found = np.zeros(distances.shape[1])
    np.add.at(found, nearest, closeness)
    return found


def _exchange_p(
    attraction: NDArray[np.float64],
    is_training: NDArray[np.bool_],
    group: NDArray[np.int64],
    rng: np.random.Generator,
) -> float:
    """Share of exchanges within groups with at least this sum over the training patients."""
    observed = attraction[is_training].sum()
    grouped = attraction[np.argsort(group, kind="stable")]
    exchanged = np.array(
        [
            grouped[is_training[np.lexsort((rng.random(len(group)), group))]].sum()
            for _ in range(PERMUTATIONS)
        ]
    )
    at_least = (exchanged >= observed - 1e-9 * abs(observed)).sum()
    return float((1 + at_least) / (1 + PERMUTATIONS))


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
    views = np.concatenate([view[rows] for view in real.views])
    place = np.empty(len(features), int)
    square = np.empty(len(features))
    for block in _blocks(len(features)):
        squares = squared_distances(features[block], views)
        place[block], square[block] = squares.argmin(1), squares.min(1)
    return rows[place % len(rows)], place // len(rows), np.sqrt(square)


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
