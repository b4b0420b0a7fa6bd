# SPDX-License-Identifier: Apache-2.0
"""Published crop folders: ``{dataset}/{train,val,test}/is_benign_{true,false}/*.png``.

The rule is explicit: the label is ``1 - is_benign``; folder, prefix and suffix must agree.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from data_prep.errors import ArchiveError, LabelError, ManifestError
from data_prep.files import REPEATED, FoundFiles, find_files, is_helper, without_names
from data_prep.identity import require_told_apart
from data_prep.manifest import Split
from data_prep.splits import check_patients

_NAME = re.compile(
    r"patient(?P<dataset>.+?)__(?P<patient>.+)_image(?P<image>[^_]+)_mass(?P<mass>[^_]+)"
    r"_is_benign_(?P<benign>[01])\.png"
)
_FOLDERS = {"is_benign_true": "1", "is_benign_false": "0"}
_LAYOUT = (*get_args(Split), *_FOLDERS)  # names that messages show: all others may be patients'
_PATTERN = "patient{dataset}__{patient}_image{image}_mass{lesion}_is_benign_{0,1}.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCrop:
    """One file of a crop folder.

    Attributes:
        path: 8-bit grey PNG.
        key: Our own name of the record: part and position.
        dataset: Name of the data set, also the prefix of the file name.
        malignant: ``1 - is_benign``.
    """

    path: Path
    key: str
    dataset: str
    patient_id: str
    image_id: str
    lesion_id: str
    malignant: bool
    split: Split


@dataclass(frozen=True, slots=True)
class CropFolder:
    """What a published crop folder holds.

    Attributes:
        crops: In the order of part, patient, image and lesion.
        files: The same files as they lie there, and the number of those skipped.
    """

    crops: tuple[PublishedCrop, ...]
    files: FoundFiles


def read_crop_folder(root: Path) -> CropFolder:
    """Lists a published crop folder, in an order that does not depend on the machine.

    Args:
        root: Folder that holds ``train``, ``val`` or ``test``, or its parent.

    Raises:
        ArchiveError: If the folders are missing or empty, or several data sets stand side by side.
        LabelError: If name, prefix and folder disagree, or a name does not match.
        LeakageError: If a patient is in two parts.
        ManifestError: If two files name the same crop, or for ids that could be one patient's or
            two.
    """
    folder = _dataset_folder(root)
    _check_folders(folder, root)
    files = find_files(folder, suffixes={".png"})
    if files.skipped.get(REPEATED):
        raise ArchiveError(
            f"{root}: two of its folders are links to one. Give each part and class its own."
        )
    by_split: dict[str, list[tuple[dict[str, str], Path]]] = {name: [] for name in get_args(Split)}
    for path in files.paths:
        part = path.relative_to(folder).parts[0]
        by_split.get(part, []).append((_parsed(path, folder, root), path))
    crops: list[PublishedCrop] = []
    for split in get_args(Split):
        found = by_split[split]
        found.sort(key=lambda item: (item[0]["patient"], item[0]["image"], item[0]["mass"]))
        crops += [
            PublishedCrop(
                path=path,
                key=f"{split}_{number:04d}",
                dataset=name["dataset"],
                patient_id=name["patient"],
                image_id=name["image"],
                lesion_id=name["mass"],
                malignant=name["benign"] == "0",
                split=split,
            )
            for number, (name, path) in enumerate(found, start=1)
        ]
    if not crops:
        raise ArchiveError(f"{root}: holds no PNG file. Give the folder of the published crops.")
    require_told_apart((c.dataset, c.patient_id, f"{c.split}, crop {c.key}") for c in crops)
    check_patients((c.patient_id, c.split, f"{c.split}, crop {c.key}") for c in crops)
    seen: dict[tuple[str, str], str] = {}
    for crop in crops:
        if (first := seen.setdefault((crop.image_id, crop.lesion_id), crop.key)) != crop.key:
            raise ManifestError(
                f"{root}: crops {first} and {crop.key} (in the order of patient, image, mass) "
                "have the same image and mass. Remove one file."
            )
    return CropFolder(tuple(crops), files)


def _dataset_folder(root: Path) -> Path:
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of the published crops.")
    candidates = [
        folder
        for folder in (root, *_folders(root))
        if any((folder / split).is_dir() for split in get_args(Split))
    ]
    if len(candidates) != 1:
        raise ArchiveError(
            f"{root}: data sets found: {len(candidates) or 'none'}. Give one folder that holds "
            "{train,val,test}/is_benign_{true,false}."
        )
    return candidates[0]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_helper(path.name))


def _check_folders(folder: Path, root: Path) -> None:
    """Refuses folders beside the parts and classes: their crops would be lost without a word."""
    for part in _folders(folder):
        if part.name not in get_args(Split):
            raise ArchiveError(
                f"{without_names(part, root)} is none of {', '.join(get_args(Split))}. Rename it, "
                "or move it elsewhere."
            )
        for group in _folders(part):
            if group.name not in _FOLDERS:
                raise LabelError(
                    f"{without_names(group, root, _LAYOUT)} is none of {', '.join(_FOLDERS)}. "
                    "Rename it, or move it elsewhere."
                )


def _parsed(path: Path, folder: Path, root: Path) -> dict[str, str]:
    """Parts of one file name, checked against the folders; messages keep all names out."""
    parts = path.relative_to(folder).parts
    match = _NAME.fullmatch(path.stem + path.suffix.lower())
    if match is None:
        where = without_names(path, root, _LAYOUT)
        raise LabelError(f"{where}: its name does not match {_PATTERN}. Rename it.")
    name = match.groupdict()
    if len(parts) != 3 or _FOLDERS.get(parts[1]) != name["benign"]:
        raise LabelError(
            f"{without_names(path, root, _LAYOUT)}: ends in is_benign_{name['benign']}.png, which "
            "contradicts its folder. Files lie in {train,val,test}/is_benign_{true,false}, and "
            "both say the same; move or rename it."
        )
    if name["dataset"] != folder.name:
        raise LabelError(
            f"{without_names(path, root, _LAYOUT)}: its name does not start with patient and the "
            "name of the folder that holds the parts, which is that of the data set. Rename one "
            "of them."
        )
    return name
