# SPDX-License-Identifier: Apache-2.0
"""``README.md`` of an exported classifier: what it is, how to use it, what protects its patients.

The headings follow Mitchell et al. 2019, Model Cards for Model Reporting, arXiv 1810.03993; the
lines on top are those that model hubs read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mammo_dp.exchange.lineage import Lineage
from mammo_dp.exchange.shared_classifier import SharedClassifier

_USE = {
    "onnx": """\
```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
scores = session.run(None, {{"image": crops}})  # float32, shape (N, 1, {size}, {size}), see below
```""",
    "huggingface": """\
```console
$ mammo-dp predict --run THIS_FOLDER --images FOLDER --table lesions.csv --out RESULT
```
{timm}""",
}
_TIMM = """
Where timm alone is installed, `timm.create_model("local-dir:THIS_FOLDER", pretrained=True)` gives
the same logits."""
_USES = """\
- To study how a classifier of breast masses behaves{trained}.
- Not for diagnosis. It is research software, no medical device, and was not tested in a clinic."""
_LIMITS = """\
- It scores a crop around a mass that somebody has found; it finds none.
- Scores hold for crops cut as those of training, from similar machines and patients.
- What is computed with the weights on patients is private data{again}."""
_GUARDED = {
    "tag": ", differential-privacy",
    "trained": " that was trained under a privacy guarantee",
    "again": " again: the guarantee covers the weights alone",
}
_UNPROTECTED = """\
- Some patients behind the weights have no guarantee (see Privacy): the weights may give them
  away."""


def model_card(
    shared: SharedClassifier,
    lineage: Lineage,
    terms: Sequence[str],
    facts: Mapping[str, Any],
    *,
    form: str,
    timm: bool,
) -> str:
    """The card.

    Args:
        shared: The classifier.
        lineage: Its privacy statement.
        terms: A line for each data set in the lineage.
        facts: What ``config.json`` says.
        form: ``"onnx"`` or ``"huggingface"``.
        timm: Whether timm alone can read the folder.

    Returns:
        Markdown, without paths of the machine that it was made on.
    """
    size, fitted = shared.image_size, shared.released.calibration
    use = _USE[form].format(size=size, timm=_TIMM if timm else "")
    private = lineage.protects and bool(lineage.statements)
    words = _GUARDED if private else dict.fromkeys(_GUARDED, "")
    calibrated = (
        "The probability is not calibrated."
        if fitted is None
        else f"Calibrated: sigmoid({fitted.slope:.4g} x logit {fitted.intercept:+.4g})."
    )
    lines = [
        *("---", "library_name: timm" if timm else "library_name: mammo_dp"),
        *("pipeline_tag: image-classification", "license: other"),
        *(f"tags: [mammography, breast-mass, malignancy{words['tag']}]", "---", ""),
        *("# Malignancy of breast masses in mammogram crops", ""),
        f"A `{facts['settings']['backbone']}` that maps a crop of {size} x {size} pixels to a "
        f"logit; above 0 means malignant. {calibrated}",
        "",
        *("## How to use", "", use, ""),
        f"A crop of 16-bit grey is divided by 65535, resized to {size} x {size} by area averaging, "
        "and mapped to 2 x - 1 (`preprocessor_config.json`).",
        _cut(shared),
        "",
        *("## Privacy", "", str(lineage.stored["summary"]), ""),
        *(f"- {exclusion}" for exclusion in lineage.stored["exclusions"]),
        "- In full: `PRIVACY.md`; for programs: `privacy.json`, sealed by whoever trained.",
        "",
        *("## Training data", ""),
        *([f"- {line}." for line in terms] or ["- No patient."]),
        "",
        *("## Intended use", "", _USES.format(**words), ""),
        *("## Limits", "", _LIMITS.format(**words)),
        *(() if lineage.protects else (_UNPROTECTED,)),
        "",
        *("## What belongs together", ""),
        f"- Statement `privacy.json`: SHA-256 `{facts['statement_sha256']}`.",
        f"- It is about a checkpoint of SHA-256 `{facts['checkpoint_sha256']}`,",
        f"- whose tensors are in `{facts['weights']}`: SHA-256 `{facts['weights_sha256']}`.",
    ]
    return "\n".join(lines) + "\n"


def _cut(shared: SharedClassifier) -> str:
    """How to get a crop from a mammogram."""
    trained = shared.crops
    if trained is None or trained.cutting is None:
        rule = f" (rule {trained.rule!r})" if trained else ""
        return f"Training crops came cut already{rule}: cut as they were."
    return (
        "Training crops: a square centred on the box of the mass, "
        f"{trained.cutting.margin_mm:g} mm larger on each side and at least "
        f"{trained.cutting.minimum_mm:g} mm wide, in the grey range of the breast."
    )
