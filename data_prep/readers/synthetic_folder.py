# SPDX-License-Identifier: Apache-2.0
"""Folders of generated crops: ``[batch_<b>_]<i>_<word>.png``, as released with generators.

The label is the whole rest of the name after the number, never a substring of it. Which word means
which class is said by whoever imports: medigan 00008 counts malignant as 0, we count it as 1.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_prep.errors import ArchiveError, LabelError, ManifestError
from data_prep.files import FoundFiles, find_files, without_names

_NAME = re.compile(r"(?:batch_(?P<batch>\d+)_)?(?P<number>\d+)_(?P<word>.+)\.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRule:
    """Which word in a file's name means which class.

    Attributes:
        malignant: Word of malignant crops, such as ``"malignant"``.
        benign: Word of benign crops.
    """

    malignant: str = "malignant"
    benign: str = "benign"

    def __post_init__(self) -> None:
        """Refuses words that tell nothing apart.

        Raises:
            LabelError: If a word is empty, or both are one.
        """
        if not self.malignant or not self.benign or self.malignant == self.benign:
            raise LabelError(
                f"malignant_word={self.malignant!r}, benign_word={self.benign!r}. "
                "Give two different words."
            )

    def malignant_of(self, word: str) -> bool | None:
        """Class of a word, none if it is neither.

        >>> rule = LabelRule(malignant="0", benign="1")
        >>> rule.malignant_of("0"), rule.malignant_of("1"), rule.malignant_of("malignant")
        (True, False, None)
        """
        meanings: Mapping[str, bool] = {self.malignant: True, self.benign: False}
        return meanings.get(word)


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticImage:
    """One file of a synthetic folder.

    Attributes:
        path: 8-bit grey PNG.
        key: Our own name of the record: batch, number and class.
        malignant: What the rule says about the word in the name.
    """

    path: Path
    key: str
    malignant: bool


@dataclass(frozen=True, slots=True)
class SyntheticFolder:
    """What a folder of generated crops holds.

    Attributes:
        images: In the order of batch and number.
        files: The same files as they lie there, and the number of those skipped.
    """

    images: tuple[SyntheticImage, ...]
    files: FoundFiles


def read_synthetic_folder(root: Path, rule: LabelRule | None = None) -> SyntheticFolder:
    """Lists a folder of generated crops, ordered by batch and number.

    Args:
        root: Folder that holds the PNG files themselves.
        rule: Words of the two classes; ``malignant`` and ``benign`` if none is given.

    Raises:
        ArchiveError: If the folder is missing, holds no PNG, or holds some in a folder below.
        LabelError: If any PNG's name does not match the rule as a whole.
        ManifestError: If two files name the same crop.
    """
    rule = rule or LabelRule()
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of the generated PNG files.")
    images: dict[tuple[int, int, bool], SyntheticImage] = {}
    files = find_files(root, suffixes={".png"})
    for path in files.paths:
        if path.parent != root:
            raise ArchiveError(
                f"{without_names(path.parent, root)}: holds PNG files too. Give the folder that "
                "holds all of them, or import each folder by itself."
            )
        batch, number, malignant = place = _place(path, rule, root)
        if place in images:
            raise ManifestError(
                f"{without_names(path, root)}: names the same crop as "
                f"{without_names(images[place].path, root)}. Remove one."
            )
        key = f"b{batch:04d}_{number:05d}_{'malignant' if malignant else 'benign'}"
        images[place] = SyntheticImage(path=path, key=key, malignant=malignant)
    if not images:
        raise ArchiveError(
            f"{root}: holds no PNG file. Give the folder of the generated PNG files."
        )
    return SyntheticFolder(tuple(images[place] for place in sorted(images)), files)


def _place(path: Path, rule: LabelRule, root: Path) -> tuple[int, int, bool]:
    """Batch, number and class of a file.

    Raises:
        LabelError: Saying which file it is and what is allowed.
    """
    allowed = f"[batch_<b>_]<i>_<word>.png with word {rule.benign!r} or {rule.malignant!r}"
    match = _NAME.fullmatch(path.stem + path.suffix.lower())
    if match is None:
        raise LabelError(
            f"{without_names(path, root)}: no class can be read from its name. Allowed: {allowed}."
        )
    malignant = rule.malignant_of(match["word"])
    if malignant is None:
        raise LabelError(
            f"{without_names(path, root)}: the word in its name has no class. Allowed: {allowed}. "
            "If its author says what it means, give --malignant_word and --benign_word."
        )
    return int(match["batch"] or 0), int(match["number"]), malignant
