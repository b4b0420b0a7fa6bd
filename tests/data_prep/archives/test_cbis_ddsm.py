# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.archives import cbis_ddsm
from data_prep.cropping import Box, grey_range
from data_prep.dicom import Mammogram, read_mammogram
from data_prep.errors import ArchiveError, LabelError, LeakageError, RecordRejected
from data_prep.lesions import LeftOut, LesionRow
from data_prep.masks import locate
from tests.data_prep.tiny_archive import SHAPE, Grey, TinyArchive, error_text, lesion_mask

LESION_BOX = Box(50, 100, 80, 140)


def mammogram(row: LesionRow) -> Mammogram:
    return read_mammogram(row.path, where=row.where, allow_secondary_capture=True)


def box(row: LesionRow) -> Box:
    image = mammogram(row)
    return locate(row.region, image, grey_range(image), where=row.where)


def rejection(archive: TinyArchive) -> LeftOut:
    """What is said about the last row."""
    table = cbis_ddsm.read(archive.write())
    number = len(archive.rows["train"]) + 1
    if table.left_out:
        found = table.left_out[-1]
    else:
        row = table.rows[-1]
        with pytest.raises(RecordRejected) as caught:
            box(row)
        found = LeftOut(row.key, caught.value.reason, error_text(caught.value))
    assert found.key == f"train_{number:04d}"
    assert "SECRET" not in found.message.upper()
    assert "P_00001" not in found.message.replace(str(archive.root), "")
    assert f"row {number}" in found.message
    return found


@pytest.mark.parametrize("descriptive", [False, True])
def test_both_layouts_give_the_same_record(tmp_path: Path, descriptive: bool) -> None:
    archive = TinyArchive(tmp_path, descriptive=descriptive)
    archive.add()
    archive.add("P_00002", "test", side="RIGHT", view="MLO", pathology="BENIGN_WITHOUT_CALLBACK")
    first, second = cbis_ddsm.read(archive.write()).rows
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
    assert box(first) == LESION_BOX
    assert mammogram(first).pixels.shape == SHAPE


@pytest.mark.parametrize("mask_first", [True, False])
@pytest.mark.parametrize("columns_swapped", [True, False])
@pytest.mark.parametrize("one_series", [True, False])
def test_mask_is_found_by_content(
    tmp_path: Path, mask_first: bool, columns_swapped: bool, one_series: bool
) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(mask_first=mask_first, columns_swapped=columns_swapped, one_series=one_series)
    (row,) = cbis_ddsm.read(archive.write()).rows
    assert box(row) == LESION_BOX


@pytest.mark.parametrize("mask_first", [True, False])
def test_two_masks_of_one_size_are_told_apart_by_the_description(
    tmp_path: Path, mask_first: bool
) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(mask_first=mask_first, crop=np.roll(lesion_mask(), 30, axis=0))
    (row,) = cbis_ddsm.read(archive.write()).rows
    assert box(row) == LESION_BOX


