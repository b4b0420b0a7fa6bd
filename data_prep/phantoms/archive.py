# SPDX-License-Identifier: Apache-2.0
"""Phantom DICOM archives in the classic layout of CBIS-DDSM, with the quirks of the real one.

An archive holds whole mammograms, ROI masks, cropped images and the two mass tables of invented
patients with different numbers of images. The file ``PHANTOM.txt`` marks it as a phantom.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from data_prep.phantoms.case import draw_case
from data_prep.phantoms.mammograms import EDGE, Lesion, draw_mammogram
from data_prep.phantoms.parameters import PhantomError, PhantomParameters
from data_prep.progress import watched

MARKER = "PHANTOM.txt"
MARKER_TEXT = (
    "Procedural phantoms in the layout of CBIS-DDSM, written by mammo_dp. No image, identifier or "
    "table row in this folder comes from a patient.\n"
)
COLUMNS = (
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
# Fainter than phantom crops: the reader stretches the grey range of each mammogram.
POPULATION = PhantomParameters(
    contrast_range=(0.02, 0.055),
    mass_contrast_range=(0.05, 0.17),
    size_range=(32 / EDGE, 92 / EDGE),  # 3 to 9 mm at 0.1 mm per pixel
)
SIDES: dict[Literal["L", "R"], str] = {"L": "LEFT", "R": "RIGHT"}
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """Which breasts, views and lesions of a patient are imaged.

    Attributes:
        breasts: Number of breasts, 1 or 2.
        views: ``("CC",)`` or both.
        lesions: Number of lesions of the first breast; the second breast has one.
        hidden: Whether the last lesion of the first breast is visible in the first view only.
    """

    breasts: int = 1
    views: tuple[Literal["CC", "MLO"], ...] = ("CC", "MLO")
    lesions: int = 1
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class _Finding:
    """A lesion with its entries in the tables."""

    lesion: Lesion
    pathology: str
    assessment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFolder:
    """One folder of the archive: a study with the files of one view or of one lesion.

    The files are Secondary Capture with the few attributes that CBIS-DDSM has.

    Attributes:
        root: Folder of the archive.
        name: Name of the case folder; also the PatientID, which in CBIS-DDSM is per view.
        view: Written to PatientOrientation, as in CBIS-DDSM.
        seed: Part of the unique identifiers, which otherwise depend on names only.
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
            description: SeriesDescription; part of the identifiers.
            images: Shape ``(H, W)`` each, 8 or 16 bit.

        Returns:
            Their paths as written in the tables: ``000000.dcm``, ``000001.dcm``, ...
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


# Crops per patient: 2, 4, 1, 6, 2, 3, 2, 1, 4, 2. Pairs of patients, one of each class, share one.
EXAMINATIONS = (
    Examination(),
    Examination(lesions=2),
    Examination(views=("CC",)),
    Examination(breasts=2, lesions=2),
    Examination(),
    Examination(lesions=2, hidden=True),
    Examination(),
    Examination(views=("MLO",)),
    Examination(breasts=2),
    Examination(),
)


