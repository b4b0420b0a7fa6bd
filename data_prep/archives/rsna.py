# SPDX-License-Identifier: Apache-2.0
"""RSNA Screening Mammography Breast Cancer Detection 2022, with boxes of the user's own.

The data set says which breast has cancer, and not where; a table of boxes says where.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from data_prep.archives.cells import (
    SIDES,
    chosen,
    density,
    labelled,
    number,
    require_boxes,
    view_of,
)
from data_prep.errors import ArchiveError
from data_prep.lesion_table import read_lesion_table
from data_prep.lesions import ArchiveFacts, LesionRow, LesionTable
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
        "each row of the table of boxes names an image of train.csv, in the folder of its patient",
    ),
)
_COLUMNS = ("patient_id", "image_id", "laterality", "view", "cancer")
_CANCER = {"0": False, "1": True}


def read(root: Path, *, boxes: Path | None) -> LesionTable:
    """Reads the images that a table of boxes names.

    The label is ``cancer`` of the breast. A breast with cancer can have benign lesions, too: they
    have no place in the table of boxes.

    Args:
        root: Folder of ``train.csv`` and ``train_images/``.
        boxes: Table of lesions without labels, see :mod:`data_prep.lesion_table`; its files are
            ``<patient_id>/<image_id>.dcm``.

    Raises:
        ArchiveError: If a table is missing or is not as known.
        LabelError: For a label other than 0 and 1.
    """
    drawn = require_boxes(boxes, f"{root}: says which breast has cancer, and not where.")
    path = root / "train.csv"
    if not path.is_file():
        raise ArchiveError(f"{root}: holds no train.csv. Give the folder of the competition.")
    table = read_table(path, keep=lambda name: name in (*_COLUMNS, "density"))
    table.require(_COLUMNS, ids=("patient_id", "image_id"))
    images = {number(row.cells["image_id"]): row for row in table.rows}
    lesions = read_lesion_table(drawn, root / "train_images", labels=None)
    return replace(
        lesions,
        rows=tuple(_labelled(table, images, row) for row in lesions.rows),
        skipped={"image without a box": len(images) - len({row.path for row in lesions.rows})},
        facts=FACTS,
        lesions_joined=False,
    )


def _labelled(table: Table, images: Mapping[str, TableRow], lesion: LesionRow) -> LesionRow:
    """A box with what train.csv says of its image."""
    image = lesion.path.stem
    row = images.get(image)
    if row is None or lesion.path.parent.name != number(row.cells["patient_id"]):
        raise ArchiveError(
            f"{lesion.where}: file is no image of train.csv in the folder of its patient. Name it "
            "<patient_id>/<image_id>.dcm."
        )
    cells, where = row.cells, table.where(row)
    found = density(cells.get("density", ""))
    return replace(
        lesion,
        patient_id=number(cells["patient_id"]),
        image_id=image,
        lesion_id=f"{image}_{lesion.lesion_id}",
        malignant=labelled(number(cells["cancer"]), _CANCER, where=where, column="cancer"),
        label_source="image",
        view=view_of(cells["view"]),
        laterality=chosen(cells["laterality"], SIDES, where=where, column="laterality"),
        attributes=MappingProxyType({"density": found} if found else {}),
    )
