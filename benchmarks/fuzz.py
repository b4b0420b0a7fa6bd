# SPDX-License-Identifier: Apache-2.0
"""Damaged input of every kind: what the readers make of it, counted by outcome.

    python benchmarks/fuzz.py                       # 10,000 cases, some minutes
    python benchmarks/fuzz.py --kinds dicom --cases 2000

Each case damages a small generated input in one to three places and reads it. Outcomes:

* ``same``: read, and the result is that of the whole input;
* ``rejected`` or ``refused`` with the reason or the class of the error;
* ``pixels``: read with another picture, and the damage lies in bytes that hold pixels and that
  nothing in the format protects;
* ``stated``: read with another picture or table, because another valid value is stated: a window,
  a spacing, the offset of a strip, a cell;
* ``SILENT``: read with another picture although the damage lies elsewhere. There must be none;
* ``TRACEBACK``: an exception that is none of ours. There must be none.
"""

import argparse
import contextlib
import io
import os
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    DigitalMammographyXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from data_prep import prepare
from data_prep.crop_image import pixel_hash
from data_prep.cropping import Box
from data_prep.cutting import Cutting, cut_box, range_of
from data_prep.errors import DataError, RecordRejected
from data_prep.images import read_image
from data_prep.masks import locate
from data_prep.tables import read_table

SHAPE = (96, 80)
BOX = Box(20, 36, 44, 62)
# Elements that say how the picture is to be shown or measured: another valid value is no damage.
STATED = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "Modality",
    "EstimatedRadiographicMagnificationFactor",
    "ImagerPixelSpacing",
    "PhotometricInterpretation",
    "PixelSpacing",
    "PixelSpacingCalibrationType",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "VOILUTFunction",
    "PresentationLUTShape",
)
JUNK: tuple[bytes, ...] = (
    b"",
    b"\0\0",
    b"\xff\xff",
    b"0 ",
    b"-1",
    b"1e400 ",
    b"nan ",
    b"0,1\\0,1 ",
    b"50\\50 ",
    b"INVERSE ",
    b"SIGMOID ",
    b"\xff" * 64,
    b"\\\\",
    bytes(range(64)),
)
Outcome = tuple[str, str]


@dataclass
class Counts:
    """What became of the cases.

    Attributes:
        outcomes: Number by kind and outcome.
        bad: Descriptions of those that must not be.
    """

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Whole:
    """An undamaged file.

    Attributes:
        name: What it is.
        data: Its bytes.
        pixels: First byte of the pixels; all later ones belong to them.
        stated: Ranges of bytes before the pixels that may say something else.
        protected: Whether a checksum finds damage of the pixels.
        spacing_mm: What the user says; none leaves it to the header.
        tail: Bytes after the pixels, such as the mark that they end.
    """

    name: str
    data: bytes
    pixels: int
    stated: tuple[tuple[int, int], ...] = ()
    protected: bool = False
    spacing_mm: float | None = None
    tail: int = 0


