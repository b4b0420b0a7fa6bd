# SPDX-License-Identifier: Apache-2.0
"""A folder of crops while it is filled: images, rejected records, and last the manifest."""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from data_prep.crop_image import read_volume, save_crop_image
from data_prep.duplicates import AcrossPatients, deduplicate, thumbnail
from data_prep.errors import ArchiveError, PictureRejected, RecordRejected
from data_prep.files import Balance
from data_prep.fingerprints import fingerprint
from data_prep.identity import normalised
from data_prep.images import Kind, read_picture
from data_prep.manifest import Crop, CropsManifest, Split

T = TypeVar("T")

REJECTED_FILE = "rejected.csv"
CROP_KINDS: tuple[Kind, ...] = ("PNG",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a folder will hold, known before its table is written.

    Attributes:
        folder: The folder; the images of all crops are there.
        crops: Rows of the table.
        rejected: Record, reason and sentence, as in ``rejected.csv``.
        balance: What became of everything that was found.
        merged_patients: Patients that went into another one because they share an image.
    """

    folder: Path
    crops: tuple[Crop, ...]
    rejected: tuple[tuple[str, str, str], ...]
    balance: Balance
    merged_patients: int


def clear_majority(values: Sequence[T], patients: Sequence[str]) -> T | None:
    """The value that most have, if no patient can have made it so.

    It leads the next one by more than twice what any patient has. Two sets that differ in one of
    several patients, whatever that one brings, then have the same answer, or one of them has none:
    else one patient more could take out what belongs to others.

    >>> clear_majority([16, 16, 16, 16, 8], ["a", "b", "c", "d", "e"])
    16
    >>> clear_majority([16, 16, 16, 8], ["a", "b", "c", "d"]) is None
    True

    Args:
        values: One for each crop.
        patients: Whose each is, in normal form; empty for crops of nobody.

    Returns:
        None if nothing leads by so much, or there is nothing.
    """
    counts = Counter(values).most_common(2)
    if len(counts) < 2:
        return counts[0][0] if counts else None
    (first, most), (_, second) = counts
    largest = max(Counter(filter(None, patients)).values(), default=0)
    return first if most - second > 2 * largest else None


@dataclass
class CropSet:
    """Collects crops and rejections, then writes the tables.

    Attributes:
        folder: Folder to fill.
        strict: Whether the first rejection stops.
        across_patients: What happens if different patients share a crop.
        size: Edge that crops must have, in pixels; none takes that of a clear majority.
        found: Number of files or rows that the import started from, ``skipped`` included; none for
            a count of what was added and rejected.
        skipped: What was left out before it was opened, by reason.
    """

    folder: Path
    strict: bool
    across_patients: AcrossPatients = "refuse"
    size: int | None = None
    found: int | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    crops: list[Crop] = field(default_factory=list)
    rejected: list[tuple[str, str, str]] = field(default_factory=list)
    edges: list[int] = field(default_factory=list)

    def add(self, pixels: NDArray[np.uint16], *, file: str, **values: object) -> None:
        """Writes the image and remembers the row; ``values`` are fields of :class:`Crop`."""
        try:
            digest = save_crop_image(self.folder / file, pixels)
        except OSError as error:  # a full disk does not say which file it hit
            raise OSError(error.errno, error.strerror, str(self.folder / file)) from error
        known = {"sha256": digest, "fingerprint": fingerprint(pixels)}
        self.add_written(Crop(file=file, **known, **values), pixels.shape[0])  # type: ignore[arg-type]

    def add_written(self, crop: Crop, edge: int) -> None:
        """Remembers a row whose image is there already.

        Args:
            crop: The row.
            edge: Edge of the image, in pixels.
        """
        self.crops.append(crop)
        self.edges.append(edge)

    def reject(self, key: str, error: RecordRejected) -> None:
        """Remembers a record that becomes no crop, or stops."""
        if self.strict:
            raise error
        self.rejected.append((key, error.reason, str(error)))

    def finish(self, card: Callable[[Outcome], None] | None = None) -> CropsManifest:
        """Removes copies, writes ``rejected.csv`` and, last, ``crops.csv``; prints counts.

        Args:
            card: Writes a page about the outcome, also where no crop is left.

        Raises:
            ArchiveError: If no crop is left, or no size has a clear majority.
            DuplicateConflict: If different patients share a crop and are not to be merged.
            LeakageError: If copies stand in different splits.
        """
        removed = self._reject_odd_sizes()
        cleared = deduplicate(self.crops, self._thumbnail, across_patients=self.across_patients)
        for file, error in cleared.rejected:
            self.reject(Path(file).stem, error)
            removed.append(file)
        reasons = Counter(reason for _, reason, _ in self.rejected)
        self._write_rejected()
        listed = len(cleared.crops) + len(self.rejected) + sum(self.skipped.values())
        balance = Balance(
            found=listed if self.found is None else self.found,
            read=len(cleared.crops),
            rejected=reasons,
            skipped=self.skipped,
        )
        if card is not None:
            card(
                Outcome(
                    folder=self.folder,
                    crops=cleared.crops,
                    rejected=tuple(self.rejected),
                    balance=balance,
                    merged_patients=cleared.merged_patients,
                )
            )
        if not cleared.crops:
            raise ArchiveError(
                f"{self.folder}: no record became a crop ({_listed(reasons)}). "
                f"See {REJECTED_FILE} there for each."
            )
        manifest = CropsManifest.write(self.folder, cleared.crops)
        for file in removed:  # only now: until the table stands, all may be asked again
            (self.folder / file).unlink(missing_ok=True)
        print_counts(manifest, reasons, merged=cleared.merged_patients)
        self._print_examples()
        print(balance)
        return manifest

    def _thumbnail(self, position: int) -> NDArray[np.float32]:
        crop = self.crops[position]
        path = self.folder / crop.file
        if crop.depth is not None:
            return thumbnail(read_volume(path, depth=crop.depth))
        return thumbnail(read_grey(path, crop.file, deep=True))

    def _reject_odd_sizes(self) -> list[str]:
        """Keeps the crops of the size asked for, or that most have; returns the other files."""
        removed = []
        patients = [normalised(crop.patient_id) for crop in self.crops]
        wanted = self.size or clear_majority(self.edges, patients)
        if wanted is None and self.edges:
            sizes = " and ".join(map(str, sorted(set(self.edges))))
            raise ArchiveError(
                f"{self.folder}: crops have {sizes} px. Give --size to say which are meant: none "
                "leads by so much that no patient decides. The others are rejected."
            )
        for position in reversed(range(len(self.crops))):
            if (edge := self.edges[position]) != wanted:
                file = self.crops[position].file
                self.reject(
                    Path(file).stem,
                    RecordRejected(
                        "odd_size",
                        f"{file}: {edge} px, where {wanted} px are expected. Cut it again at that "
                        "size, or give --size.",
                    ),
                )
                removed.append(file)
                del self.crops[position], self.edges[position]
        return removed

    def _print_examples(self) -> None:
        """Prints the first sentence of each reason: it holds the remedy."""
        first = {reason: message for _, reason, message in reversed(self.rejected)}
        for reason in sorted(first):
            print(f"  {reason}, first of {REJECTED_FILE}: {first[reason]}")

    def _write_rejected(self) -> None:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("record", "reason", "message"))
        writer.writerows(self.rejected)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / REJECTED_FILE).write_text(buffer.getvalue(), encoding="utf-8")


def read_grey(path: Path, where: str, *, deep: bool = False) -> NDArray[np.uint16]:
    """Reads a square grey PNG of 8 bits, of which 255 becomes 65535, exactly.

    Args:
        path: The file.
        where: Start of every message.
        deep: Whether 16 bits are read too, as they are.

    Raises:
        PictureRejected: ``not_grey``, ``not_square``, or as :func:`read_picture`.
    """
    picture = read_picture(path, where=where, kinds=CROP_KINDS)
    mode, pixels = picture.mode, picture.pixels
    if mode != "L" and not (deep and mode == "I;16"):
        bits = "8- or 16-bit" if deep else "8-bit"
        raise PictureRejected("not_grey", f"{where}: mode {mode}. Crops are {bits} grey PNG.")
    if pixels.shape[0] != pixels.shape[1]:
        raise PictureRejected("not_square", f"{where}: shape {pixels.shape}. Crops are square.")
    return pixels.astype(np.uint16) * np.uint16(257 if mode == "L" else 1)


def shrunk(pixels: NDArray[np.uint16], factor: int, where: str) -> NDArray[np.uint16]:
    """Means of blocks of pixels, rounded.

    Args:
        pixels: Shape ``(size, size)``.
        factor: Edge of a block, in pixels, >= 1.
        where: Start of every message.

    Returns:
        Shape ``(size // factor, size // factor)``.

    Raises:
        RecordRejected: ``odd_size``, if blocks do not fill the crop.
    """
    size, rest = divmod(len(pixels), factor)
    if rest:
        raise RecordRejected(
            "odd_size",
            f"{where}: {len(pixels)} pixels along an edge cannot be shrunk {factor} times. Give "
            "--shrink a divisor, with a new folder.",
        )
    blocks = pixels.reshape(size, factor, size, factor)
    means: NDArray[np.uint16] = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint16)
    return means


def print_counts(manifest: CropsManifest, reasons: Counter[str], *, merged: int) -> None:
    """Prints crops, malignant ones and patients per split, and rejections by reason.

    Args:
        manifest: What was written.
        reasons: Number of rejected records by reason.
        merged: Patients that went into another one because they share an image.
    """
    for split in get_args(Split):
        crops = [manifest.crops[row] for row in manifest.rows(split)]
        if not crops:
            continue
        malignant = sum(crop.malignant for crop in crops)
        patients = len({crop.patient for crop in crops if crop.patient})
        one_class = "; one class only, no use for training" if malignant in (0, len(crops)) else ""
        print(
            f"{split}: {len(crops):,} crops ({malignant:,} malignant) of "
            f"{f'{patients:,} patients' if patients else 'no patient'}{one_class}"
        )
    print(f"rejected: {_listed(reasons)}")
    if merged:
        print(f"patients merged, because they share an image: {merged}")


def _listed(reasons: Counter[str]) -> str:
    if not reasons:
        return "none"
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
