# SPDX-License-Identifier: Apache-2.0
"""How crops are cut out of mammograms: the settings, and what applies them.

Whoever scores new mammograms cuts with the settings of the training crops, by the same code.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.cropping import (
    Box,
    GreyRange,
    crop_side,
    crop_square,
    grey_range,
    to_16_bit,
)
from data_prep.dicom import Mammogram
from data_prep.errors import DataError, GeometryRejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """Settings of crops that are centred on their mass.

    Attributes:
        size: Edge of a crop, in pixels, ``>= 8``.
        margin_mm: Tissue kept on each side of the mass, in millimetres, ``>= 0``.
        minimum_mm: Smallest edge of the window that is cut, in millimetres, ``>= 0``.
        spacing_mm: Millimetres per pixel of mammograms whose headers do not say so, ``> 0``.
            Without any, 60 px stand for 3 mm.
    """

    size: int = 128
    margin_mm: float = 3.0
    minimum_mm: float = 6.4
    spacing_mm: float | None = None

    def __post_init__(self) -> None:
        """Refuses what cuts nothing.

        Raises:
            DataError: For a value outside its range.
        """
        if (
            self.size < 8
            or self.margin_mm < 0
            or self.minimum_mm < 0
            or (self.spacing_mm is not None and self.spacing_mm <= 0)
        ):
            raise DataError(
                f"size={self.size}, margin_mm={self.margin_mm}, minimum_mm={self.minimum_mm}, "
                f"spacing_mm={self.spacing_mm}. Give a "
                "size of 8 or more, lengths of 0 or more and a spacing above 0."
            )


def range_of(mammogram: Mammogram, where: str) -> GreyRange:
    """The grey range of a mammogram.

    Raises:
        GeometryRejected: ``blank``, with the place.
    """
    try:
        return grey_range(mammogram)
    except GeometryRejected as error:
        raise _placed(error, where, "Check the image") from error


def cut_box(
    mammogram: Mammogram, box: Box, cutting: Cutting, grey: GreyRange, *, where: str
) -> tuple[NDArray[np.uint16], float | None]:
    """Cuts one lesion out.

    Args:
        mammogram: The image.
        box: Where the lesion lies, in pixels of ``mammogram.pixels``.
        cutting: Settings.
        grey: The :func:`range_of` the mammogram.
        where: Start of every message.

    Returns:
        Crop, shape ``(size, size)``, and its millimetres per pixel, if known.

    Raises:
        GeometryRejected: If the lesion cannot be cut out.
    """
    mm = mammogram.spacing_mm or cutting.spacing_mm
    lengths = {"margin_mm": cutting.margin_mm, "minimum_mm": cutting.minimum_mm}
    try:
        crop = crop_square(
            mammogram,
            box,
            **lengths,
            mm_per_px=mm,
            size=cutting.size,
            background=grey.background,
        )
    except GeometryRejected as error:
        raise _placed(
            error, where, "Correct where it lies, in pixels of the image as it is stored"
        ) from error
    side = crop_side(box, **lengths, mm_per_px=mm)
    return to_16_bit(crop, grey), None if mm is None else round(mm * side / cutting.size, 6)


def _placed(error: GeometryRejected, where: str, remedy: str) -> GeometryRejected:
    return GeometryRejected(error.reason, f"{where}: {error}. {remedy}, or leave the row out.")
