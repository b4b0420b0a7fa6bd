# SPDX-License-Identifier: Apache-2.0
"""What a reader of an archive hands over: one lesion in one image."""

from collections.abc import Mapping
from dataclasses import dataclass

from data_prep.cropping import Box
from data_prep.dicom import Mammogram
from data_prep.manifest import Laterality, Split, View


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What the table of an archive says of one lesion in one image.

    Attributes:
        key: Our own name of the record, such as ``train_0012``: part and row. It names files.
        where: Table and row, the start of every message.
        patient_id: Id as the table gives it.
        image_id: Image; made of patient, side and view, never of a DICOM identifier.
        lesion_id: Lesion within the patient.
        malignant: From the pathology.
        split: Part the table belongs to.
        attributes: BI-RADS descriptors; absent means unknown.
    """

    key: str
    where: str
    patient_id: str
    image_id: str
    lesion_id: str
    malignant: bool
    split: Split
    view: View | None
    laterality: Laterality | None
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Lesion:
    """Where a lesion lies.

    Attributes:
        mammogram: The image; records of one image share the object.
        box: Bounding box, in pixels of ``mammogram.pixels``.
    """

    mammogram: Mammogram
    box: Box
