# SPDX-License-Identifier: Apache-2.0
"""Any mammogram as a grey image: DICOM, PNG, JPEG or TIFF, told apart by content, not by suffix.

Memory is bounded by the size that a file states, which is checked before a pixel is decoded.
"""

import io
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin

from data_prep.dicom import Mammogram, looks_like_dicom, read_mammogram, read_stored_range
from data_prep.dicom_checks import LARGEST_PIXELS
from data_prep.errors import PictureRejected, RecordRejected

Kind = Literal["PNG", "JPEG", "TIFF"]
KINDS: tuple[Kind, ...] = ("PNG", "JPEG", "TIFF")
_MAGIC: dict[bytes, Kind] = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_LARGEST_FILE = 4 * LARGEST_PIXELS  # bytes; 16-bit grey takes 2 a pixel, opaque RGB 4
_TILE, _BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = (322, 323), 258, 262, 0  # tags of TIFF 6.0


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A PNG, JPEG or TIFF as it is stored.

    Attributes:
        kind: Format of the file.
        mode: Pillow's name of the pixel format, such as ``L`` for 8-bit grey.
        pixels: Shape ``(H, W)`` or ``(H, W, channels)``.
        bits: Bits of a grey value.
    """

    kind: Kind
    mode: str
    pixels: NDArray[Any]
    bits: int


def read_image(
    path: Path, *, where: str, scanned_film: bool = False, spacing_mm: float | None = None
) -> Mammogram:
    """Reads a mammogram of any supported format.

    Args:
        path: The file; its suffix does not matter.
        where: Start of every message.
        scanned_film: Whether DICOM files may be secondary capture of any modality.
        spacing_mm: Millimetres per pixel, > 0, if the file does not say so or cannot be right.
            What PNG, JPEG and TIFF say of dots per inch is for printers and is not used.

    Raises:
        RecordRejected: With a reason code, see :class:`DicomRejected`, :class:`PictureRejected`.
    """
    if _is_dicom(path, where):
        return read_mammogram(
            path, where=where, allow_secondary_capture=scanned_film, spacing_mm=spacing_mm
        )
    picture = read_picture(path, where=where)
    if picture.mode == "1":
        raise PictureRejected(
            "not_grey", f"{where}: holds black and white only. Give the grey image."
        )
    grey = grey_pixels(picture, where)
    return Mammogram(
        codes=grey,
        grey=np.arange(1 << picture.bits, dtype=np.float32) / np.float32((1 << picture.bits) - 1),
        stored_shape=(grey.shape[0], grey.shape[1]),
        bits=picture.bits,
        spacing_mm=spacing_mm,
        spacing_source="none" if spacing_mm is None else "user",
        laterality=None,
        view=None,
        voi="none",
        format=picture.kind,
    )


def read_mask_values(path: Path, *, where: str) -> NDArray[np.float32]:
    """Reads a mask of any supported format.

    Args:
        path: The file.
        where: Start of every message.

    Returns:
        Shape ``(H, W)``, values in ``[0, 1]``, the ends of the stored range.

    Raises:
        RecordRejected: As :func:`read_image`.
    """
    if _is_dicom(path, where):
        values, (low, high) = read_stored_range(path, where=where, allow_secondary_capture=True)
        return ((values.astype(np.float32) - np.float32(low)) / np.float32(high - low)).astype(
            np.float32
        )
    picture = read_picture(path, where=where)
    grey = grey_pixels(picture, where)
    return grey.astype(np.float32) / np.float32((1 << picture.bits) - 1)


def read_picture(path: Path, *, where: str, kinds: Collection[Kind] = KINDS) -> Picture:
    """Reads a PNG, JPEG or TIFF of one page, without converting its pixels.

    Args:
        path: The file.
        where: Start of every message.
        kinds: Accepted formats.

    Raises:
        PictureRejected: ``unreadable``, ``too_large``, ``multi_page`` or ``orientation``.
    """
    wanted = " or ".join(", ".join(kinds).rsplit(", ", 1))
    with guarded(where, f"not a whole {wanted}"):
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise PictureRejected("too_large", f"{where}: has {size:,} bytes. Reduce the image.")
        data = path.read_bytes()
        kind = _kind(data)
        if kind is None or kind not in kinds:
            raise ValueError("another format")
        if kind == "PNG":
            _check_chunks(data)
        if kind == "JPEG" and not data.rstrip(b"\0\n").endswith(b"\xff\xd9"):
            raise EOFError("cut off")  # Pillow misses it if damage looks like an end before
        with Image.open(io.BytesIO(data), formats=[kind]) as image:
            _check_page(image, where)
            bits = _bits(image, data)
            pixels = np.array(image)
            if kind == "TIFF" and bits > 8 and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
                pixels = np.asarray((1 << bits) - 1 - pixels.astype(np.int32), np.uint16)
            if image.mode == "P":
                return Picture(kind, "RGB", np.array(image.convert("RGB")), 8)
            return Picture(kind, image.mode, pixels, bits)


def grey_pixels(picture: Picture, where: str) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Grey values of a picture; colour is accepted where its channels are equal.

    Returns:
        Shape ``(H, W)``, values below ``2 ** picture.bits``.

    Raises:
        PictureRejected: ``not_grey``.
    """
    pixels = picture.pixels
    if picture.mode == "1":
        return np.asarray(pixels, np.uint8) * np.uint8(255)
    if picture.mode in ("L", "I;16", "I;16B", "I;16L"):
        return pixels.astype(np.uint8) if picture.mode == "L" else pixels.astype(np.uint16)
    colours = {"LA": 1, "RGB": 3, "RGBA": 3}.get(picture.mode)
    if colours is None or picture.bits != 8:
        raise PictureRejected(
            "not_grey",
            f"{where}: mode {picture.mode} of {picture.bits} bits. Save it as 8- or 16-bit grey.",
        )
    if pixels.shape[2] > colours and pixels[..., colours].min() < 255:
        raise PictureRejected("not_grey", f"{where}: is transparent in parts. Save it as grey.")
    first: NDArray[np.uint8] = np.ascontiguousarray(pixels[..., 0])
    if any((pixels[..., channel] != first).any() for channel in range(1, colours)):
        raise PictureRejected("not_grey", f"{where}: is a colour image. Give the grey mammogram.")
    return first


