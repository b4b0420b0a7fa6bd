# SPDX-License-Identifier: Apache-2.0
"""RSNA Screening Mammography Breast Cancer Detection 2022, with boxes of the user's own.

The data set says which breast has cancer, and not where; a table of boxes says where.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from data_prep.archives.box_table import BoxRow, read_box_table
from data_prep.archives.cells import (
    SIDES,
    chosen,
    density,
    labelled,
    number,
    view_of,
    without_repeats,
)
from data_prep.errors import ArchiveError, LabelError
from data_prep.lesions import ArchiveFacts, LeftOut, LesionRow, LesionTable
from data_prep.tables import Table, TableRow, read_table

FACTS = ArchiveFacts(
    name="rsna-2022",
    title="RSNA Screening Mammography Breast Cancer Detection 2022",
    licence=(
        "competition rules: non-commercial, academic research and education, no re-identification"
    ),
    citation="Carr et al. 2022, RSNA Screening Mammography Breast Cancer Detection, Kaggle",
    verified=(
        "columns of train.csv; train_images/<patient_id>/<image_id>.dcm",
        "cancer is of a breast, not of a lesion; there is no lesion geometry",
        "a window is always set, for 22 % of the images as SIGMOID; many are JPEG 2000",
    ),
    checked=(
        "cancer and laterality in each row that is read",
        "each box names an image of train.csv, and a malignant box lies in a breast with cancer",
    ),
)
_COLUMNS = ("patient_id", "image_id", "laterality", "view", "cancer")
_CANCER = {"0": False, "1": True}


def read(root: Path, *, boxes: Path | None) -> LesionTable:
    """Reads the images that a table of boxes names.

    The label of a box is ``cancer`` of its breast, unless the table has a column ``malignant``
    (1 or 0), since a breast with cancer can have benign lesions, too.

    Args:
        root: Folder of ``train.csv`` and ``train_images/``.
        boxes: Table ``file,x0,y0,x1,y1``; the file is ``<patient_id>/<image_id>.dcm``, with or
            without folders before it, or ``<image_id>`` alone.

    Raises:
        ArchiveError: If a table is missing or is not as known.
        LabelError: For a label other than 0 and 1, or one that contradicts the breast.
    """
    rows = read_box_table(boxes, without=f"{root}: says which breast has cancer, and not where.")
    path = root / "train.csv"
    if not path.is_file():
        raise ArchiveError(f"{root}: holds no train.csv. Give the folder of the competition.")
    table = read_table(path, keep=lambda name: name in (*_COLUMNS, "density"))
    table.require(_COLUMNS)
    images = {number(row.cells["image_id"]): row for row in table.rows}
    found = [_lesion(root, table, images, box) for box in rows]
    stays, repeated = without_repeats([row for row in found if isinstance(row, LesionRow)])
    left_out = [row for row in found if isinstance(row, LeftOut)]
    skipped = Counter({"image without a box": len(images) - len({b.file.stem for b in rows})})
    return LesionTable(
        rows=tuple(stays), left_out=(*left_out, *repeated), skipped=skipped, facts=FACTS
    )


def _lesion(
    root: Path, table: Table, images: Mapping[str, TableRow], box: BoxRow
) -> LesionRow | LeftOut:
    row = images.get(box.file.stem)
    if row is None:
        raise ArchiveError(
            f"{box.where}: file is no image of train.csv. Name it <patient_id>/<image_id>.dcm."
        )
    cells, where = row.cells, table.where(row)
    patient = number(cells["patient_id"])
    if len(box.file.parts) > 1 and box.file.parts[-2] != patient:
        raise ArchiveError(
            f"{box.where}: the folder of file is not the patient_id of its image in {where}. "
            "Correct the name."
        )
    cancer = labelled(number(cells["cancer"]), _CANCER, where=where, column="cancer")
    malignant = cancer
    if cell := box.cells.get("malignant", ""):
        malignant = labelled(number(cell), _CANCER, where=box.where, column="malignant")
        if malignant and not cancer:
            raise LabelError(
                f"{box.where}: malignant is 1, but its breast has no cancer in {where}. Correct "
                "the table of boxes."
            )
    path = root / "train_images" / patient / f"{box.file.stem}.dcm"
    if not path.is_file():
        return LeftOut(
            box.key, "no_image", f"{box.where}: no DICOM file of its image. Complete the download."
        )
    found = density(cells.get("density", ""))
    return LesionRow(
        key=box.key,
        where=box.where,
        file=str(box.file),
        path=path,
        patient_id=patient,
        image_id=box.file.stem,
        lesion_id=f"{box.file.stem}_{box.lesion}",
        malignant=malignant,
        region=box.box,
        label_source="image",
        view=view_of(cells["view"]),
        laterality=chosen(cells["laterality"], SIDES, where=where, column="laterality"),
        attributes=MappingProxyType({"density": found} if found else {}),
    )
