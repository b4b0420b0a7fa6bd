# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_prep.cropping import Box, grey_range
from data_prep.dicom import Mammogram
from data_prep.errors import GeometryRejected, RecordRejected
from data_prep.images import read_image
from data_prep.lesions import Mask, Outline, Region
from data_prep.masks import _best_anywhere, _best_at, locate
from tests.data_prep.tiny_archive import SHAPE, film, lesion_mask, write_dicom

LESION_BOX = Box(50, 100, 80, 140)
FILM = film(np.random.default_rng(0))


@pytest.fixture
def mammogram(tmp_path: Path) -> Mammogram:
    Image.fromarray(FILM).save(tmp_path / "image.png")
    return read_image(tmp_path / "image.png", where="image")


def put(folder: Path, name: str, pixels: NDArray[Any]) -> Path:
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def found(region: Region, mammogram: Mammogram) -> Box:
    return locate(region, mammogram, grey_range(mammogram), where="a")


def rejected(region: Region, mammogram: Mammogram) -> RecordRejected:
    with pytest.raises(RecordRejected) as caught:
        locate(region, mammogram, grey_range(mammogram), where="table.csv, row 7")
    assert str(caught.value).startswith("table.csv, row 7")
    return caught.value


def test_boxes_are_clipped_if_their_centre_is_in_the_image(mammogram: Mammogram) -> None:
    assert found(LESION_BOX, mammogram) == LESION_BOX
    assert found(Box(-10, 100, 40, 140), mammogram) == Box(0, 100, 40, 140)
    for outside in (Box(-40, 100, 30, 140), Box(60, 100, 50, 140), Box(60, 250, 90, 280)):
        assert rejected(outside, mammogram).reason == "box_outside"


def test_a_box_in_the_air_is_rejected(mammogram: Mammogram) -> None:
    error = rejected(Box(165, 100, 190, 140), mammogram)
    assert error.reason == "box_outside"
    assert "background, not in the breast" in str(error)
    assert found(Box(140, 100, 170, 140), mammogram) == Box(140, 100, 170, 140)


def test_outlines_are_boxes_of_their_vertices(mammogram: Mammogram) -> None:
    outline = Outline(((50.0, 100.2), (79.9, 120.0), (60.0, 139.5)))
    assert found(outline, mammogram) == LESION_BOX
    assert rejected(Outline(((1, 1), (2, 2))), mammogram).reason == "too_small"
    nowhere = Outline(((float("nan"), 1), (2, 2), (3, 3)))
    assert rejected(nowhere, mammogram).reason == "box_outside"


