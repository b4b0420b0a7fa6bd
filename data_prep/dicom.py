# SPDX-License-Identifier: Apache-2.0
"""One DICOM file becomes a grey image; with ``dicom_checks`` the only reader of DICOM.

Files are read, never written. No attribute leaves this module but size, bits, spacing, side and
view, and no message quotes a value that could identify a person.
"""

import io
import os
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import (
    data_element_generator,
    read_dataset,
    read_file_meta_info,
    read_partial,
)
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from data_prep.dicom_checks import (
    LARGEST_PIXELS,
    check_codestream,
    check_header,
    check_size,
    decoded,
    embedded_overlay_bits,
    quiet,
    tag_name,
)
from data_prep.errors import DicomRejected
from data_prep.manifest import Laterality, View

Voi = Literal["lut", "window", "none"]
Format = Literal["DICOM", "PNG", "JPEG", "TIFF"]
SpacingSource = Literal[
    "calibrated", "detector", "detector / magnification", "image", "scanner", "user", "none"
]
# Detectors have 0.05 to 0.1 mm, scanners of film 0.025 to 0.2 mm.
FINEST_MM, COARSEST_MM = 0.01, 0.25
_LARGEST_RATIO = 2.0  # of the two axes of a pixel
_LARGEST_MAGNIFICATION = 4.0  # magnification views are taken at 1.5 to 2
_HEADER_BYTES = 64 * 2**20  # more than any header; nothing is read beyond before it is checked
_MARK, _MARK_AT = b"DICM", 128
_PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF  # length of compressed pixels, which end with a mark
_FLOAT_PIXEL_DATA = 0x7FE00008  # the lowest tag that holds pixels
_FOR_PRESENTATION = (
    "VOILUTFunction",
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "VOILUTSequence",
    "ModalityLUTSequence",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PresentationLUTShape",
)
# DICOM PS3.16, CID 4014: SNOMED CT, and the SNOMED RT codes of older files.
_VIEW_CODES: Mapping[str, View] = {
    "399162004": "CC",
    "R-10242": "CC",
    "399368009": "MLO",
    "R-10226": "MLO",
}


@dataclass(frozen=True, kw_only=True, eq=False)  # no slots: pixels are kept once they are made
class Mammogram:
    """A mammogram as a radiologist sees it: bright tissue on dark background.

    Grey values are float32 in ``[0, 1]``; 0 and 1 are the ends of the stored range. Unequal axes
    are resampled to the finer spacing, so pixels are square. Whoever needs a part takes
    ``mammogram[rows, columns]``, which turns no more than that into grey values.

    Attributes:
        codes: Shape ``(H, W)``: places in ``grey``, or grey values where there is none.
        grey: Grey value of each code.
        stored_shape: Height and width in the file, as masks have them.
        bits: Bits stored per pixel.
        spacing_mm: Millimetres per pixel, > 0; none if neither header nor user says so.
        spacing_source: Where the spacing comes from: ``calibrated`` Pixel Spacing, the plane of the
            ``detector``, the same divided by the magnification factor, Pixel Spacing of the
            ``image`` without calibration, the ``scanner`` of a film, or the ``user``.
        laterality: Side according to the header, if it says so.
        view: View according to the header, if it says so.
        voi: Which branch mapped stored values to shown ones: look-up table, window, or neither.
        format: Of the file.
    """

    codes: NDArray[Any]
    grey: NDArray[np.float32] | None
    stored_shape: tuple[int, int]
    bits: int
    spacing_mm: float | None
    spacing_source: SpacingSource
    laterality: Laterality | None
    view: View | None
    voi: Voi
    format: Format = "DICOM"

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.codes.shape[0], self.codes.shape[1]

    def __getitem__(self, part: tuple[slice, slice]) -> NDArray[np.float32]:
        """Grey values of some rows and columns."""
        codes = self.codes[part]
        return codes if self.grey is None else _mapped(codes, self.grey)

    @cached_property
    def pixels(self) -> NDArray[np.float32]:
        """Grey values of the whole image, shape ``(H, W)``."""
        return self[:, :]


