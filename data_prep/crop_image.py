# SPDX-License-Identifier: Apache-2.0
"""Crops as files: 16-bit grey PNG, and the hash by which pixels are known."""

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def pixel_hash(pixels: NDArray[np.uint16]) -> str:
    """SHA-256 of shape and pixels, as hexadecimal digits."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels, dtype="<u2").tobytes())
    return digest.hexdigest()


def save_crop_image(path: Path, pixels: NDArray[np.uint16]) -> str:
    """Writes a 16-bit grey PNG without metadata, in one move.

    Args:
        path: Target; its folder is made.
        pixels: Shape ``(size, size)``, values in ``[0, 65535]``.

    Returns:
        :func:`pixel_hash` of the pixels.
    """
    import cv2  # here: whoever reads the table of crops alone does without

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".png.part")
    # By OpenCV: files as small as Pillow's in a third of the time.
    _, png = cv2.imencode(".png", np.ascontiguousarray(pixels, dtype=np.uint16))
    temporary.write_bytes(png.tobytes())
    temporary.replace(path)
    return pixel_hash(pixels)
