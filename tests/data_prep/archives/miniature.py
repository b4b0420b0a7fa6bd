# SPDX-License-Identifier: Apache-2.0
"""Tiny archives in the layout of published ones, quirks included; nothing stands for a patient."""

import csv
import json
import plistlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from openpyxl import Workbook
from PIL import Image
from pydicom import Dataset
from pydicom.uid import DigitalMammographyXRayImageStorageForPresentation, generate_uid

from data_prep.manifest import Laterality
from data_prep.phantoms.tomosynthesis_archive import COLLECTION, dicom_volume
from tests.data_prep.tiny_archive import LESION, SHAPE, TinyArchive, film, write_dicom

Y0, Y1, X0, X1 = LESION[0].start, LESION[0].stop, LESION[1].start, LESION[1].stop
CORNERS = ((X0, Y0), (X1, Y0), (X1, Y1), (X0, Y1))


def write_table(path: Path, rows: Sequence[Mapping[str, object]], delimiter: str = ",") -> Path:
    """Writes a CSV with the columns of the first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def change(path: Path, old: str, new: str) -> None:
    """Replaces text that stands in a file."""
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def digital(path: Path, seed: int, **elements: object) -> Path:
    """Writes a digital mammogram."""
    values = {
        "SOPClassUID": DigitalMammographyXRayImageStorageForPresentation,
        "PresentationIntentType": "FOR PRESENTATION",
        "ImagerPixelSpacing": [0.07, 0.07],
    } | elements
    return write_dicom(path, film(np.random.default_rng(seed)), **values)


def eight_bits(seed: int) -> NDArray[np.uint8]:
    """A mammogram of 8 bits."""
    return (film(np.random.default_rng(seed)) >> 8).astype(np.uint8)


def save_picture(path: Path, pixels: NDArray[np.uint8]) -> Path:
    """Writes a picture in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)  # of JPEG; the other formats are lossless
    return path


def cbis_ddsm(root: Path) -> TinyArchive:
    """Masses and calcifications; P_00003 is in opposite parts with the two kinds."""
    tiny = TinyArchive(root)
    tiny.add("P_00001")
    tiny.add("P_00001", view="MLO", pathology="BENIGN")  # one lesion, two labels
    tiny.add("P_00002", pathology="BENIGN", side="RIGHT")
    tiny.add("P_00003", "test", pathology="BENIGN_WITHOUT_CALLBACK")
    tiny.add("P_00004", "test")
    tiny.add("P_00001", kind="calc")
    tiny.add("P_00003", kind="calc", pathology="BENIGN")
    tiny.add("P_00005", kind="calc", pathology="BENIGN")
    tiny.add("P_00006", "test", kind="calc")
    return tiny


def cbis_ddsm_jpeg(root: Path) -> Path:
    """Two lesions; the mask is lossy and shares its series with the crop of the first only."""
    columns = ("image file path", "cropped image file path", "ROI mask file path")
    info: list[dict[str, object]] = []
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for number, (part, pathology, shared) in enumerate(
        (("train", "MALIGNANT", True), ("train", "BENIGN", False), ("test", "BENIGN", True)), 1
    ):
        picture = eight_bits(number)
        mask = np.zeros(SHAPE, np.uint8)
        mask[LESION] = 255
        uids = [str(generate_uid()) for _ in range(3)]
        if shared:
            uids[1] = uids[2]
        files = (
            ("full mammogram images", uids[0], f"1-{number:03d}.jpg", picture),
            ("cropped images", uids[1], f"1-{number + 100}.jpg", picture[LESION]),
            ("ROI mask images", uids[2], f"2-{number:03d}.jpg", mask),
        )
        for description, uid, name, pixels in files:
            save_picture(root / "jpeg" / uid / name, pixels)
            info.append(
                {
                    "file_path": f"CBIS-DDSM/dicom/{uid}/{name[:-4]}.dcm",
                    "image_path": f"CBIS-DDSM/jpeg/{uid}/{name}",
                    "SeriesDescription": description,
                    "SeriesInstanceUID": uid,
                }
            )
        kind = f"Mass-{'Training' if part == 'train' else 'Test'}_P_0000{number}_LEFT_CC"
        rows[part].append(
            {
                "patient_id": f"P_0000{number}",
                "breast_density": "2",
                "left or right breast": "LEFT",
                "image view": "CC",
                "abnormality id": "1",
                "abnormality type": "mass",
                "mass shape": "OVAL",
                "mass margins": "N/A",
                "assessment": "4",
                "pathology": pathology,
                "subtlety": "5",
            }
            | {
                column: f"{kind}{suffix}/{generate_uid()}/{uid}/000000.dcm\n"
                for column, suffix, uid in zip(columns, ("", "_1", "_1"), uids, strict=True)
            }
        )
    for part, lines in rows.items():
        write_table(root / "csv" / f"mass_case_description_{part}_set.csv", lines)
    write_table(root / "csv" / "dicom_info.csv", info)
    return root


