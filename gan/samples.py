# SPDX-License-Identifier: Apache-2.0
"""Sample sheets: crops side by side as 8-bit PNG, for the eye only."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor


def sheet(crops: Tensor, columns: int) -> NDArray[np.uint8]:
    """Lays crops out in rows.

    Args:
        crops: Shape ``(rows * columns, 1, H, W)``, values in ``[-1, 1]``.
        columns: Crops in a row, ``>= 1``.

    Returns:
        Shape ``(rows * H, columns * W)``, values in ``[0, 255]``.
    """
    grey = ((crops.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).numpy()
    _, _, height, width = grey.shape
    cells = grey.reshape(-1, columns, height, width).transpose(0, 2, 1, 3)
    return cells.reshape(-1, columns * width).astype(np.uint8)


def write_sheet(path: Path, crops: Tensor, columns: int) -> None:
    """Writes :func:`sheet` as PNG in one move; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".png.part")
    Image.fromarray(sheet(crops, columns)).save(temporary, format="PNG")
    temporary.replace(path)