def write_phantom_archive(
    root: Path, *, patients: int = 40, image_size: tuple[int, int] = (640, 512), seed: int = 0
) -> None:
    """Writes a DICOM archive of phantoms; every fourth pair of patients is in the test table.

    The files hold no pixel spacing. If the reader is told 0.1 mm per pixel, crops with 3 mm of
    context show masses of the same size as phantom crops do.

    Args:
        root: Folder of the archive.
        patients: Number of patients, ``>= 4``; even numbers balance the classes.
        image_size: Height and width of a mammogram, in pixels, ``>= 320`` and ``>= 256``.
        seed: Seed; patient ``i`` depends only on it and on ``i``.

    Raises:
        PhantomError: For fewer patients or smaller images than stated.
    """
    height, width = image_size
    for name, value, least in (
        ("patients", patients, 4),
        ("height", height, 320),
        ("width", width, 256),
        ("seed", seed, 0),
    ):
        if value < least:
            raise PhantomError(name, value, f"Give at least {least}.")
    root.mkdir(parents=True, exist_ok=True)
    (root / MARKER).write_text(MARKER_TEXT, encoding="utf-8")
    tables: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for index in watched(range(patients), "Phantom archive"):
        table = "test" if index // 2 % 4 == 1 else "train"
        for row in _write_patient(root, index, table, image_size, seed):
            tables[table].append(row)
    for name, rows in tables.items():
        path = root / f"mass_case_description_{name}_set.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _write_patient(
    root: Path, index: int, table: str, image_size: tuple[int, int], seed: int
) -> Iterator[dict[str, str]]:
    """Writes all files of one patient and yields its table rows."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    exam = EXAMINATIONS[index // 2 % len(EXAMINATIONS)]
    malignant = bool(index % 2)
    density = 1 + int(rng.choice(4, p=POPULATION.densities))
    first = rng.choice(["L", "R"])
    for breast in range(exam.breasts):
        laterality: Literal["L", "R"] = "L" if (first == "L") == (breast == 0) else "R"
        count = exam.lesions if breast == 0 else 1
        spared = breast == 1 and exam.lesions > 1  # then the second breast is always benign
        findings = [
            _draw_finding(rng, malignant=malignant and not spared, number=i, of=count)
            for i in range(count)
        ]
        for view in exam.views:
            shown = findings[:-1] if exam.hidden and view != exam.views[0] else findings
            # The other view projects along another direction, so the position across differs.
            seen = [replace(a.lesion, side=a.lesion.side * rng.uniform(0.7, 1)) for a in shown]
            mammogram = draw_mammogram(
                rng,
                image_size,
                view=view,
                laterality=laterality,
                density=density,
                lesions=seen,
                parameters=POPULATION,
            )
            pixels = np.round(mammogram.film * 65535).astype(np.uint16)
            inverted = index % 20 == 2 and view == exam.views[0]
            set_name = "Test" if table == "test" else "Training"
            folder = f"Mass-{set_name}_P_{90001 + index}_{SIDES[laterality]}_{view}"
            case = CaseFolder(root=root, name=folder, view=view, seed=seed, inverted=inverted)
            (image_path,) = case.write_series("full mammogram images", [pixels])
            for number, (finding, mask) in enumerate(
                zip(shown, mammogram.masks, strict=True), start=1
            ):
                crop_path, mask_path = _write_roi(
                    replace(case, name=f"{folder}_{number}"),
                    pixels,
                    mask,
                    quirk=(index + 3 * number + len(view)) % 7,
                    rescaled=index % 20 == 5 and number == 1 and view == exam.views[0],
                )
                yield {
                    "patient_id": f"P_{90001 + index}",
                    "breast_density": str(density),
                    "left or right breast": SIDES[laterality],
                    "image view": view,
                    "abnormality id": str(number),
                    "abnormality type": "mass",
                    "mass shape": finding.lesion.case.shape,
                    "mass margins": finding.lesion.case.margin,
                    "assessment": finding.assessment,
                    "pathology": finding.pathology,
                    "subtlety": str(finding.lesion.case.subtlety),
                    "image file path": image_path,
                    "cropped image file path": crop_path + "\n",
                    "ROI mask file path": mask_path + "\n",
                }


def _draw_finding(rng: np.random.Generator, *, malignant: bool, number: int, of: int) -> _Finding:
    """Draws lesion ``number`` of ``of`` in one breast; two lie on opposite sides of the nipple."""
    case = draw_case(rng, malignant=malignant, parameters=POPULATION)
    side = rng.uniform(-0.35, 0.35) if of == 1 else (0.45 - 0.9 * number) * rng.uniform(0.8, 1.1)
    lesion = Lesion(case=case, depth=rng.uniform(0.3, 0.62), side=side)
    if malignant:
        return _Finding(lesion, "MALIGNANT", str(rng.choice([4, 5])))
    if rng.random() < 0.2:
        return _Finding(lesion, "BENIGN_WITHOUT_CALLBACK", "2")
    return _Finding(lesion, "BENIGN", str(rng.choice([3, 4])))


def _write_roi(
    folder: CaseFolder,
    pixels: NDArray[np.uint16],
    mask: NDArray[np.bool_],
    *,
    quirk: int,
    rescaled: bool,
) -> tuple[str, str]:
    """Writes cropped image and mask of one lesion; returns the table's paths of both, in order.

    Args:
        folder: Case folder of the lesion.
        pixels: Mammogram, shape ``(H, W)``.
        mask: Lesion, shape ``(H, W)``.
        quirk: As in parts of the real archive, 3 writes the mask first although the table says
            otherwise, and 5 writes two series and swaps their columns in the table.
        rescaled: Whether the mask gets another size with the same aspect, as some there have.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = max(0, rows[0] - 10), max(0, columns[0] - 10)
    crop = pixels[top : rows[-1] + 11, left : columns[-1] + 11]
    drawn = mask.astype(np.uint8) * np.uint8(255)
    if rescaled:
        size = (mask.shape[1] * 31 // 32, mask.shape[0] * 31 // 32)
        drawn = cv2.resize(drawn, size, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    if quirk == 5:
        (crop_path,) = folder.write_series("cropped images", [crop])
        (mask_path,) = folder.write_series("ROI mask images", [drawn])
        return mask_path, crop_path
    first, second = folder.write_series(
        "ROI mask images" if quirk == 3 else "cropped images",
        [drawn, crop] if quirk == 3 else [crop, drawn],
    )
    return first, second
