# SPDX-License-Identifier: Apache-2.0
import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from openpyxl import Workbook

from data_prep.cropping import Box
from data_prep.errors import ArchiveError, LabelError, LeakageError, ManifestError
from data_prep.lesion_table import described, described_files, read_lesion_table
from data_prep.lesions import LesionTable, Mask, Outline
from data_prep.table_columns import Columns, Labels

HEADER = "file,patient,malignant,x0,y0,x1,y1"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of files that nobody opens."""
    folder = tmp_path / "images"
    for name in ("a.dcm", "b.png", "deep/c.tif", "masks/m.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def read(images: Path, lines: Iterable[str], header: str = HEADER, **options: Any) -> LesionTable:
    path = images.parent / "t.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return read_lesion_table(path, images, **options)


def reasons(table: LesionTable) -> list[tuple[str, str]]:
    return [(one.key, one.reason) for one in table.left_out]


def test_rows_become_lesions_of_images(images: Path) -> None:
    table = read(images, ["a.dcm,P1,1,1,2,30,40", "deep\\c.tif,P2,0,1.5,2.5,30.1,40"])
    first, second = table.rows
    assert (first.key, first.where, first.file) == ("row_0002", "t.csv, row 2", "a.dcm")
    assert (first.patient_id, first.malignant, first.lesion_id) == ("P1", True, "1")
    assert (first.split, first.label_source, first.image_id) == (None, "pathology", "row_0002")
    assert first.region == Box(1, 2, 30, 40)
    assert (second.path, second.file) == (images / "deep" / "c.tif", "deep/c.tif")
    assert second.region == Box(1, 2, 31, 40)  # the smallest that holds it
    assert second.malignant is False


def test_optional_columns_are_read_and_only_those(images: Path) -> None:
    header = HEADER + ",lesion,image,view,laterality,split,density,shape,spacing_mm,Age,Name"
    line = "a.dcm,P1,1,1,2,30,40,L7,I3,mlo,Right,test,B,OVAL,\"0,07\",40,Secret"  # fmt: skip
    table = read(images, [line], header, attributes=["Age"])
    (row,) = table.rows
    assert (row.lesion_id, row.image_id, row.view, row.laterality) == ("L7", "I3", "MLO", "R")
    assert (row.split, row.spacing_mm) == ("test", 0.07)
    assert row.attributes == {"density": "B", "shape": "OVAL", "age": "40"}
    assert "not kept: 1 (by their places: 17)" in table.notes[0]
    assert "Secret" not in described(table)


def test_columns_and_words_are_said_never_guessed(images: Path) -> None:
    header, line = "Datei;PatientID;Befund;xmin;ymin;xmax;ymax", "a.dcm;P1;M;1,5;2;30;40"
    columns = Columns(
        file="Datei", patient="PatientID", malignant="Befund",
        x0="xmin", y0="ymin", x1="xmax", y1="ymax",
    )  # fmt: skip
    labels = Labels(malignant="M, Malignant", benign="B", unknown="?")
    other = "b.png;P2;?;1;2;30;40"
    table = read(images, [line, other], header, columns=columns, labels=labels)
    assert [(row.malignant, row.region) for row in table.rows] == [(True, Box(1, 2, 30, 40))]
    assert reasons(table) == [("row_0003", "no_label")]
    message = r"no column file \(--columns.file\), patient .*that of column 2 is nearly 'patient'"
    with pytest.raises(ArchiveError, match=message):
        read(images, [line], header)
    with pytest.raises(ArchiveError, match=r"no column Seite \(--columns.laterality\)"):
        read(images, ["a.dcm,P,1,1,2,3,4"], columns=Columns(laterality="Seite"))


def test_without_a_header_nothing_of_the_first_row_is_shown(images: Path) -> None:
    lines = [
        "a.dcm,Jane Q. Doe,1961-03-02,MRN 4711234,1,10,20,50,60",
        "b.png,John Roe,x,y,0,1,1,2,2",
    ]
    with pytest.raises(ArchiveError, match=r"first row has 9 cells\. They are not shown") as caught:
        read(images, lines[1:], lines[0])
    assert not any(word in str(caught.value) for word in ("Doe", "1961", "4711234", "img001"))
    table = read(images, ["a.dcm,P,1,1,2,30,40,x"], HEADER + ",Jane Q. Doe")
    assert "Doe" not in described(table)
    no_box = Columns(x0=None, y0=None, x1=None, y1=None)
    with pytest.raises(ArchiveError, match=r"no column x0 \(--columns\.x0\), y0 .*or one of mask"):
        read(images, ["a.dcm,P,1"], "file,patient,malignant", columns=no_box)


def test_labels_outside_the_mapping_stop_and_are_all_named(images: Path) -> None:
    lines = [f"a.dcm,P{i},{word},1,2,30,40" for i, word in enumerate(["1", "M", "M", "1.0"])]
    message = r"row 3 and 5: column malignant holds 2 words without.*--labels.malignant"
    with pytest.raises(LabelError, match=message):
        read(images, lines)
    header = "file,label,malignant,x0,y0,x1,y1"  # the column of patients, by mistake
    names = Columns(patient="label", malignant="malignant")
    with pytest.raises(LabelError, match="holds 1 words without a meaning") as caught:
        read(images, ["a.dcm,1,Doe^Jane,1,2,30,40"], header, columns=names)
    assert "Doe" not in str(caught.value)
    with pytest.raises(LabelError, match="'1' stands for two classes"):
        read(images, lines, labels=Labels(benign="0,1"))
    with pytest.raises(LabelError, match=r"--labels\.benign is empty"):
        read(images, lines, labels=Labels(benign=" "))


@pytest.mark.parametrize(
    ("line", "reason", "says"),
    [
        ("gone.dcm,P,1,1,2,3,4", "no_image", "its file is not there"),
        ("A.DCM,P,1,1,2,3,4", "no_image", "is not there"),
        (",P,1,1,2,3,4", "no_image", "is not named"),
        ("../t.csv,P,1,1,2,3,4", "no_image", "is no path below"),
        ("/etc/hosts,P,1,1,2,3,4", "no_image", "is no path below"),
        ("C:\\a.dcm,P,1,1,2,3,4", "no_image", "is no path below"),
        ("deep,P,1,1,2,3,4", "no_image", "is not there"),
        ("a.dcm,,1,1,2,3,4", "no_patient", "names no patient"),
        ("a.dcm,--,1,1,2,3,4", "no_patient", "names no patient"),
        ("a.dcm,P,,1,2,3,4", "no_label", "has no label"),
        ("a.dcm,P,1,,,,", "no_box", "says not where"),
        ("a.dcm,P,1,1,2,3,", "no_box", "no numbers"),
        ("a.dcm,P,1,1,2,nan,4", "no_box", "no numbers"),
        ("a.dcm,P,1,1,2,1e9,4", "no_box", "no numbers"),
        ("a.dcm,P,1,5,2,5,4", "box_outside", "its box is empty"),
        ("a.dcm,P,1,1,4,3,2", "box_outside", "its box is empty"),
    ],
)
def test_a_row_costs_itself(images: Path, line: str, reason: str, says: str) -> None:
    table = read(images, ["b.png,Q,0,1,2,30,40", line])
    assert len(table.rows) == 1
    ((key, found),) = reasons(table)
    assert (key, found) == ("row_0003", reason)
    assert says in table.left_out[0].message
    assert table.left_out[0].message.startswith("t.csv, row 3: ")


def test_a_backslash_that_fits_two_files_is_ambiguous(images: Path) -> None:
    (images / "deep\\c.tif").touch()
    table = read(images, ["deep\\c.tif,P,1,1,2,3,4"])
    assert "could be two files" in table.left_out[0].message


def test_masks_and_outlines_go_before_boxes(images: Path) -> None:
    header = HEADER + ",mask,outline"
    table = read(
        images,
        [
            "a.dcm,P,1,1,2,30,40,masks/m.png,",
            'a.dcm,P,1,1,2,30,40,,"[(1, 2), (3.5, 4), (5, 6)]"',
            "b.png,P,1,1,2,30,40,,1 2;3 4;5 6",
            "b.png,P,1,1,2,30,40,,",
            "b.png,P,1,1,2,30,40,masks/gone.png,",
            "b.png,P,1,1,2,30,40,,1 2 3 4",
            "b.png,P,1,1,2,30,40,,1 2 3 4 5 x",
        ],
        header,
    )
    assert [row.region for row in table.rows] == [
        Mask(path=(images / "masks" / "m.png",)),
        Outline(points=((1, 2), (3.5, 4), (5, 6))),
        Outline(points=((1, 2), (3, 4), (5, 6))),
        Box(1, 2, 30, 40),
    ]
    assert [one.reason for one in table.left_out] == ["no_mask", "mask_mismatch", "mask_mismatch"]
    below = read(images, ["a.dcm,P,1,m.png"], "file,patient,malignant,mask", masks=images / "masks")
    assert isinstance(below.rows[0].region, Mask)


def test_repeated_rows_are_copies_or_conflicts(images: Path) -> None:
    header = HEADER + ",lesion"
    table = read(
        images,
        [
            "a.dcm,P,1,1,2,30,40,1",
            "a.dcm,P,1,3,2,30,40,1",  # the same lesion, drawn twice
            "a.dcm,P,1,1,2,30,40,2",  # another name for the same box
            "b.png,P,1,1,2,30,40,1",
            "b.png,P,0,1,2,30,41,1",
            "deep/c.tif,P,0,1,2,30,41,1",
        ],
        header,
    )
    assert [row.key for row in table.rows] == ["row_0002", "row_0007"]
    assert reasons(table) == [
        ("row_0003", "duplicate"),
        ("row_0004", "duplicate"),
        ("row_0005", "conflict"),
        ("row_0006", "conflict"),
    ]
    assert "t.csv, row 5, t.csv, row 6" in table.left_out[2].message
    assert "lesions with both labels, in different images: 1" in table.notes


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("line", "header"),
    [
        ("a.dcm,Z,0,1,2,30,40", HEADER),  # would take out P's lesion as a conflict
        ("a.dcm,Z,1,1,2,30,40", HEADER),  # before P's, would make it Z's
        ("a.dcm,Z,0,5,6,35,45,1", HEADER + ",lesion"),  # one lesion, by its name
        ("./a.dcm,Z,0,1,2,30,40", HEADER),
        ("a.dcm,Z,,1,2,30,40", HEADER),  # no label: left out
        ("a.dcm,Z,0,,,,", HEADER),  # no box: left out
    ],
)
def test_a_file_of_two_patients_stops_before_rows_are_compared(
    images: Path, line: str, header: str, order: int
) -> None:
    own = "a.dcm,P,1,1,2,30,40" + (",1" if header != HEADER else "")
    with pytest.raises(ArchiveError, match=r"row 2 and t\.csv, row 3: one file of two patients"):
        read(images, [own, line][::order], header)


def test_ids_of_rows_that_are_left_out_are_compared_too(images: Path) -> None:
    lines = ["a.dcm,P7,1,1,2,30,40", "gone.png,P007,1,1,2,30,40"]
    with pytest.raises(ManifestError, match=r"row 2 and t\.csv, row 3: patient ids that differ"):
        read(images, lines)


def test_a_patient_is_in_one_split_whatever_the_spelling(images: Path) -> None:
    header = HEADER + ",split"
    lines = ["a.dcm,P-1,1,1,2,30,40,train", "b.png,p 1,1,1,2,30,40,test"]
    with pytest.raises(
        LeakageError, match=r"row 3: its patient is in 'test', .* t\.csv, row 2"
    ) as e:
        read(images, lines, header)
    assert "P-1" not in str(e.value)
    table = read(images, [lines[0], "b.png,P2,0,1,2,3,4,"], header)
    assert reasons(table) == [("row_0003", "no_split")]
    with pytest.raises(ArchiveError, match="row 2: column split holds another word than train"):
        read(images, ["a.dcm,P-1,1,1,2,30,40,training"], header)
    read(images, ["a.dcm,P-1,1,1,2,30,40,training"], header, columns=Columns(split=None))


@pytest.mark.parametrize(
    ("header", "lines", "message"),
    [
        (
            HEADER,
            ["a.dcm,P1,1,1,2,3,4", "a.dcm,P2,1,5,2,9,9"],
            "row 2 and .*row 3: one file of two",
        ),
        (
            HEADER + ",image",
            ["a.dcm,P1,1,1,2,3,4,I", "b.png,P1,1,5,2,9,9,I"],
            "row 2 and .*row 3: one id",
        ),
        (
            HEADER + ",spacing_mm",
            ["a.dcm,P1,1,1,2,3,4,.1", "a.dcm,P1,1,5,2,9,9,.2"],
            "row 2 and .*row 3: one file with two spacings",
        ),
        (HEADER + ",view", ["a.dcm,P1,1,1,2,3,4,RCC"], "row 2: column view holds another word"),
        ("file,patient,malignant", ["a.dcm,P,1"], "or one of mask and outline"),
        ("file,patient,malignant,x0,x1", ["a.dcm,P,1,1,2"], r"y0 \(--columns.y0\), y1"),
        (HEADER, [], "a header and no row"),
    ],
)
def test_a_table_that_contradicts_itself_stops(
    images: Path, header: str, lines: list[str], message: str
) -> None:
    with pytest.raises(ArchiveError, match=message):
        read(images, lines, header)


def test_spacings_that_no_mammogram_has_are_refused(images: Path) -> None:
    lines = [f"a.dcm,P,1,{i},2,30,40,{mm}" for i, mm in enumerate(["70", "0", "x", "nan"])]
    table = read(images, lines, HEADER + ",spacing_mm")
    assert [one.reason for one in table.left_out] == ["spacing"] * 4


def test_attributes_must_not_pass_for_other_columns(images: Path) -> None:
    for name in ("patient_id", "Patient ID", "1"):
        with pytest.raises(ArchiveError, match="taken or no name"):
            read(images, ["a.dcm,P,1,1,2,30,40"], attributes=[name])
    with pytest.raises(ArchiveError, match=r"no column age \(--attributes\)"):
        read(images, ["a.dcm,P,1,1,2,30,40"], attributes=["age"])


def test_without_labels_boxes_are_enough(images: Path) -> None:
    table = read(images, ["a.dcm,1,2,3,4", "a.dcm,1,2,3,4"], "file,x0,y0,x1,y1", labels=None)
    assert [(row.lesion_id, row.malignant) for row in table.rows] == [("1", None), ("2", None)]
    alone = read(
        images / "a.dcm", ["a.dcm,1,2,3,4", "b.png,1,2,3,4"], "file,x0,y0,x1,y1", labels=None
    )
    assert [(one.file, one.reason) for one in alone.left_out] == [("b.png", "no_image")]


def test_xlsx_and_missing_folders(images: Path) -> None:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(HEADER.split(","))
    sheet.append(["a.dcm", 17, 1, 1.0, 2, 30.5, 40])
    path = images.parent / "t.xlsx"
    book.save(path)
    (row,) = read_lesion_table(path, images).rows
    assert (row.patient_id, row.malignant, row.region) == ("17", True, Box(1, 2, 31, 40))
    with pytest.raises(ArchiveError, match=r"--images .*none: does not exist"):
        read_lesion_table(path, images / "none")


@pytest.mark.parametrize("column", ["patient", "lesion", "image"])
def test_ids_of_a_spreadsheet_are_what_was_entered(images: Path, column: str) -> None:
    book = Workbook()
    sheet = book.active
    assert sheet is not None
    names = [*HEADER.split(","), "lesion", "image"]
    cells = dict(zip(names, ["a.dcm", "P", 1, 1, 2, 30, 40, "1", "I"], strict=True))
    sheet.append(names)
    sheet.append(list((cells | {column: datetime.date(2026, 3, 7)}).values()))
    path = images.parent / "t.xlsx"
    book.save(path)
    with pytest.raises(ArchiveError, match=f"row 2: column {column} of ids holds a date"):
        read_lesion_table(path, images)


def test_what_would_be_done_is_told(images: Path) -> None:
    table = read(images, ["a.dcm,P,1,1,2,30,40", "b.png,Q,0,1,2,30,40", "c.png,Q,0,1,2,30,40"])
    assert described(table, {"p": "train", "q": "val"}).splitlines() == [
        "rows: 3, of which 2 are used, of 2 images",
        "where lesions lie: box 2",
        "labels from pathology: benign 1, malignant 1",
        "patients, split by a hash of the id: train 1, val 1",
        "left out: no_image 1",
        "  t.csv, row 4: its file is not there. Correct the path below --images.",
    ]
    (images / "._a.dcm").touch()
    told = described_files(table, images)
    assert told == f"files below {images}: helper file 1, named by a row 2, named by no row 2"


def test_the_table_of_ten_lines_on_the_page_is_read(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "howto" / "lesion_table.md"
    text = page.read_text(encoding="utf-8").split("```text\n")[1].split("```")[0]
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    for line in text.splitlines()[1:]:
        path = tmp_path / line.split(",")[0]
        path.parent.mkdir(exist_ok=True)
        path.touch()
    table = read_lesion_table(tmp_path / "t.csv", tmp_path)
    assert (len(table.rows), table.left_out, table.notes) == (10, (), ())
