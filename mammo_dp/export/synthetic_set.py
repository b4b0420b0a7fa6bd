# SPDX-License-Identifier: Apache-2.0
"""``export set``: synthetic crops as a folder that can be passed on, with a data card.

The headings of ``DATA_CARD.md`` follow Gebru et al. 2021, Datasheets for Datasets, arXiv
1803.09010, as far as a set without persons needs them.
"""

import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from data_prep.crop_image import save_crop_image
from data_prep.manifest import ATTRIBUTES, CropsManifest
from data_prep.manifest import FILE_NAME as CROPS
from data_prep.progress import watched
from data_prep.secondary_capture import save_secondary_capture, secondary_capture
from mammo_dp.export import ExportError
from mammo_dp.export.lineage import Lineage, require_terms
from mammo_dp.runs import RunRecord, write_text_atomically

_RULES = {
    "centred": "centred on the mass",
    "reference-2024": "cut as in arXiv 2407.12669, with masses off centre",
    "as-is": "not known how cut",
}
_USES = """\
- To pre-train and compare classifiers of breast masses, and to try out software, where no patient's
  image may be used.
- Not for diagnosis, and not as evidence about patients: how often something is seen here says
  nothing about how often it occurs."""
_LABELS = {
    "generator": "what was asked of the generator",
    "phantom": "what the procedure drew",
    "classifier": "what a classifier said of the crop",
    "means": "the class of patients whose mean it was chosen for",
}
_LIMITS = """\
- The label is {label}. No biopsy stands behind it, and no radiologist has looked.
- What the generator learned wrong, or from few patients, is in every crop. A score on this set is
  not a score on patients.
- Crops of one generator are not independent patients: intervals over crops are too narrow."""
_MADE = "No crop was cut from a mammogram: each was made by a program or a generator, named below."
_IMPORTED = (
    "Whoever imported these crops says that a generator made them. Nobody here can check that none "
    "was cut from a mammogram."
)
_THEY_SAY = ", as whoever imported the crops says"
# Numbers that say what was asked of an account; what holds is in the statement.
_ASKED = ("target_", "delta", "kappa")
_UNPROTECTED = """\
- Some patients behind the generator have no guarantee (see Privacy): a crop may resemble theirs."""


def data_card(
    manifest: CropsManifest,
    size: int,
    made: RunRecord,
    lineage: Lineage,
    terms: Iterable[str],
    *,
    dicom: bool,
) -> str:
    """The data card.

    Args:
        manifest: The crops.
        size: Edge of a crop, in pixels.
        made: The run that made them.
        lineage: Their privacy statement.
        terms: A line for each data set in the lineage.
        dicom: Whether there are DICOM files, too.

    Returns:
        Markdown, without paths of the machine that it was made on.
    """
    crops = manifest.crops
    classes = Counter("malignant" if crop.malignant else "benign" for crop in crops)
    imported = any(crop.origin.startswith("synthetic:") for crop in crops)
    rule = _RULES[crops[0].crop_rule] + (_THEY_SAY if imported else "")
    sources = sorted({crop.label_source for crop in crops})
    label = ", or ".join(
        _LABELS.get(source, f"of unknown source ({source})") for source in sources
    ) + (_THEY_SAY if imported else "")
    origins = ", ".join(f"`{origin}`" for origin in sorted({crop.origin for crop in crops}))
    lines = [
        f"# {len(crops):,} synthetic breast mass crops",
        "",
        _IMPORTED if imported else _MADE,
        "",
        "## What it holds",
        "",
        f"- {classes['benign']:,} benign and {classes['malignant']:,} malignant crops, {size} x "
        f"{size} pixels, 16-bit grey PNG, {rule}.",
        "- `crops.csv`: a row for each crop, with its class (malignant is 1), split and the hash "
        f"of its pixels. SHA-256 `{manifest.sha256}`.",
        *_attributes(manifest),
        *(
            ["- `dicom/`: the same crops as DICOM Secondary Capture, marked as synthetic data."]
            if dicom
            else []
        ),
        "",
        "## How it was made",
        "",
        f"- Origin: {origins}.",
        f"- Command: `mammo-dp {made.command}`{_settings(made)}.",
        f"- Versions: {', '.join(f'{name} {v}' for name, v in made.versions.items())}.",
        *(f"- Patients behind the generator: {line}." for line in terms),
        "",
        "## Privacy",
        "",
        lineage.stored["summary"],
        "",
        *[f"- {exclusion}" for exclusion in lineage.stored["lineage_exclusions"]],
        f"- In full: `PRIVACY.md`; for programs: `privacy.json`, SHA-256 `{lineage.sha256}`.",
        "",
        "## Intended use",
        "",
        _USES,
        "",
        "## Limits",
        "",
        _LIMITS.format(label=label),
        *([] if lineage.protects else [_UNPROTECTED]),
    ]
    return "\n".join(lines) + "\n"


def _attributes(manifest: CropsManifest) -> list[str]:
    """How many crops show which level, of what the set has."""
    shown = []
    for name in (*ATTRIBUTES, "view"):
        levels = Counter(
            crop.view if name == "view" else crop.attributes.get(name) for crop in manifest.crops
        )
        levels.pop(None, None)
        if levels:
            counted = ", ".join(f"{level} {n:,}" for level, n in sorted(levels.items()))
            shown.append(f"- As asked for, {name}: {counted}.")
    return shown


def _settings(made: RunRecord) -> str:
    """Flags of the command that are numbers or switches; a text may be a path, a name, a claim."""
    flags = [
        f"`{name}={value}`"
        for name, value in sorted(made.config.items())
        if isinstance(value, bool | int | float) and not name.startswith(_ASKED)
    ]
    return f" with {', '.join(flags)}" if flags else ""


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
        ExportError: If a crop is that of a patient.
        ManifestError: If the manifest or a crop is malformed.
        RunError: If the folder does not say which command made it, as one that was exported.
        PrivacyError: If the statement is missing or does not hold.
        LicenceError: If the cohort's terms forbid the export, or are unknown.
    """
    manifest = CropsManifest.read(crops)
    if origins := sorted({crop.origin for crop in manifest.crops if not crop.is_synthetic}):
        raise ExportError(
            f"{manifest.folder / CROPS}: crops of {', '.join(origins)} are those of patients. Only "
            "generated crops are exported."
        )
    lineage = Lineage.of(manifest.folder, manifest.sha256)
    made = lineage.run
    terms = require_terms((access.cohort for access in lineage.ledger.accesses), licence_of_cohort)
    folder, images = Path(out) / FOLDER, []
    for row in watched(range(len(manifest.crops)), "Copying crops"):
        crop, pixels = manifest.crops[row], manifest.image(row)
        save_crop_image(folder / crop.file, pixels)  # encoded anew: pixels, and nothing else
        if dicom:
            file = secondary_capture(crop, pixels, row, manifest.sha256)
            label = "malignant" if crop.malignant else "benign"
            images.append(f"dicom/{row:06d}_{label}.dcm")
            save_secondary_capture(folder / images[-1], file)
    lineage.copy_to(folder)
    card = data_card(manifest, pixels.shape[0], made, lineage, terms, dicom=dicom)
    write_text_atomically(folder / CARD, card)
    lineage.seal_files(folder, CARD, *images, crops=manifest)
    shutil.copyfile(manifest.folder / CROPS, folder / CROPS)  # last: with it the folder is whole
