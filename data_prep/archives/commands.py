# SPDX-License-Identifier: Apache-2.0
"""The commands ``prepare ARCHIVE``: each reads one archive and hands its table to the cutter.

How crops are cut and kept is the same for all: those flags stand in :func:`cut` alone.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, Required, TypedDict, TypeVar, Unpack

from data_prep.archives import bcdr as bcdr_archive
from data_prep.archives import bcs_dbt as bcs_dbt_archive
from data_prep.archives import cbis_ddsm as cbis_archive
from data_prep.archives import cbis_ddsm_jpeg as cbis_jpeg_archive
from data_prep.archives import cmmd as cmmd_archive
from data_prep.archives import embed as embed_archive
from data_prep.archives import inbreast as inbreast_archive
from data_prep.archives import kau_bcmd as kau_archive
from data_prep.archives import rsna as rsna_archive
from data_prep.archives import vindr as vindr_archive
from data_prep.archives.cbis_ddsm import OppositeSplits
from data_prep.archives.cells import Findings, LabelRequest
from data_prep.archives.embed import Findings as EmbedFindings
from data_prep.cut_lesions import cut_lesions, patient_splits
from data_prep.cutting import Cutting
from data_prep.duplicates import AcrossPatients
from data_prep.errors import ArchiveError
from data_prep.lesion_table import described
from data_prep.lesions import LesionTable
from data_prep.manifest import CropsManifest
from data_prep.progress import watched

P = ParamSpec("P")
R = TypeVar("R")


class Options(TypedDict, total=False):
    """What every command takes beside the archive; see :func:`cut`."""

    out: Required[str]
    size: int
    margin_mm: float
    minimum_mm: float
    spacing_mm: float | None
    val_fraction: float
    test_fraction: float
    across_patients: AcrossPatients
    strict: bool
    workers: int | None
    scheduler: str | None
    card: bool


def cut(
    table: LesionTable,
    origin: str | None = None,
    *,
    out: str,
    size: int = 128,
    margin_mm: float = 3.0,
    minimum_mm: float = 6.4,
    spacing_mm: float | None = None,
    val_fraction: float = 0.15,
    test_fraction: float = 0.2,
    across_patients: AcrossPatients = "refuse",
    strict: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    card: bool = True,
) -> CropsManifest:
    """Says what is known of an archive and what it holds, and cuts its lesions.

    Args:
        table: What the archive holds.
        origin: Name of the data set in crops.csv; that of the archive if not given.
        out: Folder to fill with crops.csv, images/ and rejected.csv.
        size: Edge of a crop, in pixels.
        margin_mm: Tissue kept on each side of the lesion, in millimetres.
        minimum_mm: Smallest edge of the window that is cut, in millimetres.
        spacing_mm: Millimetres per pixel of the mammograms, for files that do not say so (scanned
            film: 0.042 to 0.05). Without any, 60 px stand for 3 mm.
        val_fraction: Expected share of training patients that become val.
        test_fraction: Expected share of patients that become test, where the archive has no parts
            of its own.
        across_patients: What happens if different patients share a crop: refuse stops; merge makes
            them one patient, and the statement of each fit on the crops says that what this
            reveals is left out.
        strict: Stop at the first lesion that cannot become a crop, instead of listing it.
        workers: Processes on this machine; all usable cores if not given.
        scheduler: Address of a dask scheduler whose workers see the same folders; this machine
            without it.
        card: Write card.html, a private page of counts and pictures: what was cut and what was
            refused.
    """
    if (facts := table.facts) is None:
        raise ArchiveError("The table has no facts. Cut a table of your own by prepare lesions.")
    cutting = Cutting(size=size, margin_mm=margin_mm, minimum_mm=minimum_mm, spacing_mm=spacing_mm)
    splits = patient_splits(table.rows, val_fraction=val_fraction, test_fraction=test_fraction)
    print(f"{facts.title}: {facts.licence}\ncite: {facts.citation}")
    print(described(table, splits))
    return cut_lesions(
        table,
        Path(out),
        cutting=cutting,
        origin=origin or facts.name,
        scheduler=scheduler,
        workers=workers,
        strict=strict,
        across_patients=across_patients,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        card=card,
    )


def _with_shared_flags(function: Callable[P, R]) -> Callable[P, R]:
    """Shows the flags of :func:`cut` in signature and docstring, in place of ``**options``."""
    own, shared = inspect.signature(function), inspect.signature(cut)
    flags = {
        name: one
        for name, one in shared.parameters.items()
        if one.kind is one.KEYWORD_ONLY and name not in own.parameters
    }
    kept = [one for one in own.parameters.values() if one.kind is not one.VAR_KEYWORD]
    function.__signature__ = own.replace(  # type: ignore[attr-defined]
        parameters=[*kept, *flags.values()]
    )
    function.__annotations__ |= {name: one.annotation for name, one in flags.items()}
    _, _, described = inspect.cleandoc(cut.__doc__ or "").partition("\n    out:")
    function.__doc__ = re.sub(
        "^    options:.*$",
        lambda _: f"    out:{described}",
        inspect.cleandoc(function.__doc__ or ""),
        flags=re.MULTILINE,
    )
    return function


@_with_shared_flags
def cbis_ddsm(
    *,
    root: str,
    findings: Findings = "masses",
    opposite_splits: OppositeSplits = "leave_out",
    origin: str | None = None,
    **options: Unpack[Options],
) -> CropsManifest:
    """Cuts lesions out of a CBIS-DDSM download, or of a phantom archive in its layout.

    The training tables become train and val, patient by patient; the test tables become test.

    Args:
        root: Folder with the tables {mass,calc}_case_description_{train,test}_set.csv and the
            DICOM files.
        findings: Masses, calcifications or both.
        opposite_splits: What happens, if both are read, to the patients whom the masses put into
            one part and the calcifications into the other one (31): they are left out, all become
            train, or the tables are refused.
        origin: Name of the data set in crops.csv; found by itself if not given.
        options: See cut.
    """
    table = cbis_archive.read(
        Path(root),
        findings=findings,
        opposite_splits=opposite_splits,
        watch=lambda paths: watched(paths, "Reading headers"),
    )
    return cut(table, origin, **options)


@_with_shared_flags
def cbis_ddsm_jpeg(
    *,
    root: str,
    findings: Findings = "masses",
    opposite_splits: OppositeSplits = "leave_out",
    origin: str | None = None,
    **options: Unpack[Options],
) -> CropsManifest:
    """Cuts lesions out of the JPEG copy of CBIS-DDSM on Kaggle: 8 bits, lossy.

    Args:
        root: Folder with csv/ and jpeg/.
        findings: Masses, calcifications or both.
        opposite_splits: As for prepare cbis_ddsm.
        origin: Name of the data set in crops.csv; cbis-ddsm if not given, since patients are the
            same.
        options: See cut.
    """
    table = cbis_jpeg_archive.read(Path(root), findings=findings, opposite_splits=opposite_splits)
    return cut(table, origin, **options)


@_with_shared_flags
def bcdr(*, root: str, findings: Findings = "masses", **options: Unpack[Options]) -> CropsManifest:
    """Cuts lesions out of BCDR, film and digital, by their outlines.

    Args:
        root: Folder of the subsets, such as BCDR-F01 and BCDR-D01, or of one.
        findings: Masses, calcifications or both.
        options: See cut.
    """
    return cut(bcdr_archive.read(Path(root), findings=findings), **options)


@_with_shared_flags
def inbreast(
    *, root: str, label_source: LabelRequest = "pathology", **options: Unpack[Options]
) -> CropsManifest:
    """Cuts the masses out of INbreast; labels are BI-RADS assessments, if asked for.

    Args:
        root: Folder of INbreast.csv, AllDICOMs and AllXML.
        label_source: Must be birads, since the data set has no pathology: 1 to 3 is benign, 4 to 6
            malignant.
        options: See cut.
    """
    return cut(inbreast_archive.read(Path(root), label_source=label_source), **options)


@_with_shared_flags
def vindr(
    *, root: str, label_source: LabelRequest = "pathology", **options: Unpack[Options]
) -> CropsManifest:
    """Cuts the masses out of VinDr-Mammo; labels are BI-RADS assessments, if asked for.

    Args:
        root: Folder of finding_annotations.csv and images/.
        label_source: Must be birads, since the data set has no pathology: 1 to 3 is benign, 4 to 6
            malignant.
        options: See cut.
    """
    table = vindr_archive.read(
        Path(root),
        label_source=label_source,
        watch=lambda paths: watched(paths, "Reading headers"),
    )
    return cut(table, **options)


@_with_shared_flags
def cmmd(
    *,
    root: str,
    annotations: str | None = None,
    findings: Findings = "masses",
    **options: Unpack[Options],
) -> CropsManifest:
    """Cuts lesions out of CMMD by the outlines of TOMPEI-CMMD, MLO views only.

    Args:
        root: Folder of CMMD_clinicaldata_revision.xlsx and of the cases.
        annotations: Folder of TOMPEI-CMMD, with files named as D1-0001_MLO_L_AnnotationFile.json;
            without them no crop can be cut.
        findings: Outlines of masses (fibroadenomas and lipomas among them), of calcifications, or
            of both.
        options: See cut.
    """
    table = cmmd_archive.read(
        Path(root),
        annotations=None if annotations is None else Path(annotations),
        findings=findings,
        watch=lambda paths: watched(paths, "Reading headers"),
    )
    return cut(table, **options)


@_with_shared_flags
def bcs_dbt(*, root: str, depth: int = 16, **options: Unpack[Options]) -> CropsManifest:
    """Cuts volumes out of BCS-DBT, tomosynthesis, or out of a phantom archive in its layout.

    Args:
        root: Folder of the tables BCS-DBT-boxes-*.csv and BCS-DBT-file-paths-*.csv and of the
            volumes.
        depth: Slices that are cut around the slice of a box.
        options: See cut.
    """
    return cut(bcs_dbt_archive.read(Path(root), depth=depth), **options)


@_with_shared_flags
def embed(
    *, root: str, findings: EmbedFindings = "masses", **options: Unpack[Options]
) -> CropsManifest:
    """Cuts lesions out of EMBED; its agreement forbids exports of what is trained on them.

    Args:
        root: Folder of tables/ and of the cohorts.
        findings: Regions of masses, or of any finding with pathology.
        options: See cut.
    """
    return cut(embed_archive.read(Path(root), findings=findings), **options)


@_with_shared_flags
def rsna(*, root: str, boxes: str | None = None, **options: Unpack[Options]) -> CropsManifest:
    """Cuts lesions out of RSNA 2022 by a table of boxes; labels are of breasts.

    Args:
        root: Folder of train.csv and train_images/.
        boxes: Table file,x0,y0,x1,y1 (or mask, or outline) as for prepare lesions, without labels;
            files are <patient_id>/<image_id>.dcm. Without it no crop can be cut.
        options: See cut.
    """
    table = rsna_archive.read(Path(root), boxes=None if boxes is None else Path(boxes))
    return cut(table, **options)


@_with_shared_flags
def kau_bcmd(
    *,
    root: str,
    boxes: str | None = None,
    label_source: LabelRequest = "pathology",
    **options: Unpack[Options],
) -> CropsManifest:
    """Cuts lesions out of KAU-BCMD by a table of boxes; labels are BI-RADS, if asked for.

    Args:
        root: Folder of the folders of assessments.
        boxes: Table file,patient,x0,y0,x1,y1 (or mask, or outline) as for prepare lesions, without
            labels; files are paths below the root. Without it no crop can be cut.
        label_source: Must be birads, since the data set has no pathology: 1 to 3 is benign, 4 to 6
            malignant.
        options: See cut.
    """
    table = kau_archive.read(
        Path(root), boxes=None if boxes is None else Path(boxes), label_source=label_source
    )
    return cut(table, **options)
