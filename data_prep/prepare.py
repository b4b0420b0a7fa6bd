# SPDX-License-Identifier: Apache-2.0
"""The command ``prepare``: one function per kind of source, each filling a folder with crops.

Every function gives the same files when it runs again, so an interrupted one is simply repeated.
``crops.csv`` comes last: a folder that has it is whole.
"""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Literal

from data_prep.archives.commands import (
    bcdr,
    bcs_dbt,
    cbis_ddsm,
    cbis_ddsm_jpeg,
    cmmd,
    embed,
    inbreast,
    kau_bcmd,
    rsna,
    vindr,
)
from data_prep.card import write_card
from data_prep.crop_set import CropSet, print_counts, read_grey, shrunk
from data_prep.cut_lesions import cut_lesions, patient_splits
from data_prep.cutting import Cutting
from data_prep.duplicates import AcrossPatients
from data_prep.errors import DataError, ManifestError, RecordRejected
from data_prep.identity import normalised
from data_prep.lesion_table import described, described_files, read_lesion_table
from data_prep.manifest import CropRule, CropsManifest, Split
from data_prep.phantoms.parameters import PhantomParameters
from data_prep.progress import watched
from data_prep.readers.crop_folder import read_crop_folder
from data_prep.readers.synthetic_folder import LabelRule, read_synthetic_folder
from data_prep.table_columns import ONE_AND_ZERO, OWN_NAMES, Columns, Labels

__all__ = [
    "bcdr",
    "bcs_dbt",
    "cbis_ddsm",
    "cbis_ddsm_jpeg",
    "cmmd",
    "crop_folder",
    "embed",
    "inbreast",
    "kau_bcmd",
    "lesions",
    "phantom_archive",
    "phantom_tomosynthesis",
    "phantoms",
    "rsna",
    "synthetic_folder",
    "vindr",
]

DEFAULT_PHANTOMS = PhantomParameters()


def lesions(
    *,
    table: str,
    images: str,
    out: str,
    columns: Columns = OWN_NAMES,
    labels: Labels = ONE_AND_ZERO,
    label_source: Literal["pathology", "birads"] = "pathology",
    origin: str = "own",
    masks: str | None = None,
    attributes: list[str] | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
    size: int = 128,
    margin_mm: float = 3.0,
    minimum_mm: float = 6.4,
    spacing_mm: float | None = None,
    scanned_film: bool = False,
    val_fraction: float = 0.15,
    test_fraction: float = 0.2,
    across_patients: AcrossPatients = "refuse",
    strict: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    card: bool = True,
    dry_run: bool = False,
) -> CropsManifest | None:
    """Cuts lesions out of your own mammograms: DICOM, PNG, JPEG or TIFF, by a table of lesions.

    The table has a row for each lesion in each image: file, patient, malignant, and a box x0, y0,
    x1, y1, a mask or an outline. Interrupted, the same command resumes.

    Args:
        table: CSV or XLSX.
        images: Folder of the images; the column file names paths below it.
        out: Folder to fill with crops.csv, images/ and rejected.csv.
        columns: What the table calls its columns: a YAML file, or single names such as
            --columns.patient PatientID.
        labels: Which words mean what, such as --labels.malignant "M,Malignant,1".
        label_source: Where the labels come from: pathology, or the radiologist's BI-RADS.
        origin: Name of the data set in crops.csv.
        masks: Folder of the masks; that of the images if not given.
        attributes: Further columns to keep in crops.csv, such as "[age,vendor]". All others are
            left out, since they may say who somebody is.
        encoding: Encoding of a CSV that is not in UTF-8, such as cp1252.
        sheet: Sheet of an XLSX that has several.
        size: Edge of a crop, in pixels.
        margin_mm: Tissue kept on each side of the lesion, in millimetres.
        minimum_mm: Smallest edge of the window that is cut, in millimetres.
        spacing_mm: Millimetres per pixel of mammograms that do not say so. Without any, 60 px stand
            for 3 mm.
        scanned_film: Accept scanned film that was saved as DICOM secondary capture.
        val_fraction: Expected share of patients that become val.
        test_fraction: Expected share of patients that become test; only where the table has no
            column split.
        across_patients: What happens if different patients share a crop: refuse stops; merge makes
            them one patient, and the statement of each fit on the crops says that what this
            reveals is left out.
        strict: Stop at the first lesion that cannot become a crop, instead of listing it.
        workers: Processes on this machine; all usable cores if not given.
        scheduler: Address of a dask scheduler, such as tcp://host:8786, whose workers are used
            instead.
        card: Write card.html, a private page of counts and pictures: what was cut and what was
            refused.
        dry_run: Only print what would be read, counted and left out.
    """
    cutting = Cutting(size=size, margin_mm=margin_mm, minimum_mm=minimum_mm, spacing_mm=spacing_mm)
    _check_name("origin", origin)
    found = read_lesion_table(
        Path(table),
        Path(images),
        columns=columns,
        labels=labels,
        attributes=attributes or [],
        masks=None if masks is None else Path(masks),
        label_source=label_source,
        encoding=encoding,
        sheet=sheet,
    )
    splits = patient_splits(found.rows, val_fraction=val_fraction, test_fraction=test_fraction)
    print(described(found, splits))
    print(described_files(found, Path(images)))
    if dry_run:
        return None
    return cut_lesions(
        found,
        Path(out),
        cutting=cutting,
        origin=origin,
        scheduler=scheduler,
        workers=workers,
        strict=strict,
        across_patients=across_patients,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        scanned_film=scanned_film,
        card=card,
    )