def bcdr(root: Path) -> Path:
    """A film and a digital subset, and one without lesions."""
    xs = " " + " ".join(str(x) for x, _ in CORNERS)
    ys = " " + " ".join(str(y) for _, y in CORNERS)

    def row(patient: int, lesion: int, view: int, name: str, **cells: str) -> dict[str, object]:
        return {
            "patient_id": patient,
            "study_id": patient + 100,
            "series": 1,
            "lesion_id": lesion,
            "segmentation_id": 1,
            "image_view": view,
            "image_filename": f" patient_{patient}/study_{patient + 100}/{name}",
            "lw_x_points": xs,
            "lw_y_points": ys,
            "mammography_type": 1,
            "mammography_nodule": 1,
            "mammography_calcification": 0,
            "mammography_microcalcification": 0,
            "mammography_axillary_adenopathy": 0,
            "mammography_architectural_distortion": 0,
            "mammography_stroma_distortion": 0,
            "age": 50,
            "density": 2,
            "classification": " Malign ",
        } | cells

    film_rows = [
        row(1, 11, 2, "img_1_101_1_LCC.tif"),
        row(1, 11, 4, "img_1_101_1_LO.tif", density="NaN"),
        row(2, 12, 1, "img_2_102_1_RCC.tif", classification=" Benign "),
        row(3, 13, 3, "img_3_103_1_RO.tif", classification=" Benign ", lw_y_points=f"{ys} 7"),
        row(
            4,
            14,
            1,
            "img_4_104_1_RCC.tif",
            mammography_nodule="0",
            mammography_microcalcification="1",
        ),
    ]
    digital_rows = [
        row(5, 15, 1, "img_5_105_1_RCC.tif", density="3"),
        row(6, 16, 2, "img_6_106_1_LCC.tif", classification=" Benign "),
        row(7, 17, 2, "img_7_107_1_LCC.tif", classification=" Benign ", lw_x_points=" 1 2"),
    ]
    digital_rows[-1]["lw_y_points"] = " 1 2"
    # The film set is nested once more and its images lie flat, as in some copies.
    film_folder, digital_folder = (
        root / "BCDR-F01_dataset/BCDR-F01_dataset",
        root / "BCDR-D01_dataset",
    )
    write_table(film_folder / "bcdr_f01_outlines.csv", film_rows)
    write_table(digital_folder / "bcdr_d01_outlines.csv", digital_rows)
    for seed, line in enumerate(film_rows):
        name = str(line["image_filename"]).strip().rpartition("/")[2]
        save_picture(film_folder / name, eight_bits(seed))
    for seed, line in enumerate(digital_rows, 20):
        save_picture(digital_folder / str(line["image_filename"]).strip(), eight_bits(seed))
    save_picture(root / "BCDR-DN01_dataset/patient_9/img_9_109_1_LCC.tif", eight_bits(30))
    write_table(root / "BCDR-DN01_dataset/bcdr_dn01_img.csv", [{"patient_id": 9}])
    return root


