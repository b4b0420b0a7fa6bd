# SPDX-License-Identifier: Apache-2.0
"""Phantom DICOM archives of tomosynthesis in the layout of BCS-DBT, quirks of the real included.

An archive holds volumes (Breast Tomosynthesis Image Storage, one frame for each slice) and the
tables of boxes, labels and file paths of invented patients with different numbers of volumes. The
file ``PHANTOM.txt`` marks it as a phantom.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import BreastTomosynthesisImageStorage, ExplicitVRLittleEndian, generate_uid

from data_prep.phantoms.archive import EXAMINATIONS, MARKER
from data_prep.phantoms.archive import POPULATION as PLANE
from data_prep.phantoms.case import PhantomCase, draw_case
from data_prep.phantoms.film import behind_skin
from data_prep.phantoms.mammograms import Breast, Lesion, draw_breast
from data_prep.phantoms.parameters import PhantomError
from data_prep.phantoms.texture import Details, FloatImage
from data_prep.phantoms.tomosynthesis import (
    EDGE_MM,
    SLICE_MM,
    SWEEPS,
    WIDEST,
    add_mass,
    add_quantum_noise,
    displayed,
    project,
    shift_and_add,
    sweep,
    tissue_volume,
)
from data_prep.progress import watched

# As of the archive in the plane, and fainter: other slices blur the tissue, not the mass.
POPULATION = replace(PLANE, mass_contrast_range=(0.03, 0.10))
COLLECTION = "Breast-Cancer-Screening-DBT"
MARKER_TEXT = (
    "Procedural phantoms in the layout of BCS-DBT, written by mammo_dp. No image, identifier or "
    "table row in this folder comes from a patient.\n"
)
PIXEL_MM = 0.2
EDGE = EDGE_MM / PIXEL_MM  # pixels that correspond to one edge of a crop
BITS = 10
KEY = ("PatientID", "StudyUID", "View")
COLUMNS = {
    "boxes": (
        *KEY,
        "Subject",
        "Slice",
        "X",
        "Y",
        "Width",
        "Height",
        "Class",
        "AD",
        "VolumeSlices",
    ),
    "file-paths": (*KEY, "descriptive_path", "classic_path"),
    "labels": (*KEY, "Normal", "Actionable", "Benign", "Cancer"),
}
_VIEW_CODES = {"CC": "399162004", "MLO": "399368009"}  # PS3.16, CID 4014
_PARTS = ("train", "validation", "test", "train")  # of pairs of patients, in turn


@dataclass(frozen=True, slots=True)
class _InDepth:
    """A lesion and where it lies along the depth, over the thickness of the breast."""

    lesion: Lesion
    height: float


def write_tomosynthesis_archive(
    root: Path,
    *,
    patients: int = 20,
    shape: tuple[int, int, int] = (24, 320, 256),
    seed: int = 0,
) -> None:
    """Writes a DICOM archive of phantom volumes with tables of boxes.

    Of each four pairs of patients, one is in the validation table and one in the test table.
    Headers hold the spacing, ``PIXEL_MM`` in the plane and ``SLICE_MM`` along the depth. As in
    BCS-DBT, some files are turned by half, and their boxes are not.

    Args:
        root: Folder of the archive.
        patients: Number of patients, ``>= 6``; even numbers balance the classes.
        shape: Slices, height and width of a volume, ``>= 12``, ``>= 160`` and ``>= 128``.
        seed: Seed; patient ``i`` depends only on it and on ``i``.

    Raises:
        PhantomError: For fewer patients or smaller volumes than stated.
    """
    for name, value, least in (
        ("patients", patients, 6),
        ("slices", shape[0], 12),
        ("height", shape[1], 160),
        ("width", shape[2], 128),
        ("seed", seed, 0),
    ):
        if value < least:
            raise PhantomError(name, value, f"Give at least {least}.")
    root.mkdir(parents=True, exist_ok=True)
    (root / MARKER).write_text(MARKER_TEXT, encoding="utf-8")
    tables: dict[tuple[str, str], list[dict[str, str]]] = {
        (kind, part): [] for kind in COLUMNS for part in ("train", "validation", "test")
    }
    for index in watched(range(patients), "Phantom tomosynthesis"):
        part = _PARTS[index // 2 % len(_PARTS)]
        for kind, row in _write_patient(root, index, shape, seed):
            tables[kind, part].append(row)
    for (kind, part), rows in tables.items():
        version = "-v2" if kind == "boxes" else ""  # tables of several versions were published
        path = root / f"BCS-DBT-{kind}-{part}{version}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS[kind], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _write_patient(
    root: Path, index: int, shape: tuple[int, int, int], seed: int
) -> Iterator[tuple[str, dict[str, str]]]:
    """Writes the volumes of one patient and yields rows with the kind of their table."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    exam = EXAMINATIONS[index // 2 % len(EXAMINATIONS)]
    malignant = bool(index % 2)
    density = 1 + int(rng.choice(4, p=POPULATION.densities))
    first = rng.choice(["L", "R"])
    patient, study = f"DBT-P{90001 + index}", f"DBT-S{90001 + index}"
    for breast in range(exam.breasts):
        side: Literal["L", "R"] = "L" if (first == "L") == (breast == 0) else "R"
        count = exam.lesions if breast == 0 else 1
        cancer = malignant and not (breast == 1 and exam.lesions > 1)
        lesions = [_draw_lesion(rng, malignant=cancer, number=i, of=count) for i in range(count)]
        for view in exam.views:
            seen = [
                replace(one, lesion=replace(one.lesion, side=one.lesion.side * rng.uniform(0.7, 1)))
                for one in lesions
            ]
            slices, masks = draw_breast_volume(
                rng, shape, view=view, side=side, density=density, lesions=seen
            )
            row = dict(zip(KEY, (patient, study, f"{side}{view}".lower()), strict=True))
            turned = index % 6 == 3 and view == exam.views[0]
            path = _write_volume(root, row, slices, view=view, side=side, seed=seed, turned=turned)
            yield "file-paths", {**row, **path}
            found = {"Benign": str(int(not cancer)), "Cancer": str(int(cancer))}
            yield "labels", {**row, "Normal": "0", "Actionable": "0", **found}
            for mask in masks:
                yield (
                    "boxes",
                    {
                        **row,
                        **box_of(mask),
                        "Subject": "0",
                        "Class": "cancer" if cancer else "benign",
                        "AD": "0",
                        "VolumeSlices": str(len(slices)),
                    },
                )