def crop_folder(
    *,
    root: str,
    out: str,
    size: int | None = None,
    shrink: int = 1,
    across_patients: AcrossPatients = "refuse",
    strict: bool = False,
    card: bool = True,
) -> CropsManifest:
    """Imports published crops: {dataset}/{train,val,test}/is_benign_{true,false}/*.png.

    Labels come from is_benign, which folder and file name must agree on. The given parts are kept.

    Args:
        root: Folder of the data set, or its parent if that holds one data set only.
        out: Folder to fill with crops.csv, images/ and rejected.csv.
        size: Edge of the crops, in pixels, after shrinking; others are rejected. A clear majority's
            if not given.
        shrink: How many pixels of a published crop become one, along each edge: 4 makes crops of
            32 px out of those of 128 px, by means of 4 x 4 pixels.
        across_patients: What happens if different patients share a crop: refuse stops; merge makes
            them one patient, and the statement of each fit on the crops says that what this
            reveals is left out.
        strict: Stop at the first file that cannot become a crop, instead of listing it.
        card: Write card.html, a private page of counts and crops.
    """
    if shrink < 1:
        raise DataError(f"{shrink=}. Give 1 to leave crops as they are, or a whole number above.")
    folder = read_crop_folder(Path(root))
    _refuse_phantoms(folder.crops[0].dataset)
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
            pixels = shrunk(
                read_grey(published.path, where := f"crop {published.key}"), shrink, where
            )
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
    name = folder.crops[0].dataset
    return crops.finish(partial(write_card, name=name) if card else None)


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
    card: bool = True,
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
        size: Edge of the crops, in pixels; others are rejected. A clear majority's if not given.
        strict: Stop at the first file that cannot become a crop, instead of listing it.
        card: Write card.html, a private page of counts and crops.
    """
    _check_name("name", name)
    rule = LabelRule(malignant=malignant_word, benign=benign_word)
    folder = read_synthetic_folder(Path(root), rule)
    if provenance is not None:
        try:
            text = Path(provenance).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{provenance}: is not UTF-8 text. Save it as such.") from error
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
    return crops.finish(partial(write_card, name=name) if card else None)


def phantoms(
    *,
    out: str,
    per_class: int = 1000,
    size: int = 128,
    depth: int | None = None,
    seed: int = 0,
    parameters: PhantomParameters = DEFAULT_PHANTOMS,
) -> CropsManifest:
    """Draws phantom crops, or volumes: procedural masses on procedural tissue, free of patients.

    Args:
        out: Folder to fill with crops.csv and images/.
        per_class: Number of benign and of malignant crops.
        size: Edge of a crop, in pixels.
        depth: Draw volumes of so many slices, 1 mm apart, as tomosynthesis shows them; crops in
            the plane if not given.
        seed: Equal seeds give equal crops.
        parameters: What the crops look like; a YAML file, or single values by their names.
    """
    from data_prep.phantoms.crops import write_phantom_crops

    manifest = write_phantom_crops(
        Path(out), per_class=per_class, size=size, depth=depth, seed=seed, parameters=parameters
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


def phantom_tomosynthesis(
    *,
    out: str,
    patients: int = 20,
    height: int = 320,
    width: int = 256,
    slices: int = 24,
    seed: int = 0,
) -> None:
    """Writes a small DICOM archive of phantom tomosynthesis in the layout of BCS-DBT.

    Args:
        out: Folder to fill with tables and volumes.
        patients: Number of patients; they have unequal numbers of volumes.
        height: Height of a slice, in pixels of 0.2 mm.
        width: Width of a slice, in pixels of 0.2 mm.
        slices: Slices of a volume, 1 mm apart.
        seed: Equal seeds give equal archives.
    """
    from data_prep.phantoms.tomosynthesis_archive import write_tomosynthesis_archive

    write_tomosynthesis_archive(
        Path(out), patients=patients, shape=(slices, height, width), seed=seed
    )


def _check_name(flag: str, name: str) -> None:
    """Refuses names that cannot stand in file names and in ``origin``.

    Raises:
        ManifestError: Naming the flag.
    """
    if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ManifestError(f"--{flag} {name!r}: give letters, digits, '-', '_' and '.'.")
    if flag == "origin":
        _refuse_phantoms(name)


def _refuse_phantoms(origin: str) -> None:
    """Refuses an origin that would say of patients that they are none, in any spelling.

    Raises:
        ManifestError: Naming it.
    """
    if normalised(origin) in ("phantom", "phantomarchive"):
        raise ManifestError(f"origin {origin!r} stands for crops without patients. Give another.")
