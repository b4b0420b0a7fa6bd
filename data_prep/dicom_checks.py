# SPDX-License-Identifier: Apache-2.0
"""Which DICOM files are refused, and how pydicom's complaints become rejections.

No message quotes the value of an element that could identify a person.
"""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.tag import Tag
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from data_prep.errors import DicomRejected

# A film of 24 x 30 cm, scanned at 25 micron, has 115 million pixels.
LARGEST_PIXELS = 120_000_000
# Plugin of pydicom and package for each compressed syntax. No other plugin is tried where the right
# one fails: on damaged JPEG 2000, GDCM ends the whole process instead of raising.
_GDCM, _JPEG_LS, _JPEG_2000 = (
    ("gdcm", "python-gdcm"),
    ("pyjpegls", "pyjpegls"),
    ("pylibjpeg", "pylibjpeg-openjpeg"),
)
_DECODERS = {
    str(RLELossless): ("pydicom", "pydicom"),
    "1.2.840.10008.1.2.4.50": ("pillow", "pillow"),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (51, 57, 70)), _GDCM),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)), _JPEG_LS),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)), _JPEG_2000),
}
_MAMMOGRAPHY = (
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
)
# Warnings of pydicom 3.0 that change nothing we use; a file with any other one is rejected.
_HARMLESS = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        # The form of a value. Every value that is used here is checked again.
        r"Invalid value for VR ",
        r"The value length \(\d+\) exceeds the maximum length",
        r"The number of PN components",
        r"The PN component length",
        r"A value of type ",
        r"Value \".*\" is not valid for elements with a VR of ",
        r"Values for elements with a VR of ",
        # Letters of names and descriptions. No text is used.
        r"Unknown encoding ",
        r"Incorrect value for Specific Character Set ",
        r"Failed to decode byte string with encoding",
        r"Value '.*' for Specific Character Set does not allow code extensions",
        r"Value '.*' cannot be used as code extension",
        r"Found unknown escape sequence",
        # The header says which way it is written and is written the other; pydicom reads what is.
        r"Expected (explicit|implicit) VR, but found ",
        # 0 frames: read as one, whose bytes are counted.
        r"A value of '?(0|None)'? for \(0028,0008\) 'Number of Frames'",
    )
)


def check_header(dataset: Dataset, where: str, secondary: bool) -> None:
    """Refuses what is no mammogram for presentation, before any pixel is read.

    Args:
        dataset: The header, without pixels.
        where: Start of the message.
        secondary: Whether scanned film stored as secondary capture is accepted.

    Raises:
        DicomRejected: With a reason code, see the class.
    """
    photometric = required(dataset, "PhotometricInterpretation", where)
    kind = dataset.get("SOPClassUID")
    modality = str(dataset.get("Modality") or "")
    accepted = kind in _MAMMOGRAPHY or (secondary and kind == SecondaryCaptureImageStorage)
    if not modality and not accepted:
        raise DicomRejected(
            "not_mammography",
            f"{where}: Modality (0008,0060) is missing, and SOP Class UID (0008,0016) is not that "
            "of mammography. Set Modality to MG if it is a mammogram.",
        )
    if modality not in ("", "MG") and not (secondary and kind == SecondaryCaptureImageStorage):
        raise DicomRejected(
            "not_mammography",
            f"{where}: Modality is not MG. Leave the file out, or use the reader of its archive.",
        )
    if (
        str(dataset.get("PresentationIntentType") or "").upper() == "FOR PROCESSING"
        or kind == DigitalMammographyXRayImageStorageForProcessing
    ):
        raise DicomRejected(
            "for_processing",
            f"{where}: the image is FOR PROCESSING (raw detector values). "
            "Give the FOR PRESENTATION image of the same view.",
        )
    if (frames := int(dataset.get("NumberOfFrames") or 1)) != 1:
        raise DicomRejected(
            "multi_frame",
            f"{where}: NumberOfFrames is {frames}; tomosynthesis and clips are no "
            "mammogram. Give the two-dimensional image; prepare bcs_dbt reads tomosynthesis.",
        )
    if str(dataset.get("BurnedInAnnotation") or "").upper() == "YES":
        raise DicomRejected(
            "burned_in",
            f"{where}: BurnedInAnnotation is YES, so the pixels may name a person. "
            "Give an image without it.",
        )
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise DicomRejected(
            "not_mammography",
            f"{where}: PhotometricInterpretation is not MONOCHROME1 or MONOCHROME2. "
            "Give the grey image.",
        )
    rows, columns = (_whole(dataset, name, where) for name in ("Rows", "Columns"))
    check_size(rows, columns, where)
    _check_bits(dataset, where)
    _check_syntax(dataset, where)


