# SPDX-License-Identifier: Apache-2.0
"""VinDr-Mammo: digital mammograms with boxes around findings, and BI-RADS assessments.

There is no pathology, so labels are assessments, and only if they are asked for.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from data_prep.archives.cells import (
    SIDES,
    LabelRequest,
    birads_label,
    chosen,
    density,
    require_birads,
    view_of,
    without_repeats,
)
from data_prep.cropping import Box
from data_prep.dicom import read_series_file
from data_prep.errors import ArchiveError
from data_prep.files import find_files
from data_prep.lesions import ArchiveFacts, LeftOut, LesionRow, LesionTable
from data_prep.manifest import Split
from data_prep.splits import check_patients
from data_prep.tables import Table, TableRow, read_table

FACTS = ArchiveFacts(
    name="vindr-mammo",
    title="VinDr-Mammo 1.0.0",
    licence="restricted access at PhysioNet, under its data use agreement; it is not passed on",
    citation=(
        "Nguyen et al. 2023, VinDr-Mammo: a large-scale benchmark dataset for computer-aided "
        "detection and diagnosis in full-field digital mammography, Scientific Data, "
        "s41597-023-02100-7; doi 10.13026/br2v-7517"
    ),
    verified=(
        "columns of finding_annotations.csv; images without a finding have a row too",
        "5,000 exams; parts training and test; BI-RADS only, no pathology",
        "boxes only for findings that are not benign; some leave the image",
    ),
    checked=(
        "images/<study_id>/<image_id>.dicom",
        "height and width of the table are those of each file: boxes of resized copies are refused",
        "finding_birads, laterality, split and box in each row that is read",
        "no exam is in both parts; an exam stands for a patient, since nothing else does",
    ),
)
_TABLE = "finding_annotations.csv"
_COLUMNS = (
    "study_id",
    "image_id",
    "laterality",
    "view_position",
    "height",
    "width",
    "breast_density",
    "finding_categories",
    "finding_birads",
    "xmin",
    "ymin",
    "xmax",
    "ymax",
    "split",
)
_SPLITS: Mapping[str, Split] = {"TRAINING": "train", "TEST": "test"}
MASS = "MASS"
Watch = Callable[[Sequence[Path]], Iterable[Path]]


def read(
    root: Path,
    *,
    label_source: LabelRequest = "pathology",
    watch: Watch = lambda paths: paths,
) -> LesionTable:
    """Reads the masses of VinDr-Mammo.

    Args:
        root: Folder of ``finding_annotations.csv`` and ``images/``.
        label_source: Must be ``birads``: the data set has no other labels.
        watch: Wraps the list of files while their sizes are read, for a progress bar.

    Raises:
        ArchiveError: If the table or every image is missing, or an image has another size.
        LabelError: For an assessment other than 1 to 6, or if pathology is asked for.
        LeakageError: For an exam in both parts.
    """
    require_birads(FACTS, label_source)
    path = root / _TABLE
    if not path.is_file():
        raise ArchiveError(f"{root}: holds no {_TABLE}. Give the folder of VinDr-Mammo.")
    table = read_table(path)
    table.require(_COLUMNS, ids=("study_id", "image_id"))
    found = find_files(root, suffixes={".dicom", ".dcm"})
    images = {(file.parent.name, file.stem): file for file in found.paths}
    if not images:
        raise ArchiveError(
            f"{root}: holds no file <study_id>/<image_id>.dicom. Give the DICOM files; boxes do "
            "not fit copies of another size."
        )
    skipped = Counter(found.skipped)
    rows: list[LesionRow] = []
    left_out: list[LeftOut] = []
    sizes: dict[Path, tuple[int, str]] = {}  # pixels of each image, and where the table says so
    for row in table.rows:
        categories = {
            word.upper() for word in re.findall(r"[\w ]+", row.cells["finding_categories"])
        }
        if MASS not in categories:
            skipped["another kind of finding, or none"] += 1
            continue
        lesion = _row(table, row, images)
        if isinstance(lesion, LeftOut):
            left_out.append(lesion)
            continue
        rows.append(lesion)
        height, width = (_number(table, row, name) for name in ("height", "width"))
        sizes.setdefault(lesion.path, (int(height * width), lesion.where))
    check_patients((row.patient_id, row.split or "train", row.where) for row in rows)
    for file in watch(list(sizes)):
        header = read_series_file(file)
        if header is not None and header.pixels != sizes[file][0]:
            raise ArchiveError(
                f"{sizes[file][1]}: its file has another number of pixels than height x width of "
                "the table, so boxes do not fit. Give the files as published."
            )
    stays, repeated = without_repeats(rows)
    return LesionTable(
        rows=tuple(stays),
        left_out=(*left_out, *repeated),
        skipped=skipped,
        facts=FACTS,
        lesions_joined=False,
    )


def _row(
    table: Table, row: TableRow, images: Mapping[tuple[str, str], Path]
) -> LesionRow | LeftOut:
    where, cells = table.where(row), row.cells
    split = chosen(cells["split"], _SPLITS, where=where, column="split")
    key = f"{split}_{row.number:05d}"
    laterality = chosen(cells["laterality"], SIDES, where=where, column="laterality")
    malignant = birads_label(cells["finding_birads"], where=where, column="finding_birads")
    x0, y0, x1, y1 = (_number(table, row, name) for name in ("xmin", "ymin", "xmax", "ymax"))
    if not cells["study_id"] or not cells["image_id"]:
        raise ArchiveError(f"{where}: study_id or image_id is empty. Fill it in.")
    path = images.get((cells["study_id"], cells["image_id"]))
    if path is None:
        return LeftOut(
            key, "no_image", f"{where}: no DICOM file of its image. Complete the download."
        )
    found = density(cells["breast_density"])
    corners = (math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1))
    return LesionRow(
        key=key,
        where=where,
        file=f"{cells['study_id']}/{path.name}",
        path=path,
        patient_id=cells["study_id"],
        image_id=cells["image_id"],
        lesion_id="_".join((cells["image_id"], *map(str, corners))),  # nothing else names it
        malignant=malignant,
        region=Box(*corners),
        split=split,
        label_source="birads",
        view=view_of(cells["view_position"]),
        laterality=laterality,
        attributes=MappingProxyType({"density": found} if found else {}),
    )


def _number(table: Table, row: TableRow, column: str) -> float:
    try:
        value = float(row.cells[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ArchiveError(f"{table.where(row)}: {column} is no number of pixels. Correct it.")
    return value