def inbreast(root: Path) -> Path:
    """Five images of four patients: masses of two spellings, a mark, other regions, a total."""

    def points(at: Sequence[tuple[float, float]]) -> list[str]:
        return [f"({x:.6f}, {y:.6f})" for x, y in at]

    def region(name: str, at: Sequence[tuple[float, float]] = CORNERS) -> dict[str, object]:
        return {"Name": name, "NumberOfPoints": len(at), "Point_px": points(at)}

    mark = region("Mass", [(9, 9)])
    cases = (  # file, patient, side, view of the name, Bi-Rads, regions
        ("20586908", "6c613a14b80a8591", "R", "CC", "5", [region("Mass"), region("Cluster")]),
        ("20586934", "6c613a14b80a8591", "L", "ML", "4a", [region("Espiculated Region")]),
        (
            "20586960",
            "036aff49b8ac84f0",
            "L",
            "ML",
            "2",
            [region("mass "), mark],
        ),
        ("20586986", "aa00bb11cc22dd33", "R", "CC", "3", [region("Spiculated region")]),
        ("20587012", "bb11cc22dd33ee44", "R", "CC", "1", None),
    )
    rows: list[dict[str, object]] = []
    for seed, (file, patient, side, view, birads, regions) in enumerate(cases):
        digital(
            root / "AllDICOMs" / f"{file}_{patient}_MG_{side}_{view}_ANON.dcm",
            seed,
            ImageLaterality=side,
            ViewPosition="MLO" if view == "ML" else view,
        )
        rows.append(
            {
                "Patient ID": "removed",
                "Patient age": "removed",
                "Laterality": side,
                "View": "MLO" if view == "ML" else view,
                "Acquisition date": "201001",
                "File Name": file,
                "ACR": " " if seed == 3 else "2",
                "Bi-Rads": birads,
            }
        )
        if regions is not None:
            path = root / "AllXML" / f"{file}.xml"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(plistlib.dumps({"Images": [{"ImageIndex": 0, "ROIs": regions}]}))
    total: dict[str, object] = dict.fromkeys(rows[0], "")
    rows.append(total | {"Bi-Rads": "410"})
    write_table(root / "INbreast.csv", rows, delimiter=";")
    return root


def vindr(root: Path) -> Path:
    """Three exams; one box leaves the image, one row has no finding."""
    rows: list[dict[str, object]] = []

    def add(study: str, image: str, part: str, category: str, birads: str, **cells: object) -> None:
        if not (path := root / "images" / study / f"{image}.dicom").exists():
            digital(path, len(rows), ImageLaterality="L", ViewPosition="CC")
        rows.append(
            {
                "study_id": study,
                "series_id": "s",
                "image_id": image,
                "laterality": "L",
                "view_position": "CC",
                "height": SHAPE[0],
                "width": SHAPE[1],
                "breast_birads": "BI-RADS 4",
                "breast_density": "DENSITY C",
                "finding_categories": category,
                "finding_birads": birads,
                "xmin": X0 + 0.25,
                "ymin": Y0 - 0.5,
                "xmax": X1 - 0.75,
                "ymax": Y1,
                "split": part,
            }
            | cells
        )

    empty = dict.fromkeys(("xmin", "ymin", "xmax", "ymax"), "")
    add("aa11", "i1", "training", "['Mass', 'Suspicious Calcification']", "BI-RADS 4")
    add("aa11", "i2", "training", "['No Finding']", "", **empty)
    add("bb22", "i3", "training", "['Mass']", "BI-RADS 3", xmin=-7.5)
    add("cc33", "i4", "test", "['Mass']", "BI-RADS 5")
    add("cc33", "i4", "test", "['Global Asymmetry']", "BI-RADS 3")
    write_table(root / "finding_annotations.csv", rows)
    return root


