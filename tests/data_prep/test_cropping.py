# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from data_prep.cropping import (
    Box,
    GreyRange,
    _quantile,
    crop_side,
    crop_square,
    grey_range,
    lesion_box,
    scale_box,
    to_16_bit,
)
from data_prep.errors import GeometryRejected
from tests.data_prep.tiny_archive import film

EXACT = {"margin_mm": 0.0, "minimum_mm": 0.0}


def naive_crop(
    image: NDArray[np.float32], box: Box, side: int, size: int, background: float
) -> NDArray[np.float64]:
    """Pixel by pixel: mean of the source over each target pixel's area, by exact overlap."""
    left, top = (box.x0 + box.x1 - side) // 2, (box.y0 + box.y1 - side) // 2
    result = np.zeros((size, size))
    scale = side / size
    for row in range(size):
        for column in range(size):
            total = 0.0
            for y in range(int(row * scale), int(np.ceil((row + 1) * scale))):
                for x in range(int(column * scale), int(np.ceil((column + 1) * scale))):
                    high = min(y + 1, (row + 1) * scale) - max(y, row * scale)
                    wide = min(x + 1, (column + 1) * scale) - max(x, column * scale)
                    v, u = top + y, left + x
                    inside = 0 <= v < image.shape[0] and 0 <= u < image.shape[1]
                    total += max(high, 0) * max(wide, 0) * (image[v, u] if inside else background)
            result[row, column] = total / scale**2
    return result


@settings(derandomize=True, max_examples=25, deadline=None)
@given(
    x=st.integers(0, 30),
    y=st.integers(0, 20),
    width=st.integers(4, 12),
    height=st.integers(4, 12),
    margin=st.integers(0, 5),
)
def test_crop_equals_the_pixelwise_definition(
    x: int, y: int, width: int, height: int, margin: int
) -> None:
    image = np.random.default_rng(x).random((32, 42)).astype(np.float32)
    box = Box(x, y, min(x + width, 42), min(y + height, 32))
    side = max(box.width, box.height) + 2 * margin
    size = min(7, side)
    crop = crop_square(
        image, box, margin_mm=margin, minimum_mm=0, mm_per_px=1.0, size=size, background=0.3
    )
    np.testing.assert_allclose(crop, naive_crop(image, box, side, size, 0.3), atol=1e-5)


def test_side_follows_the_longer_edge_margin_and_minimum() -> None:
    long = Box(0, 0, 100, 300)
    assert crop_side(long) == 300 + 2 * 60
    assert crop_side(long, mm_per_px=0.05) == 300 + 2 * 60  # equal at 50 micron
    assert crop_side(long, mm_per_px=0.1) == 300 + 2 * 30
    assert crop_side(Box(0, 0, 5, 6)) == 128  # 6 + 120 is below the minimum
    assert crop_side(Box(0, 0, 5, 6), mm_per_px=0.1, margin_mm=1) == 64


def test_lesion_lies_in_the_centre_whatever_its_form() -> None:
    for box in (Box(100, 100, 110, 160), Box(60, 130, 140, 140), Box(0, 130, 30, 160)):
        image = np.zeros((300, 250), np.float32)
        image[box.y0 : box.y1, box.x0 : box.x1] = 1
        crop = crop_square(image, box, size=64)
        centre = ndimage.center_of_mass(crop)
        assert centre == pytest.approx((31.5, 31.5), abs=0.6)


def test_padding_takes_the_background_and_the_window_stays() -> None:
    image = np.ones((100, 100), np.float32)
    crop = crop_square(
        image, Box(0, 40, 20, 60), margin_mm=10, minimum_mm=0, mm_per_px=1, size=40, background=0.25
    )
    assert (crop[:, :10] == 0.25).all()
    assert (crop[:, 10:] == 1).all()


def test_window_below_the_size_is_enlarged_smoothly() -> None:
    image = np.tile(np.arange(64, dtype=np.float32), (64, 1))
    crop = crop_square(image, Box(20, 20, 36, 36), **EXACT, size=64)
    assert crop.shape == (64, 64)
    assert (np.diff(crop, axis=1)[:, 2:-2] == 0.25).all()


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        (Box(-30, 5, -10, 25), "box_outside"),
        (Box(5, 100, 25, 120), "box_outside"),
        (Box(5, 5, 8, 25), "too_small"),
        (Box(-20, 5, 2, 25), "too_small"),  # clipped first
        (Box(0, 0, 10, 10), "mostly_padding"),
    ],
)
def test_unusable_boxes_are_rejected(box: Box, reason: str) -> None:
    with pytest.raises(GeometryRejected) as caught:
        crop_square(np.zeros((60, 60), np.float32), box, margin_mm=20, mm_per_px=1.0)
    assert caught.value.reason == reason


