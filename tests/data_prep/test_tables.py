# SPDX-License-Identifier: Apache-2.0
import datetime
import zipfile
from pathlib import Path

import pytest
from openpyxl import Workbook

from data_prep import tables
from data_prep.errors import ArchiveError
from data_prep.tables import Table, read_table


def written(path: Path, content: bytes | str, encoding: str = "utf-8") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def plain(table: Table) -> list[dict[str, str]]:
    return [dict(row.cells) for row in table.rows]


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_any_separator_and_line_end(tmp_path: Path, delimiter: str, end: str) -> None:
    lines = [["file", " x0 ", "note"], ["a.dcm", "1", '"one, two; three | four"'], ["b", "", ""]]
    text = end.join(delimiter.join(line) for line in lines)
    table = read_table(written(tmp_path / "t.txt", text))
    assert table.columns == ("file", "x0", "note")
    assert plain(table) == [
        {"file": "a.dcm", "x0": "1", "note": "one, two; three | four"},
        {"file": "b", "x0": "", "note": ""},
    ]


def test_decimal_commas_do_not_mislead(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "t.csv", "file;x0;x1\na;1,5;2,5\nb;3,25;4,5\n"))
    assert plain(table)[1] == {"file": "b", "x0": "3,25", "x1": "4,5"}


def test_one_column_and_the_line_for_excel(tmp_path: Path) -> None:
    assert plain(read_table(written(tmp_path / "a.csv", "file\na\n\nb\n"))) == [
        {"file": "a"},
        {"file": "b"},
    ]
    table = read_table(written(tmp_path / "b.csv", "sep=;\nfile;x\na,b;1\n"))
    assert plain(table) == [{"file": "a,b", "x": "1"}]
    assert table.rows[0].number == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_say_so_are_read(tmp_path: Path, encoding: str) -> None:
    table = read_table(written(tmp_path / "t.csv", "file,side\nmüller.png,L\n", encoding))
    assert plain(table) == [{"file": "müller.png", "side": "L"}]


def test_other_encodings_are_named(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "file,side\na,L\nmüller,R\n", "cp1252")
    with pytest.raises(ArchiveError, match=r"t\.csv: line 3 is not utf-8 text.*such as cp1252"):
        read_table(path)
    assert plain(read_table(path, encoding="cp1252"))[1]["file"] == "müller"
    with pytest.raises(ArchiveError, match="encoding='klingon' is not known"):
        read_table(path, encoding="klingon")


def test_rows_are_numbered_as_a_spreadsheet_does(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "t.csv", 'a,b\n"two\nlines",1\n\n,\nx,2\n'))
    assert [row.number for row in table.rows] == [2, 5]
    assert table.where(table.rows[1]) == "t.csv, row 5"
    assert table.rows[0].cells["a"] == "two\nlines"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b\n", "a header and no row"),
        ("a,b\n,\n", "a header and no row"),
        ("a,b,a\n1,2,3\n", "columns 1 and 3 have one name"),
        ("a,b\n1,2\n1\n", r"row 3: has 1 cells, the header in row 1 has 2"),
        ("a,b\n1,2\n1,2,3\n", r"row 3: has 3 cells"),
        ("a,b\n1,2\n\0,3\n", r"row 3: holds a NUL"),
        ('a,b\n1,2\n"x,4\n5,6\n', r"row 3: is not written as CSV"),
        ('a,b\n1,2\n"x"y,4\n5,6\n', r"row 3: is not written as CSV"),
        ('a,b\n1,2\n"x,4\n' + "5,6\n" * 60_000, r"row 3: .*field larger than field limit"),
    ],
)
def test_what_is_wrong_is_named_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ArchiveError, match=rf"t\.csv.*{message}"):
        read_table(written(tmp_path / "t.csv", text))


def test_spreadsheets_pad_rows_and_leave_headers_empty(tmp_path: Path) -> None:
    table = read_table(written(tmp_path / "t.csv", ",a,,\n0,x,,\n1,y,,,,\n"))
    assert table.columns == ("(column 1)", "a")
    assert [row.cells["a"] for row in table.rows] == ["x", "y"]


def test_a_file_without_lines_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_MAX_LINE", 100)
    with pytest.raises(ArchiveError, match="line 2 has no end"):
        read_table(written(tmp_path / "t.csv", "a,b\n" + "x" * 200))


def test_columns_can_be_chosen_required_and_renamed(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "A b,C,d\n1,2,3\n")
    table = read_table(path, keep=lambda name: name != "C")
    assert plain(table) == [{"A b": "1", "d": "3"}]
    table.require(["d"])
    assert table.dropped == (2,)
    with pytest.raises(
        ArchiveError, match=r"columns \['e'\] are missing. Its first row has 3 cells"
    ):
        table.require(["d", "e"])
    renamed = table.normalised(lambda name: name.lower().replace(" ", "_"))
    assert plain(renamed) == [{"a_b": "1", "d": "3"}]
    with pytest.raises(ArchiveError, match="columns 1 and 3 have one name"):
        table.normalised(lambda name: "x")


@pytest.mark.parametrize(
    ("name", "place"),
    [("patient id", 2), ("PatientID", 2), ("patient", 0), ("file_path", 1), ("image file path", 0)],
)
def test_a_column_under_nearly_the_same_name_is_found(
    tmp_path: Path, name: str, place: int
) -> None:
    table = read_table(written(tmp_path / "t.csv", "File Path;patient-id\na;b\n"))
    with pytest.raises(ArchiveError, match="are missing") as caught:
        table.require([name])
    assert (f"that of column {place} is nearly {name!r}" in str(caught.value)) == bool(place)


