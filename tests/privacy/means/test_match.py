import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mammo_dp.privacy.means.match import NONE, nearest_set


def pool(count: int, width: int = 6, seed: int = 0) -> NDArray[np.float64]:
    found = np.random.default_rng(seed).standard_normal((count, width))
    unit: NDArray[np.float64] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def targets(width: int = 6, seed: int = 1) -> NDArray[np.float64]:
    return 0.4 * pool(2, width, seed)


def away(features: NDArray[np.float64], classes: NDArray[np.int64], label: int) -> float:
    """Squared distance of the mean of a class to its target, crop by crop."""
    own = [row for row in range(len(features)) if classes[row] == label]
    mean = [sum(float(features[row][k]) for row in own) / len(own) for k in range(6)]
    return math.dist(mean, targets()[label].tolist()) ** 2


@pytest.mark.parametrize("per_class", [1, 4, 15])
def test_no_exchange_of_one_crop_brings_a_class_nearer(per_class: int) -> None:
    features = pool(30)
    classes = nearest_set(features, targets(), per_class)
    free = np.flatnonzero(classes == NONE)
    for row in np.flatnonzero(classes != NONE):
        label = int(classes[row])
        reached = away(features, classes, label)
        for other in free:
            tried = classes.copy()
            tried[row], tried[other] = NONE, label
            assert away(features, tried, label) >= reached - 1e-9


@pytest.mark.parametrize("per_class", [1, 7, 20])
def test_each_crop_is_taken_once_at_most(per_class: int) -> None:
    classes = nearest_set(np.repeat(pool(10), 4, axis=0), targets(), per_class)
    assert [(classes == label).sum() for label in (0, 1)] == [per_class] * 2


def test_means_come_near_where_the_pool_reaches_and_crops_stay_varied() -> None:
    features = pool(2000)
    classes = nearest_set(features, targets(), 200)
    for label in (0, 1):
        own = features[classes == label]
        assert away(features, classes, label) < 1e-4
        assert away(features, np.full(2000, label), label) > 0.1  # the whole pool is far
        # as varied as vectors of length 1 with such a mean can be
        assert np.square(own - own.mean(axis=0)).sum(axis=1).mean() == pytest.approx(0.84, abs=0.01)
