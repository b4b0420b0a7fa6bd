# SPDX-License-Identifier: Apache-2.0
"""The crops manifest: ``crops.csv`` beside its images, the table every stage reads and writes."""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.crop_image import pixel_hash, plane_of, read_volume
from data_prep.errors import LabelError, LeakageError, ManifestError
from data_prep.fingerprints import distance, fingerprint
from data_prep.identity import patient_identity, require_told_apart
from data_prep.recorded import read_recorded

N = TypeVar("N", int, float)

Split = Literal["train", "val", "test"]
Unit = Literal["patient", "crop"]
View = Literal["CC", "MLO", "other"]
Laterality = Literal["L", "R"]
LabelSource = Literal["pathology", "birads", "image", "generator", "phantom", "classifier", "means"]
CropRule = Literal["centred", "reference-2024", "as-is"]

ATTRIBUTES = ("density", "shape", "margin", "subtlety")
COLUMNS = (
    "file",
    "patient_id",
    "lesion_id",
    "image_id",
    "view",
    "laterality",
    "malignant",
    "split",
    "origin",
    "label_source",
    "crop_rule",
    "pixel_spacing_mm",
    *ATTRIBUTES,
    "sha256",
    "fingerprint",
)
IN_DEPTH = ("depth", "slice_spacing_mm")  # columns of a table of volumes, after the others
_OWN = (frozenset(COLUMNS) | frozenset(IN_DEPTH)) - frozenset(ATTRIBUTES)
FILE_NAME = "crops.csv"
DEEPEST = 512  # slices; whole breasts have about 100
_ATTRIBUTE = re.compile("[a-z][a-z0-9_]*")
_SHA256 = re.compile("[0-9a-f]{64}")
# Blanks and hyphens of all kinds: spelling makes no other data set.
_ORIGIN = re.compile(r"(gan|evolved):[0-9a-f]+|(synthetic:)?[\w. \-\u2010-\u2015\u2212\uff0d]+")
_ALLOWED: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ("split", get_args(Split)),
    ("label_source", get_args(LabelSource)),
    ("crop_rule", get_args(CropRule)),
    ("view", (*get_args(View), None)),
    ("laterality", (*get_args(Laterality), None)),
)
_ROUNDING = 4  # bits in which libraries of other versions may see a crop differently