@dataclass(frozen=True, slots=True)
class SeriesFile:
    """What an index of an archive needs to know of one file.

    Attributes:
        path: The file.
        series: SeriesInstanceUID; a key for look-ups, never written anywhere.
        description: SeriesDescription, lower case.
        pixels: Rows times columns.
        laterality: Side according to the header, if it says so.
        view: View according to the header, if it says so.
    """

    path: Path
    series: str
    description: str
    pixels: int
    laterality: Laterality | None = None
    view: View | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """Pixels as they lie in a file, shifted to bit 0 and without anything in unused bits.

    Attributes:
        dataset: Header.
        codes: Shape ``(H, W)``.
        signed: Whether the highest bit is a sign.
    """

    dataset: Dataset
    codes: NDArray[np.uint8] | NDArray[np.uint16]
    signed: bool

    @property
    def bits(self) -> int:
        """Bits stored per pixel."""
        return int(self.dataset.BitsStored)

    def values(self, codes: NDArray[Any]) -> NDArray[Any]:
        """What codes mean: themselves, or integers with a sign."""
        if not self.signed:
            return codes
        half = 1 << (self.bits - 1)
        return np.asarray((codes.astype(np.int32) ^ half) - half, np.int16)


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file begins as DICOM does, with or without the 128 bytes before the mark DICM.

    Args:
        start: At least its first 132 bytes, if it has as many.
    """
    if start[_MARK_AT : _MARK_AT + 4] == _MARK:
        return True
    group, element = start[:2], int.from_bytes(start[2:4], "little")
    return len(start) > _MARK_AT and group in (b"\2\0", b"\x08\0") and element <= 0x0060


def read_series_file(path: Path) -> SeriesFile | None:
    """Reads the few header tags an index needs, without pixels.

    Returns:
        The entry, or none for a file whose header cannot be read: the record that needs it is
        rejected later, with its own row.
    """
    try:
        with quiet(path.name), opened_dicom(path, path.name) as (header, _):
            return SeriesFile(
                path=path,
                series=str(header.SeriesInstanceUID),
                description=str(header.get("SeriesDescription") or "").lower(),
                pixels=int(header.get("Rows") or 0) * int(header.get("Columns") or 0),
                laterality=_laterality(header),
                view=_view(header),
            )
    except DicomRejected:
        return None


def read_mammogram(
    path: Path,
    *,
    where: str = "",
    allow_secondary_capture: bool = False,
    spacing_mm: float | None = None,
) -> Mammogram:
    """Reads a mammogram for presentation.

    Order: header checks, pixels, modality table, window or table of interest, then one inversion
    if the photometric interpretation is MONOCHROME1 or the presentation LUT shape is INVERSE. A
    malformed table gives way to the window. Padding becomes background, overlays are left out.

    Args:
        path: DICOM file.
        where: Start of every message, for archives whose file names identify people; the file
            name if empty.
        allow_secondary_capture: Whether scanned film stored as secondary capture is accepted
            whatever its modality, as in CBIS-DDSM.
        spacing_mm: Millimetres per pixel if the header has none, or one that cannot be right.

    Raises:
        DicomRejected: With a reason code, see the class.
    """
    where = where or path.name
    return shown_pixels(_read(path, where, allow_secondary_capture), where, spacing_mm)


def shown_pixels(stored: Stored, where: str, spacing_mm: float | None) -> Mammogram:
    """What stored pixels show, by the tables and the geometry of their header.

    Args:
        stored: Pixels and header.
        where: As for :func:`read_mammogram`.
        spacing_mm: As for :func:`read_mammogram`.

    Raises:
        DicomRejected: ``lut``, ``spacing`` or ``unreadable``.
    """
    dataset = stored.dataset
    with quiet(where, reason="lut"):
        grey, voi = _grey_of_codes(stored)
    with quiet(where):
        axes, source = _spacing(dataset, where, spacing_mm)
        square = axes is None or axes[0] == axes[1]
        return Mammogram(
            codes=stored.codes
            if square
            else _square_pixels(_mapped(stored.codes, grey), axes, where),
            grey=grey if square else None,
            stored_shape=(stored.codes.shape[0], stored.codes.shape[1]),
            bits=stored.bits,
            spacing_mm=min(axes) if axes else None,
            spacing_source=source,
            laterality=_laterality(dataset),
            view=_view(dataset),
            voi=voi,
        )


def read_stored(
    path: Path, *, where: str = "", allow_secondary_capture: bool = False
) -> NDArray[Any]:
    """Reads stored values unchanged, for masks.

    Args:
        path: DICOM file.
        where: As for :func:`read_mammogram`.
        allow_secondary_capture: As for :func:`read_mammogram`.

    Returns:
        Integers, shape ``(H, W)``.

    Raises:
        DicomRejected: With a reason code, see the class.
    """
    return read_stored_range(
        path, where=where or path.name, allow_secondary_capture=allow_secondary_capture
    )[0]


def read_stored_range(
    path: Path, *, where: str, allow_secondary_capture: bool
) -> tuple[NDArray[Any], tuple[int, int]]:
    """As :func:`read_stored`, with the least and the largest value that a pixel could have."""
    stored = _read(path, where, allow_secondary_capture)
    low, high = (-(1 << stored.bits - 1), (1 << stored.bits - 1) - 1) if stored.signed else (0, 0)
    return stored.values(stored.codes), (low, high if stored.signed else (1 << stored.bits) - 1)


class _Bounded(io.RawIOBase):
    """A file of which nothing is read beyond a bound."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self._file, self._where, self.bound = file, where, _HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if size < 0 or self._file.tell() + size > self.bound:
            left = max(self.bound - self._file.tell(), 0)
            data = self._file.read(left + 1)
            if len(data) > left:
                raise DicomRejected(
                    "too_large",
                    f"{self._where}: holds far more bytes than its Rows and Columns. "
                    "Check the file.",
                )
            return data
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def opened_dicom(path: Path, where: str) -> Iterator[tuple[Dataset, "PixelSource"]]:
    """The header of a file, and where its pixels are to be read once it has been checked."""
    with path.open("rb") as file:
        start = file.read(1024)
        if not looks_like_dicom(start):
            raise DicomRejected(
                "unreadable",
                f"{where}: is no DICOM file; the mark DICM is missing after 128 bytes, and it does "
                "not begin with a DICOM element. Copy or download the file again, or give another.",
            )
        has_mark = start[_MARK_AT : _MARK_AT + 4] == _MARK
        file.seek(0)
        if has_mark and str(DeflatedExplicitVRLittleEndian).encode() in start:
            yield _inflated(path, file, where)
            return
        bounded = _Bounded(file, where)
        header: Dataset = read_partial(
            cast(BinaryIO, bounded), stop_when=_at_pixels, force=not has_mark
        )
        implicit, little = header.original_encoding
        if "TransferSyntaxUID" not in header.file_meta:
            header.file_meta.TransferSyntaxUID = (
                ImplicitVRLittleEndian
                if implicit
                else ExplicitVRLittleEndian
                if little
                else ExplicitVRBigEndian
            )
        yield header, PixelSource(bounded, bool(implicit), bool(little))


