# SPDX-License-Identifier: Apache-2.0
"""Tables as people keep them: CSV of any dialect, or XLSX, as rows of text with their numbers.

Cells are text without blanks around it; what a cell means is for the reader of its column to say.
Whatever is wrong with a table, the message names the file and the row. It shows no name of a column
or a sheet that nobody asked for: where the header is missing, the first row is about a patient.
"""

import codecs
import csv
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO, cast

from data_prep.errors import ArchiveError

if TYPE_CHECKING:
    from openpyxl import Workbook

DELIMITERS = ",;\t|"
MAX_CELL = 128 * 1024  # characters; outlines of thousands of points have less
_MAX_LINE = 4 * 1024 * 1024  # characters; a file without line breaks must not fill the memory
_MAX_UNPACKED = 512 * 1024 * 1024  # bytes of an XLSX: a ZIP file may unpack to anything
_SAMPLE = 64 * 1024  # characters that decide about the delimiter
_KNOWN = 100_000  # distinct cells that are kept once
_BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}
_ROUNDED = 15  # digits that Excel keeps of a number
_ALIKE = 0.8  # of 1; patient and Patient-ID: 0.88
_LONG = 4  # letters of a name that is looked for within others
_ZIP, _OLD_EXCEL = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"


class Cells(Mapping[str, str]):
    """Cells of one row by column; the rows of a table share the names.

    Args:
        places: Position of each column.
        values: One cell per column.
    """

    __slots__ = ("_places", "_values")

    def __init__(self, places: Mapping[str, int], values: Sequence[str]) -> None:
        self._places = places
        self._values = tuple(values)

    def __getitem__(self, column: str) -> str:
        return self._values[self._places[column]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def renamed(self, places: Mapping[str, int]) -> "Cells":
        """The same values under other names."""
        return Cells(places, self._values)


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row.

    Attributes:
        number: As a spreadsheet shows it: the header is 1, and empty rows count.
        cells: Text by column, without blanks around it; ``""`` for an empty cell.
        changed: Positions of cells that a spreadsheet program may have changed: dates and times,
            and numbers of so many digits that the last ones may be lost.
    """

    number: int
    cells: Cells
    changed: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a header and at least one row.

    Attributes:
        path: The file.
        columns: Names as written, without blanks around them, all different. A column without a
            name is called ``(column 3)`` after its place.
        rows: Rows that hold anything.
        places: Of each of these columns in the file, from 1.
        header: Names of all columns of the file, those that are not kept, too. Not to be shown.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    places: tuple[int, ...]
    header: tuple[str, ...]

    @property
    def dropped(self) -> tuple[int, ...]:
        """Places of the columns that are not kept."""
        return tuple(place for place in range(1, len(self.header) + 1) if place not in self.places)

    def require(self, columns: Sequence[str], *, ids: Sequence[str] = ()) -> None:
        """Refuses a table that lacks a column, or has other ids than were entered.

        Args:
            columns: What must be there.
            ids: As for :meth:`require_ids`.

        Raises:
            ArchiveError: Naming the missing columns, and the places of those that may be meant; or
                as :meth:`require_ids`.
        """
        if missing := [name for name in columns if name not in self.columns]:
            raise ArchiveError(
                f"{self.path}: columns {missing} are missing. {self.instead_of(missing)} See that "
                "this row is the header, and give the table as it was published."
            )
        self.require_ids(ids)

    def require_ids(self, columns: Sequence[str | None]) -> None:
        """Refuses ids that a spreadsheet program may have changed.

        It makes a date of ``3-7``, so that one id becomes two, and keeps 15 digits of a number, so
        that several become one.

        Args:
            columns: Which tell patients, images or lesions apart; those that are not there pass.

        Raises:
            ArchiveError: Naming row and column, not the id.
        """
        names = {at: name for at, name in enumerate(self.columns) if name in columns}
        for row in self.rows:
            for at in sorted(row.changed & names.keys()):
                raise ArchiveError(
                    f"{self.where(row)}: column {names[at]} of ids holds a date, a time or a "
                    f"number of {_ROUNDED} digits or more. Spreadsheet programs make dates of ids "
                    "such as 3-7, and lose digits of long numbers, so the id may be another. "
                    "Format the column as text and enter its ids again, or give the CSV they came "
                    "from."
                )

    def instead_of(self, missing: Sequence[str]) -> str:
        """A sentence about the first row of a table that lacks columns, without a word of it.

        Args:
            missing: Names that were asked for.
        """
        alike = [
            f"that of column {place} is nearly {wanted!r}"
            for wanted in missing
            for place, name in enumerate(self.header, start=1)
            if _alike(wanted, name)
        ]
        return (
            f"{'; '.join([f'Its first row has {len(self.header)} cells', *alike])}. They are not "
            "shown, since they are a patient's if the header is missing."
        )

    def where(self, row: TableRow) -> str:
        """Start of every message about a row: file name and number."""
        return f"{self.path.name}, row {row.number}"

    def normalised(self, rename: Callable[[str], str]) -> "Table":
        """The same table under other column names.

        Args:
            rename: From the written name to the wanted one.

        Raises:
            ArchiveError: If two columns get one name.
        """
        columns = tuple(rename(name) for name in self.columns)
        _refuse_duplicates(self.path, dict(zip(self.places, columns, strict=True)))
        places = {name: place for place, name in enumerate(columns)}
        rows = tuple(replace(row, cells=row.cells.renamed(places)) for row in self.rows)
        return Table(self.path, columns, rows, self.places, self.header)


def read_table(
    path: Path,
    *,
    encoding: str | None = None,
    sheet: str | None = None,
    keep: Callable[[str], bool] | None = None,
) -> Table:
    """Reads a table, CSV or XLSX by content, whatever its suffix.

    CSV is separated by comma, semicolon, tab or vertical bar, whichever splits header and first
    rows evenly; cells may be quoted by ``"``.

    Args:
        path: The file.
        encoding: Encoding of a CSV. Without it UTF-8, or UTF-16 if the file begins with its mark.
        sheet: Sheet of an XLSX; needed if several hold something.
        keep: Which columns are kept, by name; none keeps all. Wide tables of many rows need it.

    Raises:
        ArchiveError: Naming the file and, where there is one, the row.
    """
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise ArchiveError(f"{path}: {what}. Give a table: CSV or XLSX.")
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start.startswith(_OLD_EXCEL):
            raise ArchiveError(
                f"{path}: is an Excel file of the old kind (.xls). Save it as .xlsx or as CSV."
            )
        if start.startswith(_ZIP):
            return _table(path, _xlsx_rows(path, sheet), keep)
        if sheet is not None:
            raise ArchiveError(f"{path}: is no XLSX, so it has no {sheet=}. Leave it out.")
        return _table(path, _csv_rows(path, encoding or _encoding(start)), keep)
    except OSError as error:
        raise ArchiveError(f"{path}: cannot be read ({error.strerror}).") from error


_Row = tuple[int, list[str], frozenset[int]]  # number, cells, and which of them may be changed


def _table(path: Path, rows: Iterator[_Row], keep: Callable[[str], bool] | None) -> Table:
    """Header and rows, checked against each other."""
    first, header, _ = next(rows, (0, [], frozenset()))
    header = [cell.strip() for cell in header]
    while header and not header[-1]:
        header.pop()
    if not header:
        raise ArchiveError(f"{path}: is empty. Give a header and a row for each lesion.")
    names = [name or f"(column {place})" for place, name in enumerate(header, start=1)]
    _refuse_duplicates(path, dict(enumerate(names, start=1)))
    kept = [place for place, name in enumerate(names) if keep is None or keep(name)]
    places = {names[place]: new for new, place in enumerate(kept)}
    known: dict[str, str] = {}
    found = []
    for number, cells, changed in rows:
        if not any(map(str.strip, cells)):
            continue
        if len(cells) < len(names) or any(map(str.strip, cells[len(names) :])):
            raise ArchiveError(
                f"{path}, row {number}: has {len(cells)} cells, the header in row {first} has "
                f"{len(names)}. Write the row again; a cell that holds the separator needs quotes."
            )
        # Most rows are shorter as a whole, which is seen faster than the length of each cell.
        if len("".join(cells)) > MAX_CELL and max(map(len, cells)) > MAX_CELL:
            raise ArchiveError(f"{path}, row {number}: a cell has more than {MAX_CELL} characters.")
        values = [cells[place].strip() for place in kept]  # wide tables: the others cost nothing
        once = known.setdefault if len(known) < _KNOWN else known.get
        values = [once(value, value) for value in values]
        at = frozenset(new for new, place in enumerate(kept) if place in changed)
        found.append(TableRow(number, Cells(places, values), at))
    if not found:
        raise ArchiveError(f"{path}: has a header and no row. Give a row for each lesion.")
    return Table(
        path, tuple(places), tuple(found), tuple(place + 1 for place in kept), tuple(names)
    )


def _refuse_duplicates(path: Path, names: Mapping[int, str]) -> None:
    """Raises ArchiveError if two columns have one name; names are given by place."""
    seen: dict[str, int] = {}
    for place, name in names.items():
        if (first := seen.setdefault(name, place)) != place:
            raise ArchiveError(
                f"{path}: columns {first} and {place} have one name. Rename one; or write a header "
                "above the first row, if it is none."
            )


def _alike(wanted: str, name: str) -> bool:
    """Whether a column may be the one that is asked for, under a name that is nearly the same."""
    a, b = (re.sub(r"[\W_]+", "", one).casefold() for one in (wanted, name))
    matcher = SequenceMatcher(None, a, b)
    near = matcher.real_quick_ratio() >= _ALIKE and matcher.ratio() >= _ALIKE
    return near or (len(a) >= _LONG and a in b)


def _encoding(start: bytes) -> str:
    return next((name for mark, name in _BOMS.items() if start.startswith(mark)), "utf-8")


def _csv_rows(path: Path, encoding: str) -> Iterator[_Row]:
    """Each row that is not empty; its cells are text, and known as they are."""
    number = 0
    try:
        with path.open(encoding=encoding, newline="") as file:
            delimiter, skipped = _dialect(file, path)
            reader = csv.reader(_lines(file, path), delimiter=delimiter, strict=True)
            while True:
                number += 1
                cells = next(reader, None)
                if cells is None:
                    return
                if "\0" in "".join(cells):
                    raise ArchiveError(
                        f"{path}, row {number}: holds a NUL character, so it is damaged or in "
                        "another encoding. Save it as CSV in UTF-8."
                    )
                if cells and number > skipped:
                    yield number, cells, frozenset()
    except csv.Error as error:
        raise ArchiveError(
            f"{path}, row {number}: is not written as CSV ({error}). A quotation mark may open a "
            "cell there that is not closed: remove it, or double it within a quoted cell."
        ) from error
    except LookupError as error:
        raise ArchiveError(
            f"{path}: {encoding=} is not known. Give one such as cp1252, latin-1 or utf-16."
        ) from error
    except UnicodeError as error:
        raise ArchiveError(
            f"{path}: {_undecodable(path, encoding)}is not {encoding.removesuffix('-sig')} text. "
            "Save it in UTF-8, or name its encoding, such as cp1252."
        ) from error


def _undecodable(path: Path, encoding: str) -> str:
    """The first line that cannot be decoded, for encodings whose lines end in one byte."""
    with suppress(UnicodeError, OSError), path.open("rb") as file:
        "\n".encode(encoding).decode("ascii")
        for number, line in enumerate(file, start=1):
            try:
                line.decode(encoding)
            except UnicodeError:
                return f"line {number} "
    return ""


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    while line := file.readline(_MAX_LINE):
        number += 1
        if len(line) == _MAX_LINE:
            raise ArchiveError(f"{path}: line {number} has no end. Give a table: CSV or XLSX.")
        yield line


def _dialect(file: TextIO, path: Path) -> tuple[str, int]:
    """Delimiter, and the number of rows before the header; leaves the file at its start."""
    sample = file.read(_SAMPLE)
    file.seek(0)
    first = sample.partition("\n")[0].strip()
    if len(first) == 5 and first.lower().startswith("sep=") and first[4] in DELIMITERS:
        return first[4], 1  # a line for Excel
    lines = sample.splitlines(keepends=True)
    if len(sample) == _SAMPLE:
        lines = lines[:-1] or lines
    best = (False, 1, ",")
    for delimiter in DELIMITERS:
        rows = []
        with suppress(csv.Error):  # a stray quote; reading names its row
            rows += [row for row in csv.reader(lines, delimiter=delimiter) if any(row)]
        if rows and (columns := len(rows[0])) > 1:
            even = all(len(row) == columns for row in rows[:-1] or rows)
            best = max(best, (even, columns, delimiter), key=lambda one: one[:2])
    return best[2], 0


def _xlsx_rows(path: Path, sheet: str | None) -> Iterator[_Row]:
    """Each row of the sheet."""
    from openpyxl import load_workbook  # here: CSV is read without

    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(member.file_size for member in packed.infolist())
        if size > _MAX_UNPACKED:
            raise ArchiveError(
                f"{path}: unpacks to {size / 2**20:.0f} MiB. Save a table of this size as CSV."
            )
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # styles, pictures and rules that it leaves out
            book = load_workbook(file, read_only=True, data_only=True)
            rows = list(_sheet_rows(path, book, sheet))
    except ArchiveError:
        raise
    except Exception as error:  # openpyxl lets errors of XML, ZIP and its own classes through
        raise ArchiveError(
            f"{path}: is no whole XLSX ({type(error).__name__}). Save it again, or as CSV."
        ) from error
    yield from rows


class _Sheet(Protocol):
    """A sheet that is read row by row."""

    title: str

    def reset_dimensions(self) -> None: ...

    def iter_rows(self, *, values_only: bool) -> Iterable[tuple[object, ...]]: ...


def _sheet_rows(path: Path, book: "Workbook", sheet: str | None) -> Iterator[_Row]:
    """Rows of the sheet that was asked for, or of the only one that holds something."""
    if sheet is not None and sheet not in book.sheetnames:
        raise ArchiveError(
            f"{path}: has no {sheet=}, but {len(book.sheetnames)} others. Give the name of one as "
            "the workbook shows it."
        )
    # Sheets that hold a chart only are no worksheets.
    sheets = [cast(_Sheet, one) for one in book.worksheets]
    filled = [
        one for one in sheets if sheet in (None, one.title) and next(_filled(one), None) is not None
    ]
    if len(filled) > 1:
        raise ArchiveError(
            f"{path}: {len(filled)} of its {len(book.sheetnames)} sheets hold something. Say by "
            "--sheet which one is meant, or save that one as CSV."
        )
    for one in filled:
        rows = list(_filled(one))
        width = max(len(cells) for _, cells, _ in rows)
        for number, cells, changed in rows:
            yield number, cells + [""] * (width - len(cells)), changed


def _filled(sheet: _Sheet) -> Iterator[_Row]:
    sheet.reset_dimensions()  # some programs write them wrong, and rows would be lost
    for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
        cells = [_text(value) for value in values]
        if any(cells):
            changed = frozenset(at for at, value in enumerate(values) if _may_be_changed(value))
            yield number, cells, changed


def _text(value: object) -> str:
    """A cell of a spreadsheet as a person reads it there."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return str(value).strip()


def _may_be_changed(value: object) -> bool:
    """Whether a cell may hold something else than was entered."""
    if isinstance(value, int | float):
        return sum(map(str.isdigit, _text(value))) >= _ROUNDED
    return isinstance(value, date | time | timedelta)
