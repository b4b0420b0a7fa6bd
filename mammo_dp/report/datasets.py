# SPDX-License-Identifier: Apache-2.0
"""Which crops were used for what: patients, crops and classes of each split, as counts alone."""

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from data_prep.manifest import FILE_NAME, CropsManifest, Split
from mammo_dp.report.compare import Row, lineage, setting, unchanged
from mammo_dp.runs import RunRecord

HEAD = (
    "Set",
    "Split",
    "Used for",
    "Patients",
    "Crops",
    "Malignant",
    "Most of one patient",
    "Label from",
    "Cut",
    "Left out",
)
_LABELS = {
    "pathology": "pathology",
    "birads": "BI-RADS",
    "image": "image",
    "generator": "generator",
    "phantom": "procedure",
    "classifier": "classifier",
}


def datasets(row: Row) -> list[tuple[str, ...]]:
    """Cells of each split that the lineage of a model or its evaluation used.

    Args:
        row: Evaluation of the model.

    Returns:
        Cells in the order of ``HEAD``; crops that are gone or have changed are left out.
    """
    uses: dict[tuple[Path, str], list[str]] = {}
    for consumer, folder in _readers(row):
        for split, use in _splits(consumer):
            found = uses.setdefault((folder, split), [])
            if use not in found:
                found.append(use)
    manifests = {folder: CropsManifest.read(folder) for folder, _ in uses}
    return [
        _cells(manifests[folder], split, found)
        for (folder, split), found in uses.items()
        if manifests[folder].rows(_split(split))
    ]


def manifest_of(row: Row) -> CropsManifest | None:
    """Crops that a model was measured on, if they are still there and have not changed."""
    data = row.evaluation.inputs.get("data")
    if data is None or not unchanged(data):
        return None
    return CropsManifest.read(data.path)


def _readers(row: Row) -> Iterator[tuple[RunRecord, Path]]:
    """Runs, and folders of crops that they read, the last stage first."""
    records = [source for *_, source in lineage(row.model) if isinstance(source, RunRecord)]
    for record in [*records, row.evaluation]:
        for entry in record.inputs.values():
            if (Path(entry.path) / FILE_NAME).is_file() and unchanged(entry):
                yield record, Path(entry.path).resolve()


def _splits(record: RunRecord) -> list[tuple[str, str]]:
    """Splits that a run used, each with a word on what for."""
    if record.command in ("test", "validate"):
        return [(str(setting(record.config, "evaluate_split") or "val"), "evaluation")]
    read = setting(record.config, "train_split") or setting(record.config, "split") or "train"
    kind = setting(record.config.get("model") or {}, "class_path")
    use = f"training, {str(kind).rpartition('.')[2]}" if kind else record.command
    return [(str(read), use)]


def _cells(manifest: CropsManifest, split: str, uses: Iterable[str]) -> tuple[str, ...]:
    rows = manifest.rows(_split(split))
    crops = [manifest.crops[row] for row in rows]
    patients = Counter(crop.patient for crop in crops if crop.patient)
    malignant = sum(crop.malignant for crop in crops)
    labels = sorted({_LABELS[crop.label_source] for crop in crops})
    spacing = sorted({crop.pixel_spacing_mm for crop in crops if crop.pixel_spacing_mm})
    cut = ", ".join(sorted({crop.crop_rule for crop in crops}))
    return (
        manifest.folder.name,
        split,
        "; ".join(uses),
        str(len(patients)) if patients else "none",
        str(len(crops)),
        f"{malignant} ({malignant / len(crops):.0%})",
        str(max(patients.values())) if patients else "none",
        ", ".join(labels),
        f"{cut}, {spacing[0]:g} mm" if len(spacing) == 1 else cut,
        _left_out(manifest),
    )


def _left_out(manifest: CropsManifest) -> str:
    """How many records could not become crops, in the whole folder."""
    path = manifest.folder / "rejected.csv"
    if not path.is_file():
        return "0"
    with path.open(newline="") as file:
        return str(sum(1 for _ in csv.DictReader(file)))


def _split(name: str) -> Split:
    return next(split for split in get_args(Split) if split == name)