@cache
def _may_describe(name: str) -> bool:
    return name not in _OWN and _ATTRIBUTE.fullmatch(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """One row of ``crops.csv``: a square cut-out around one lesion in one image.

    Attributes:
        file: 16-bit grey PNG, or TIFF with a page for each slice of a volume, POSIX path relative
            to ``crops.csv``.
        patient_id: As the data set writes it; empty if and only if the crop is synthetic. Whether
            two crops are of one patient, :attr:`patient` says.
        lesion_id: Lesion within the patient; a lesion may appear in several images.
        image_id: Source image; with ``origin`` and ``lesion_id`` it identifies the crop.
        malignant: Malignant is 1 in every file and tensor, benign is 0.
        split: Part of the data set; a patient belongs to one.
        origin: ``"cbis-ddsm"``, ``"phantom"``, ``"phantom-archive"``,
            ``"gan:<sha256 of checkpoint>"``, ``"evolved:<sha256 of last round>"`` or
            ``"synthetic:<name>"``.
        label_source: Where the label comes from.
        crop_rule: How the crop was cut; one manifest holds one rule.
        pixel_spacing_mm: Millimetres per pixel of the crop, > 0, if known.
        sha256: Hash of shape and pixels, see :func:`pixel_hash`.
        fingerprint: By which the crop is recognised after it was saved in another way, see
            :mod:`data_prep.fingerprints`; empty if unknown.
        depth: Slices of a volume, as tomosynthesis has it, > 1; none for a crop in the plane.
        slice_spacing_mm: Millimetres from slice to slice, > 0, if known; none in the plane.
        attributes: BI-RADS descriptors, called as in ``ATTRIBUTES``, and what else was asked to be
            kept of a table, in further columns; absent means unknown.
    """

    file: str
    patient_id: str
    lesion_id: str
    image_id: str
    malignant: bool
    split: Split
    origin: str
    label_source: LabelSource
    crop_rule: CropRule
    sha256: str
    fingerprint: str = ""
    view: View | None = None
    laterality: Laterality | None = None
    pixel_spacing_mm: float | None = None
    depth: int | None = None
    slice_spacing_mm: float | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        """Refuses values outside the stated sets.

        Messages do not show them: in a table whose cells have moved, any may be a patient's name.

        Raises:
            ManifestError: For a value that no reader of the table would understand.
        """
        for name, allowed in _ALLOWED:
            if getattr(self, name) not in allowed:
                shown = ", ".join(repr(item or "") for item in allowed)
                raise ManifestError(f"{name} is another value than those allowed: {shown}.")
        if not self.file or self.file.startswith("/") or ".." in self.file.split("/"):
            raise ManifestError("file is no path below the manifest's folder. Give one.")
        if not self.origin:
            raise ManifestError("origin is empty. Name the data set the crop comes from.")
        if not _ORIGIN.fullmatch(self.origin):
            raise ManifestError(
                "origin is no name of a data set. Give letters, digits, blanks, '-', '_' and '.', "
                "with 'synthetic:' in front for generated crops; or 'gan:' or 'evolved:' and the "
                "hexadecimal digits of a SHA-256."
            )
        if self.is_synthetic == bool(self.patient_id):
            raise ManifestError(
                f"patient_id is {'set' if self.patient_id else 'empty'}, and origin says that the "
                f"crop is {'synthetic' if self.is_synthetic else 'of a patient'}. Synthetic crops "
                "have no patient; all others need one."
            )
        patient_identity(self.origin, self.patient_id)
        if not _SHA256.fullmatch(self.sha256):
            raise ManifestError("sha256 has not 64 hexadecimal digits. Prepare the data again.")
        if self.fingerprint and not _SHA256.fullmatch(self.fingerprint):
            raise ManifestError(
                "fingerprint has not 64 hexadecimal digits. Prepare again, or empty the cell."
            )
        if self.pixel_spacing_mm is not None and not 0 < self.pixel_spacing_mm < 100:
            raise ManifestError(
                "pixel_spacing_mm is not between 0 and 100. Give millimetres per pixel, above 0."
            )
        if self.depth is not None and not 1 < self.depth <= DEEPEST:
            raise ManifestError(
                f"depth is out of range. Give 2 to {DEEPEST} slices, or nothing in the plane."
            )
        mm = self.slice_spacing_mm
        if mm is not None and (self.depth is None or not 0 < mm < 100):
            raise ManifestError(
                f"slice_spacing_mm is set {'in the plane' if self.depth is None else 'wrongly'}. "
                "Give millimetres above 0 for volumes, and nothing in the plane."
            )
        if wrong := sum(not _may_describe(name) for name in self.attributes):
            raise ManifestError(
                f"names of attributes: {wrong} cannot be used. Give names of lower case letters, "
                "digits and '_' that are no column of the table."
            )

    @property
    def is_synthetic(self) -> bool:
        """Whether no patient stands behind the crop."""
        made = ("gan:", "evolved:", "synthetic:")
        return self.origin == "phantom" or self.origin.startswith(made)

    @property
    def patient(self) -> str:
        """Unit of splitting and privacy, whatever the spelling; empty for synthetic crops.

        See :func:`data_prep.identity.patient_identity`.
        """
        return patient_identity(self.origin, self.patient_id)

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the crop within its manifest."""
        return (self.origin, self.image_id, self.lesion_id)


@dataclass(frozen=True, slots=True)
class CropsManifest:
    """A validated ``crops.csv`` and the folder it stands in.

    Attributes:
        folder: Folder of ``crops.csv``.
        crops: Rows in file order; the position is the ``row`` of every score.
        sha256: Hash of the bytes of ``crops.csv``; through the column ``sha256`` it covers pixels.
    """

    folder: Path
    crops: tuple[Crop, ...]
    sha256: str

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Reads and validates a manifest row by row.

        Args:
            folder: Folder that holds ``crops.csv``, or the file itself.

        Raises:
            ManifestError: Naming the file and the row that is wrong.
            LeakageError: If a patient stands in two splits.
        """
        path = Path(folder)
        if path.suffix == ".csv" and path.name != FILE_NAME:
            raise ManifestError(
                f"{path}: the table of a folder of crops is called {FILE_NAME}. Call it so, in a "
                "folder of its own."
            )
        path = path if path.name == FILE_NAME else path / FILE_NAME
        try:
            raw = read_recorded(path)
        except OSError as error:
            raise ManifestError(
                f"{path}: cannot be read ({error.strerror}). Run `mammo-dp prepare` first, or "
                f"give the folder that holds {FILE_NAME}."
            ) from error
        return cls(path.parent, _parse(raw, path), hashlib.sha256(raw).hexdigest())

    @classmethod
    def write(cls, folder: str | Path, crops: Iterable[Crop]) -> Self:
        """Writes ``crops.csv`` in one move, after its images, so that it is whole or absent.

        Raises:
            ManifestError: If the rows do not form a valid manifest.
            LeakageError: If a patient stands in two splits.
        """
        path = Path(folder) / FILE_NAME
        crops = list(crops)
        further = {name for crop in crops for name in crop.attributes} - set(ATTRIBUTES)
        in_depth = IN_DEPTH if any(crop.depth for crop in crops) else ()
        columns = (*COLUMNS, *in_depth, *sorted(further))
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        own = [name for name in columns if name in _OWN and name != "malignant"]
        for crop in crops:
            row = {name: getattr(crop, name) for name in own}
            row |= {"malignant": int(crop.malignant), **crop.attributes}
            writer.writerow(map(row.get, columns))  # None is written as an empty cell
        raw = buffer.getvalue().encode()
        parsed = _parse(raw, path)
        temporary = path.with_suffix(".csv.part")
        temporary.write_bytes(raw)
        temporary.replace(path)
        return cls(path.parent, parsed, hashlib.sha256(raw).hexdigest())

    def rows(self, split: Split | None = None) -> list[int]:
        """Positions of the crops of one split, or of all."""
        return [i for i, crop in enumerate(self.crops) if split in (None, crop.split)]

    def require_classes(self, split: Split) -> list[int]:
        """Like :meth:`rows`, for stages that need both classes.

        Raises:
            LabelError: If the split is empty or has one class only.
        """
        rows = self.rows(split)
        classes = {self.crops[row].malignant for row in rows}
        if len(classes) < 2:
            found = "no crop" if not rows else f"only malignant={int(classes.pop())}"
            raise LabelError(
                f"{self.folder / FILE_NAME}: split {split!r} holds {found}. "
                "Both classes are needed; choose another split or prepare the data again."
            )
        return rows

    def units(self, rows: Sequence[int], unit: Unit) -> tuple[tuple[int, ...], ...]:
        """Groups rows by privacy unit.

        Args:
            rows: Positions of crops.
            unit: ``"patient"`` groups all crops of a patient, ``"crop"`` takes each alone.

        Returns:
            One tuple of rows per unit, in order of first appearance.
        """
        groups: dict[str | int, list[int]] = {}
        for row in rows:
            patient = self.crops[row].patient
            groups.setdefault(patient if unit == "patient" and patient else row, []).append(row)
        return tuple(tuple(group) for group in groups.values())

    @property
    def depth(self) -> int | None:
        """Slices of each volume; none for crops in the plane. A table holds one kind."""
        return self.crops[0].depth

    def pixels(self, row: int) -> NDArray[np.uint16]:
        """Loads one crop or volume.

        Returns:
            Shape ``(size, size)``, or ``(depth, size, size)``, values in ``[0, 65535]``.

        Raises:
            ManifestError: If the file is missing, truncated, not 16-bit grey, or not the one
                that was hashed.
        """
        crop = self.crops[row]
        path = self.folder / crop.file
        where = f"{path} ({FILE_NAME}, row {row + 2})"
        try:
            pixels = _plane(path) if crop.depth is None else read_volume(path, depth=crop.depth)
        except (OSError, SyntaxError, ValueError) as error:
            raise ManifestError(f"{where}: cannot be read ({error}). Prepare it again.") from error
        if pixels.shape[-1] != pixels.shape[-2] or pixels.dtype.kind not in "iu":
            raise ManifestError(
                f"{where}: shape {pixels.shape}, {pixels.dtype}. Crops are square 16-bit grey "
                "images."
            )
        pixels = pixels.astype(np.uint16)
        if pixel_hash(pixels) != crop.sha256:
            raise ManifestError(
                f"{where}: pixels differ from the recorded hash. Restore the file or prepare again."
            )
        if crop.fingerprint and distance(crop.fingerprint, fingerprint(pixels)) > _ROUNDING:
            raise ManifestError(
                f"{where}: the recorded fingerprint is that of another crop. Prepare again, or "
                "empty the cell."
            )
        return pixels

    def image(self, row: int) -> NDArray[np.uint16]:
        """Loads one crop in the plane.

        Returns:
            Shape ``(size, size)``, values in ``[0, 65535]``.

        Raises:
            ManifestError: As :meth:`pixels`, and for a table of volumes.
        """
        self.require_depth(None)
        return self.pixels(row)

    def images(self, rows: Sequence[int]) -> NDArray[np.uint16]:
        """Loads crops in the plane, of one size.

        Returns:
            Shape ``(len(rows), size, size)``, values in ``[0, 65535]``.

        Raises:
            ManifestError: As :meth:`image`, and for unequal sizes.
        """
        self.require_depth(None)
        return self.stacked(rows)

    def planes(self, rows: Sequence[int]) -> NDArray[np.uint16]:
        """Loads crops in the plane, or the middle slices of volumes, of one size.

        Returns:
            Shape ``(len(rows), size, size)``, values in ``[0, 65535]``.

        Raises:
            ManifestError: As :meth:`pixels`, and for unequal sizes.
        """
        return self._stack([plane_of(self.pixels(row)) for row in rows], ())

    def stacked(self, rows: Sequence[int]) -> NDArray[np.uint16]:
        """Loads crops, or volumes, of one size.

        Returns:
            Shape ``(len(rows), size, size)``, or ``(len(rows), depth, size, size)``, values in
            ``[0, 65535]``.

        Raises:
            ManifestError: As :meth:`pixels`, and for unequal sizes.
        """
        depth = () if self.depth is None else (self.depth,)
        return self._stack([self.pixels(row) for row in rows], depth)

    def _stack(
        self, loaded: Sequence[NDArray[np.uint16]], depth: tuple[int, ...]
    ) -> NDArray[np.uint16]:
        """Puts crops of one size together.

        Raises:
            ManifestError: For unequal sizes.
        """
        if len({image.shape for image in loaded}) > 1:
            sizes = sorted({image.shape[-1] for image in loaded})
            raise ManifestError(f"{self.folder}: crops of sizes {sizes}. Prepare them at one size.")
        return np.stack(loaded) if loaded else np.empty((0, *depth, 0, 0), np.uint16)

    def require_depth(self, depth: int | None) -> None:
        """Refuses volumes where crops in the plane are needed, and the other way round.

        Args:
            depth: Slices that volumes must have; none for crops in the plane.

        Raises:
            ManifestError: Naming the table.
        """
        if self.depth == depth:
            return
        path, found = self.folder / FILE_NAME, self.depth
        if depth is None:
            raise ManifestError(
                f"{path}: holds volumes of {found} slices, where crops in the plane are needed. "
                f"Give a folder of crops; a model of volumes takes data.init_args.depth {found}."
            )
        held = "crops in the plane" if found is None else f"volumes of {found} slices"
        raise ManifestError(
            f"{path}: holds {held}, where volumes of {depth} slices are needed. Prepare volumes "
            f"with --depth {depth}, or set data.init_args.depth to what the model and the folder "
            "have."
        )


def _plane(path: Path) -> NDArray[np.generic]:
    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) != 1:
            raise ValueError("a volume, but the table says no depth")
        return np.array(image)