SLICES = 8


def volume(seed: int, slices: int = SLICES) -> NDArray[np.uint16]:
    """Slices of 10 bits, each with an image of its own; the chest wall is left."""
    rng = np.random.default_rng(seed)
    return np.stack([film(rng) >> 6 for _ in range(slices)]).astype(np.uint16)


def save_volume(path: Path, pixels: NDArray[np.uint16], side: Laterality = "L") -> Path:
    """Writes an uncompressed volume."""
    file = dicom_volume(pixels, view="CC", side=side, patient="SECRET-ID")
    file.PatientName = "Secret^Name"
    file.StudyInstanceUID, file.SeriesInstanceUID = generate_uid(), generate_uid()
    file.SOPInstanceUID = generate_uid()
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def naive_crop(image: NDArray[np.uint16], side: int) -> NDArray[np.float32]:
    """The square around the lesion, 32 px along an edge."""
    top, left = (Y0 + Y1 - side) // 2, (X0 + X1 - side) // 2
    window = image[top : top + side, left : left + side].astype(np.float32)
    return np.asarray(cv2.resize(window, (32, 32), interpolation=cv2.INTER_AREA), np.float32)


def bcs_dbt(root: Path) -> Path:
    """Four patients; one file is turned, one missing, one short of slices, one row there twice."""
    tables: dict[str, dict[str, list[dict[str, object]]]] = {
        part: {"boxes": [], "file-paths": []} for part in ("train", "test")
    }

    def add(part: str, patient: str, view: str, word: str, **cells: object) -> None:
        key: dict[str, object] = {"PatientID": patient, "StudyUID": f"S-{patient}", "View": view}
        box = {"Subject": 0, "Slice": 3, "X": X0, "Y": Y0, "Width": X1 - X0, "Height": Y1 - Y0}
        rest = {"Class": word, "AD": 0, "VolumeSlices": SLICES}
        tables[part]["boxes"].append(key | box | rest | cells)
        place = f"{COLLECTION}/{patient}/1.2.{patient[-1]}/1.3.{view}"
        paths = {"descriptive_path": f"{place} x/1-1.dcm", "classic_path": f"{place}/000000.dcm"}
        if key | paths not in tables[part]["file-paths"]:
            tables[part]["file-paths"].append(key | paths)

    def write(patient: str, view: str, pixels: NDArray[np.uint16], folder: str = "") -> None:
        place = root / COLLECTION / patient / f"1.2.{patient[-1]}" / f"1.3.{view}{folder}"
        save_volume(place / "1-1.dcm", pixels, "L" if view[0] == "l" else "R")

    add("train", "DBT-P00001", "lcc", "cancer")
    add("train", "DBT-P00001", "lcc", "cancer")  # there twice
    add("train", "DBT-P00001", "lmlo2", "benign", Slice=0, AD=1)
    add("train", "DBT-P00002", "lcc", "benign")
    add("train", "DBT-P00002", "rmlo", "benign")  # its file is missing
    add("test", "DBT-P00003", "lcc", "cancer", VolumeSlices=SLICES + 1)
    add("test", "DBT-P00003", "lmlo", "benign", X=5000)
    add("test", "DBT-P00003", "rcc", "benign", Slice=1, VolumeSlices="")
    write("DBT-P00001", "lcc", volume(1))
    write("DBT-P00001", "lmlo2", volume(2))
    write("DBT-P00002", "lcc", volume(3)[:, ::-1, ::-1])
    write("DBT-P00003", "lcc", volume(4))
    write("DBT-P00003", "lmlo", volume(5), " x")  # the descriptive layout
    write("DBT-P00003", "rcc", volume(6, 3))
    for part, found in tables.items():
        for kind, rows in found.items():
            write_table(root / f"BCS-DBT-{kind}-{part}-v2.csv", rows)
    return root


