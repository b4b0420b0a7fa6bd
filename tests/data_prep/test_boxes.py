# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest

from data_prep.cropping import Box
from data_prep.errors import ArchiveError, RecordRejected
from data_prep.readers.boxes import BoxedMammograms, read_boxes
from tests.data_prep.tiny_archive import write_dicom

RAMP = np.arange(48, dtype=np.uint16).reshape(6, 8) * 80


def table(folder: Path, *lines: str, header: str = "file,x0,y0,x1,y1") -> Path:
    path = folder / "boxes.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_boxes_are_named_by_the_user_or_numbered_within_their_file(tmp_path: Path) -> None:
    path = table(
        tmp_path, "a.dcm,1,2,3,4,", "b.dcm,0,0,1,1,lump", "a.dcm,2,2,3,3,",
        header="\ufefffile,x0,y0,x1,y1,box",
    )  # fmt: skip
    rows = read_boxes(path)
    assert [(row.file, row.name) for row in rows] == [
        ("a.dcm", "1"),
        ("b.dcm", "lump"),
        ("a.dcm", "2"),
    ]
    assert rows[0].box == Box(1, 2, 3, 4)
    assert rows[2].where == "boxes.csv, row 4"


@pytest.mark.parametrize(
    ("lines", "header", "message"),
    [
        (["a.dcm,1"], "file,x0", r"columns \['y0', 'x1', 'y1'\] are missing"),
        ([], "file,x0,y0,x1,y1", "holds no box"),
        (["a.dcm,1,2,3,4.5"], "file,x0,y0,x1,y1", r"row 2: .*y1='4.5'. Give whole numbers"),
        (["a.dcm,1,2,3"], "file,x0,y0,x1,y1", "row 2: .*y1=None"),
        (["../a.dcm,1,2,3,4"], "file,x0,y0,x1,y1", "row 2: file is no path below"),
        (["/a.dcm,1,2,3,4"], "file,x0,y0,x1,y1", "row 2: file is no path below"),
        ([",1,2,3,4"], "file,x0,y0,x1,y1", "row 2: file is no path below"),
        (["a,1,2,3,4,x"] * 2, "file,x0,y0,x1,y1,box", "row 3: has the file and box of .*row 2"),
    ],
)
def test_a_malformed_table_is_refused_by_row(
    tmp_path: Path, lines: list[str], header: str, message: str
) -> None:
    with pytest.raises(ArchiveError, match=message):
        read_boxes(table(tmp_path, *lines, header=header))


def test_a_missing_table_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"is no file\. Give a CSV with the columns file,x0"):
        read_boxes(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("file,x0,y0,x1,y1\nmüller.dcm,1,2,3,4".encode("latin-1"))
    with pytest.raises(ArchiveError, match=r"latin\.csv: is not UTF-8 text"):
        read_boxes(tmp_path / "latin.csv")
    with pytest.raises(ArchiveError, match="does not exist"):
        BoxedMammograms(tmp_path / "none", table(tmp_path, "a.dcm,1,2,3,4"))


def test_boxes_follow_the_image_when_its_pixels_are_made_square(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", RAMP, PixelSpacing=[0.2, 0.1])
    images = BoxedMammograms(tmp_path, table(tmp_path, "a.dcm,1,2,3,4", "a.dcm,2,2,3,3"))
    first, second = (images.lesion(row) for row in images.rows)
    assert first.box == Box(1, 4, 3, 8)
    assert first.mammogram is second.mammogram


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("a.dcm,0,0,9,6", "box_outside"),
        ("a.dcm,-1,0,8,6", "box_outside"),
        ("a.dcm,3,3,3,5", "box_outside"),
        ("b.dcm,0,0,8,6", "no_image"),
    ],
)
def test_a_row_that_fits_no_image_is_rejected(tmp_path: Path, line: str, reason: str) -> None:
    write_dicom(tmp_path / "a.dcm", RAMP)
    images = BoxedMammograms(tmp_path, table(tmp_path, line))
    with pytest.raises(RecordRejected, match=r"boxes\.csv, row 2: ") as caught:
        images.lesion(images.rows[0])
    assert caught.value.reason == reason


def test_images_without_a_box_are_found_also_for_a_single_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    a = write_dicom(tmp_path / "a.dcm", RAMP)
    b = write_dicom(tmp_path / "in" / "b.DCM", RAMP)
    path = table(tmp_path, "a.dcm,0,0,8,6")
    assert BoxedMammograms(tmp_path, path).without_box == ["in/b.DCM"]
    assert BoxedMammograms(a, path).without_box == []
    only = BoxedMammograms(b, path)
    assert only.without_box == ["b.DCM"]
    with pytest.raises(RecordRejected, match="is not among the images"):
        only.lesion(only.rows[0])