def check_size(rows: int, columns: int, where: str) -> None:
    """Refuses an image by its stated size, before memory is taken for it.

    Raises:
        DicomRejected: ``too_large``, or ``unreadable`` for less than two rows or columns.
    """
    if min(rows, columns) < 2:
        raise DicomRejected(
            "unreadable", f"{where}: has {columns} x {rows} px, no picture. Leave the file out."
        )
    if rows * columns > LARGEST_PIXELS:
        raise DicomRejected(
            "too_large",
            f"{where}: says that it has {columns:,} x {rows:,} px, more than "
            f"{LARGEST_PIXELS // 10**6} million. Check the file, or reduce the image.",
        )


def check_codestream(dataset: Dataset, where: str) -> None:
    """Refuses compressed pixels that state another size than the header, before they are decoded.

    Raises:
        DicomRejected: ``unreadable``.
    """
    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        return  # it states no size; pydicom counts the bytes
    stated = codestream_size(get_frame(dataset.PixelData, 0, number_of_frames=1))
    if stated != (int(dataset.Rows), int(dataset.Columns)):
        raise DicomRejected(
            "unreadable",
            f"{where}: the compressed pixels state another size than Rows and Columns. "
            "Copy or download the file again.",
        )


def codestream_size(data: bytes) -> tuple[int, int] | None:
    r"""Height and width in the frame header of JPEG, JPEG-LS or JPEG 2000, or none.

    >>> codestream_size(b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x10\x00\x20\x01")
    (16, 32)
    """
    if (at := data.find(b"\xff\x4f\xff\x51")) >= 0 and not data.startswith(b"\xff\xd8"):
        x1, y1, x0, y0 = (
            int.from_bytes(data[at + 8 + 4 * n : at + 12 + 4 * n], "big") for n in range(4)
        )
        return y1 - y0, x1 - x0
    at = 2
    while data.startswith(b"\xff\xd8") and at + 9 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(
                data[at + 7 : at + 9], "big"
            )
        elif marker in (0x01, *range(0xD0, 0xD9)):
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def required(dataset: Dataset, name: str, where: str) -> object:
    """Value of an element without which there is no image.

    Raises:
        DicomRejected: ``unreadable``, naming the element.
    """
    value = dataset.get(name)
    if value in (None, ""):
        raise DicomRejected(
            "unreadable",
            f"{where}: {tag_name(name)} is missing; the file is cut off, or no image. "
            "Copy or download the file again.",
        )
    return value


def _whole(dataset: Dataset, name: str, where: str) -> int:
    return int(str(required(dataset, name, where)))


def tag_name(name: str) -> str:
    """Keyword and tag of an element, as a viewer shows them.

    >>> tag_name("Modality")
    'Modality (0008,0060)'
    """
    tag = Tag(tag_for_keyword(name) or 0)
    return f"{name} ({tag.group:04X},{tag.element:04X})"