def mlo_code() -> Dataset:
    """The view code of a mediolateral oblique image."""
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "399368009", "SCT"
    code.CodeMeaning = "medio-lateral oblique"
    return code


def cc_code() -> Dataset:
    """The view code of a cranio-caudal image."""
    code = mlo_code()
    code.CodeValue, code.CodeMeaning = "399162004", "cranio-caudal"
    return code


def cmmd(root: Path) -> tuple[Path, Path]:
    """Three cases with outlines, several of one breast; a helper copy of each file."""
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["ID1", "LeftRight", "Age", "number", "abnormality", "classification", "subtype"])
    for line in (
        ("D1-0001", "L", 44, 2, "mass", "Benign", None),
        ("D1-0001", "R", 44, 2, "mass", "Malignant", None),
        ("D1-0002", "L", 50, 2, "calcification", "Benign", None),
        ("D2-0003", "R", 61, 2, "both", "Malignant", "Luminal A"),
    ):
        sheet.append(list(line))
    folder, annotations = root / "manifest-1", root / "TOMPEI-CMMD_v01"
    for seed, (case, side) in enumerate(
        (("D1-0001", "L"), ("D1-0001", "R"), ("D1-0002", "L"), ("D2-0003", "R"))
    ):
        study = folder / "CMMD" / case / "07-18-2010-NA-NA-1" / "1.000000-NA-1"
        for view, code in (("CC", cc_code()), ("MLO", mlo_code())):
            number = 1 + len(list(study.glob("*.dcm")))
            digital(
                study / f"1-{number}.dcm",
                2 * seed + (view == "CC"),
                ImageLaterality=side,
                ViewPosition=None,
                ViewCodeSequence=[code],
                PatientID=case,
            )
        kinds = {"D1-0002": ["calc "], "D2-0003": ["mass", "calc", "FA", "dist"]}
        outlines = [outlined(kind) for kind in kinds.get(case, ["mass"])]
        write_outlines(annotations / f"{case}_MLO_{side}_AnnotationFile.json", outlines)
        write_outlines(annotations / f"__MACOSX/._{case}_MLO_{side}_AnnotationFile.json", [])
    (annotations / "TOMPEI-CMMD_clinical_data.xlsx").write_bytes(b"read by nobody")
    book.save(folder / "CMMD_clinicaldata_revision.xlsx")
    return folder, annotations


def outlined(label: str) -> dict[str, object]:
    """The lesion as an outline of TOMPEI-CMMD."""
    corners = ((X0, Y0), (X1 - 1, Y0), (X1 - 1, Y1 - 1), (X0, Y1 - 1))
    points = [{"x": x, "y": y} for x, y in corners]
    return {"_id": "1", "type": "Draw", "color": "#00f", "label": label, "cgPoints": points}