SECRET = "Jane Q. Doe"


def test_without_a_header_nothing_of_the_first_row_is_shown(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", f"img001.dcm,{SECRET},{SECRET} 1961-03-02\nb,c,d\n")
    with pytest.raises(ArchiveError, match="first row has 3 cells") as lacks:
        read_table(path).require(["file"])
    written(path, f"a,{SECRET},{SECRET}\nb,c,d\n")
    with pytest.raises(ArchiveError, match="columns 2 and 3 have one name") as twice:
        read_table(path)
    written(path, f"a,{SECRET},{SECRET.upper()}\nb,c,d\n")
    with pytest.raises(ArchiveError, match="columns 2 and 3 have one name") as renamed:
        read_table(path, keep=lambda name: name != "a").normalised(str.lower)
    made, path = book(tmp_path / "t.xlsx")
    made.create_sheet(SECRET).append(["a"])
    made.save(path)
    with pytest.raises(ArchiveError, match="2 of its 2 sheets hold something") as sheets:
        read_table(path)
    with pytest.raises(ArchiveError, match="has no sheet='other', but 2 others") as other:
        read_table(path, sheet="other")
    for caught in (lacks, twice, renamed, sheets, other):
        assert not any(word.casefold() in str(caught.value).casefold() for word in ("Jane", "Doe"))


def book(path: Path) -> tuple[Workbook, Path]:
    made = Workbook()
    sheet = made.active
    assert sheet is not None
    sheet.append(["file", "x0", "when", "ok", "id", None])
    sheet.append([" a.dcm ", 12.0, datetime.date(2020, 1, 2), True, "007"])
    sheet.append([])
    sheet.append(["b.dcm", 1.5, None, False, 7])
    return made, path


def test_xlsx_is_read_by_content(tmp_path: Path) -> None:
    made, path = book(tmp_path / "odd.csv")
    made.create_sheet("empty")
    made.save(path)
    table = read_table(path)
    assert plain(table) == [
        {"file": "a.dcm", "x0": "12", "when": "2020-01-02T00:00:00", "ok": "TRUE", "id": "007"},
        {"file": "b.dcm", "x0": "1.5", "when": "", "ok": "FALSE", "id": "7"},
    ]
    assert [row.number for row in table.rows] == [2, 4]


@pytest.mark.parametrize(
    ("value", "stays"),
    [
        (datetime.datetime(2026, 3, 7), False),  # of 3-7
        (datetime.date(2026, 3, 7), False),
        (datetime.time(3, 7), False),
        (datetime.timedelta(hours=30), False),
        (110101199003070000, False),
        (1.10101199003070e17, False),
        (123456789012345, False),
        (0.123456789012345, False),
        (12345678901234, True),
        (7, True),
        (7.5, True),
        (True, True),
        ("3-7", True),
        ("110101199003070012", True),
    ],
)
def test_ids_that_a_spreadsheet_program_may_have_changed_are_refused(
    tmp_path: Path, value: object, stays: bool
) -> None:
    made = Workbook()
    sheet = made.active
    assert sheet is not None
    for row in (["note", "Patient ID", "when"], ["x", "A7", value], ["y", value, "A8"]):
        sheet.append(row)
    made.save(path := tmp_path / "t.xlsx")
    table = read_table(path, keep=lambda name: name != "note")
    table.require(["when"])  # no column of ids
    renamed = table.normalised(str.lower)
    if stays:
        renamed.require(["when"], ids=["patient id"])
        return
    with pytest.raises(ArchiveError, match=r"t\.xlsx, row 3: column patient id of ids") as caught:
        renamed.require(["when"], ids=["patient id"])
    assert str(value) not in str(caught.value)
    with pytest.raises(ArchiveError, match="row 2: column when of ids"):
        renamed.require_ids([None, "when"])


def test_sheets_are_named_not_guessed(tmp_path: Path) -> None:
    made, path = book(tmp_path / "t.xlsx")
    made.create_sheet("more").append(["a"])
    made.save(path)
    with pytest.raises(ArchiveError, match=r"2 of its 2 sheets hold something\. Say by --sheet"):
        read_table(path)
    assert len(read_table(path, sheet="Sheet").rows) == 2
    with pytest.raises(ArchiveError, match="has no sheet='other', but 2 others"):
        read_table(path, sheet="other")
    with pytest.raises(ArchiveError, match="is no XLSX"):
        read_table(written(tmp_path / "t.csv", "a\n1\n"), sheet="Sheet")


def test_damaged_and_old_spreadsheets_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, path = book(tmp_path / "t.xlsx")
    made.save(path)
    whole = path.read_bytes()
    for length in range(4, len(whole), 401):
        with pytest.raises(ArchiveError, match="is no whole XLSX"):
            read_table(written(tmp_path / "cut.xlsx", whole[:length]))
    with zipfile.ZipFile(tmp_path / "other.xlsx", "w") as other:
        other.writestr("a.txt", "no table")
    with pytest.raises(ArchiveError, match="is no whole XLSX"):
        read_table(tmp_path / "other.xlsx")
    with pytest.raises(ArchiveError, match="of the old kind"):
        read_table(written(tmp_path / "old.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99))
    monkeypatch.setattr(tables, "_MAX_UNPACKED", 1000)
    with pytest.raises(ArchiveError, match="unpacks to"):
        read_table(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="does not exist"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ArchiveError, match="is no file"):
        read_table(tmp_path)
