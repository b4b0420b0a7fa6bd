import math

import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.descriptors.voting import RASTER, RINGS, describe, nearest

Image = NDArray[np.float32]


def disc(*, size: int = 64, radius: float = 0.3, level: float = 0.4, spikes: int = 0) -> Image:
    """A bright disc on slanted tissue; spikes make its edge a star."""
    y, x = (np.indices((size, size)) - (size - 1) / 2) / size
    edge = radius * (1 + 0.5 * np.cos(spikes * np.arctan2(y, x)) * (spikes > 0))
    soft = 1 / (1 + np.exp((np.hypot(y, x) - edge) * 60))
    image: Image = (0.2 + 0.1 * x + 0.05 * y + level * soft).astype(np.float32)
    return image


def apart(one: Image, other: Image) -> float:
    first, second = describe(np.stack([one, other]))
    return float(np.linalg.norm(first - second))


def test_turns_and_mirrors_change_nothing() -> None:
    image = disc(spikes=5)
    for turns in range(4):
        turned = np.ascontiguousarray(np.rot90(image, turns))
        assert apart(image, turned) < 1e-3
        assert apart(image, np.ascontiguousarray(turned[:, ::-1])) < 1e-3


def test_size_margin_and_brightness_count() -> None:
    image = disc()
    for other in (disc(radius=0.2), disc(spikes=9), disc(level=0.2), image + np.float32(0.2)):
        assert apart(image, other) > 0.3


@pytest.mark.parametrize("size", [32, 128, 200])
def test_crops_of_other_sizes_are_described_alike(size: int) -> None:
    assert apart_across(disc(), disc(size=size)) < 0.6 * apart(disc(), disc(radius=0.2))


def apart_across(one: Image, other: Image) -> float:
    return float(np.linalg.norm(describe(one[None]) - describe(other[None])))


def test_flat_crops_have_finite_descriptions() -> None:
    flat = np.stack([np.full((64, 64), level, np.float32) for level in (0.0, 0.5, 1.0)])
    described = describe(flat)
    assert described.shape == (3, 6 + 2 * RINGS)
    assert np.isfinite(described).all()


def test_a_crop_is_described_alike_alone_and_among_others() -> None:
    """To the last bit: a crop at a tie votes for the same candidate, whoever votes beside it."""
    rng = np.random.default_rng(0)
    for size in (33, 64):
        crops = rng.random((65, size, size), dtype=np.float32)
        alone = np.concatenate([describe(one[None].copy()) for one in crops])
        for batch in (2, 3, 7, 64, 65):
            parts = [describe(crops[start : start + batch]) for start in range(0, 65, batch)]
            assert np.array_equal(np.concatenate(parts), alone)


def test_numbers_are_those_of_a_double_loop() -> None:
    image = disc(size=RASTER, spikes=3)
    grey, ratio = describe(image[None])[0, 6 : 6 + RINGS], describe(image[None])[0, 6 + RINGS :]
    down, right = np.asarray(np.gradient(image))
    rings: list[list[tuple[float, float, float]]] = [[] for _ in range(RINGS)]
    for i in range(RASTER):
        for j in range(RASTER):
            y, x = i - (RASTER - 1) / 2, j - (RASTER - 1) / 2
            radius = math.hypot(y, x)
            along = (down[i, j] * y + right[i, j] * x) / radius
            across = (right[i, j] * y - down[i, j] * x) / radius
            ring = min(int(radius / 4), RINGS - 1)
            rings[ring].append((image[i, j], along**2, across**2))
    means = np.array([np.mean(ring, axis=0) for ring in rings])
    assert np.corrcoef(grey, means[:, 0])[0, 1] > 0.9999
    logs = np.log(np.sqrt(means[:, 1]) + 1e-3) - np.log(np.sqrt(means[:, 2]) + 1e-3)
    # The innermost ring has pixels nearer to the middle than the radius is floored at.
    assert np.allclose(ratio[1:] * 0.9, logs[1:], atol=1e-3)


def test_nearest_is_that_of_a_double_loop() -> None:
    rng = np.random.default_rng(0)
    crops = rng.standard_normal((50, 24)).astype(np.float32)
    candidates = rng.standard_normal((7, 24)).astype(np.float32)
    expected = [int(np.argmin([math.dist(c, k) for k in candidates])) for c in crops]
    assert nearest(crops, candidates).tolist() == expected
    assert nearest(crops[:0], candidates).tolist() == []
    assert nearest(crops[:1], np.repeat(candidates[:1], 3, axis=0)).tolist() == [0]
