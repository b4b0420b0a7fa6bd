# SPDX-License-Identifier: Apache-2.0
"""Folders of generated crops: ``[batch_<b>_]<i>_<class>.png``, as released with generators.

The label is the last word of the whole name, never a substring of it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import ArchiveError, LabelError, ManifestError

_NAME = re.compile(r"(?:batch_(?P<batch>\d+)_)?(?P<number>\d+)_(?P<label>benign|malignant)\.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticImage:
    """One file of a synthetic folder.

    Attributes:
        path: 8-bit grey PNG.
        key: Our own name of the record: batch, number and class.
        malignant: From the last word of the name.
    """

    path: Path
    key: str
    malignant: bool


def read_synthetic_folder(root: Path) -> tuple[SyntheticImage, ...]:
    """Lists a folder of generated crops, ordered by batch and number.

    Args:
        root: Folder that holds the PNG files themselves.

    Raises:
        ArchiveError: If the folder is missing or holds no PNG.
        LabelError: If any PNG's name does not match the rule as a whole.
        ManifestError: If two files name the same crop.
    """
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of the generated PNG files.")
    images: dict[tuple[int, int, str], SyntheticImage] = {}
    for path in sorted(root.glob("*.png")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise LabelError(
                f"{path}: no class can be read from this name. "
                "Allowed: [batch_<b>_]<i>_<class>.png with class benign or malignant."
            )
        batch, number = int(match["batch"] or 0), int(match["number"])
        place = (batch, number, match["label"])
        if place in images:
            raise ManifestError(
                f"{path}: names the same crop as {images[place].path.name}. Remove one."
            )
        images[place] = SyntheticImage(
            path=path,
            key=f"b{batch:04d}_{number:05d}_{match['label']}",
            malignant=match["label"] == "malignant",
        )
    if not images:
        raise ArchiveError(
            f"{root}: holds no PNG file. Give the folder of the generated PNG files."
        )
    return tuple(images[place] for place in sorted(images))
