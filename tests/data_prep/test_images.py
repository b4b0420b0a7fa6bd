# SPDX-License-Identifier: Apache-2.0
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from data_prep.crop_set import read_grey
from data_prep.errors import PictureRejected, RecordRejected
from data_prep.images import read_image, read_mask_values
from tests.data_prep.tiny_archive import write_dicom

EIGHT = np.arange(24 * 16, dtype=np.uint16).reshape(24, 16).astype(np.uint8)
SIXTEEN = EIGHT.astype(np.uint16) * 257


def rejection(path: Path) -> PictureRejected:
    with pytest.raises(PictureRejected) as caught:
        read_image(path, where="table.csv, row 7")
    assert str(caught.value).startswith("table.csv, row 7: ")
    return caught.value


@pytest.mark.parametrize(
    ("kind", "pixels", "options"),
    [
        ("PNG", EIGHT, {}),
        ("PNG", SIXTEEN, {}),
        ("TIFF", EIGHT, {}),
        ("TIFF", SIXTEEN, {}),
        ("TIFF", SIXTEEN, {"compression": "tiff_lzw"}),
        ("TIFF", SIXTEEN, {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_pictures_are_read_by_content(
    tmp_path: Path, kind: str, pixels: NDArray[Any], options: dict[str, Any]
) -> None:
    path = tmp_path / "a.dcm"  # the suffix lies
    Image.fromarray(pixels).save(path, format=kind, **options)
    shown = read_image(path, where="a", spacing_mm=0.05)
    np.testing.assert_allclose(shown.pixels, EIGHT / 255, atol=1e-6)
    assert shown.pixels.dtype == np.float32
    assert (shown.spacing_mm, shown.spacing_source) == (0.05, "user")
    assert (shown.stored_shape, shown.bits) == ((24, 16), 8 * pixels.dtype.itemsize)


def test_dicom_is_read_by_content_too(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.png", SIXTEEN, Modality="OT")
    shown = read_image(path, where="a", scanned_film=True)
    np.testing.assert_allclose(shown.pixels, EIGHT / 255, atol=1e-6)
    with pytest.raises(RecordRejected, match="Modality is not MG"):
        read_image(path, where="a")
    np.testing.assert_allclose(read_mask_values(path, where="a"), EIGHT / 255, atol=1e-6)


def test_jpeg_is_grey_within_its_loss(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "grey.jpg", quality=95)
    Image.fromarray(smooth).convert("RGB").save(tmp_path / "colour.jpg", quality=95)
    for name in ("grey.jpg", "colour.jpg"):
        shown = read_image(tmp_path / name, where="a").pixels
        np.testing.assert_allclose(shown, smooth / 255, atol=3 / 255)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_colour_with_equal_channels_is_grey_and_other_colour_is_not(
    tmp_path: Path, mode: str
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(EIGHT).convert(mode).save(path)
    np.testing.assert_allclose(read_image(path, where="a").pixels, EIGHT / 255, atol=1e-6)
    tinted = np.stack([EIGHT, EIGHT, EIGHT ^ 1], axis=2)
    Image.fromarray(tinted).save(path)
    assert "is a colour image" in str(rejection(path))


def test_what_is_not_grey_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    clear = np.stack([EIGHT, EIGHT], axis=2)
    Image.fromarray(clear, "LA").save(path)
    assert "transparent" in str(rejection(path))
    Image.fromarray(EIGHT > 100).save(path)
    assert "black and white" in str(rejection(path))
    np.testing.assert_array_equal(read_mask_values(path, where="a"), EIGHT > 100)
    Image.fromarray(EIGHT.astype(np.float32)).save(path, format="TIFF")
    assert rejection(path).reason == "not_grey"
    Image.fromarray(EIGHT).convert("CMYK").save(path, format="JPEG")
    assert rejection(path).reason == "not_grey"
    _write_png(path, np.repeat(SIXTEEN, 3, axis=1), 16, 2, width=16)  # Pillow would drop 8 bits
    assert "mode RGB of 16 bits" in str(rejection(path))


@pytest.mark.parametrize("pixels", [EIGHT, SIXTEEN])
def test_white_is_zero_is_inverted_once(tmp_path: Path, pixels: NDArray[Any]) -> None:
    for name, compression in (("a.tif", None), ("b.tif", "tiff_lzw")):
        options: dict[str, Any] = {} if compression is None else {"compression": compression}
        Image.fromarray(~pixels).save(tmp_path / name, format="TIFF", **options)
        data = (tmp_path / name).read_bytes()
        entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
        assert entry in data
        (tmp_path / name).write_bytes(data.replace(entry, struct.pack("<HHIHH", 262, 3, 1, 0, 0)))
        shown = read_image(tmp_path / name, where="a").pixels
        np.testing.assert_allclose(shown, EIGHT / 255, atol=1e-6)


def test_a_picture_that_is_to_be_turned_is_rejected(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "TIFF", "PNG"):
        Image.fromarray(EIGHT).save(tmp_path / "a", format=kind, exif=exif)
        assert rejection(tmp_path / "a").reason == "orientation"
    exif[0x0112] = 1
    Image.fromarray(EIGHT).save(tmp_path / "a", format="PNG", exif=exif)
    assert read_image(tmp_path / "a", where="a").stored_shape == (24, 16)


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_several_pages_are_rejected(tmp_path: Path, kind: str) -> None:
    first, second = Image.fromarray(EIGHT), Image.fromarray(EIGHT[::-1].copy())
    first.save(tmp_path / "a", format=kind, save_all=True, append_images=[second])
    assert rejection(tmp_path / "a").reason == "multi_page"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.9])
def test_a_truncated_picture_is_rejected(tmp_path: Path, kind: str, keep: float) -> None:
    path = tmp_path / "a"
    Image.fromarray(EIGHT).resize((160, 240)).save(path, format=kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 or not keep else keep * len(whole))])
    assert rejection(path).reason == "unreadable"


def test_a_png_with_another_checksum_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(EIGHT).save(path, compress_level=0)
    whole = bytearray(path.read_bytes())
    whole[-30] ^= 1  # a pixel; Pillow would read it
    path.write_bytes(whole)
    assert rejection(path).reason == "unreadable"


def chunk(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _write_png(
    path: Path, pixels: NDArray[Any], bits: int, colour: int, *, width: int | None = None
) -> None:
    lines = b"".join(b"\0" + line.astype(f">u{bits // 8}").tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width or pixels.shape[1], len(pixels), bits, colour, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def test_bombs_are_rejected_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    start, end = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")
    huge = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0))
    small = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(72)))
    text = chunk(b"zTXt", b"C\0\0" + zlib.compress(bytes(10**8)))
    for content, reason in (
        (huge + end, "unreadable"),
        (huge + pixels + end, "too_large"),
        (small + text + pixels + end, "unreadable"),
    ):
        path.write_bytes(start + content)
        assert rejection(path).reason == reason
        with pytest.raises(PictureRejected) as caught:
            read_grey(path, "x")
        assert caught.value.reason == reason
    path.write_bytes(start + huge + pixels + end)
    assert "says that it has more than 120 million px" in str(rejection(path))


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_memory_is_bounded_by_what_was_checked(tmp_path: Path) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 65535, 65535, 16, 0, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**8)))
    (tmp_path / "a.png").write_bytes(bomb + chunk(b"IEND", b""))
    code = """
import resource, sys
from pathlib import Path
from data_prep.errors import RecordRejected
from data_prep.images import read_image
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 2**20,) * 2)
try:
    read_image(Path(sys.argv[1]), where="a")
except RecordRejected as error:
    print(error.reason)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "too_large"


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"<html>" * 100)
    error = rejection(tmp_path / "a.png")
    assert "is neither DICOM nor PNG, JPEG, TIFF" in str(error)
    assert "No such file" in str(rejection(tmp_path / "b.png"))
    Image.fromarray(EIGHT[:16]).save(tmp_path / "c.png", format="TIFF")
    with pytest.raises(PictureRejected, match="not a whole PNG"):
        read_grey(tmp_path / "c.png", "x")
