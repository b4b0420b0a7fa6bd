# SPDX-License-Identifier: Apache-2.0
"""``export set``: synthetic crops as a folder that can be passed on."""

import shutil
from pathlib import Path

from data_prep.crop_image import save_crop_image
from data_prep.crop_set import watched
from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import CropsManifest
from data_prep.secondary_capture import save_secondary_capture, secondary_capture
from mammo_dp.exchange.data_card import data_card
from mammo_dp.exchange.errors import ExportError
from mammo_dp.exchange.lineage import Lineage
from mammo_dp.exchange.terms import require_terms
from mammo_dp.runs import read_run, write_text_atomically

FOLDER, CARD = "synthetic_set", "DATA_CARD.md"


def synthetic_set(
    *, crops: str, out: str, dicom: bool = False, licence_of_cohort: str | None = None
) -> None:
    """Exports a synthetic set: images, manifest, data card and privacy statement, nothing else.

    The exported folder can be used wherever crops are read, and its statement can be verified.
    Crops of patients are refused.

    Args:
        crops: Folder with crops.csv that generate, evolve or prepare made.
        out: Folder of this export; what can be passed on is its subfolder synthetic_set.
        dicom: Whether each crop is also written as DICOM (Secondary Capture), into dicom/.
        licence_of_cohort: Terms under which what was trained on the generator's cohort may be
            passed on; needed for data sets whose terms are not known here.

    Raises:
        ExportError: If a patient stands behind a crop.
        ManifestError: If the manifest or a crop is malformed.
        RunError: If the folder does not say which command made it, as one that was exported.
        PrivacyError: If the statement is missing or does not hold.
        LicenceError: If the cohort's terms forbid the export, or are unknown.
    """
    manifest = CropsManifest.read(crops)
    if origins := sorted({crop.origin for crop in manifest.crops if not crop.is_synthetic}):
        raise ExportError(
            f"{manifest.folder / CROPS}: patients stand behind crops of {', '.join(origins)}. Only "
            "generated crops are exported."
        )
    lineage, made = Lineage.of(manifest.folder), read_run(manifest.folder)
    terms = require_terms((access.cohort for access in lineage.ledger.accesses), licence_of_cohort)
    folder = Path(out) / FOLDER
    for row in watched(range(len(manifest.crops)), "Copying crops"):
        crop, pixels = manifest.crops[row], manifest.image(row)
        save_crop_image(folder / crop.file, pixels)  # encoded anew: pixels, and nothing else
        if dicom:
            file = secondary_capture(crop, pixels, row, manifest.sha256)
            label = "malignant" if crop.malignant else "benign"
            save_secondary_capture(folder / "dicom" / f"{row:06d}_{label}.dcm", file)
    lineage.copy_to(folder)
    card = data_card(manifest, pixels.shape[0], made, lineage, terms, dicom=dicom)
    write_text_atomically(folder / CARD, card)
    lineage.seal_files(folder, CARD)
    shutil.copyfile(manifest.folder / CROPS, folder / CROPS)  # last: with it the folder is whole