def _draw_lesion(rng: np.random.Generator, *, malignant: bool, number: int, of: int) -> _InDepth:
    """Draws lesion ``number`` of ``of`` in one breast; two lie on opposite sides of the nipple."""
    case = draw_case(rng, malignant=malignant, parameters=POPULATION)
    side = rng.uniform(-0.3, 0.3) if of == 1 else (0.45 - 0.9 * number) * rng.uniform(0.8, 1.1)
    lesion = Lesion(case=case, depth=rng.uniform(0.3, 0.62), side=side)
    return _InDepth(lesion, rng.uniform(0.25, 0.75))


def draw_breast_volume(
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    *,
    view: Literal["CC", "MLO"],
    side: Literal["L", "R"],
    density: int,
    lesions: Sequence[_InDepth],
) -> tuple[FloatImage, list[NDArray[np.bool_]]]:
    """Draws the slices of one breast; the chest wall is left for ``L`` and right for ``R``.

    Returns:
        Slices, shape ``(T, H, W)``, values in ``[0, 1]``; a mask of that shape for each lesion.
    """
    shares = [float(density == i) for i in range(1, 5)]
    alone = replace(POPULATION, densities=(shares[0], shares[1], shares[2], shares[3]))
    ground = draw_case(rng, malignant=False, parameters=alone)
    source = Details(ground.texture)
    thick, height, width = shape
    # Rows above and below, which the sweep moves into the picture.
    top = math.ceil(thick / 2 * SLICE_MM * math.tan(math.radians(WIDEST)) / PIXEL_MM)
    tall = (height + 2 * top, width)
    breast = draw_breast(rng, source, tall, view=view, density=density, edge=EDGE)
    volume = _breast_tissue(ground, source, breast, thick, direction=0.3 * (view == "MLO"))
    masks = []
    for one in lesions:
        row, column = breast.place(one.lesion)
        mass = replace(one.lesion.case.mass, centre=(row / EDGE, column / EDGE))
        case = replace(one.lesion.case, mass=mass)
        masks.append(
            add_mass(
                volume, case, Details(case.texture), edge=EDGE, middle=one.height * (thick - 1)
            )
        )
    none, unit = np.zeros((2, *tall), np.float32)
    unit += 1
    none, unit = (behind_skin(image, breast.inside, rim=breast.rim) for image in (none, unit))
    volume *= unit - none  # what the skin line does to attenuation is linear
    volume += none / np.float32(thick)
    reach, count = SWEEPS[int(rng.integers(len(SWEEPS)))]
    heights = np.arange(thick)[:, None] - (thick - 1) / 2
    shifts = heights * sweep(reach, count) * (SLICE_MM / PIXEL_MM)
    views = project(volume, shifts)
    add_quantum_noise(views, source, grain=ground.film.grain)
    slices = displayed(shift_and_add(views, shifts, edge=EDGE), slope=ground.film.slope, edge=EDGE)
    here = (slice(None), slice(top, top + height), slice(None, None, 1 if side == "L" else -1))
    return slices[here], [mask[here] for mask in masks]