def _parse(raw: bytes, path: Path) -> tuple[Crop, ...]:
    """Rows of a manifest, checked one by one and then together."""
    try:
        reader = csv.reader(io.StringIO(raw.decode()), strict=True)
        names = next(reader, [])
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: is not UTF-8 text. Prepare the data again.") from error
    except csv.Error as error:
        raise ManifestError(f"{path}, row 1: {error}. Prepare the data again.") from error
    needed = [name for name in COLUMNS if name != "fingerprint"]  # older tables lack it
    if missing := [name for name in needed if name not in names]:
        raise ManifestError(f"{path}: columns {missing} are missing. Prepare the data again.")
    described = [name for name in names if name not in _OWN]
    crops = []
    for number, cells in enumerate(_rows(reader, path), start=2):
        try:
            if len(cells) != len(names):
                raise ManifestError("has more or fewer cells than the header. Write the row again.")
            crops.append(_crop(dict(zip(names, cells, strict=True)), described))
        except ValueError as error:
            raise ManifestError(f"{path}, row {number}: {error}") from error
    if not crops:
        raise ManifestError(f"{path}: holds no crop. Check the source of `mammo-dp prepare`.")
    _check_together(crops, path)
    return tuple(crops)


def _rows(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    """Rows one by one; names the row in which a stray quotation mark opens a cell."""
    number = 1
    while True:
        number += 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ManifestError(
                f"{path}, row {number}: is not written as CSV ({error}). Prepare the data again."
            ) from error
        if row is None:
            return
        if row:  # no empty line
            yield row


def _crop(row: Mapping[str, str], described: Sequence[str]) -> Crop:
    if row["malignant"] not in ("0", "1"):
        raise ManifestError(
            "malignant is another value than those allowed: 0 (benign), 1 (malignant)."
        )
    return Crop(
        file=row["file"],
        patient_id=row["patient_id"],
        lesion_id=row["lesion_id"],
        image_id=row["image_id"],
        view=row["view"] or None,  # type: ignore[arg-type]  # checked by Crop
        laterality=row["laterality"] or None,  # type: ignore[arg-type]  # checked by Crop
        malignant=row["malignant"] == "1",
        split=row["split"],  # type: ignore[arg-type]  # checked by Crop
        origin=row["origin"],
        label_source=row["label_source"],  # type: ignore[arg-type]  # checked by Crop
        crop_rule=row["crop_rule"],  # type: ignore[arg-type]  # checked by Crop
        pixel_spacing_mm=_number(row, "pixel_spacing_mm", float),
        sha256=row["sha256"],
        fingerprint=row.get("fingerprint", ""),
        depth=_number(row, "depth", int),
        slice_spacing_mm=_number(row, "slice_spacing_mm", float),
        attributes={name: row[name] for name in described if row[name]},
    )


def _number(row: Mapping[str, str], name: str, kind: type[N]) -> N | None:
    """A number; none for an empty cell, or without the column."""
    if not (cell := row.get(name)):
        return None
    try:
        return kind(cell)
    except ValueError:  # whose own message shows the cell
        raise ManifestError(f"{name} is no number. Correct it, or empty the cell.") from None


def _check_together(crops: Sequence[Crop], path: Path) -> None:
    seen: dict[tuple[str, object], int] = {}
    splits: dict[str, tuple[str, int]] = {}
    for number, crop in enumerate(crops, start=2):
        for name, value in (("crop id", crop.key), ("file", crop.file)):
            if (first := seen.setdefault((name, value), number)) != number:
                raise ManifestError(
                    f"{path}, row {number}: duplicate {name}, first in row {first}. Remove one."
                )
        if crop.patient:
            split, first = splits.setdefault(crop.patient, (crop.split, number))
            if split != crop.split:
                raise LeakageError(
                    f"{path}, rows {first} and {number}: one patient in splits {split!r} and "
                    f"{crop.split!r}. Keep all crops of a patient in one split."
                )
    require_told_apart(
        (crop.origin, crop.patient_id, f"{path}, row {number}")
        for number, crop in enumerate(crops, start=2)
    )
    if len(depths := {crop.depth for crop in crops}) > 1:
        shown = ", ".join(sorted(str(depth or "none") for depth in depths))
        raise ManifestError(
            f"{path}: depths {shown} are mixed. Keep crops in the plane and volumes of each depth "
            "in folders of their own."
        )
    if len(rules := {crop.crop_rule for crop in crops}) > 1:
        raise ManifestError(f"{path}: crop rules {sorted(rules)} are mixed. Keep one per manifest.")
