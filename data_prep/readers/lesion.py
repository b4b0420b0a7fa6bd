# SPDX-License-Identifier: Apache-2.0
"""What a reader of an archive hands over: one lesion in one image."""

from dataclasses import dataclass

from data_prep.cropping import Box
from data_prep.dicom import Mammogram


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """Where a lesion lies.

    Attributes:
        mammogram: The image; records of one image share the object.
        box: Bounding box, in pixels of ``mammogram.pixels``.
    """

    mammogram: Mammogram
    box: Box