def test_regions_follow_the_resampling_of_unequal_axes(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", FILM, ImagerPixelSpacing=[0.2, 0.1])
    shown = read_image(path, where="a")
    assert found(LESION_BOX, shown) == Box(50, 200, 80, 280)
    mask = write_dicom(tmp_path / "b.dcm", lesion_mask())
    crop = write_dicom(tmp_path / "c.dcm", FILM[90:150, 40:90])
    region = Mask(path=(mask,), supplied_crop=(crop,))
    assert found(region, shown) == Box(50, 200, 80, 280)


@pytest.mark.parametrize("kind", ["png", "tif", "dcm"])
def test_a_mask_and_its_crop_are_told_apart_by_content(
    tmp_path: Path, mammogram: Mammogram, kind: str
) -> None:
    write = put if kind != "dcm" else (lambda folder, name, x: write_dicom(folder / name, x))
    crop = write(tmp_path, f"a.{kind}", FILM[90:150, 40:90])
    mask = write(tmp_path, f"b.{kind}", lesion_mask())
    assert found(Mask(path=(crop, mask)), mammogram) == LESION_BOX


def test_a_lossy_mask_needs_a_threshold(tmp_path: Path, mammogram: Mammogram) -> None:
    soft = cv2.GaussianBlur(lesion_mask(), (0, 0), 1)
    path = put(tmp_path, "mask.png", soft)
    assert rejected(Mask(path=(path,)), mammogram).reason == "no_mask"
    assert found(Mask(path=(path,), threshold=0.5), mammogram) == LESION_BOX


def test_an_inverted_mask_is_a_mismatch(tmp_path: Path, mammogram: Mammogram) -> None:
    error = rejected(Mask(path=(put(tmp_path, "m.png", 255 - lesion_mask()),)), mammogram)
    assert error.reason == "mask_mismatch"
    assert "inverted" in str(error)


def test_a_mask_in_the_air_is_a_mismatch(tmp_path: Path, mammogram: Mammogram) -> None:
    mirrored = put(tmp_path, "m.png", np.roll(lesion_mask(), 115, axis=1))
    assert rejected(Mask(path=(mirrored,)), mammogram).reason == "mask_mismatch"


@pytest.mark.parametrize("change", ["mirrored", "shifted", "other image"])
@pytest.mark.parametrize("grey", ["same", "8 bit", "inverted"])
def test_a_mask_that_disagrees_with_the_supplied_crop_is_a_mismatch(
    tmp_path: Path, mammogram: Mammogram, change: str, grey: str
) -> None:
    source = film(np.random.default_rng(1)) if change == "other image" else FILM
    cut: NDArray[Any] = source[90:150, 40:90]
    if grey == "8 bit":
        cut = (cut >> 8).astype(np.uint8)
    elif grey == "inverted":
        cut = ~cut
    mask = lesion_mask()
    if change == "mirrored":
        mask = np.ascontiguousarray(mask[:, 160::-1][:, :200])
        mask = np.pad(mask, ((0, 0), (0, SHAPE[1] - mask.shape[1])))
    elif change == "shifted":
        mask = np.roll(mask, 40, axis=0)
    crop = put(tmp_path, "crop.png", cut)
    region = Mask(path=(put(tmp_path, "m.png", mask),), supplied_crop=(crop,))
    error = rejected(region, mammogram)
    assert error.reason == "mask_mismatch"
    assert "supplied crop does not lie" in str(error)
    right = Mask(
        path=(put(tmp_path, "right.png", lesion_mask()),),
        supplied_crop=(put(tmp_path, "own.png", FILM[90:150, 40:90]),),
    )
    assert found(right, mammogram) == LESION_BOX


def test_a_broken_or_blank_crop_verifies_nothing(tmp_path: Path, mammogram: Mammogram) -> None:
    mask = put(tmp_path, "m.png", lesion_mask())
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    blank = put(tmp_path, "blank.tif", np.full((30, 30), 7, np.uint8))
    region = Mask(path=(broken, mask), supplied_crop=(blank,))
    assert found(region, mammogram) == LESION_BOX
    assert rejected(Mask(path=(broken,)), mammogram).reason == "unreadable"


def test_two_different_masks_are_ambiguous_and_copies_are_not(
    tmp_path: Path, mammogram: Mammogram
) -> None:
    first = put(tmp_path, "a.png", lesion_mask())
    copy = put(tmp_path, "b.png", lesion_mask() // 255)
    other = put(tmp_path, "c.png", np.roll(lesion_mask(), 20, axis=0))
    assert found(Mask(path=(first, copy)), mammogram) == LESION_BOX
    for order in ((first, copy, other), (other, first)):
        assert rejected(Mask(path=order), mammogram).reason == "ambiguous"


def test_a_mask_of_another_size_is_rescaled_and_its_crop_with_it(
    tmp_path: Path, mammogram: Mammogram
) -> None:
    large = cv2.resize(lesion_mask(), (230, 299), interpolation=cv2.INTER_NEAREST)
    crop = cv2.resize(FILM, (230, 299), interpolation=cv2.INTER_LINEAR)[100:175, 45:105]
    region = Mask(
        path=(put(tmp_path, "m.png", large),), supplied_crop=(put(tmp_path, "c.png", crop),)
    )
    box = found(region, mammogram)
    assert all(
        abs(a - b) <= 1
        for a, b in zip(
            (box.x0, box.y0, box.x1, box.y1),
            (LESION_BOX.x0, LESION_BOX.y0, LESION_BOX.x1, LESION_BOX.y1),
            strict=True,
        )
    )
    halved = put(tmp_path, "h.png", lesion_mask()[::3, ::3])
    error = rejected(Mask(path=(halved,)), mammogram)
    assert error.reason == "mask_mismatch"
    assert "another size and aspect" in str(error)


def test_the_fast_search_finds_what_a_full_one_finds() -> None:
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(700, 600)).astype(np.float32)
    image = np.asarray(cv2.GaussianBlur(noise, (0, 0), 3) + 0.02 * noise, np.float32)
    for top, left, size in ((13, 7, 200), (401, 333, 150), (250, 100, 90)):
        crop = image[top : top + size, left : left + size]
        assert _best_anywhere(image, crop) > 0.99
        here = Box(left + 20, top + 20, left + size - 20, top + size - 20)
        assert _best_at(image, crop, here) > 0.999
        far = Box(here.x0, 680 - size, here.x1, 680)
        assert _best_at(image, crop, far) < 0.6
    stranger = rng.normal(size=(150, 150)).astype(np.float32)
    blurred = np.asarray(cv2.GaussianBlur(stranger, (0, 0), 3), np.float32)
    assert _best_anywhere(image, blurred) < 0.6


def test_a_row_without_files_says_so(mammogram: Mammogram) -> None:
    error = rejected(Mask(path=()), mammogram)
    assert isinstance(error, GeometryRejected)
    assert error.reason == "no_mask"