class PixelSource:
    """A file that stands before its pixels.

    Args:
        file: Bounded file.
        implicit: How the file is encoded.
        little: Its byte order.
        inflate: Whatever of a deflated file is still to be inflated.
    """

    def __init__(
        self, file: _Bounded, implicit: bool, little: bool, inflate: "_Inflate | None" = None
    ) -> None:
        self._file, self._implicit, self._little = file, implicit, little
        self._inflate = inflate
        self._value: tuple[int, int | None] | None = None

    def read_into(self, header: Dataset, most: int) -> None:
        """Adds the pixel data to the header, if file and pixels have no more than so many bytes."""
        self._file.bound = self._file.tell() + most
        if self._inflate is not None:
            self._file = self._inflate.whole(self._file, most)
        for element in data_element_generator(
            cast(BinaryIO, self._file), self._implicit, self._little
        ):
            if element.tag >= _PIXEL_DATA:
                header[element.tag] = element
                return

    def frame(self, number: int, *, frames: int, size: int, where: str) -> bytes:
        """Reads one frame of several, and nothing of the others where the file says where it is.

        Args:
            number: From 0.
            frames: Number of frames.
            size: Bytes of a frame without compression.
            where: Start of every message.

        Returns:
            The frame as it is stored, compressed or not.

        Raises:
            DicomRejected: ``syntax`` for a deflated file, ``bits`` if the header states another
                number of bytes.
            EOFError: If the file is cut off.
        """
        if self._inflate is not None:
            raise DicomRejected(
                "syntax", f"{where}: is a deflated file of several frames. Save it without that."
            )
        if self._value is None:
            self._value = self._pixels_at()
        start, length = self._value
        self._file.bound = sys.maxsize  # below, by what is asked for
        if length is None:
            self._file.seek(start)
            return get_frame(cast(BinaryIO, self._file), number, number_of_frames=frames)
        if not frames * size <= length <= frames * size + 1:
            raise DicomRejected(
                "bits",
                f"{where}: holds another number of pixel bytes than NumberOfFrames x Rows x "
                "Columns. Correct the header, or leave the file out.",
            )
        self._file.seek(start + number * size)
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError("the file is cut off")
        return data

    def _pixels_at(self) -> tuple[int, int | None]:
        """Position of the value of the pixel data, and its length; none if it is compressed."""
        order: Literal["little", "big"] = "little" if self._little else "big"
        words = 8 if self._implicit else 12  # PS3.5, 7.1: OB and OW have a length of four bytes
        head = self._file.read(words)
        group, element = (int.from_bytes(head[n : n + 2], order) for n in (0, 2))
        if len(head) < words or (group << 16) + element != _PIXEL_DATA:
            raise EOFError("no pixel data")
        length = int.from_bytes(head[-4:], order)
        return self._file.tell(), None if length == _UNDEFINED else length


