# SPDX-License-Identifier: Apache-2.0
"""A manifest of patients' training crops and synthetic crops together."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

from data_prep.manifest import Crop, CropsManifest
from mammo_dp.benchmark.jobs import MIX
from mammo_dp.benchmark.spec import BenchmarkError
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.lineage import data_ledger, loose_delta
from mammo_dp.runs import run_folder

_PATIENTS = (
    "The crops of patients that stand here beside the synthetic ones: this folder is not to be "
    "released. What is said above is about the synthetic crops; a fit on the folder counts the "
    "patients in its own statement."
)


def mix(real: str, synthetic: str, per_class: int, out: str) -> None:
    """Writes a folder of crops: the training crops of patients, and synthetic ones beside them.

    Of each class the first ``per_class`` synthetic crops of the table are taken, a number that no
    patient changes. Pixels are linked, not copied. The folder releases nothing; its statement
    passes on that of the synthetic crops.

    Args:
        real: Folder of crops of patients.
        synthetic: Folder of synthetic crops, with its statement.
        per_class: Number of synthetic crops of each class.
        out: New folder.

    Raises:
        BenchmarkError: If there are fewer synthetic crops of a class, or they are cut in
            another way.
    """
    with run_folder(
        out,
        command=MIX,
        config={"per_class": per_class},
        inputs={"crops": Path(real), "synthetic": Path(synthetic)},
    ) as record:
        if record.is_finished:
            return
        patients, made = CropsManifest.read(real), CropsManifest.read(synthetic)
        own = [patients.crops[row] for row in patients.rows("train")]
        wanted = Counter({False: per_class, True: per_class})
        chosen = []
        for crop in (made.crops[row] for row in made.rows("train")):
            if crop.is_synthetic and wanted[crop.malignant] > 0:
                wanted[crop.malignant] -= 1
                chosen.append(crop)
        if missing := +wanted:
            raise BenchmarkError(
                f"{synthetic}: lacks {sum(missing.values())} synthetic training crops, as "
                f"{per_class} of each class are asked for. Give a larger set, or mix fewer."
            )
        if len(rules := {crop.crop_rule for crop in (*own, *chosen)}) > 1:
            raise BenchmarkError(
                f"{synthetic}: its crops and those of {real} are cut by different rules "
                f"({', '.join(sorted(rules))}). Prepare both in the same way."
            )
        rows = [
            *(_linked(crop, patients.folder, record.folder, "real") for crop in own),
            *(_linked(crop, made.folder, record.folder, "synthetic") for crop in chosen),
        ]
        written = CropsManifest.write(record.folder, rows)
        ledger = data_ledger(record, written)
        write_statement(
            record.folder,
            ledger,
            delta=loose_delta(ledger),
            about=written.sha256,
            exclusions=(_PATIENTS,),
            run=record,
        )


def _linked(crop: Crop, source: Path, target: Path, part: str) -> Crop:
    """The row of a crop whose file lies in another folder now."""
    moved = replace(crop, file=f"{part}/{crop.file}")
    path = target / moved.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(os.path.relpath(source / crop.file, path.parent))
    return moved
