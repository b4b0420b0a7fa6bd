# SPDX-License-Identifier: Apache-2.0
"""What the preparation of crops leaves open in every statement about them."""

from pathlib import Path

from data_prep.manifest import FILE_NAME as CROPS
from mammo_dp.runs import FILE_NAME as RUN
from mammo_dp.runs import read_run

MERGED = (
    "Crops were prepared with --across_patients merge: different patients who share a crop become "
    "one, so a patient's crops may depend on another patient. What this reveals is not counted."
)


def preparation_exclusions(path: str | Path) -> tuple[str, ...]:
    """What preparation did to one patient because of another, in words.

    It follows from the flags that the crops were prepared with, not from the crops, so the words
    are the same whether or not any patients were merged.

    Args:
        path: Folder of crops, its ``crops.csv``, or any other input of a stage.

    Returns:
        Sentences for the exclusions of a statement.
    """
    folder = Path(path)
    folder = folder.parent if folder.name == CROPS else folder
    if not (folder / CROPS).is_file() or not (folder / RUN).is_file():
        return ()
    return (MERGED,) if read_run(folder).config.get("across_patients") == "merge" else ()
