# SPDX-License-Identifier: Apache-2.0
"""KAU-BCMD: mammograms in JPEG, in a folder for each BI-RADS assessment, with boxes of one's own.

There is no pathology and no lesion geometry: labels are assessments, and only if they are asked
for; a table of boxes says where the lesions lie and who the patients are.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from data_prep.archives.cells import LabelRequest, birads_label, require_birads, require_boxes
from data_prep.errors import ArchiveError
from data_prep.files import find_files
from data_prep.lesion_table import read_lesion_table
from data_prep.lesions import ArchiveFacts, LesionRow, LesionTable

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
        boxes: Table of lesions without labels, see :mod:`data_prep.lesion_table`, with a column
            ``patient``; its files are paths below ``root``.
        label_source: Must be ``birads``: the data set has no other labels.

    Raises:
        ArchiveError: If the table or every image is missing, or a folder names no assessment.
        LabelError: If pathology is asked for.
    """
    require_birads(FACTS, label_source)
    drawn = require_boxes(boxes, f"{root}: KAU-BCMD does not say where lesions lie.")
    if not root.is_dir():
        raise ArchiveError(f"{root}: is not a folder. Give the folder of KAU-BCMD.")
    found = find_files(root, suffixes={".jpg", ".jpeg"})
    if not found.paths:
        raise ArchiveError(f"{root}: holds no JPEG file. Give the folder of KAU-BCMD.")
    lesions = read_lesion_table(drawn, root, labels=None, attributes=("patient",))
    skipped = Counter(found.skipped)
    skipped["image without a box"] = len(found.paths) - len({row.path for row in lesions.rows})
    return replace(
        lesions,
        rows=tuple(_labelled(root, row) for row in lesions.rows),
        skipped=skipped,
        facts=FACTS,
        lesions_joined=False,
    )


def _labelled(root: Path, lesion: LesionRow) -> LesionRow:
    """A box with the assessment of its folder, and its patient."""
    patient = lesion.attributes.get("patient", "")
    if not patient:
        raise ArchiveError(
            f"{lesion.where}: patient is empty. Name the patient of each box: without, nobody can "
            "be kept in one part, nor be counted."
        )
    image = lesion.path.relative_to(root).with_suffix("")
    assessments = {
        match["birads"] for name in image.parts[:-1] if (match := _FOLDER.fullmatch(name))
    }
    if len(assessments) != 1:
        raise ArchiveError(
            f"{lesion.where}: {len(assessments)} folders of its image are named by one of BI-RADS "
            "1, 3, 4, 5, such as Birad4. Give the folder of KAU-BCMD as downloaded."
        )
    return replace(
        lesion,
        patient_id=patient,
        image_id=image.as_posix(),
        lesion_id=f"{image.as_posix()}_{lesion.lesion_id}",
        malignant=birads_label(
            assessments.pop(), where=lesion.where, column="BI-RADS of the folder"
        ),
        label_source="birads",
        attributes=MappingProxyType(
            {name: value for name, value in lesion.attributes.items() if name != "patient"}
        ),
    )
