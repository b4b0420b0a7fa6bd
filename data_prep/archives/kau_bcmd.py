# SPDX-License-Identifier: Apache-2.0
"""KAU-BCMD: mammograms in JPEG, in a folder for each BI-RADS assessment, with boxes of one's own.

There is no pathology and no lesion geometry: labels are assessments, and only if they are asked
for; a table of boxes says where the lesions lie and who the patients are.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep.archives.box_table import BoxRow, read_box_table
from data_prep.archives.cells import (
    SIDES,
    LabelRequest,
    birads_label,
    chosen,
    require_birads,
    view_of,
    without_repeats,
)
from data_prep.errors import ArchiveError
from data_prep.files import find_files
from data_prep.lesions import ArchiveFacts, LeftOut, LesionRow, LesionTable

FACTS = ArchiveFacts(
    name="kau-bcmd",
    title="KAU-BCMD",
    licence="licence not found",
    citation=(
        "Alsolami et al. 2021, King Abdulaziz University Breast Cancer Mammogram Dataset "
        "(KAU-BCMD), Data 6(11):111; doi 10.21227/a4cs-ax02"
    ),
    verified=(
        "1,416 cases, 5,662 images in JPEG; BI-RADS 1, 3, 4 and 5, a folder for each",
        "no pathology, no lesion geometry; the pixel spacing is not stated",
    ),
    checked=(
        "a folder of each image that is read is named by one assessment, such as Birad4",
        "patients come from the table of boxes: how files are named was not published",
    ),
)
_FOLDER = re.compile(r"b(?:i-?rads?)?[\s_-]*(?P<birads>[1345])", re.IGNORECASE)


def read(
    root: Path, *, boxes: Path | None, label_source: LabelRequest = "pathology"
) -> LesionTable:
    """Reads the images that a table of boxes names.

    Args:
        root: Folder of the folders of assessments.
        boxes: Table ``file,x0,y0,x1,y1,patient``, where the file is a path below ``root`` or its
            end; ``lesion``, ``view`` and ``laterality`` are read if they are there.
        label_source: Must be ``birads``: the data set has no other labels.

    Raises:
        ArchiveError: If the table or every image is missing, or a folder names no assessment.
        LabelError: If pathology is asked for.
    """
    require_birads(FACTS, label_source)
    rows = read_box_table(boxes, without=f"{root}: KAU-BCMD does not say where lesions lie.")
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of KAU-BCMD.")
    found = find_files(root, suffixes={".jpg", ".jpeg"})
    images: dict[str, list[Path]] = {}
    for path in found.paths:
        images.setdefault(path.name.lower(), []).append(path)
    if not images:
        raise ArchiveError(f"{root}: holds no JPEG file. Give the folder of KAU-BCMD.")
    read_rows = [_lesion(root, images, box) for box in rows]
    stays, repeated = without_repeats([row for row in read_rows if isinstance(row, LesionRow)])
    left_out = [row for row in read_rows if isinstance(row, LeftOut)]
    skipped = Counter(found.skipped)
    skipped["image without a box"] = len(found.paths) - len({row.path for row in stays})
    return LesionTable(
        rows=tuple(stays), left_out=(*left_out, *repeated), skipped=skipped, facts=FACTS
    )


def _lesion(root: Path, images: Mapping[str, Sequence[Path]], box: BoxRow) -> LesionRow | LeftOut:
    patient = box.cells.get("patient", "")
    if not patient:
        raise ArchiveError(
            f"{box.where}: patient is empty. Name the patient of each box: without, nobody can be "
            "kept in one part, nor be counted."
        )
    fitting = [
        path
        for path in images.get(box.file.name.lower(), ())
        if path.parts[-len(box.file.parts) :] == (*box.file.parts[:-1], path.name)
    ]
    if len(fitting) != 1:
        reason, what = ("no_image", "no file has") if not fitting else ("ambiguous", "several have")
        return LeftOut(
            box.key, reason, f"{box.where}: {what} that name. Give the path below the root."
        )
    path = fitting[0]
    folders = path.relative_to(root).parts[:-1]
    assessments = {match["birads"] for name in folders if (match := _FOLDER.fullmatch(name))}
    if len(assessments) != 1:
        raise ArchiveError(
            f"{box.where}: no folder of its image is named by one of BI-RADS 1, 3, 4, 5, such as "
            "Birad4. Give the folder of KAU-BCMD as downloaded."
        )
    side = box.cells.get("laterality", "")
    return LesionRow(
        key=box.key,
        where=box.where,
        file=str(box.file),
        path=path,
        patient_id=patient,
        image_id=path.relative_to(root).with_suffix("").as_posix(),
        lesion_id=box.lesion,
        malignant=birads_label(assessments.pop(), where=box.where, column="BI-RADS of the folder"),
        region=box.box,
        label_source="birads",
        view=view_of(box.cells.get("view", "")),
        laterality=chosen(side, SIDES, where=box.where, column="laterality") if side else None,
    )
