# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.cropping import Box
from data_prep.errors import (
    ArchiveError,
    DicomRejected,
    DuplicateConflict,
    GeometryRejected,
    LabelError,
    LeakageError,
    RecordRejected,
)
from data_prep.readers.cbis_ddsm import CbisDdsm
from tests.data_prep.tiny_archive import SHAPE, Grey, TinyArchive, error_text, lesion_mask

LESION_BOX = Box(50, 100, 80, 140)


def rejection(archive: TinyArchive) -> RecordRejected:
    """What the reader says about the last row."""
    reader = CbisDdsm(archive.write())
    with pytest.raises(RecordRejected) as caught:
        reader.lesion(reader.records[-1])
    assert "SECRET" not in error_text(caught.value).upper()
    assert "P_00001" not in error_text(caught.value).replace(str(archive.root), "")
    assert f"row {len(archive.rows['train']) + 1}" in str(caught.value)
    return caught.value


@pytest.mark.parametrize("descriptive", [False, True])
def test_both_layouts_give_the_same_record(tmp_path: Path, descriptive: bool) -> None:
    archive = TinyArchive(tmp_path, descriptive=descriptive)
    archive.add()
    archive.add("P_00002", "test", side="RIGHT", view="MLO", pathology="BENIGN_WITHOUT_CALLBACK")
    reader = CbisDdsm(archive.write())
    first, second = reader.records
    assert (first.patient_id, first.image_id, first.lesion_id) == (
        "P_00001",
        "P_00001_LEFT_CC",
        "L1",
    )
    assert (first.malignant, first.split, first.view, first.laterality) == (
        True,
        "train",
        "CC",
        "L",
    )
    assert dict(first.attributes) == {"density": "3", "shape": "IRREGULAR"}  # N/A and 0: unknown
    assert (second.malignant, second.split, second.view, second.laterality) == (
        False,
        "test",
        "MLO",
        "R",
    )
    lesion = reader.lesion(first)
    assert lesion.box == LESION_BOX
    assert lesion.mammogram.pixels.shape == SHAPE


@pytest.mark.parametrize("mask_first", [True, False])
@pytest.mark.parametrize("columns_swapped", [True, False])
@pytest.mark.parametrize("one_series", [True, False])
def test_mask_is_found_by_content(
    tmp_path: Path, mask_first: bool, columns_swapped: bool, one_series: bool
) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(mask_first=mask_first, columns_swapped=columns_swapped, one_series=one_series)
    reader = CbisDdsm(archive.write())
    assert reader.lesion(reader.records[0]).box == LESION_BOX


@pytest.mark.parametrize("mask_first", [True, False])
def test_two_masks_of_one_size_are_told_apart_by_the_description(
    tmp_path: Path, mask_first: bool
) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(mask_first=mask_first, crop=np.roll(lesion_mask(), 30, axis=0))
    reader = CbisDdsm(archive.write())
    assert reader.lesion(reader.records[0]).box == LESION_BOX


