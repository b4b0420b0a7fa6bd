# SPDX-License-Identifier: Apache-2.0
"""One DICOM file becomes a grey image; with ``dicom_checks`` the only reader of DICOM.

Files are read, never written. No attribute leaves this module but size, bits, spacing, side and
view, and no message quotes a value that could identify a person.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

from data_prep.dicom_checks import MALFORMED, check_header, quiet
from data_prep.errors import DicomRejected
from data_prep.manifest import Laterality, View

Voi = Literal["lut", "window", "none"]
# DICOM PS3.16, CID 4014: SNOMED CT, and the SNOMED RT codes of older files.
_VIEW_CODES: Mapping[str, View] = {
    "399162004": "CC",
    "R-10242": "CC",
    "399368009": "MLO",
    "R-10226": "MLO",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mammogram:
    """A mammogram as a radiologist sees it: bright tissue on dark background.

    Attributes:
        pixels: Shape ``(H, W)``, float32 in ``[0, 1]``; 0 and 1 are the ends of the stored range.
            Unequal axes are resampled to the finer spacing, so pixels are square.
        stored_shape: Height and width in the file, as masks have them.
        bits: Bits stored per pixel.
        spacing_mm: Millimetres per pixel, > 0; none if the header has none.
        laterality: Side according to the header, if it says so.
        view: View according to the header, if it says so.
        voi: Which branch mapped stored values to shown ones: look-up table, window, or neither.
    """

    pixels: NDArray[np.float32]
    stored_shape: tuple[int, int]
    bits: int
    spacing_mm: float | None
    laterality: Laterality | None
    view: View | None
    voi: Voi


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


def read_series_file(path: Path) -> SeriesFile | None:
    """Reads the few header tags an index needs, without pixels.

    Returns:
        The entry, or none for a file whose header cannot be read: the record that needs it is
        rejected later, with its own row.
    """
    tags = ["SeriesInstanceUID", "SeriesDescription", "Rows", "Columns"]
    tags += ["ImageLaterality", "Laterality", "ViewPosition", "ViewCodeSequence"]
    try:
        with quiet(path.name):
            header = dcmread(path, stop_before_pixels=True, specific_tags=tags)
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
    path: Path, *, where: str = "", allow_secondary_capture: bool = False
) -> Mammogram:
    """Reads a mammogram for presentation.

    Order: header checks, pixels, modality table, window or table of interest, then one inversion
    if the photometric interpretation is MONOCHROME1. A malformed table gives way to the window.

    Args:
        path: DICOM file.
        where: Start of every message, for archives whose file names identify people; the file
            name if empty.
        allow_secondary_capture: Whether scanned film stored as secondary capture is accepted
            whatever its modality, as in CBIS-DDSM.

    Raises:
        DicomRejected: With a reason code, see the class.
    """
    where = where or path.name
    dataset, stored = _stored(path, where, allow_secondary_capture)
    with quiet(where, reason="lut"):
        values: NDArray[Any] = apply_modality_lut(stored, dataset)
        shown, low, high, voi = _shown(values, dataset)
        if not high > low:
            raise ValueError("empty range")
        grey = ((shown - np.float32(low)) / np.float32(high - low)).astype(np.float32)
        if not np.isfinite(grey).all():
            raise ValueError("not finite")
    np.clip(grey, 0, 1, out=grey)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        np.subtract(1, grey, out=grey)
    with quiet(where):
        spacing = _spacing(dataset)
        return Mammogram(
            pixels=_square_pixels(grey, spacing),
            stored_shape=(stored.shape[0], stored.shape[1]),
            bits=int(dataset.BitsStored),
            spacing_mm=min(spacing) if spacing else None,
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
    return _stored(path, where or path.name, allow_secondary_capture)[1]


def _stored(path: Path, where: str, secondary: bool) -> tuple[Dataset, NDArray[Any]]:
    with quiet(where):
        dataset = dcmread(path)
        check_header(dataset, where, secondary)
        pixels: NDArray[Any] = dataset.pixel_array
        if pixels.ndim != 2 or min(pixels.shape) < 2:
            raise ValueError("not a grey image")
        return dataset, pixels


def _shown(values: NDArray[Any], dataset: Dataset) -> tuple[NDArray[np.float32], float, float, Voi]:
    """Applies the first table of interest or window; returns values, their range, the branch."""
    if dataset.get("VOILUTSequence"):
        try:
            depth = _whole_table_depth(dataset)
            integers = np.rint(values).astype(np.int32)  # a rescale slope leaves floats
            shown = apply_voi(integers, dataset, index=0)
            return shown.astype(np.float32), 0.0, float(2**depth - 1), "lut"
        except MALFORMED:
            if dataset.get("WindowWidth") is None:
                raise
    low, high = _value_range(dataset)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        return apply_windowing(values, dataset, index=0).astype(np.float32), low, high, "window"
    return values.astype(np.float32), low, high, "none"


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
    """Smallest and largest value that pixels can have after the modality table."""
    if dataset.get("ModalityLUTSequence"):
        return 0.0, float(2 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    bits = int(dataset.BitsStored)
    signed = bool(dataset.PixelRepresentation)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if dataset.get("RescaleSlope") is None or dataset.get("RescaleIntercept") is None:
        return float(low), float(high)
    slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    return low * slope + intercept, high * slope + intercept


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    for name in ("ImagerPixelSpacing", "PixelSpacing"):
        value = dataset.get(name)
        if value is not None and len(value) == 2 and all(0 < float(v) < 100 for v in value):
            return float(value[0]), float(value[1])
    return None


def _square_pixels(
    grey: NDArray[np.float32], spacing: tuple[float, float] | None
) -> NDArray[np.float32]:
    """Enlarges the coarser axis, if the spacings (row, column) differ."""
    if spacing is None or spacing[0] == spacing[1]:
        return grey
    height, width = (
        round(n * mm / min(spacing)) for n, mm in zip(grey.shape, spacing, strict=True)
    )
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