class _Inflate:
    """A deflated file: the header first, more only after it has been checked."""

    def __init__(self, data: bytes, where: str) -> None:
        self._inflater, self._where = zlib.decompressobj(-zlib.MAX_WBITS), where
        self.start = self._inflater.decompress(data, _HEADER_BYTES)

    def whole(self, file: _Bounded, most: int) -> _Bounded:
        """The file with everything inflated, at the same position."""
        rest = b""
        if self._inflater.unconsumed_tail:
            left = max(file.bound - len(self.start), 1)
            rest = self._inflater.decompress(self._inflater.unconsumed_tail, left)
        if self._inflater.unconsumed_tail:
            raise DicomRejected(
                "too_large",
                f"{self._where}: inflates to far more bytes than its Rows and Columns. "
                "Check the file.",
            )
        if not self._inflater.eof:
            raise EOFError("the deflated stream is cut off")
        whole = _Bounded(io.BytesIO(self.start + rest), self._where)
        whole.bound = file.bound
        whole.seek(file.tell())
        return whole


def _inflated(path: Path, file: BinaryIO, where: str) -> tuple[Dataset, PixelSource]:
    """Header and pixels of a deflated file, of which little is inflated at first."""
    if path.stat().st_size > 2 * LARGEST_PIXELS:
        raise DicomRejected(
            "too_large",
            f"{where}: is a deflated file of {path.stat().st_size:,} B. Check the file.",
        )
    meta = read_file_meta_info(path)
    # The group length (0002,0000) counts what follows it: 128 + 4 bytes and 12 of its own precede.
    file.seek(_MARK_AT + 16 + int(meta.FileMetaInformationGroupLength))
    inflate = _Inflate(file.read(), where)
    bounded = _Bounded(io.BytesIO(inflate.start), where)
    header = read_dataset(
        cast(BinaryIO, bounded), is_implicit_VR=False, is_little_endian=True, stop_when=_at_pixels
    )
    header.file_meta = meta
    return header, PixelSource(bounded, False, True, inflate)


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return bool(tag >= _FLOAT_PIXEL_DATA)