def _breast_tissue(
    ground: PhantomCase, source: Details, breast: Breast, thick: int, *, direction: float
) -> FloatImage:
    within = replace(ground.tissue, level=0.0, slant=0.0, direction=direction)
    volume = tissue_volume(within, source, (thick, *breast.inside.shape), edge=EDGE)
    volume *= 0.35 + 0.65 * breast.glandular
    volume += (breast.level + breast.muscle) / np.float32(thick)
    return volume


def box_of(mask: NDArray[np.bool_]) -> Mapping[str, str]:
    """The box of a mask in its largest slice, as the table of boxes has it."""
    place = int(np.argmax(mask.sum(axis=(1, 2))))
    rows, columns = (np.flatnonzero(mask[place].any(axis=axis)) for axis in (1, 0))
    return {
        "Slice": str(place),
        "X": str(int(columns[0])),
        "Y": str(int(rows[0])),
        "Width": str(int(columns[-1] - columns[0]) + 1),
        "Height": str(int(rows[-1] - rows[0]) + 1),
    }


def _write_volume(
    root: Path,
    row: Mapping[str, str],
    slices: FloatImage,
    *,
    view: Literal["CC", "MLO"],
    side: Literal["L", "R"],
    seed: int,
    turned: bool,
) -> dict[str, str]:
    """Writes one volume in the classic layout and returns its paths as in the table."""
    patient, _, word = row.values()

    def uid(what: str) -> str:
        return generate_uid(
            entropy_srcs=["mammo_dp phantom tomosynthesis", str(seed), patient, what]
        )

    place = f"{COLLECTION}/{patient}/{uid('study')}/{uid(word)}"
    stored = np.round(slices * (2**BITS - 1)).astype("<u2")
    file = dicom_volume(
        stored[:, ::-1, ::-1] if turned else stored, view=view, side=side, patient=patient
    )
    file.StudyInstanceUID, file.SeriesInstanceUID = uid("study"), uid(word)
    file.SOPInstanceUID = uid(f"{word} volume")
    (root / place).mkdir(parents=True, exist_ok=True)
    file.save_as(root / place / "1-1.dcm", enforce_file_format=True)
    described = f"{COLLECTION}/{patient}/01-01-2000-{row['StudyUID']}/1.000000-NA-{word}/1-1.dcm"
    return {"descriptive_path": described, "classic_path": f"{place}/000000.dcm"}


def dicom_volume(
    pixels: NDArray[np.uint16],
    *,
    view: Literal["CC", "MLO"],
    side: Literal["L", "R"],
    patient: str,
) -> Dataset:
    """A Breast Tomosynthesis Image without the identifiers of study, series and instance.

    Args:
        pixels: Shape ``(T, H, W)``, ``BITS`` bits.
        view: Written to the view code.
        side: Written to the laterality of all frames.
        patient: PatientID.
    """
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID = BreastTomosynthesisImageStorage
    file.Modality = "MG"
    file.PresentationIntentType = "FOR PRESENTATION"
    file.PatientID = patient
    file.BodyPartExamined = "BREAST"
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = _VIEW_CODES[view], "SCT"
    file.ViewCodeSequence = [code]
    file.InstanceNumber = 1
    file.NumberOfFrames, file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, BITS, BITS - 1
    file.PixelRepresentation = 0
    measures, anatomy, window, values = (Dataset() for _ in range(4))
    measures.PixelSpacing = [PIXEL_MM, PIXEL_MM]
    measures.SliceThickness = measures.SpacingBetweenSlices = SLICE_MM
    anatomy.FrameLaterality = side
    window.WindowCenter, window.WindowWidth = 2 ** (BITS - 1), 2**BITS
    values.RescaleIntercept, values.RescaleSlope = 0, 1
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    shared.FrameAnatomySequence = [anatomy]
    shared.FrameVOILUTSequence = [window]
    shared.PixelValueTransformationSequence = [values]
    file.SharedFunctionalGroupsSequence = [shared]
    file.PerFrameFunctionalGroupsSequence = [_frame(number) for number in range(len(pixels))]
    file.PixelData = np.ascontiguousarray(pixels, "<u2").tobytes()
    file["PixelData"].VR = "OW"
    return file


def _frame(number: int) -> Dataset:
    """What is said of one frame: where it lies."""
    plane, group = Dataset(), Dataset()
    plane.ImagePositionPatient = [0.0, 0.0, number * SLICE_MM]
    group.PlanePositionSequence = [plane]
    return group
