# SPDX-License-Identifier: Apache-2.0
"""What models are measured on, and the record of when each test set was opened.

Val is for research and may be looked at freely. A test set is opened when all cells are trained,
once for one set of cells; every later look with other cells is counted and shown.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from data_prep.copies import shared_rows
from data_prep.manifest import CropsManifest, Split
from mammo_dp.benchmark.spec import BenchmarkError
from mammo_dp.runs import write_text_atomically

OPENINGS = "openings.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """Crops that models are measured on.

    Attributes:
        name: Short name, unique within the benchmark.
        folder: Folder of the manifest.
        split: Split that is measured.
        sha256: Hash of the manifest.
        purpose: ``"research"`` may be looked at at any time; each look at ``"test"`` is recorded.
    """

    name: str
    folder: Path
    split: Split
    sha256: str
    purpose: Literal["research", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """One look at a test set.

    Attributes:
        name: Of the set.
        sha256: Hash of its manifest.
        split: Split that was measured.
        opened: ISO time in UTC.
        cells: Number of models that were measured.
        cells_sha256: Hash of their names.
    """

    name: str
    sha256: str
    split: str
    opened: str
    cells: int
    cells_sha256: str


def evaluation_sets(
    crops: Path, external: Sequence[Path], *, open_test: bool
) -> list[EvaluationSet]:
    """All sets that models are measured on; test sets share nobody with train and val.

    Args:
        crops: Folder with the training patients; its val is for research.
        external: Folders of further test crops. Of several splits the one called test is taken.
        open_test: Whether the split test of ``crops`` is opened, too.

    Raises:
        BenchmarkError: If there is no val, no test split, or an external set holds a patient or
            a crop of train or val.
    """
    manifest = CropsManifest.read(crops)
    found = [_set("val", manifest, "val", "research")]
    if open_test:
        found.append(_set("test", manifest, "test", "test"))
    for folder in external:
        other = CropsManifest.read(folder)
        splits = {crop.split for crop in other.crops}
        split: Split = splits.pop() if len(splits) == 1 else "test"
        _refuse_overlap(manifest, other, split)
        name = folder.resolve().name
        if any(name == known.name for known in found):
            name = f"{name}-{len(found)}"
        found.append(_set(name, other, split, "test"))
    return found


def open_set(out: Path, evaluated: EvaluationSet, cells: Sequence[str]) -> None:
    """Records a look at a test set, before it is measured; the same cells are one look.

    Args:
        out: Folder of the benchmark.
        evaluated: A set for tests.
        cells: Keys of the models that will be measured.
    """
    names = hashlib.sha256(" ".join(sorted(set(cells))).encode()).hexdigest()
    entry = Opening(
        name=evaluated.name,
        sha256=evaluated.sha256,
        split=evaluated.split,
        opened=datetime.now(UTC).isoformat(timespec="seconds"),
        cells=len(set(cells)),
        cells_sha256=names,
    )
    earlier = openings(out)
    looks = [look for look in earlier if is_of(look, evaluated)]
    if not any(look.cells_sha256 == names for look in looks):
        stored = [asdict(look) for look in (*earlier, entry)]
        write_text_atomically(out / OPENINGS, json.dumps(stored, indent=2) + "\n")


def openings(out: Path) -> list[Opening]:
    """All looks at test sets, in order.

    Raises:
        BenchmarkError: If the record is damaged.
    """
    path = out / OPENINGS
    if not path.exists():
        return []
    try:
        return [Opening(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise BenchmarkError(
            f"{path}: cannot be read ({error}). Restore it: it says which test sets were opened."
        ) from error


def is_of(look: Opening, evaluated: EvaluationSet) -> bool:
    """Whether a look was at this set, whatever it was called then."""
    return (look.sha256, look.split) == (evaluated.sha256, evaluated.split)


def said_of(evaluated: EvaluationSet, looked: Sequence[Opening]) -> str:
    """What a reader must know about a set before its numbers are used."""
    if evaluated.purpose == "research":
        return (
            f"{evaluated.name} is for research: it was open while the regimes were designed, so "
            "its numbers are no test."
        )
    looks = [look for look in looked if is_of(look, evaluated)]
    if not looks:
        return f"{evaluated.name} is a test set that was not opened: no model was trained."
    if len(looks) == 1:
        when = f"on {looks[0].opened[:10]} for {looks[0].cells} models"
        return f"{evaluated.name} is a test set, opened once {when}, after all training."
    dates = ", ".join(f"{look.opened[:10]} ({look.cells} models)" for look in looks)
    return (
        f"{evaluated.name} is a test set that was opened {len(looks)} times with different models: "
        f"{dates}. Only the first look is a test; later ones may have been chosen by it."
    )


def _set(
    name: str, manifest: CropsManifest, split: Split, purpose: Literal["research", "test"]
) -> EvaluationSet:
    classes = {manifest.crops[row].malignant for row in manifest.rows(split)}
    if len(classes) < 2:
        raise BenchmarkError(
            f"{manifest.folder}: split {split!r} does not hold both classes, so {name} cannot be "
            "measured. Prepare crops with train and val, and external ones with a split test or "
            "with one split only."
        )
    return EvaluationSet(
        name=name,
        folder=manifest.folder.resolve(),
        split=split,
        sha256=manifest.sha256,
        purpose=purpose,
    )


def _refuse_overlap(known: CropsManifest, other: CropsManifest, split: Split) -> None:
    """Refuses a test set that holds a patient or a crop of train or val, whatever its name."""
    seen = [*known.rows("train"), *known.rows("val")]
    if shared := shared_rows(other, other.rows(split), known, seen):
        raise BenchmarkError(
            f"{other.folder}: {len(shared)} of its crops, or their patients, stand in train or val "
            f"of {known.folder} (the first in row {shared[0] + 2} of crops.csv). Remove them; "
            "a test set holds nobody who was seen before."
        )
