# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data_prep.crop_image import pixel_hash, save_crop_image
from data_prep.crop_set import read_grey


@pytest.mark.parametrize("shape", [(128, 128), (3, 5), (1, 1), (300, 301)])
def test_every_reader_finds_the_pixels_of_a_saved_crop(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, shape, np.uint16)
    path = tmp_path / "images" / "crop.png"
    assert save_crop_image(path, pixels) == pixel_hash(pixels)
    with Image.open(path) as image:
        assert (image.mode, image.format, image.info) == ("I;16", "PNG", {})
        np.testing.assert_array_equal(np.array(image), pixels)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), pixels)
    if 1 < shape[0] == shape[1]:
        np.testing.assert_array_equal(read_grey(path, "crop", deep=True), pixels)
    assert [one.name for one in path.parent.iterdir()] == ["crop.png"]


def test_a_changed_byte_of_a_saved_crop_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "crop.png"
    save_crop_image(path, np.random.default_rng(0).integers(0, 2**16, (16, 16), np.uint16))
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(Exception, match="not a whole PNG"):
        read_grey(path, "crop", deep=True)
