# SPDX-License-Identifier: Apache-2.0
"""Tiny DICOM files and CBIS-DDSM archives, written on the spot; nothing stands for a patient."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from data_prep.cropping import lesion_box

HEADER = (
    "patient_id",
    "breast_density",
    "left or right breast",
    "image view",
    "abnormality id",
    "abnormality type",
    "mass shape",
    "mass margins",
    "assessment",
    "pathology",
    "subtlety",
    "image file path",
    "cropped image file path",
    "ROI mask file path",
)
SHAPE = (260, 200)  # height, width of a mammogram
LESION = (slice(100, 140), slice(50, 80))  # rows, columns
Grey = NDArray[Any]


def write_dicom(path: Path, pixels: Grey, **elements: Any) -> Path:
    """Writes an uncompressed DICOM file; ``elements`` replace the defaults, none deletes."""
    bits = 8 * pixels.dtype.itemsize
    values: dict[str, Any] = {
        "SOPClassUID": SecondaryCaptureImageStorage,
        "SOPInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "PatientName": "Secret^Name",
        "PatientID": "SECRET-ID",
        "Modality": "MG",
        "PhotometricInterpretation": "MONOCHROME2",
        "SamplesPerPixel": 1,
        "Rows": pixels.shape[-2],
        "Columns": pixels.shape[-1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": pixels.tobytes(),
    } | elements
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(values.pop("TransferSyntaxUID", ExplicitVRLittleEndian))
    meta.MediaStorageSOPClassUID = values["SOPClassUID"]
    meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
    dataset = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def lut_item(entries: list[int], *, first: int = 0, bits: int = 16) -> Dataset:
    """One item of a look-up table sequence."""
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries)
    return item


def film(rng: np.random.Generator, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint16]:
    """A breast on the left, dark air on the right, a bright lesion, a saturated frame.

    The breast is grainy enough for lesions of two films to be told apart.
    """
    image = rng.normal(3000, 200, shape)
    breast = image[20:-20, 5 : shape[1] * 3 // 4]
    breast += rng.normal(25000, 4000, (len(breast), 1)) + rng.normal(0, 2000, breast.shape)
    image[LESION] += 12000
    image[:4] = image[-4:] = 65535
    return image.clip(0, 65535).astype(np.uint16)


def lesion_mask(shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    """A ring (its hole is part of the lesion) and a speck elsewhere."""
    mask = np.zeros(shape, np.uint8)
    mask[LESION] = 255
    mask[110:130, 60:70] = 0
    mask[10:12, 10:12] = 255
    return mask


class TinyArchive:
    """Writes one CBIS-DDSM archive row by row.

    Args:
        root: Folder to fill.
        descriptive: Whether folders have the names of newer downloads.
    """

    def __init__(self, root: Path, *, descriptive: bool = False) -> None:
        self.root = root
        self.rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}  # of masses
        self.calc_rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
        self._descriptive = descriptive
        self._rng = np.random.default_rng(0)
        self._images: dict[tuple[str, str, str, str], tuple[str, Path, Grey]] = {}

    def add(
        self,
        patient: str = "P_00001",
        part: str = "train",
        *,
        kind: str = "mass",
        side: str = "LEFT",
        view: str = "CC",
        abnormality: int = 1,
        pathology: str = "MALIGNANT",
        mask: Grey | str | None = "ring",
        mask_first: bool = True,
        columns_swapped: bool = False,
        one_series: bool = True,
        crop: Grey | None = None,
        image: Grey | None = None,
        cells: dict[str, str] | None = None,
        **elements: Any,
    ) -> Path:
        """Adds a row with its files; returns the path of the mammogram."""
        stage = "Training" if part == "train" else "Test"
        name = f"{kind.capitalize()}-{stage}_{patient}_{side}_{view}"
        study = str(generate_uid())
        if (kind, patient, side, view) not in self._images:
            series = str(generate_uid())
            folder = self._folder(name, study, series, "full mammogram images")
            image = film(self._rng) if image is None else image
            path = write_dicom(
                folder / "1-1.dcm",
                image,
                SeriesInstanceUID=series,
                SeriesDescription="full mammogram images",
                PatientOrientation=["", ""],
                **elements,
            )
            self._images[kind, patient, side, view] = (
                f"{name}/{study}/{series}/000000.dcm",
                path,
                image,
            )
        image_path, path, shown = self._images[kind, patient, side, view]
        roi = lesion_mask() if isinstance(mask, str) else mask
        cut = _around(roi, shown) if crop is None else crop
        series = str(generate_uid())
        crop_series = series if one_series else str(generate_uid())
        files = [(series, roi, "ROI mask images"), (crop_series, cut, "cropped images")]
        for number, (uid, pixels, description) in enumerate(
            files if mask_first else files[::-1], start=1
        ):
            if pixels is None:
                continue
            folder = self._folder(f"{name}_{abnormality}", study, uid, description)
            write_dicom(
                folder / f"1-{number}.dcm",
                pixels,
                SeriesInstanceUID=uid,
                SeriesDescription=description,
            )
        paths = [
            f"{name}_{abnormality}/{study}/{uid}/000000.dcm\n" for uid in (series, crop_series)
        ]
        (self.rows if kind == "mass" else self.calc_rows)[part].append(
            dict.fromkeys(HEADER, "")
            | {
                "patient_id": patient,
                "breast_density": "3",
                "left or right breast": side,
                "image view": view,
                "abnormality id": str(abnormality),
                "abnormality type": "mass" if kind == "mass" else "calcification",
                "mass shape": "IRREGULAR",
                "mass margins": "N/A",
                "assessment": "4",
                "pathology": pathology,
                "subtlety": "0",
                "image file path": image_path,
                "ROI mask file path": paths[1 if columns_swapped else 0],
                "cropped image file path": paths[0 if columns_swapped else 1],
            }
            | (cells or {})
        )
        return path

    def write(self, parts: tuple[str, ...] = ("train", "test")) -> Path:
        """Writes the tables; returns the root."""
        self.root.mkdir(parents=True, exist_ok=True)
        renamed = {"breast_density": "breast density", "mass shape": "calc type"}
        renamed |= {"mass margins": "calc distribution"}
        for part in parts:
            for kind, rows in (("mass", self.rows[part]), ("calc", self.calc_rows[part])):
                if not rows:
                    continue
                names = [renamed.get(name, name) if kind == "calc" else name for name in HEADER]
                path = self.root / f"{kind}_case_description_{part}_set.csv"
                with path.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.writer(file)
                    writer.writerow(names)
                    writer.writerows([row.get(name, "") for name in HEADER] for row in rows)
        return self.root

    def _folder(self, name: str, study: str, series: str, description: str) -> Path:
        if self._descriptive:
            short = f"1.000000-{description}-{series[-5:]}"
            return self.root / "CBIS-DDSM" / name / f"01-01-2000-NA-{study[-5:]}" / short
        return self.root / name / study / series


def _around(mask: Grey | None, image: Grey) -> Grey:
    """The crop that the archive supplies: the largest part of the mask and 20 px beside it."""
    if mask is None or not mask.any():
        return image[80:160, 30:100]
    box = lesion_box(mask)
    down, across = (image.shape[axis] / mask.shape[axis] for axis in (0, 1))
    rows = slice(max(0, round(box.y0 * down) - 20), round(box.y1 * down) + 20)
    return image[rows, max(0, round(box.x0 * across) - 20) : round(box.x1 * across) + 20]


def error_text(error: BaseException) -> str:
    """Everything a user could see of an error, its causes included."""
    texts = []
    current: BaseException | None = error
    while current is not None:
        texts.append(str(current))
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )
    return "\n".join(texts)