def naive_box(mask: NDArray[np.bool_]) -> Box:
    filled = ndimage.binary_fill_holes(mask)
    labels, _ = ndimage.label(filled, structure=np.ones((3, 3)))
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    rows, columns = ndimage.find_objects((labels == largest).astype(int))[0]
    return Box(columns.start, rows.start, columns.stop, rows.stop)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_lesion_box_is_that_of_the_largest_filled_part(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((60, 50), bool)
    for radius in (14, 8, 1):  # a ring, a disc, a speck
        y, x = rng.integers(0, 60), rng.integers(0, 50)
        distance = np.hypot(*(np.mgrid[:60, :50] - [[[y]], [[x]]]))
        mask |= (distance < radius) & (distance > radius - 6)
    assert lesion_box(mask.astype(np.uint8) * 255) == naive_box(mask)


def test_empty_mask_has_no_box() -> None:
    with pytest.raises(GeometryRejected) as caught:
        lesion_box(np.zeros((9, 9), np.uint8))
    assert caught.value.reason == "no_mask"


def test_box_scales_each_axis_and_covers_the_original() -> None:
    box = Box(10, 20, 31, 43)
    assert scale_box(box, (100, 80), (100, 80)) == box
    assert scale_box(box, (100, 80), (50, 160)) == Box(20, 10, 62, 22)


def test_grey_range_is_that_of_the_breast_without_frame_and_air() -> None:
    image = (film(np.random.default_rng(0)) / 65535).astype(np.float32)
    grey = grey_range(image)
    breast = image[20:-20, 5:150]
    assert grey.low == pytest.approx(np.percentile(breast, 0.5), rel=0.02)
    assert grey.high == pytest.approx(np.percentile(breast, 99.5), rel=0.02)
    assert grey.background == pytest.approx(3000 / 65535, rel=0.02)
    assert grey.background < grey.air < 0.5 * breast.mean()


def test_quantiles_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 1000):
        ordered = np.sort(rng.random(count).astype(np.float32))
        for share in (0.0, 0.005, 0.05, 0.5, 0.995, 1.0):
            expected = np.quantile(ordered.astype(np.float64), share)
            assert _quantile(ordered, share) == pytest.approx(expected, rel=1e-12)


def test_large_images_are_sampled_and_agree_with_small_ones() -> None:
    small = (film(np.random.default_rng(0)) / 65535).astype(np.float32)
    large = np.kron(small, np.ones((5, 5), np.float32))
    a, b = grey_range(small), grey_range(large)
    assert b.low == pytest.approx(a.low, rel=0.03)
    assert b.high == pytest.approx(a.high, rel=0.03)


def test_breast_of_two_values_keeps_their_distance() -> None:
    image = np.zeros((40, 40), np.float32)
    image[:, :20] = 0.5
    image[5:9, 5:9] = 0.7
    grey = grey_range(image)
    assert grey.low < grey.high


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0, np.nan])
def test_image_without_tissue_is_blank(value: float) -> None:
    with pytest.raises(GeometryRejected) as caught:
        grey_range(np.full((40, 40), value, np.float32))
    assert caught.value.reason == "blank"


def test_flat_breast_falls_back_to_the_image_range() -> None:
    image = np.full((50, 50), 0.1, np.float32)
    image[10:30, 10:30] = 0.6
    grey = grey_range(image)
    assert (grey.low, grey.high, grey.background) == pytest.approx((0.1, 0.6, 0.1))


def test_sixteen_bits_span_the_grey_range_and_clip() -> None:
    crop = np.array([[0.0, 0.2], [0.5, 0.9]], np.float32)
    pixels = to_16_bit(crop, GreyRange(0.2, 0.8, 0.0, 0.0))
    assert pixels.dtype == np.uint16
    expected = np.array([[0, 0], [32767.5, 65535]])
    np.testing.assert_allclose(pixels.astype(float), expected, atol=1)