def test_larger_mask_of_equal_aspect_is_rescaled_per_axis(tmp_path: Path) -> None:
    enlarged = np.kron(lesion_mask(), np.ones((2, 2), np.uint8))[:, :398]  # 0.5 % off in aspect
    archive = TinyArchive(tmp_path)
    archive.add(mask=enlarged)
    (row,) = cbis_ddsm.read(archive.write()).rows
    found = box(row)
    assert (found.y0, found.y1) == (100, 140)
    assert (found.x0, found.x1) == (100 * 200 // 398, -(-160 * 200 // 398))


@pytest.mark.parametrize("shape", [(260, 150), (52, 40), (780, 600)])
def test_mask_of_another_size_and_aspect_is_a_mismatch(
    tmp_path: Path, shape: tuple[int, int]
) -> None:
    mask = np.zeros(shape, np.uint8)
    mask[10:30, 10:30] = 255
    archive = TinyArchive(tmp_path)
    archive.add(mask=mask)
    error = rejection(archive)
    assert error.reason == "mask_mismatch"
    assert f"{shape[1]} x {shape[0]} px, the mammogram 200 x 260" in error.message


@pytest.mark.parametrize("mask", [None, np.zeros(SHAPE, np.uint8)], ids=["missing", "empty"])
def test_missing_or_empty_mask_is_rejected(tmp_path: Path, mask: Grey | None) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(mask=mask)
    error = rejection(archive)
    assert error.reason == "no_mask"
    assert "none of its files has two" in error.message


def test_missing_mask_series_is_rejected(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(cells={"ROI mask file path": "", "cropped image file path": "a/b"})
    error = rejection(archive)
    assert error.reason == "no_mask"
    assert "no file of it below" in error.message


def test_missing_mammogram_is_rejected(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add().unlink()
    error = rejection(archive)
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
    table = cbis_ddsm.read(archive.write())
    assert [row.key for row in table.rows] == ["train_0002"]
    (left_out,) = table.left_out
    assert (left_out.key, left_out.reason) == ("train_0003", "duplicate")
    assert "names the same image and lesion as train_0002" in left_out.message


def test_row_given_twice_with_another_label_is_a_conflict_for_both(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add()
    archive.add(view="MLO")
    archive.add(pathology="BENIGN")
    table = cbis_ddsm.read(archive.write())
    assert [row.key for row in table.rows] == ["train_0003"]
    assert [(one.key, one.reason) for one in table.left_out] == [
        ("train_0002", "conflict"),
        ("train_0004", "conflict"),
    ]


def test_two_lesions_of_one_image_share_it(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add()
    archive.add(abnormality=2, mask=np.roll(lesion_mask(), 50, axis=0))
    first, second = cbis_ddsm.read(archive.write()).rows
    assert first.path == second.path
    assert box(second) == Box(50, 150, 80, 190)
    assert second.lesion_id == "L2"


def test_unknown_pathology_stops_with_table_row_and_allowed_values(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add()
    archive.add("P_00002", pathology="UNPROVEN")
    with pytest.raises(
        LabelError, match=r"train_set\.csv, row 3: pathology holds another value"
    ) as caught:
        cbis_ddsm.read(archive.write())
    assert "MALIGNANT, BENIGN, BENIGN_WITHOUT_CALLBACK" in str(caught.value)


def test_patient_in_both_tables_is_leakage(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add()
    archive.add(part="test", view="MLO")
    with pytest.raises(
        LeakageError, match=r"test_set\.csv, row 2.*train_set\.csv, row 2"
    ) as caught:
        cbis_ddsm.read(archive.write())
    assert "P_00001" not in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"left or right breast": "BOTH"}, "left or right breast holds another value"),
        ({"patient_id": " "}, "patient_id or abnormality id is empty"),
    ],
)
def test_unusable_cells_stop(tmp_path: Path, cells: dict[str, str], says: str) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(cells=cells)
    with pytest.raises(ArchiveError, match=says):
        cbis_ddsm.read(archive.write())


def test_tables_are_normalised_and_one_is_enough(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path)
    archive.add(cells={"pathology": ' malignant "', "image view": " cc "})
    table = archive.write(("train",)) / "mass_case_description_train_set.csv"
    text = table.read_text().replace("patient_id", "Patient  ID", 1)
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / table.name).write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    table.unlink()
    (record,) = cbis_ddsm.read(tmp_path).rows
    assert (record.malignant, record.view) == (True, "CC")


def test_missing_folder_table_column_cell_or_image_is_an_archive_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is not a folder"):
        cbis_ddsm.read(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match="holds no mass_case_description_train_set"):
        cbis_ddsm.read(tmp_path)
    table = tmp_path / "mass_case_description_train_set.csv"
    table.write_text("patient_id,pathology\nP_1,BENIGN\n")
    with pytest.raises(ArchiveError, match=r"columns \['left or right breast'.*are missing"):
        cbis_ddsm.read(tmp_path)
    table.write_bytes(b"patient_id,\xff\n")
    with pytest.raises(ArchiveError, match="is not utf-8 text"):
        cbis_ddsm.read(tmp_path)
    archive = TinyArchive(tmp_path)
    archive.rows["train"].append({"patient_id": "P_00001"})
    archive.write(("train",))
    table.write_text(table.read_text().rstrip(",\n").rstrip("\r") + "\n")
    with pytest.raises(ArchiveError, match="row 2: has 1 cells, the header in row 1 has"):
        cbis_ddsm.read(tmp_path)


def test_archive_without_images_is_an_error(tmp_path: Path) -> None:
    archive = TinyArchive(tmp_path / "whole")
    archive.add()
    table = archive.write(("train",)) / "mass_case_description_train_set.csv"
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / table.name).write_bytes(table.read_bytes())
    with pytest.raises(ArchiveError, match="holds no DICOM file"):
        cbis_ddsm.read(bare)
    other = TinyArchive(bare)
    other.add("P_00009")
    (bare / "Calc-Training_P_00009_LEFT_CC").mkdir()
    (bare / "Calc-Training_P_00009_LEFT_CC" / "1-1.dcm").write_bytes(b"never opened")
    with pytest.raises(ArchiveError, match="holds 3 DICOM files, none named in the tables"):
        cbis_ddsm.read(bare)
