# SPDX-License-Identifier: Apache-2.0
"""A generated crop as DICOM: a Secondary Capture image without a patient.

What a viewer or an archive needs is there (DICOM PS3.3, A.8.1: Secondary Capture Image), and it is
said in three standard places that no person was imaged: Synthetic Data is ``YES``, Conversion Type
is ``SYN``, and both the name and the identifier of the patient are ``SYNTHETIC``. There is no date
and no time. Crops of patients are refused: leaving out names does not make them anonymous.
"""

import json
import uuid
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from data_prep.errors import ManifestError
from data_prep.manifest import Crop

NOBODY = "SYNTHETIC"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "mammo-dp")  # of all identifiers made here
# Type 2 of the modules Patient, General Study, General Series and General Image: they must be
# present, and empty says that there is no value.
_EMPTY = (
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "Manufacturer",
    "PatientOrientation",
)


def secondary_capture(crop: Crop, pixels: NDArray[np.uint16], number: int, study: str) -> Dataset:
    """Makes the DICOM file of one generated crop.

    Every crop of a set is in one study, every class in one series. Identifiers follow from content
    alone, so the same set gives the same files, on any machine and at any time.

    Args:
        crop: Its row in the manifest.
        pixels: Shape ``(size, size)``, values in ``[0, 65535]``.
        number: Position in the set, ``>= 0``; it becomes the Instance Number, from 1.
        study: Names the set, such as the hash of its manifest.

    Returns:
        16 bit, MONOCHROME2, uncompressed. Series Description and Image Comments hold the class.

    Raises:
        ManifestError: If a patient stands behind the crop.
    """
    if not crop.is_synthetic:
        raise ManifestError(
            f"{crop.file}: a patient stands behind crops of {crop.origin}. Only generated crops "
            "are written as DICOM; without names, too, a patient's image is a patient's."
        )
    label = "malignant" if crop.malignant else "benign"
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SpecificCharacterSet = "ISO_IR 192"
    file.SOPClassUID = SecondaryCaptureImageStorage
    file.SOPInstanceUID = derived_uid("instance", study, *crop.key, crop.sha256)
    file.StudyInstanceUID = derived_uid("study", study)
    file.SeriesInstanceUID = derived_uid("series", study, label)
    file.SyntheticData = "YES"
    file.ConversionType = "SYN"
    file.ImageType = ["DERIVED", "SECONDARY"]
    file.Modality = "OT"  # nothing was acquired
    file.BodyPartExamined = "BREAST"
    file.Laterality = crop.laterality or ""
    file.PatientName = file.PatientID = NOBODY
    file.PatientIdentityRemoved = "YES"
    file.DeidentificationMethod = "No patient: the image was generated"
    for keyword in _EMPTY:
        setattr(file, keyword, "")
    file.SeriesNumber = 1 + crop.malignant
    file.InstanceNumber = number + 1
    file.StudyDescription = "Synthetic breast mass crops"
    file.SeriesDescription = f"Synthetic masses, {label}"
    file.ImageComments = "; ".join(
        [
            f"malignant={int(crop.malignant)}",
            *(f"{name}={level}" for name, level in sorted(crop.attributes.items())),
            *([f"view={crop.view}"] if crop.view else []),
            f"label_source={crop.label_source}",
        ]
    )
    file.DerivationDescription = f"Generated: {crop.origin}"
    _set_pixels(file, pixels)
    return file


def save_secondary_capture(path: Path, file: Dataset) -> None:
    """Writes a file of :func:`secondary_capture` in one move; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".dcm.part")
    file.save_as(temporary, enforce_file_format=True)
    temporary.replace(path)


def derived_uid(*content: str) -> str:
    """A unique identifier that follows from content: a name-based UUID as a number under 2.25.

    Below the root 2.25 no registration is needed (DICOM PS3.5, B.2; UUID version 5, RFC 9562).

    Args:
        content: Words; none of them is readable from the result.

    Returns:
        At most 44 characters.
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps(content)).int}"


def _set_pixels(file: Dataset, pixels: NDArray[np.uint16]) -> None:
    """Image Pixel module, and that nothing was burned in or lost."""
    file.SamplesPerPixel = 1
    file.PhotometricInterpretation = "MONOCHROME2"
    file.Rows, file.Columns = pixels.shape
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit = 15
    file.PixelRepresentation = 0
    file.BurnedInAnnotation = "NO"
    file.LossyImageCompression = "00"
    file.PixelData = np.ascontiguousarray(pixels, "<u2").tobytes()
    file["PixelData"].VR = "OW"