def _check_bits(dataset: Dataset, where: str) -> None:
    allocated, stored = (_whole(dataset, f"Bits{n}", where) for n in ("Allocated", "Stored"))
    high = dataset.get("HighBit")
    high = stored - 1 if high in (None, "") else int(high)
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if allocated not in (8, 16) or not 1 <= stored <= high + 1 <= allocated or samples != 1:
        raise DicomRejected(
            "bits",
            f"{where}: BitsAllocated {allocated}, BitsStored {stored}, HighBit {high}, "
            f"SamplesPerPixel {samples}. Grey images of 8 or 16 bits are read; convert the file.",
        )


def decoded(dataset: Dataset) -> NDArray[Any]:
    """Stored pixels as they are, unused bits included, by the decoder of their transfer syntax.

    Args:
        dataset: Header and pixels, checked.

    Returns:
        Integers of the allocated size, shape ``(H, W)`` for a grey image.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = _DECODERS[str(syntax)][0] if syntax.is_encapsulated else ""
    # Pixels are not copied where they lie in the file as they are. pydicom types options as one.
    options: Any = {"correct_unused_bits": False, "view_only": True}
    pixels, _ = get_decoder(syntax).as_array(dataset, raw=True, decoding_plugin=plugin, **options)
    return pixels


def _check_syntax(dataset: Dataset, where: str) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin, package = _DECODERS.get(str(syntax), ("", ""))
    try:
        decoder = get_decoder(syntax)
        available = decoder.is_available and (
            not syntax.is_encapsulated or plugin in decoder.available_plugins
        )
    except NotImplementedError:
        available = False
    if not available:
        remedy = (
            f'Install {package}: `pip install -e ".[dicom]"` in the source tree.'
            if package
            else "No package for it is supported; decompress the file first."
        )
        raise DicomRejected(
            "syntax", f"{where}: transfer syntax {syntax} ({syntax.name}). {remedy}"
        )


@contextmanager
def quiet(where: str, reason: Literal["unreadable", "lut"] = "unreadable") -> Iterator[None]:
    """Turns what pydicom and the decoders raise or warn of into a rejection.

    Whatever is raised concerns this one file. A warning is either listed as harmless or rejects
    the file too. Values stay out of messages.

    Args:
        where: Start of the message.
        reason: Code for malformed content.

    Raises:
        DicomRejected: For a file that cannot be opened (``unreadable``) or is malformed.
    """
    logger = logging.getLogger("pydicom")  # like the warnings, it quotes values of elements
    was_disabled, logger.disabled = logger.disabled, True
    what, remedy = (
        ("is truncated or malformed", "Copy or download the file again.")
        if reason == "unreadable"
        else ("has a malformed grey-value table or window", "Leave the file out.")
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except DicomRejected:
            raise
        except OSError as error:
            raise DicomRejected(
                "unreadable", f"{where}: cannot be read ({error.strerror}). Check the file."
            ) from error
        except Exception as error:  # whatever it is, it ends one file, not the run
            raise DicomRejected(
                reason, f"{where}: {what} ({type(error).__name__}). {remedy}"
            ) from None  # the cause's text may quote header values
        finally:
            logger.disabled = was_disabled
    if not all(_harmless(warning) for warning in caught):
        raise DicomRejected(reason, f"{where}: {what} (warning of its decoder). {remedy}")


def _harmless(warning: warnings.WarningMessage) -> bool:
    """Whether a warning says nothing of the image, or speaks of code and not of the file."""
    if issubclass(warning.category, DeprecationWarning | PendingDeprecationWarning):
        return True
    return any(pattern.match(str(warning.message)) for pattern in _HARMLESS)


def embedded_overlay_bits(dataset: Dataset) -> int:
    """Bits of a stored word that hold overlays, as an integer mask.

    Overlays in elements of their own never touch the pixels and are ignored. These older ones lie
    in the unused bits of the words and are masked off.
    """
    mask = 0
    for group in range(0x6000, 0x6100, 2):
        position = dataset.get(Tag(group, 0x0102))
        if position is not None and Tag(group, 0x3000) not in dataset:
            mask |= 1 << int(str(position.value or 0))
    return mask
