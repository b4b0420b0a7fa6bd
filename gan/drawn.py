# SPDX-License-Identifier: Apache-2.0
"""A folder of generated crops while it is filled: which crops are whole, and with which settings.

``generate.json`` says what the folder is made with; it is written first and stays. ``drawn.csv``
gets a line of number, pixel hash and fingerprint once the image is whole; it goes when the
manifest, which holds the same, has come.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.crop_image import pixel_hash, save_crop_image
from data_prep.fingerprints import fingerprint
from data_prep.manifest import FILE_NAME as CROPS

SETTINGS, TABLE = "generate.json", "drawn.csv"
_LINE = re.compile(r"(\d+),([0-9a-f]{64}),((?:[0-9a-f]{64})?)")


class GenerationError(ValueError):
    """Crops cannot be generated as asked; the message names argument or folder, and the remedy."""


@dataclass(slots=True)
class DrawnCrops:
    """The crops of a folder that are whole.

    Attributes:
        folder: Of the manifest.
        marks: Pixel hash and fingerprint by number of the crop.
    """

    folder: Path
    marks: dict[int, tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path, settings: Mapping[str, Any]) -> "DrawnCrops":
        """Starts a folder, or finds what an earlier, interrupted call left in it.

        Each listed crop is read and compared with its hash: an image that was cut off, altered or
        removed is not among the result.

        Args:
            folder: New or empty, or begun with the same settings.
            settings: What the crops depend on, plain values.

        Raises:
            GenerationError: If the folder was made with other settings or by something else.
        """
        path = folder / SETTINGS
        if not path.exists():
            if (folder / CROPS).exists() or next(folder.glob("images/*"), None) is not None:
                raise GenerationError(
                    f"{folder}: holds crops, but no {SETTINGS}. Choose another folder; nothing is "
                    "overwritten."
                )
            folder.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".json.part")
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
            temporary.replace(path)
        _require_same(
            folder, json.loads(path.read_text(encoding="utf-8")), json.loads(json.dumps(settings))
        )
        drawn = cls(folder)
        drawn.marks.update(
            (number, marks)
            for number, marks in drawn._listed()
            if drawn._is_whole(number, marks[0])
        )
        lines = "".join(f"{number},{','.join(marks)}\n" for number, marks in drawn.marks.items())
        (folder / TABLE).write_text(lines, encoding="utf-8")  # without the line that a kill cut off
        return drawn

    def add(self, start: int, crops: NDArray[np.uint16]) -> None:
        """Writes consecutive crops, but for those that are whole already.

        Args:
            start: Number of the first.
            crops: Shape ``(B, size, size)``, values in ``[0, 65535]``.
        """
        with (self.folder / TABLE).open("a", encoding="utf-8") as table:
            for number, pixels in enumerate(crops, start):
                if number in self.marks:
                    continue
                sha256 = save_crop_image(self.folder / file_of(number), pixels)
                self.marks[number] = (sha256, fingerprint(pixels))
                table.write(f"{number},{','.join(self.marks[number])}\n")
                table.flush()

    def close(self) -> None:
        """Removes the table; to be called when the manifest is there."""
        (self.folder / TABLE).unlink()

    def _listed(self) -> Iterator[tuple[int, tuple[str, str]]]:
        path = self.folder / TABLE
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            if match := _LINE.fullmatch(line):
                yield int(match[1]), (match[2], match[3])

    def _is_whole(self, number: int, sha256: str) -> bool:
        try:
            with Image.open(self.folder / file_of(number)) as image:
                pixels = np.array(image)
        except (OSError, SyntaxError):  # missing, or Pillow's two words for a file that was cut off
            return False
        return pixels.ndim == 2 and pixel_hash(pixels.astype(np.uint16)) == sha256


def file_of(number: int) -> str:
    """Path of a crop below the manifest's folder; odd numbers are malignant.

    >>> file_of(3)
    'images/000003_malignant.png'
    """
    return f"images/{number:06d}_{'malignant' if number % 2 else 'benign'}.png"


def _require_same(folder: Path, made: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuses to mix crops of two requests.

    Raises:
        GenerationError: Naming each setting that differs.
    """
    differ = [name for name in {**made, **asked} if made.get(name) != asked.get(name)]
    if differ:
        shown = "; ".join(f"{name}: {made.get(name)!r}, now {asked.get(name)!r}" for name in differ)
        raise GenerationError(
            f"{folder}: holds crops made with other settings ({shown}). Choose another folder; "
            "nothing is overwritten."
        )
