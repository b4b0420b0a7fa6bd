# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gan.samples import sheet, write_sheet


def test_sheet_holds_crops_row_by_row() -> None:
    crops = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 1, 2, 3)
    grey = sheet(crops, columns=3)
    assert grey.shape == (4, 9)
    assert grey[::2, ::3].tolist() == [[0, 51, 102], [153, 204, 255]]


def test_sheet_is_an_8_bit_grey_png(tmp_path: Path) -> None:
    path = tmp_path / "samples" / "epoch_0001.png"
    write_sheet(path, torch.zeros(4, 1, 8, 8), columns=2)
    with Image.open(path) as image:
        assert (image.mode, image.size) == ("L", (16, 16))
        assert np.all(np.array(image) == 128)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
