# SPDX-License-Identifier: Apache-2.0
"""Crops as files, 16-bit grey PNG, or TIFF with a page for each slice; the hash of pixels."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

Pixel = TypeVar("Pixel", bound=np.generic)


def pixel_hash(pixels: NDArray[np.uint16]) -> str:
    """SHA-256 of shape and pixels, as hexadecimal digits."""
    digest = hashlib.sha256(repr(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels, dtype="<u2").data)
    return digest.hexdigest()


def save_crop_image(path: Path, pixels: NDArray[np.uint16]) -> str:
    """Writes a 16-bit grey PNG, or a TIFF of a volume, without metadata, in one move.

    Args:
        path: Target; its folder is made.
        pixels: Shape ``(size, size)`` for PNG, ``(slices, size, size)`` for TIFF, values in
            ``[0, 65535]``.

    Returns:
        :func:`pixel_hash` of the pixels.
    """
    pixels = np.ascontiguousarray(pixels, dtype=np.uint16)
    content = _png(pixels) if pixels.ndim == 2 else _tiff(pixels)
    temporary = Path(f"{path}.part")
    try:
        temporary.write_bytes(content)
    except FileNotFoundError:  # the first of a folder
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
    temporary.replace(path)
    return pixel_hash(pixels)


def _png(pixels: NDArray[np.uint16]) -> bytes:
    import cv2  # here: whoever reads the table of crops alone does without

    # Not compressed, which saves a sixth, since the last bits of a crop are noise, and makes
    # reading twice as long. By OpenCV: half the time of Pillow.
    settings = [cv2.IMWRITE_PNG_COMPRESSION, 0]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # later versions; others choose a filter for each row
        settings += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]  # an eighth of the time
    return cv2.imencode(".png", pixels, settings)[1].tobytes()


def _tiff(slices: NDArray[np.uint16]) -> bytes:
    file = io.BytesIO()
    first, *others = (Image.fromarray(one) for one in slices)
    first.save(file, "TIFF", save_all=True, append_images=others, compression="tiff_adobe_deflate")
    return file.getvalue()


def is_whole(path: Path, sha256: str, *, depth: int | None) -> bool:
    """Whether a file is there and holds the crop of a hash, not half of it or another one.

    Args:
        path: The file.
        sha256: :func:`pixel_hash` of the crop.
        depth: Slices, if it is a volume.
    """
    if depth is None:
        pixels = whole_plane(path)
        return pixels is not None and pixels.ndim == 2 and pixel_hash(pixels) == sha256
    try:
        return pixel_hash(read_volume(path, depth=depth)) == sha256
    except (OSError, SyntaxError, ValueError):
        return False


def whole_plane(path: Path) -> NDArray[np.uint16] | None:
    """Pixels of a PNG as they are, ``(size, size)`` if it is a crop; none of half a file."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.array(image).astype(np.uint16)
    except (OSError, SyntaxError, ValueError):  # missing, or Pillow's words for half a file
        return None


def plane_of(pixels: NDArray[Pixel]) -> NDArray[Pixel]:
    """A crop in the plane as it is, of a volume ``(depth, H, W)`` the middle slice.

    >>> plane_of(np.arange(3)[:, None, None]).item()
    1
    """
    return pixels if pixels.ndim == 2 else pixels[len(pixels) // 2]


def read_volume(path: Path, *, depth: int) -> NDArray[np.uint16]:
    """Reads a TIFF of 16-bit grey pages of one size.

    Args:
        path: The file.
        depth: Pages that it must have; no more than these are decoded.

    Returns:
        Shape ``(depth, H, W)``.

    Raises:
        OSError: If it cannot be read.
        ValueError: For another number of pages, or pages that are not 16-bit grey of one size, and
            for metadata that Pillow warns of.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return _pages(path, depth)
        except Warning as warning:
            raise ValueError(str(warning)) from warning


def _pages(path: Path, depth: int) -> NDArray[np.uint16]:
    with Image.open(path, formats=["TIFF"]) as image:
        pages = image.n_frames if isinstance(image, TiffImagePlugin.TiffImageFile) else 1
        if pages != depth:
            raise ValueError(f"{pages} slices instead of {depth}")
        size, slices = image.size, []
        for page in range(depth):
            image.seek(page)
            if image.mode != "I;16" or image.size != size:
                raise ValueError(f"slice {page + 1} is not 16-bit grey of the size of the first")
            slices.append(np.array(image, np.uint16))
    return np.stack(slices)