def write_outlines(path: Path, outlines: object) -> None:
    """An annotation file of TOMPEI-CMMD."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(outlines))


def embed(root: Path) -> Path:
    """Seven images of six patients: which regions carry a certain label, and which do not."""
    clinical: list[dict[str, object]] = []
    metadata: list[dict[str, object]] = []
    inside = (Y0, X0, Y1, X1)
    outside = (Y0, 165, Y1, 195)  # the other side of the image, in the air

    def finding(patient: int, number: int, severity: str, **cells: object) -> None:
        clinical.append(
            {
                "empi_anon": patient,
                "acc_anon": patient + 1000,
                "numfind": number,
                "side": "L",
                "tissueden": "2.0",
                "asses": "S",
                "massshape": "I",
                "massmargin": "S",
                "bside": "L",
                "path_severity": severity,
            }
            | cells
        )

    def image(patient: int, coords: object, levels: object, **cells: object) -> None:
        name = f"cohort_1/{patient}/{patient + 1000}/{generate_uid()}.dcm"
        digital(root / "images" / name, len(metadata), ImageLaterality="L", ViewPosition="CC")
        metadata.append(
            {
                "empi_anon": patient,
                "acc_anon": patient + 1000,
                "anon_dicom_path": f"/mnt/store/mammo/anon_dicom/{name}",
                "FinalImageType": "2D",
                "ImageLateralityFinal": "L",
                "ViewPosition": "CC",
                "spot_mag": "",
                "num_roi": 1,
                "ROI_coords": coords,
                "match_level": levels,
            }
            | cells
        )

    finding(1, 1, "0.0")
    finding(1, 1, "4.0")  # the same finding, a second sample: the worst decides
    image(1, f"({inside},)", "[1]")
    image(1, f"({inside},)", "[1]", FinalImageType="cview")
    image(1, f"({inside},)", "[1]", spot_mag="1.0")
    finding(2, 1, "4.0", side="B", bside="")
    image(2, f"({inside}, {outside})", "[1, 1]")  # the second lies in the background
    finding(3, 1, "4.0", bside="R")  # the other breast was sampled
    image(3, f"({inside},)", "[1]")
    finding(4, 1, "0.0")
    finding(4, 2, "4.0")
    image(4, f"({inside},)", "[1]")  # two findings that do not agree
    finding(5, 1, "2.0")  # high-risk: neither
    image(5, f"({inside},)", "[1]")
    finding(6, 1, "1.0")
    image(6, f"({inside},)", "[2]")  # drawn on another image
    image(6, "()", "[]", num_roi=0)
    write_table(root / "tables" / "EMBED_OpenData_clinical.csv", clinical)
    write_table(root / "tables" / "EMBED_OpenData_metadata.csv", metadata)
    return root


def rsna(root: Path) -> tuple[Path, Path]:
    """Three breasts and a table of boxes, two of them in one image."""
    rows = []
    for seed, (patient, image, side, cancer) in enumerate(
        ((10, 501, "L", 1), (11, 502, "R", 0), (11, 503, "L", 0))
    ):
        digital(
            root / "train_images" / str(patient) / f"{image}.dcm",
            seed,
            ImageLaterality=side,
            WindowCenter="32768",
            WindowWidth="65536",
            VOILUTFunction="SIGMOID",
        )
        rows.append(
            {
                "site_id": 2,
                "patient_id": patient,
                "image_id": image,
                "laterality": side,
                "view": "MLO",
                "age": 61.0,
                "cancer": cancer,
                "biopsy": cancer,
                "invasive": 0,
                "BIRADS": "",
                "implant": 0,
                "density": "B",
                "machine_id": 29,
                "difficult_negative_case": False,
            }
        )
    write_table(root / "train.csv", rows)
    corners = {"x0": X0, "y0": Y0, "x1": X1, "y1": Y1}
    boxes = [
        {"file": "10/501.dcm", **corners},
        {"file": "10/501.dcm", "x0": 20.5, "y0": 160, "x1": 50.5, "y1": 190},
        {"file": "11/502.dcm", **corners},
    ]
    return root, write_table(root / "boxes.csv", boxes)


def kau_bcmd(root: Path) -> tuple[Path, Path]:
    """Folders of assessments and a table of boxes, separated by semicolons."""
    names = ("BIRAD1/b1/one_CC_L.jpg", "Birad4/b4/two_MLO_R.jpg", "Birad5/three_CC_R.JPG")
    for seed, name in enumerate(names):
        path = save_picture((root / name).with_suffix(".jpg"), eight_bits(seed))
        path.rename(root / name)
    corners = {"x0": X0, "y0": Y0, "x1": X1, "y1": Y1}
    boxes = [
        {"file": name, **corners, "patient": f"k{at}", "view": "CC", "laterality": "R"}
        for at, name in enumerate(names)
    ]
    return root, write_table(root / "boxes.csv", boxes, delimiter=";")