@contextmanager
def guarded(where: str, what: str) -> Iterator[None]:
    """Turns whatever a decoder raises or warns of into a rejection of this one file.

    Args:
        where: Start of the message.
        what: Said of a malformed file, such as ``not a whole PNG``.

    Raises:
        PictureRejected: ``unreadable``.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except RecordRejected:
            raise
        except Image.DecompressionBombError:  # far above our own bound
            raise PictureRejected(
                "too_large",
                f"{where}: says that it has more than {LARGEST_PIXELS // 10**6} million px. "
                "Check the file.",
            ) from None
        except Exception as error:  # whatever it is, it ends one file, not the run
            cause = (error.strerror if isinstance(error, OSError) else None) or type(error).__name__
            raise PictureRejected(
                "unreadable", f"{where}: {what} ({cause}). Copy it again."
            ) from None
    # Pillow warns from 89 million pixels on; our own bound is checked. Other metadata is not used.
    doubts = [
        warning
        for warning in caught
        if not issubclass(warning.category, Image.DecompressionBombWarning | DeprecationWarning)
        and not str(warning.message).startswith("Metadata Warning")
    ]
    if doubts:
        raise PictureRejected("unreadable", f"{where}: {what} (damaged metadata). Copy it again.")


def _is_dicom(path: Path, where: str) -> bool:
    with guarded(where, "cannot be read"), path.open("rb") as file:
        start = file.read(1024)
        if not looks_like_dicom(start) and _kind(start) is None:
            raise PictureRejected(
                "unreadable",
                f"{where}: is neither DICOM nor {', '.join(KINDS)}, whatever its name says. "
                "Convert it to one of them.",
            )
        return looks_like_dicom(start)


def _kind(data: bytes) -> Kind | None:
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)


def _check_chunks(data: bytes) -> None:
    """Checks the checksums of a PNG: Pillow passes over those of the pixels."""
    at, held = 8, False
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        name, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data) or zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(
            data[end : end + 4], "big"
        ):
            break
        held |= name == b"IDAT"
        if name == b"IEND" and held:
            return
        at = end + 4
    raise ValueError("not a whole PNG")


def _check_page(image: Image.Image, where: str) -> None:
    """Refuses a picture by what it states of itself, before its pixels are decoded."""
    width, height = image.size
    tile = [int(_tag(image, tag) or 1) for tag in _TILE]
    if max(width * height, tile[0] * tile[1]) > LARGEST_PIXELS:
        raise PictureRejected(
            "too_large",
            f"{where}: says that it has {width:,} x {height:,} px, more than "
            f"{LARGEST_PIXELS // 10**6} million. Reduce the image.",
        )
    if min(width, height) < 2:
        raise PictureRejected("unreadable", f"{where}: has {width} x {height} px, no picture.")
    if getattr(image, "n_frames", 1) != 1 or image.format not in KINDS:
        raise PictureRejected("multi_page", f"{where}: holds several pages. Give one of them.")
    if image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1):
        raise PictureRejected(
            "orientation",
            f"{where}: its metadata ask viewers to turn or mirror it, so boxes and sides are "
            "ambiguous. Save it upright, for instance with `mogrify -auto-orient`.",
        )


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits of a grey value; of colour, whether Pillow would cut 16 bits to 8."""
    if image.format == "PNG":
        return 16 if data[24] == 16 else 8  # PNG 1, 2 and 4 bits are spread to 8
    if image.format == "TIFF" and image.mode.startswith("I;16"):
        stated = _tag(image, _BITS)
        return int(stated[0] if isinstance(stated, tuple) else stated or 16)
    return 8


def _tag(image: Image.Image, tag: int) -> Any:  # noqa: ANN401  (as Pillow has it: numbers or tuples)
    if image.format != "TIFF":
        return None
    return cast(TiffImagePlugin.TiffImageFile, image).tag_v2.get(tag)
