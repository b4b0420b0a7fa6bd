# SPDX-License-Identifier: Apache-2.0
"""Which DICOM files are refused, and how pydicom's complaints become rejections.

No message quotes the value of an element that could identify a person.
"""

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from pydicom import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    DigitalMammographyXRayImageStorageForProcessing,
    SecondaryCaptureImageStorage,
)

from data_prep.errors import DicomRejected

_JPEG, _JPEG_LS, _JPEG_2000 = "python-gdcm", "pyjpegls", "pylibjpeg-openjpeg"
_PACKAGES = {
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 57, 70)), _JPEG),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (80, 81)), _JPEG_LS),
    **dict.fromkeys((f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)), _JPEG_2000),
}
# What pydicom raises on malformed bytes, depending on where it stumbles.
MALFORMED = (
    InvalidDicomError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)


def check_header(dataset: Dataset, where: str, secondary: bool) -> None:
    """Refuses what is no mammogram for presentation, before any pixel is decoded.

    Args:
        dataset: The whole header.
        where: Start of the message.
        secondary: Whether scanned film stored as secondary capture is accepted.

    Raises:
        DicomRejected: With a reason code, see the class.
    """
    photometric = dataset.PhotometricInterpretation  # the last of the tags; missing if cut off
    kind = dataset.get("SOPClassUID")
    if dataset.Modality != "MG" and not (secondary and kind == SecondaryCaptureImageStorage):
        raise DicomRejected(
            "not_mammography",
            f"{where}: Modality is not MG. Leave the file out, or use the reader of its archive.",
        )
    if (
        str(dataset.get("PresentationIntentType", "")).upper() == "FOR PROCESSING"
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
            f"{where}: NumberOfFrames is {frames}; tomosynthesis and clips are not read. "
            "Give the two-dimensional mammogram.",
        )
    if str(dataset.get("BurnedInAnnotation", "")).upper() == "YES":
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
    _check_syntax(dataset, where)


def _check_syntax(dataset: Dataset, where: str) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        package = _PACKAGES.get(str(syntax))
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
    """Turns what pydicom raises into a rejection, and keeps values out of warnings and messages.

    Args:
        where: Start of the message.
        reason: Code for malformed content.

    Raises:
        DicomRejected: For a file that cannot be opened (``unreadable``) or is malformed.
    """
    logger = logging.getLogger("pydicom")  # like the warnings, it quotes values of elements
    was_disabled, logger.disabled = logger.disabled, True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except DicomRejected:
            raise
        except OSError as error:
            raise DicomRejected(
                "unreadable", f"{where}: cannot be read ({error.strerror}). Check the file."
            ) from error
        except MALFORMED as error:
            what, remedy = (
                ("is truncated or malformed", "Download the file again.")
                if reason == "unreadable"
                else ("has a malformed grey-value table or window", "Leave the file out.")
            )
            raise DicomRejected(
                reason, f"{where}: {what} ({type(error).__name__}). {remedy}"
            ) from None  # the cause's text may quote header values
        finally:
            logger.disabled = was_disabled
