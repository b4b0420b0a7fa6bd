# SPDX-License-Identifier: Apache-2.0
"""The command ``prepare``: one function per kind of source, each filling a folder with crops.

Every function gives the same files when it runs again, so an interrupted one is simply repeated.
``crops.csv`` comes last: a folder that has it is whole.
"""

from collections import Counter
from pathlib import Path

from data_prep.archives.commands import (
    bcdr,
    cbis_ddsm,
    cbis_ddsm_jpeg,
    cmmd,
    embed,
    inbreast,
    kau_bcmd,
    rsna,
    vindr,
)
from data_prep.crop_set import CropSet, print_counts, read_grey, watched
from data_prep.duplicates import AcrossPatients
from data_prep.errors import ManifestError, RecordRejected
from data_prep.manifest import CropRule, CropsManifest, Split
from data_prep.phantoms.parameters import PhantomParameters
from data_prep.readers.crop_folder import read_crop_folder
from data_prep.readers.synthetic_folder import LabelRule, read_synthetic_folder

__all__ = [
    "bcdr",
    "cbis_ddsm",
    "cbis_ddsm_jpeg",
    "cmmd",
    "crop_folder",
    "embed",
    "inbreast",
    "kau_bcmd",
    "phantom_archive",
    "phantoms",
    "rsna",
    "synthetic_folder",
    "vindr",
]

DEFAULT_PHANTOMS = PhantomParameters()


def crop_folder(
    *,
    root: str,
    out: str,
    size: int | None = None,
    across_patients: AcrossPatients = "refuse",
    strict: bool = False,
) -> CropsManifest:
    """Imports published crops: {dataset}/{train,val,test}/is_benign_{true,false}/*.png.

    Labels come from is_benign, which folder and file name must agree on. The given parts are kept.

    Args:
        root: Folder of the data set, or its parent if that holds one data set only.
        out: Folder to fill with crops.csv, images/ and rejected.csv.
        size: Edge of the crops, in pixels; others are rejected. That of most files if not given.
        across_patients: What happens if different patients share a crop: refuse stops; merge makes
            them one patient, and the statement of each fit on the crops says that what this
            reveals is left out.
        strict: Stop at the first file that cannot become a crop, instead of listing it.
    """
    folder = read_crop_folder(Path(root))
    skipped = folder.files.skipped
    crops = CropSet(
        Path(out),
        strict=strict,
        across_patients=across_patients,
        size=size,
        found=len(folder.files.paths) + sum(skipped.values()),
        skipped=skipped,
    )
    for published in watched(folder.crops, "Importing crops"):
        try:
            pixels = read_grey(published.path, f"crop {published.key}")
        except RecordRejected as error:
            crops.reject(published.key, error)
            continue
        crops.add(
            pixels,
            file=f"images/{published.dataset}_{published.key}.png",
            patient_id=published.patient_id,
            lesion_id=published.lesion_id,
            image_id=published.image_id,
            malignant=published.malignant,
            split=published.split,
            origin=published.dataset,
            label_source="pathology",
            crop_rule="reference-2024",
        )
    return crops.finish()


def synthetic_folder(
    *,
    root: str,
    out: str,
    name: str,
    split: Split = "train",
    malignant_word: str = "malignant",
    benign_word: str = "benign",
    crop_rule: CropRule = "reference-2024",
    provenance: str | None = None,
    size: int | None = None,
    strict: bool = False,
) -> CropsManifest:
    """Imports generated crops: [batch_<b>_]<i>_<word>.png, where the word says the class.

    Args:
        root: Folder of the PNG files.
        out: Folder to fill with crops.csv, images/ and rejected.csv.
        name: Name of the set; the origin of its crops becomes "synthetic:<name>".
        split: Part that all crops go to.
        malignant_word: What stands for malignant in the names, as a whole; 0 in sets of medigan
            00008 that carry numbers.
        benign_word: What stands for benign.
        crop_rule: How the crops that the generator was trained on were cut.
        provenance: File that says which generator made the set, on which patients it was trained
            and with which privacy. It is copied beside the crops; without it nothing is known, and
            no finite epsilon can be stated for what is trained on the set.
        size: Edge of the crops, in pixels; others are rejected. That of most files if not given.
        strict: Stop at the first file that cannot become a crop, instead of listing it.
    """
    if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ManifestError(f"{name=}. Give a name of letters, digits, '-', '_' and '.'.")
    rule = LabelRule(malignant=malignant_word, benign=benign_word)
    folder = read_synthetic_folder(Path(root), rule)
    if provenance is not None:
        text = Path(provenance).read_text(encoding="utf-8")
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out) / f"provenance{Path(provenance).suffix}").write_text(text, encoding="utf-8")
    skipped = folder.files.skipped
    crops = CropSet(
        Path(out),
        strict=strict,
        size=size,
        found=len(folder.files.paths) + sum(skipped.values()),
        skipped=skipped,
    )
    for image in watched(folder.images, "Importing crops"):
        try:
            pixels = read_grey(image.path, str(image.path))
        except RecordRejected as error:
            crops.reject(image.key, error)
            continue
        crops.add(
            pixels,
            file=f"images/{name}_{image.key}.png",
            patient_id="",
            lesion_id="1",
            image_id=image.key,
            malignant=image.malignant,
            split=split,
            origin=f"synthetic:{name}",
            label_source="generator",
            crop_rule=crop_rule,
        )
    return crops.finish()


def phantoms(
    *,
    out: str,
    per_class: int = 1000,
    size: int = 128,
    seed: int = 0,
    parameters: PhantomParameters = DEFAULT_PHANTOMS,
) -> CropsManifest:
    """Draws phantom crops: procedural masses on procedural tissue, free of patients.

    Args:
        out: Folder to fill with crops.csv and images/.
        per_class: Number of benign and of malignant crops.
        size: Edge of a crop, in pixels.
        seed: Equal seeds give equal crops.
        parameters: What the crops look like; a YAML file, or single values by their names.
    """
    from data_prep.phantoms.crops import write_phantom_crops

    manifest = write_phantom_crops(
        Path(out), per_class=per_class, size=size, seed=seed, parameters=parameters
    )
    print_counts(manifest, Counter(), merged=0)
    return manifest


def phantom_archive(
    *, out: str, patients: int = 40, height: int = 640, width: int = 512, seed: int = 0
) -> None:
    """Writes a small DICOM archive of phantoms in the layout of CBIS-DDSM, for demo and tests.

    Args:
        out: Folder to fill with tables, mammograms and masks.
        patients: Number of patients; they have unequal numbers of images.
        height: Height of a mammogram, in pixels.
        width: Width of a mammogram, in pixels.
        seed: Equal seeds give equal archives.
    """
    from data_prep.phantoms.archive import write_phantom_archive

    write_phantom_archive(Path(out), patients=patients, image_size=(height, width), seed=seed)
