# SPDX-License-Identifier: Apache-2.0
"""``DATA_CARD.md``: what a synthetic set is, how it came about, and what it is not for.

The headings follow Gebru et al. 2021, Datasheets for Datasets, arXiv 1803.09010, as far as a set
without persons needs them.
"""

from collections import Counter
from collections.abc import Iterable

from data_prep.manifest import ATTRIBUTES, CropsManifest
from mammo_dp.exchange.lineage import Lineage
from mammo_dp.runs import RunRecord

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
}
_LIMITS = """\
- The label is {label}. No biopsy stands behind it, and no radiologist has looked.
- What the generator learned wrong, or from few patients, is in every crop. A score on this set is
  not a score on patients.
- Crops of one generator are not independent patients: intervals over crops are too narrow."""
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
    rule = _RULES[crops[0].crop_rule]
    sources = sorted({crop.label_source for crop in crops})
    label = ", or ".join(_LABELS.get(source, f"of unknown source ({source})") for source in sources)
    origins = ", ".join(f"`{origin}`" for origin in sorted({crop.origin for crop in crops}))
    lines = [
        f"# {len(crops):,} synthetic breast mass crops",
        "",
        "No crop was cut from a mammogram: each was made by a program or a generator, named below.",
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
        f"- Command: `mammo-dp {made.command}` with {_settings(made)}.",
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
    """Flags of the command, without those that name files."""
    flags = [
        f"`{name}={value}`"
        for name, value in sorted(made.config.items())
        if name not in made.inputs and value is not None and "/" not in str(value)
    ]
    return ", ".join(flags) or "its usual settings"
