# SPDX-License-Identifier: Apache-2.0
"""Crops on a page: which were used for what, as counts, and contact sheets with a notice."""

import base64
import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.manifest import FILE_NAME, CropsManifest, Split
from mammo_dp.privacy.statement.document import FILE_NAME as STATEMENT
from mammo_dp.privacy.statement.document import covering_ledger, read_statement
from mammo_dp.report.collect import Row, lineage, setting, unchanged
from mammo_dp.runs import RunRecord, read_run

GAP_PX = 2
NOTICES = {
    "phantom": "No patient: drawn by a procedure.",
    "phantom-archive": "No real patient: phantoms in the roles of patients.",
    "gan": "Drawn by a generator that may have learned from patients.",
    "evolved": "Drawn by a simulator, chosen by patients' noisy votes; see privacy.json.",
    "synthetic": "Imported synthetic crops; their generator may have learned from patients.",
}
REAL = "Shows images of the cohort: internal use only. No epsilon covers this picture."
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
    "means": "released means",
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
    with path.open(newline="", encoding="utf-8") as file:
        return str(sum(1 for _ in csv.DictReader(file)))


def _split(name: str) -> Split:
    return next(split for split in get_args(Split) if split == name)


def contact_sheet(manifest: CropsManifest, *, columns: int = 10, cell_px: int = 96) -> bytes:
    """Draws benign crops above malignant ones; of volumes the middle slices.

    The crops are spread evenly over the rows of the manifest, so that the same manifest gives the
    same picture and no eye has chosen.

    Args:
        manifest: Crops; one class may be absent.
        columns: Crops per class, > 0.
        cell_px: Largest edge of a crop in the sheet, in pixels, > 0.

    Returns:
        PNG, 8-bit grey with transparent gaps.
    """
    classes = [
        [row for row in manifest.rows() if manifest.crops[row].malignant == malignant]
        for malignant in (False, True)
    ]
    shown = [[_cell(manifest, row, cell_px) for row in _spread(rows, columns)] for rows in classes]
    edge = max(cell.shape[0] for cells in shown for cell in cells)
    step = edge + GAP_PX
    lines = [cells for cells in shown if cells]
    sheet = np.zeros((len(lines) * step - GAP_PX, columns * step - GAP_PX, 2), np.uint8)
    for y, cells in enumerate(lines):
        for x, cell in enumerate(cells):
            target = sheet[y * step :, x * step :][: cell.shape[0], : cell.shape[1]]
            target[..., 0], target[..., 1] = cell, 255
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def notice(manifest: CropsManifest) -> tuple[str, bool]:
    """What must stand below a sheet, and whether it shows real patients.

    Anybody may write an origin into a table. Crops that no sealed statement covers are taken to be
    those of patients.
    """
    if isinstance(doubt := covering_ledger(manifest.folder, manifest.sha256), str):
        return f"{REAL} Where these crops come from is not known here: {doubt}.", True
    kinds = sorted({crop.origin.partition(":")[0] for crop in manifest.crops})
    real = any(kind not in NOTICES for kind in kinds)
    return " ".join(dict.fromkeys(NOTICES.get(kind, REAL) for kind in kinds)), real


def sheet(label: str, folder: Path) -> dict[str, Any]:
    """A contact sheet with whatever must be read below it, for the template.

    Args:
        label: Name of the crops.
        folder: Folder of the crops; its ``privacy.json`` is quoted if there is one about them.
    """
    manifest = CropsManifest.read(folder)
    text, real = notice(manifest)
    if (folder / STATEMENT).is_file():
        found = covering_ledger(folder, manifest.sha256)
        text += (
            f" Of the statement no word is quoted: {found}."
            if isinstance(found, str)
            else f" {read_statement(folder)['summary']}"
        )
    malignant = sum(crop.malignant for crop in manifest.crops)
    deep = manifest.depth is not None
    kind = f"volumes of {manifest.depth} slices, of each the middle one" if deep else "crops"
    return {
        "label": label,
        "notice": text,
        "real": real,
        "source": embedded(contact_sheet(manifest)),
        "alt": f"Contact sheet of {label}: benign crops in the upper row, malignant ones below.",
        "count": f"{len(manifest.crops)} {kind}, {malignant} malignant; benign above, malignant "
        "below.",
    }


def attack_sheet(folder: Path, file: str, *, label: str, show_patients: bool) -> dict[str, Any]:
    """A picture that an attack made, with a word on whose images it shows.

    Args:
        folder: Run of the attack; crops that are gone or have changed count as real patients.
        file: The picture, relative to ``folder``.
        label: What it shows.
        show_patients: Whether it is embedded where it shows real patients.
    """
    inputs = read_run(folder).inputs
    shown = [inputs[name] for name in ("data", "prior") if name in inputs]
    found = [] if "data" in inputs else [(REAL, True)]
    for data in shown:
        known = unchanged(data) and (Path(data.path) / FILE_NAME).is_file()
        found.append(notice(CropsManifest.read(data.path)) if known else (REAL, True))
    text = " ".join(dict.fromkeys(words for words, _ in found))
    real = any(is_real for _, is_real in found)
    path = folder / file
    source = ""
    if not path.is_file():
        text = f"{file} is missing."
    elif real and not show_patients:
        text = f"{file} shows patients and is left out; --show_patients true embeds it."
    else:
        source = embedded(path.read_bytes())
    return {
        "label": label,
        "notice": text,
        "real": real,
        "source": source,
        "alt": "Sheet of crops: originals, what was read of them at each budget, blind guesses.",
        "count": "Grey values as they are; blind guesses saw no update.",
    }


def embedded(png: bytes) -> str:
    """A picture as an address that a page carries within itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _spread(rows: Sequence[int], count: int) -> list[int]:
    """At most ``count`` rows with equal distances."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[place] for place in places]


def _cell(manifest: CropsManifest, row: int, cell_px: int) -> NDArray[np.uint8]:
    (pixels,) = manifest.planes([row])
    image = Image.fromarray((pixels >> 8).astype(np.uint8))
    if pixels.shape[0] > cell_px:
        image = image.resize((cell_px, cell_px), Image.Resampling.BOX)
    return np.asarray(image)