def _read(path: Path, where: str, secondary: bool) -> Stored:
    with quiet(where), opened_dicom(path, where) as (dataset, source):
        check_header(dataset, where, secondary)
        expected = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
        source.read_into(dataset, 2 * expected + 2**20)
        if "PixelData" not in dataset:
            raise DicomRejected(
                "unreadable",
                f"{where}: {tag_name('PixelData')} is missing. Copy or download the file again.",
            )
        syntax = dataset.file_meta.TransferSyntaxUID
        if syntax.is_encapsulated:
            check_codestream(dataset, where)
        elif len(dataset.PixelData) > expected + expected % 2:
            raise DicomRejected(
                "bits",
                f"{where}: holds more pixel bytes than Rows x Columns, so one of them is wrong. "
                "Correct the header, or leave the file out.",
            )
        return stored_pixels(dataset, where)


def stored_pixels(dataset: Dataset, where: str) -> Stored:
    """Decodes the pixels of a dataset of one frame whose header and code stream were checked."""
    # Bits beyond BitsStored are looked at here instead of being cleared.
    pixels = decoded(dataset)
    if pixels.shape != (int(dataset.Rows), int(dataset.Columns)):
        raise ValueError("not a grey image")
    return _aligned(dataset, pixels, where)


def _aligned(dataset: Dataset, pixels: NDArray[Any], where: str) -> Stored:
    """Moves the stored bits to bit 0; refuses whatever else is set and is no overlay."""
    signed = pixels.dtype.kind == "i"
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    words = pixels.view(np.dtype(f"u{pixels.dtype.itemsize}"))
    stored = int(dataset.BitsStored)
    high = dataset.get("HighBit")
    shift = 0 if high in (None, "") else int(high) + 1 - stored
    width = 8 * words.dtype.itemsize
    used = (1 << stored) - 1 << shift
    if not signed and not shift and int(words.max(initial=0)) <= used:
        return Stored(dataset, words, signed)  # nearly all files: nothing is set that is unused
    overlays = embedded_overlay_bits(dataset) & ~used
    if used | overlays != (1 << width) - 1:
        codes = words & words.dtype.type(used)
        spare = words & words.dtype.type(~(used | overlays) & (1 << width) - 1)
        if signed and not shift:  # the sign may be repeated in all higher bits
            minus = (codes >> (stored - 1)).astype(np.bool_)
            full = words.dtype.type(~(used | overlays) & (1 << width) - 1)
            spare[minus & (spare == full)] = 0
        if spare.any():
            raise DicomRejected(
                "bits",
                f"{where}: pixels use more bits than BitsStored ({stored}) and HighBit say, and no "
                "overlay is stated there. Correct the header, or leave the file out.",
            )
        words = codes
    elif overlays:
        words = words & words.dtype.type(used)
    if shift:
        if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
            raise DicomRejected(
                "bits",
                f"{where}: HighBit is not BitsStored - 1 in compressed pixels. Decompress the file "
                "first.",
            )
        words = words >> words.dtype.type(shift)
    return Stored(dataset, words, signed)


def _grey_of_codes(stored: Stored) -> tuple[NDArray[np.float32], Voi]:
    """Grey value in ``[0, 1]`` of every code that a pixel can have, shape ``(2 ** bits,)``."""
    dataset = stored.dataset
    for name in _FOR_PRESENTATION:  # an empty element is an absent one
        if name in dataset and dataset[name].is_empty:
            del dataset[name]
    inverse = _is_inverse(dataset)
    codes = np.arange(1 << stored.bits, dtype=np.uint8 if stored.bits <= 8 else np.uint16)
    originals = stored.values(codes)
    values: NDArray[Any] = apply_modality_lut(originals, _with_rescale(dataset))
    shown, low, high, voi = _shown(values, dataset)
    if low == high:
        raise ValueError("empty range")
    grey = ((shown - np.float32(low)) / np.float32(high - low)).astype(np.float32)
    if not np.isfinite(grey).all():
        raise ValueError("not finite")
    np.clip(grey, 0, 1, out=grey)
    if inverse:
        np.subtract(1, grey, out=grey)
    grey[_padding(originals, dataset)] = 0
    return grey, voi


