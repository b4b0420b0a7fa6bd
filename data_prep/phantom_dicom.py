# SPDX-License-Identifier: Apache-2.0
"""DICOM files of a phantom case: Secondary Capture with the few attributes that CBIS-DDSM holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFolder:
    """One folder of the archive: a study, with the files of one view or of one lesion.

    Attributes:
        root: Folder of the archive.
        name: Name of the case folder; also the PatientID, which in CBIS-DDSM is per view.
        view: Goes into PatientOrientation, where CBIS-DDSM has it.
        seed: Enters the unique identifiers, which depend on nothing else but names.
        inverted: Whether 16-bit images are stored as MONOCHROME1.
    """

    root: Path
    name: str
    view: str
    seed: int
    inverted: bool = False

    def write_series(self, description: str, images: Sequence[Pixels]) -> list[str]:
        """Writes ``1-1.dcm``, ``1-2.dcm``, ... into one series.

        Args:
            description: SeriesDescription; enters the identifiers.
            images: Shape ``(H, W)`` each, 8 or 16 bit.

        Returns:
            Their paths as the tables write them: ``000000.dcm``, ``000001.dcm``, ...
        """
        study, series = self._uid("study"), self._uid(description)
        place = f"{self.name}/{study}/{series}"
        (self.root / place).mkdir(parents=True, exist_ok=True)
        for number, pixels in enumerate(images, start=1):
            file = self._file(description, number, pixels)
            file.save_as(self.root / place / f"1-{number}.dcm", enforce_file_format=True)
        return [f"{place}/{number:06d}.dcm" for number in range(len(images))]

    def _uid(self, *what: str) -> str:
        return generate_uid(entropy_srcs=["mammo_dp phantom", str(self.seed), self.name, *what])

    def _file(self, description: str, number: int, pixels: Pixels) -> Dataset:
        bits = 8 * pixels.dtype.itemsize
        inverted = self.inverted and bits == 16
        stored = ~pixels if inverted else pixels
        file = Dataset()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.SOPClassUID = SecondaryCaptureImageStorage
        file.SOPInstanceUID = self._uid(description, str(number))
        file.StudyInstanceUID = self._uid("study")
        file.SeriesInstanceUID = self._uid(description)
        file.Modality = "MG"
        file.ConversionType = "DF"
        file.SeriesDescription = description
        file.PatientID = self.name
        file.BodyPartExamined = "BREAST"
        file.PatientOrientation = self.view
        file.InstanceNumber = number
        file.Rows, file.Columns = pixels.shape
        file.SamplesPerPixel = 1
        file.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
        file.BitsAllocated = file.BitsStored = bits
        file.HighBit = bits - 1
        file.PixelRepresentation = 0
        file.PixelData = stored.astype(f"<u{bits // 8}").tobytes()
        file["PixelData"].VR = "OW" if bits == 16 else "OB"
        return file