def picture() -> NDArray[np.uint16]:
    """A breast with a lesion, 12 bits."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    breast = (x / 60) ** 2 + ((y - 48) / 42) ** 2 < 1
    grey = 60 + 1700 * breast + 1500 * np.exp(-(((x - 32) / 8) ** 2 + ((y - 49) / 9) ** 2)) * breast
    return np.asarray((grey + rng.normal(0, 30, SHAPE)).clip(0, 4095), np.uint16)


def crop_of(path: Path, spacing_mm: float | None) -> tuple[str, float | None]:
    """Hash and spacing of the crop that the cutter makes."""
    mammogram = read_image(path, where="case", spacing_mm=spacing_mm)
    grey = range_of(mammogram, "case")
    box = locate(BOX, mammogram, grey, where="case")
    pixels, mm = cut_box(mammogram, box, Cutting(size=32), grey, where="case")
    return pixel_hash(pixels), mm


def _dataset() -> Dataset:
    pixels = picture()
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SOPClassUID = DigitalMammographyXRayImageStorageForPresentation
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.Modality = "MG"
    dataset.Manufacturer = "Nobody"
    dataset.PatientName, dataset.PatientID = "Secret^Name", "SECRET"
    dataset.ImagerPixelSpacing = ["0.1", "0.1"]
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "2.25.2", "2.25.3"
    dataset.ImageLaterality, dataset.ViewPosition = "L", "CC"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = SHAPE
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = "3600", "6000"
    dataset.RescaleIntercept, dataset.RescaleSlope = "-10", "2"
    dataset.add_new(0x00990010, "LO", "PRIVATE")
    dataset.add_new(0x00991001, "OB", bytes(range(40)))
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


@cache
def dicom_files() -> tuple[Whole, ...]:
    """One file for each way of writing it."""
    files = []
    for name in (
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEG2000Lossless,
        JPEGLSLossless,
        JPEGLosslessSV1,
    ):
        dataset, syntax = _dataset(), UID(name)
        try:
            if syntax == JPEGLosslessSV1:
                dataset = _jpeg_lossless(dataset)
            elif syntax.is_encapsulated:
                dataset.compress(syntax, generate_instance_uid=False)
            else:
                dataset.file_meta.TransferSyntaxUID = syntax
        except (ImportError, RuntimeError):  # its package is not installed
            continue
        buffer = io.BytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
        data = buffer.getvalue()
        if syntax == DeflatedExplicitVRLittleEndian:
            header = 144 + int(dcmread(io.BytesIO(data)).file_meta.FileMetaInformationGroupLength)
            files.append(Whole(syntax.name, data, header))
        else:
            start, tail = _value_at(data, b"\xe0\x7f\x10\0"), 8 if syntax.is_encapsulated else 0
            files.append(Whole(syntax.name, data, start, _stated(data), tail=tail))
    return tuple(files)


def _jpeg_lossless(dataset: Dataset) -> Dataset:
    """The same in JPEG Lossless, which pydicom cannot write."""
    gdcm: Any = import_module("gdcm")  # untyped, and of an extra

    with tempfile.TemporaryDirectory() as folder:
        whole, compressed = f"{folder}/a.dcm", f"{folder}/b.dcm"
        dcmwrite(whole, dataset, enforce_file_format=True)
        reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
        change = gdcm.ImageChangeTransferSyntax()
        reader.SetFileName(whole)
        reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        change.Change()
        writer.SetFileName(compressed)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.Write()
        dataset.PixelData = dcmread(compressed).PixelData
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return dataset


def _value_at(data: bytes, tag: bytes) -> int:
    return data.rindex(tag) + 8


def _stated(data: bytes) -> tuple[tuple[int, int], ...]:
    """Where the elements of ``STATED`` lie, tag and length included, and the transfer syntax."""
    at = data.index(b"\x02\0\x10\0UI")
    found = [(at, at + 8 + int.from_bytes(data[at + 6 : at + 8], "little"))]
    dataset = dcmread(io.BytesIO(data))
    implicit = dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    for name in STATED:
        if name in dataset:
            tag = dataset[name].tag
            start = data.index(struct.pack("<HH", tag.group, tag.element), found[0][1])
            size = struct.unpack_from(
                "<I" if implicit else "<H", data, start + 4 + 2 * (not implicit)
            )
            found.append((start, start + 8 + size[0]))
    return tuple(found)


@cache
def picture_files() -> tuple[Whole, ...]:
    """PNG, JPEG and TIFF of 8 and 16 bits."""
    deep = picture() * np.uint16(16)
    flat = (deep >> 8).astype(np.uint8)
    files = []
    for name, pixels, kind, options in (
        ("PNG 16", deep, "PNG", {}),
        ("PNG 8", flat, "PNG", {}),
        ("JPEG", flat, "JPEG", {"quality": 95}),
        ("TIFF 16", deep, "TIFF", {}),
        ("TIFF LZW", deep, "TIFF", {"compression": "tiff_lzw"}),
        ("TIFF deflate", flat, "TIFF", {"compression": "tiff_adobe_deflate"}),
    ):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)
        data = buffer.getvalue()
        # Nothing in JPEG and TIFF protects anything: all of it is pixels, or says how to read them.
        files.append(
            Whole(name, data, 8 if kind == "PNG" else 2, protected=kind == "PNG", spacing_mm=0.1)
        )
    return tuple(files)


def damaged(
    rng: np.random.Generator, data: bytes, places: Sequence[int] = ()
) -> tuple[bytes, list[int], int]:
    """Damages bytes in one to three places.

    Returns:
        The bytes; where they differ from the whole, by its positions; how many bytes were cut off
        at the end.
    """
    changed, touched, cut = bytearray(data), [], 0
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.choice(places)) if len(places) else int(rng.integers(len(data)))
        at = min(at, len(changed) - 1)
        touched.append(at)
        match int(rng.integers(7)):
            case 0 | 1:
                changed[at] ^= 1 << int(rng.integers(8))
            case 2:
                changed[at] = int(rng.integers(256))
            case 3:
                del changed[at : at + int(rng.integers(1, 9))]
            case 4:
                changed[at:at] = rng.bytes(int(rng.integers(1, 9)))
            case 5:
                size = int(rng.integers(1, 33))
                start = int(rng.integers(len(changed)))
                changed[at : at + size] = changed[start : start + size]
            case 6:
                cut += len(changed) - at
                del changed[at:]
        if not changed:
            break
    return bytes(changed), touched, cut


def damaged_element(rng: np.random.Generator, whole: Whole) -> tuple[bytes, list[int], int]:
    """Replaces, removes or repeats one element of a DICOM header."""
    dataset = dcmread(io.BytesIO(whole.data))
    tags = [tag for tag in dataset.keys() if tag != 0x7FE00010]  # noqa: SIM118  (tags, not names)
    tag = tags[int(rng.integers(len(tags)))]
    stated = any(dataset[name].tag == tag for name in STATED if name in dataset)
    start = whole.data.find(struct.pack("<HH", tag.group, tag.element), 132)
    implicit = "Implicit" in whole.name
    size_at = start + 4 + 2 * (not implicit)
    form = "<I" if implicit else "<H"
    (size,) = struct.unpack_from(form, whole.data, size_at)
    end = start + 8 + size
    element = whole.data[start:end]
    match int(rng.integers(3)):
        case 0:
            value = JUNK[int(rng.integers(len(JUNK)))]
            element = element[: size_at - start] + struct.pack(form, len(value)) + value
        case 1:
            element = b""
        case 2:
            element *= 2
    data = whole.data[:start] + element + whole.data[end:]
    return data, [whole.stated[0][0] if stated else start], 0


def dicom_case(rng: np.random.Generator, folder: Path) -> str:
    """One damaged DICOM file."""
    files = dicom_files()
    whole = files[int(rng.integers(len(files)))]
    if whole.stated and rng.random() < 0.4:
        data, touched, cut = damaged_element(rng, whole)
    else:
        places = range(132, whole.pixels) if rng.random() < 0.7 else ()
        data, touched, cut = damaged(rng, whole.data, places)
    return _file_case(whole, data, touched, cut, folder / "case.dcm")


def picture_case(rng: np.random.Generator, folder: Path) -> str:
    """One damaged PNG, JPEG or TIFF."""
    files = picture_files()
    whole = files[int(rng.integers(len(files)))]
    data, touched, cut = damaged(rng, whole.data)
    return _file_case(whole, data, touched, cut, folder / "case.png")


@cache
def _true_crop(whole: Whole) -> tuple[str, float | None]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole"
        path.write_bytes(whole.data)
        return crop_of(path, whole.spacing_mm)


def _file_case(whole: Whole, data: bytes, touched: list[int], cut: int, path: Path) -> str:
    true = _true_crop(whole)
    path.write_bytes(data)
    try:
        found = crop_of(path, whole.spacing_mm)
    except RecordRejected as error:
        if "secret" in str(error).lower():
            return f"SILENT: {whole.name}: a message quotes the header"
        return f"rejected {error.reason}"
    if found == true:
        return "same"
    unprotected = not whole.protected and cut <= whole.tail
    if unprotected and all(at >= whole.pixels for at in touched):
        return "pixels"
    if any(first <= at < last for at in touched for first, last in whole.stated):
        return "stated"
    if unprotected and any(at >= whole.pixels for at in touched):
        return "pixels"
    return f"SILENT: {whole.name}, {touched=}, {cut=}"


TABLE = (
    "file,patient,malignant,x0,y0,x1,y1,note\n"
    + "".join(
        f'{name}.dcm,P{name},{name % 2},{name},2,{name + 30},40,"a, ""b"""\n' for name in range(12)
    )
).encode()


