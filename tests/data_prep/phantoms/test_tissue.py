import math
from dataclasses import replace

import numpy as np
import pytest

from data_prep.phantoms.texture import Layer
from data_prep.phantoms.tissue import (
    BLOB_AXES,
    BLOB_FALL,
    BLOB_POWER,
    Lines,
    _blob,
    clustered_lumps,
    draw_lines,
    tissue,
)
from tests.data_prep.phantoms.sources import CASE, sources

THIN = Lines(turn=0.2, bend=0.1, wander=0.02, length=(0.8, 1.2), width=(0.01, 0.02))


def test_a_blob_is_the_formula_of_the_source() -> None:
    made = np.fft.irfft2(_blob(16, 16, 64.0, 2), (16, 16))
    for row, column in ((0, 0), (1, 2), (-3, 1), (5, -5)):
        r, turn = math.hypot(row, column) / 64, math.atan2(row, column) - np.pi * 2 / 8
        reach = 1 / math.hypot(math.cos(turn) / BLOB_AXES[0], math.sin(turn) / BLOB_AXES[1])
        assert made[row, column] == pytest.approx(
            math.exp(-BLOB_FALL * (128 * r) ** BLOB_POWER / (128 * reach)), abs=1e-4
        )


def test_lumps_follow_their_direction() -> None:
    for angle, smooth, rough in ((0.0, 2, 1), (np.pi / 2, 1, 2)):
        made = clustered_lumps(sources(6), (48, 48), edge=48, direction=[angle] * 6)
        steps = {axis: np.abs(np.diff(made, axis=axis)).mean() for axis in (1, 2)}
        assert steps[smooth] < 0.95 * steps[rough]
        assert np.allclose(made.std(axis=(1, 2)), 1, atol=1e-3)


def test_denser_breasts_have_more_glandular_tissue() -> None:
    def bright_share(covered: float) -> float:
        ground = replace(CASE.tissue, covered=covered, lumpy=False, sharpness=4.0, slant=0.0)
        images = tissue([ground] * 12, sources(12), (32, 32), edge=32)
        low, high = np.percentile(images, (2, 98), axis=(1, 2), keepdims=True)
        return float((images > (low + high) / 2).mean())

    assert bright_share(0.9) > bright_share(-0.9) + 0.1


def test_lines_follow_their_direction_and_none_means_none() -> None:
    image = draw_lines(
        sources(2),
        Layer.STRANDS,
        (64, 64),
        edge=64,
        look=THIN,
        per_area=[30, 0],
        direction=[0.0, 0.0],
    )
    assert np.abs(np.diff(image[0], axis=1)).sum() < np.abs(np.diff(image[0], axis=0)).sum()
    assert 0.3 < image[0].max() <= 2.01
    assert not image[1].any()