def test_larger_mask_of_equal_aspect_is_rescaled_per_axis(tmp_path: Path) -> None:
    enlarged = np.kron(lesion_mask(), np.ones((2, 2), np.uint8))[:, :398]  # 0.5 % off in aspect
    archive = TinyArchive(tmp_path)
    archive.add(mask=enlarged)
    reader = CbisDdsm(archive.write())
    box = reader.lesion(reader.records[0]).box
    assert (box.y0, box.y1) == (100, 140)
    assert (box.x0, box.x1) == (100 * 200 // 398, -(-160 * 200 // 398))


@pytest.mark.parametrize("shape", [(260, 150), (52, 40), (780, 600)])
def test_mask_of_another_size_and_aspect_is_a_mismatch(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    mask = np.zeros(shape, np.uint8)
    mask[10:30, 10:30] = 255
    archive = TinyArchive(tmp_path)
    archive.add(mask=mask)
    error = rejection(archive)
    assert isinstance(error, GeometryRejected)
    assert error.reason == "mask_mismatch"
    assert f"{shape[1]} x {shape[0]} px, the mammogram 200 x 260" in str(error)


@pytest.mark.parametrize("mask", [None, np.zeros(SHAPE, np.uint8)], ids=["missing", "empty"])
def test_missing_or_empty_mask_is_rejected(tmp_path: Path, mask: Grey | None) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(mask=mask)
    error = rejection(archive)
    assert isinstance(error, GeometryRejected)
    assert error.reason == "no_mask"
    assert "none of its files has two" in str(error)


def test_missing_mask_series_is_rejected(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(cells={"ROI mask file path": "", "cropped image file path": "a/b"})
    error = rejection(archive)
    assert error.reason == "no_mask"
    assert "no DICOM file of it" in str(error)


def test_missing_mammogram_is_rejected(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add().unlink()
    error = rejection(archive)
    assert isinstance(error, DicomRejected)
    assert error.reason == "no_image"


@pytest.mark.parametrize(
    ("reason", "elements"),
    [
        ("for_processing", {"PresentationIntentType": "FOR PROCESSING"}),
        ("multi_frame", {"NumberOfFrames": 3}),
    ],
)
def test_unusable_mammogram_is_rejected_by_row(
    tmp_path: Path, reason: str, elements: dict[str, Any]
) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(**elements)
    assert rejection(archive).reason == reason


def test_truncated_mammogram_is_rejected_by_row(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    path = archive.add()
    path.write_bytes(path.read_bytes()[:-5000])
    assert rejection(archive).reason == "unreadable"


def test_row_given_twice_is_rejected_once(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add()
    archive.add()
    reader = CbisDdsm(archive.write())
    reader.lesion(reader.records[0])
    with pytest.raises(DuplicateConflict, match=r"row 3.*train_0002") as caught:
        reader.lesion(reader.records[1])
    assert caught.value.reason == "duplicate"


def test_two_lesions_of_one_image_share_it(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add()
    archive.add(abnormality=2, mask=np.roll(lesion_mask(), 50, axis=0))
    reader = CbisDdsm(archive.write())
    first, second = (reader.lesion(record) for record in reader.records)
    assert first.mammogram is second.mammogram
    assert second.box == Box(50, 150, 80, 190)
    assert reader.records[1].lesion_id == "L2"


def test_unknown_pathology_stops_with_table_row_and_allowed_values(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add()
    archive.add("P_00002", pathology="UNPROVEN")
    with pytest.raises(
        LabelError, match=r"train_set\.csv, row 3: pathology is 'UNPROVEN'"
    ) as caught:
        CbisDdsm(archive.write())
    assert "MALIGNANT, BENIGN, BENIGN_WITHOUT_CALLBACK" in str(caught.value)


def test_patient_in_both_tables_is_leakage(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add()
    archive.add(part="test", view="MLO")
    with pytest.raises(
        LeakageError, match=r"test_set\.csv, row 2.*train_set\.csv, row 2"
    ) as caught:
        CbisDdsm(archive.write())
    assert "P_00001" not in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"left or right breast": "BOTH"}, "left or right breast is 'BOTH'"),
        ({"patient_id": " "}, "patient_id or abnormality id is empty"),
    ],
)
def test_unusable_cells_stop(tmp_path: Path, cells: dict[str, str], says: str) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(cells=cells)
    with pytest.raises(ArchiveError, match=says):
        CbisDdsm(archive.write())


def test_tables_are_normalised_and_one_is_enough(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(cells={"pathology": ' malignant "', "image view": " cc "})
    table = archive.write(("train",)) / "mass_case_description_train_set.csv"
    text = table.read_text().replace("patient_id", "Patient  ID", 1)
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / table.name).write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    table.unlink()
    (record,) = CbisDdsm(tmp_path).records
    assert (record.malignant, record.view) == (True, "CC")


def test_missing_folder_table_column_cell_or_image_is_an_archive_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is not a folder"):
        CbisDdsm(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match="holds no mass_case_description_train_set"):
        CbisDdsm(tmp_path)
    table = tmp_path / "mass_case_description_train_set.csv"
    table.write_text("patient_id,pathology\n")
    with pytest.raises(ArchiveError, match=r"columns \['abnormality id'.*are missing"):
        CbisDdsm(tmp_path)
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArchiveError, match="UTF-8"):
        CbisDdsm(tmp_path)
    archive = TinyArchive(tmp_path)
    archive.rows["train"].append({"patient_id": "P_00001"})
    archive.write(("train",))
    table.write_text(table.read_text().rstrip(",\n").rstrip("\r") + "\n")
    with pytest.raises(ArchiveError, match=r"row 2: \d+ cells for 14 columns"):
        CbisDdsm(tmp_path)


def test_archive_without_images_is_an_error(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path / "whole")
    archive.add()
    table = archive.write(("train",)) / "mass_case_description_train_set.csv"
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / table.name).write_bytes(table.read_bytes())
    with pytest.raises(ArchiveError, match="holds no DICOM file"):
        CbisDdsm(bare)
    other = TinyArchive(bare)
    other.add("P_00009")
    (bare / "Calc-Training_P_00009_LEFT_CC").mkdir()
    (bare / "Calc-Training_P_00009_LEFT_CC" / "1-1.dcm").write_bytes(b"never opened")
    with pytest.raises(ArchiveError, match="holds 3 DICOM files, none named in the tables"):
        CbisDdsm(bare)