def table_case(rng: np.random.Generator, folder: Path) -> str:
    """One damaged table."""
    data, touched, _ = damaged(rng, TABLE)
    path = folder / "table.csv"
    path.write_bytes(TABLE)
    true = [dict(row.cells) for row in read_table(path).rows]
    path.write_bytes(data)
    try:
        rows = [dict(row.cells) for row in read_table(path).rows]
    except DataError as error:
        return f"refused {type(error).__name__}"
    if rows == true:
        return "same"
    lines = data.decode("utf-8", "replace").count("\n") + (not data.endswith(b"\n"))
    if len(rows) > lines - 1:
        return f"SILENT: {len(rows)} rows of {lines} lines, {touched=}"
    return "stated"


def folder_case(rng: np.random.Generator, folder: Path) -> str:
    """A folder of crops with one to three oddities of file systems and people."""
    root = folder / "set"
    true: dict[str, bool] = {}
    files = []
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            benign = number % 2
            pixels = np.random.default_rng([number, split == "val"]).integers(
                0, 256, (16, 16), np.uint8
            )
            path = root / split / f"is_benign_{'true' if benign else 'false'}"
            path.mkdir(parents=True, exist_ok=True)
            path /= f"patientset__{split}{number}_image{split}{number}_mass1_is_benign_{benign}.png"
            Image.fromarray(pixels).save(path)
            true[pixel_hash(pixels.astype(np.uint16) * np.uint16(257))] = not benign
            files.append(path)
    for _ in range(int(rng.integers(1, 4))):
        with contextlib.suppress(OSError):  # an earlier oddity took the file away
            _oddity(rng, files[int(rng.integers(len(files)))], root)
    entries = _reachable(root)
    out = folder / "out"
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(io.StringIO()):
            manifest = prepare.crop_folder(root=str(root), out=str(out))
    except DataError as error:
        return f"refused {type(error).__name__}"
    if any(true.get(crop.sha256) != crop.malignant for crop in manifest.crops):
        return "SILENT: another picture or label"
    balance = told.getvalue().splitlines()[-1]
    if int(balance.split()[1]) < entries:
        return f"SILENT: {entries} PNG files, but {balance}"
    return "same" if len(manifest.crops) == len(true) else "rejected or skipped, and counted"


