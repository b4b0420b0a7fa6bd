import math
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.phantoms import tissue as tissue_module
from data_prep.phantoms.texture import Layer, power_law_fields
from data_prep.phantoms.tissue import (
    BLOB_AXES,
    BLOB_FALL,
    BLOB_POWER,
    FINE,
    OUTER_SCALE,
    SMOOTH,
    Lines,
    _blob,
    _rows_to_waves,
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


def test_steps_outside_a_picture_are_not_drawn_and_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []
    polylines = cv2.polylines

    def counted(layer: NDArray[np.uint8], paths: list[NDArray[np.int32]], *given: float) -> object:
        drawn.extend(len(path) - 1 for path in paths)
        return polylines(layer, paths, *given)  # type: ignore[call-overload]

    def pictures() -> tuple[NDArray[np.float32], int]:
        drawn.clear()
        look = Lines(turn=1.0, bend=0.5, wander=0.2, length=(0.8, 3.0), width=(0.01, 0.1))
        made = draw_lines(
            sources(4), Layer.VESSELS, (40, 56), edge=48, look=look, per_area=[20, 0, 9, 30],
            direction=[0.0, 1.0, 2.0, 3.0],
        )  # fmt: skip
        return made, sum(drawn)

    monkeypatch.setattr(cv2, "polylines", counted)
    seen, few = pictures()

    def every_step(
        points: NDArray[np.int32], *_: object
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        return np.zeros(len(points), np.int64), np.full(len(points), points.shape[1] - 2)

    monkeypatch.setattr(tissue_module, "seen_steps", every_step)
    naive, many = pictures()
    assert np.array_equal(seen, naive)
    assert seen.any(axis=(1, 2)).tolist() == [True, False, True, True]
    assert few < 0.8 * many


def test_rows_of_lumps_are_transformed_as_by_the_library() -> None:
    rows = np.random.default_rng(0).integers(0, 4, (5, 12)).astype(np.float32)
    made = (rows @ _rows_to_waves(12)).view(np.complex64)
    assert np.allclose(made, np.fft.rfft(rows), atol=1e-5)


def test_layers_of_tissue_are_added_as_stated() -> None:
    case = replace(CASE.tissue, lumpy=False, strands=0.0, vessels=0.0)
    (made,) = tissue([case], sources(1), (32, 32), edge=32)
    common: dict[str, Any] = {"outer_scale": OUTER_SCALE * 32}
    fields = [
        power_law_fields(sources(1), layer, (32, 32), beta=beta, stretch=stretch, angle=angle,
                         finest=finest, **common)[0].astype(float)
        for layer, beta, stretch, angle, finest in (
            (Layer.BACKGROUND, case.beta, case.stretch, case.direction, FINE),
            (Layer.SHEETS, 4.4, case.sheet_stretch, case.direction + case.sheet_turn, SMOOTH),
            (Layer.LOBES, case.beta + 1, case.lobe_stretch, case.direction, SMOOTH),
        )
    ]  # fmt: skip
    ground, sheets, lobes = fields
    sheets = case.sheet_strength * np.exp(-((case.sheet_fineness * sheets) ** 2))
    glands = 1 / (1 + np.exp(-case.sharpness * (lobes + case.covered)))
    layers = 0.6 * ground + sheets * (0.25 + 1 / (1 + np.exp(-2 * ground)))
    layers += case.gland * (glands - glands.mean())
    place = np.linspace(-0.5, 0.5, 32)
    across = place * math.cos(case.slant_side) + place[:, None] * math.sin(case.slant_side)
    expected = case.level + case.slant * across + case.contrast * layers
    assert np.allclose(made, expected, atol=2e-5)