def _mapped(codes: NDArray[Any], grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Grey values of an image, a few rows at a time, since indices take eight bytes each."""
    pixels = np.empty(codes.shape, np.float32)
    for first in range(0, len(codes), 256):
        np.take(grey, codes[first : first + 256], out=pixels[first : first + 256], mode="clip")
    return pixels


def _with_rescale(dataset: Dataset) -> Dataset:
    """The dataset with both numbers of the rescale or none: pydicom needs both."""
    given = [name for name in ("RescaleSlope", "RescaleIntercept") if name in dataset]
    if len(given) == 1:
        dataset.RescaleSlope = dataset.get("RescaleSlope", 1)
        dataset.RescaleIntercept = dataset.get("RescaleIntercept", 0)
    return dataset


def _is_inverse(dataset: Dataset) -> bool:
    """Whether high values are dark: MONOCHROME1 and INVERSE mean one and the same inversion."""
    shape = str(dataset.get("PresentationLUTShape", "IDENTITY")).upper()
    if shape not in ("IDENTITY", "INVERSE") or dataset.get("PresentationLUTSequence"):
        raise ValueError("another presentation LUT")
    return dataset.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE"


def _padding(values: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Which stored values stand for no image at all (PS3.3, C.7.5.1.1.2)."""
    if "PixelPaddingValue" not in dataset:
        return np.zeros(values.shape, np.bool_)
    ends = [int(dataset.PixelPaddingValue)]
    ends.append(int(dataset.get("PixelPaddingRangeLimit", ends[0])))
    wide = values.astype(np.int64)
    return np.asarray((wide >= min(ends)) & (wide <= max(ends)), np.bool_)


def _shown(values: NDArray[Any], dataset: Dataset) -> tuple[NDArray[np.float32], float, float, Voi]:
    """Applies the first table of interest or window; returns values, their range, the branch."""
    if dataset.get("VOILUTSequence"):
        try:
            depth = _whole_table_depth(dataset)
            integers = np.rint(values).astype(np.int32)  # a rescale slope leaves floats
            shown = apply_voi(integers, dataset, index=0)
            return shown.astype(np.float32), 0.0, float(2**depth - 1), "lut"
        except Exception:
            if dataset.get("WindowWidth") is None:
                raise
    low, high = _value_range(dataset)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        # With a negative slope pydicom counts from high to low; so do these ends.
        return apply_windowing(values, dataset, index=0).astype(np.float32), low, high, "window"
    return values.astype(np.float32), min(low, high), max(low, high), "none"


def _whole_table_depth(dataset: Dataset) -> int:
    """Bits of the table's entries, if the table is whole.

    Narrow entries with many rows are refused too: pydicom 3.0.2 indexes an 8-bit table with 8 bits.
    """
    item = dataset.VOILUTSequence[0]
    entries, _, depth = (int(value) for value in item.LUTDescriptor)
    entries = entries or 2**16
    data = item.LUTData
    held = len(data) // 2 if isinstance(data, bytes) else len(data)
    if held < entries or (depth <= 8 and entries > 256):
        raise ValueError("table is not whole")
    return depth


def _value_range(dataset: Dataset) -> tuple[float, float]:
    """What the least and the largest stored value become by the modality table."""
    if dataset.get("ModalityLUTSequence"):
        return 0.0, float(2 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    bits = int(dataset.BitsStored)
    signed = bool(dataset.PixelRepresentation)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if dataset.get("RescaleSlope") is None or dataset.get("RescaleIntercept") is None:
        return float(low), float(high)
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    return low * slope + intercept, high * slope + intercept


def _spacing(
    dataset: Dataset, where: str, given: float | None
) -> tuple[tuple[float, float] | None, SpacingSource]:
    """Millimetres per pixel (row, column), and where they come from.

    Raises:
        DicomRejected: ``spacing`` for a header that cannot be right, if the user gives none.
    """
    try:
        spacing = _header_spacing(dataset, where)
    except DicomRejected:
        if given is None:
            raise
        spacing = None
    if spacing is not None:
        return spacing
    return ((given, given), "user") if given is not None else (None, "none")


def _header_spacing(
    dataset: Dataset, where: str
) -> tuple[tuple[float, float], SpacingSource] | None:
    calibrated = str(dataset.get("PixelSpacingCalibrationType") or "").upper()
    if calibrated in ("GEOMETRY", "FIDUCIAL") and (
        axes := _axes(dataset, "PixelSpacing", where, 1.0)
    ):
        return axes, "calibrated"
    factor = _magnification(dataset, where)
    if axes := _axes(dataset, "ImagerPixelSpacing", where, factor):
        return axes, "detector" if factor == 1 else "detector / magnification"
    if axes := _axes(dataset, "PixelSpacing", where, 1.0):
        return axes, "image"
    if axes := _axes(dataset, "NominalScannedPixelSpacing", where, 1.0):
        return axes, "scanner"
    return None


def _axes(dataset: Dataset, name: str, where: str, factor: float) -> tuple[float, float] | None:
    """One of the spacings, divided by the magnification; none if it is absent or empty."""
    numbers = _numbers(dataset, name, where)
    if not numbers:
        return None
    finest, coarsest = min(numbers), max(numbers)
    if (
        len(numbers) != 2
        or not FINEST_MM <= finest <= coarsest <= COARSEST_MM
        or coarsest > finest * _LARGEST_RATIO
    ):
        raise _bad_spacing(
            where,
            name,
            f"is not a pair of numbers from {FINEST_MM:g} to {COARSEST_MM:g} mm per pixel, as "
            "mammograms have it (micron instead of millimetres?)",
        )
    return numbers[0] / factor, numbers[1] / factor


def _magnification(dataset: Dataset, where: str) -> float:
    name = "EstimatedRadiographicMagnificationFactor"
    numbers = _numbers(dataset, name, where)
    if not numbers:
        return 1.0
    if len(numbers) != 1 or not 1 <= numbers[0] <= _LARGEST_MAGNIFICATION:
        raise _bad_spacing(where, name, f"is not between 1 and {_LARGEST_MAGNIFICATION:g}")
    return numbers[0]


def _numbers(dataset: Dataset, name: str, where: str) -> list[float]:
    """Numbers of an element, none if it is absent or empty."""
    try:
        value = dataset.get(name)
        if value in (None, ""):
            return []
        several = not isinstance(value, (int, float, str))
        return [float(number) for number in (value if several else [value])]
    except Exception:
        raise _bad_spacing(where, name, "is no number (a decimal comma?)") from None


def _bad_spacing(where: str, name: str, what: str) -> DicomRejected:
    return DicomRejected(
        "spacing",
        f"{where}: {tag_name(name)} {what}. Give --spacing_mm, which then replaces it, or correct "
        "the header.",
    )


def _square_pixels(
    grey: NDArray[np.float32], spacing: tuple[float, float] | None, where: str
) -> NDArray[np.float32]:
    """Enlarges the coarser axis, if the spacings (row, column) differ."""
    if spacing is None or spacing[0] == spacing[1]:
        return grey
    height, width = (
        round(n * mm / min(spacing)) for n, mm in zip(grey.shape, spacing, strict=True)
    )
    check_size(height, width, where)
    return np.asarray(cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _laterality(dataset: Dataset) -> Laterality | None:
    value = str(dataset.get("ImageLaterality") or dataset.get("Laterality") or "").upper()
    return "L" if value == "L" else "R" if value == "R" else None


def _view(dataset: Dataset) -> View | None:
    value = str(dataset.get("ViewPosition") or "").upper()
    if not value and (codes := dataset.get("ViewCodeSequence")):
        code = str(codes[0].get("CodeValue") or "").upper()
        return _VIEW_CODES.get(code, "other" if code else None)
    return "CC" if value == "CC" else "MLO" if value == "MLO" else "other" if value else None