def _reachable(root: Path) -> int:
    """Files that anybody would call a PNG, links followed once."""
    found = {
        (Path(place) / name).resolve()
        for place, _, names in os.walk(root, followlinks=False)
        for name in names
        if name.lower().endswith(".png")
    }
    return len(found)


def _oddity(rng: np.random.Generator, path: Path, root: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(path)  # opening a pipe would wait for ever
    group = path.parent
    match int(rng.integers(15)):
        case 0:
            path.rename(path.with_suffix(".PNG"))
        case 1:
            (group / f"._{path.name}").write_bytes(b"\0\5\26\7" + bytes(50))
        case 2:
            group.rename(root.parent / "moved")
            group.symlink_to(root.parent / "moved")
        case 3:
            (group / "loop").symlink_to(root)
        case 4:
            (group / "gone.png").symlink_to(root / "nowhere")
        case 5:
            group.rename(group.with_name("benign"))
        case 6:
            (root / "val").rename(root / "validation")
        case 7:
            path.write_bytes(path.read_bytes()[: int(rng.integers(200))])
        case 8:
            Image.fromarray(np.zeros((15, 16 - int(rng.integers(2))), np.uint8)).save(path)
        case 9:
            path.rename(path.with_name(path.name.replace("__", "__\udcff")))  # byte 0xff
        case 10:
            path.rename(path.with_name(path.name.replace("_mass1", "_lesion1")))
        case 11:
            path.rename(root / path.name)
        case 12:
            shutil.copy(path, path.with_name(path.name.replace("mass1", "mass2")))
        case 13:
            (root / ".DS_Store").touch()
            (root / "train" / "Thumbs.db").touch()
            (root / "notes.txt").touch()
        case 14:
            path.unlink()
            os.mkfifo(path)


CASES: dict[str, Callable[[np.random.Generator, Path], str]] = {
    "dicom": dicom_case,
    "picture": picture_case,
    "table": table_case,
    "folder": folder_case,
}
SHARE = {"dicom": 9, "picture": 6, "table": 4, "folder": 1}  # of 20


def run(cases: int, *, seed: int = 0, kinds: Sequence[str] = tuple(CASES)) -> Counts:
    """Reads damaged inputs; equal arguments give equal counts.

    Args:
        cases: Number of inputs.
        seed: Case ``i`` depends on it and on ``i`` only.
        kinds: Which of ``CASES``.
    """
    counts = Counts()
    turns = [kind for kind in kinds for _ in range(SHARE[kind])]
    for number in range(cases):
        kind = turns[number % len(turns)]
        rng = np.random.default_rng([seed, number])
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("error")  # readers let none through
            try:
                outcome = CASES[kind](rng, Path(folder))
            except Exception as error:
                outcome = f"TRACEBACK {type(error).__name__}"
                counts.bad.append(f"{kind} {number}: {traceback.format_exc()}")
        if outcome.startswith("SILENT"):
            counts.bad.append(f"{kind} {number}: {outcome}")
            outcome = "SILENT"
        counts.outcomes[kind, outcome] += 1
    return counts


def main() -> int:
    """Prints every count; fails if one must not be."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(CASES), default=list(CASES))
    given = parser.parse_args()
    begun = time.monotonic()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # what the decoders in C say of damaged streams
    counts = run(given.cases, seed=given.seed, kinds=given.kinds)
    for (kind, outcome), count in sorted(counts.outcomes.items()):
        print(f"{kind:8} {outcome:40} {count:6,}")
    for text in counts.bad[:20]:
        print(text)
    print(f"{given.cases:,} cases, {len(counts.bad)} bad, {time.monotonic() - begun:.0f} s")
    return 1 if counts.bad else 0


if __name__ == "__main__":
    sys.exit(main())
