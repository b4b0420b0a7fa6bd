# SPDX-License-Identifier: Apache-2.0
"""``export classifier``: a released classifier for other programs, with its statement unchanged.

ONNX needs the extra ``export``: ``pip install -e ".[export]"`` in the source tree. The headings of
the card (``README.md``) follow Mitchell et al. 2019, Model Cards for Model Reporting, arXiv
1810.03993; the lines on top are those that model hubs read.
"""

import json
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from classifier.backbones import takes_image_size
from classifier.released import ReleasedClassifier
from mammo_dp.export import ExportError
from mammo_dp.export.lineage import Lineage, require_terms
from mammo_dp.export.shared_classifier import CONFIG, OURS, WEIGHTS, SharedClassifier
from mammo_dp.runs import RunError, run_folder, write_text_atomically

INPUT, OUTPUTS = "image", ("logit", "probability", "calibrated_probability")
OPSET = 20  # with Gelu as one operator
_PACKAGES = ("onnx", "onnxscript")
# Of torch 2.13 about itself.
_QUIET = "`isinstance\\(treespec, LeafSpec\\)` is deprecated"


class _Scores(nn.Module):
    """From an image to all that ``predictions.csv`` says of it."""

    def __init__(self, released: ReleasedClassifier) -> None:
        super().__init__()
        self.model = released.model
        self.calibration = released.calibration

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Maps ``(B, 1, H, W)`` in ``[-1, 1]`` to columns of shape ``(B,)``."""
        logit: Tensor = self.model(image)
        if self.calibration is None:
            return logit, torch.sigmoid(logit)
        fitted = self.calibration.slope * logit + self.calibration.intercept
        return logit, torch.sigmoid(logit), torch.sigmoid(fitted)


def require_onnx() -> None:
    """Checks for the packages before anything is written.

    Raises:
        ExportError: If one is missing.
    """
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ExportError(
            f'{", ".join(missing)}: not installed. Run `pip install -e ".[export]"` in the '
            "source tree."
        )


def write_onnx(path: Path, released: ReleasedClassifier, facts: dict[str, str]) -> None:
    """Writes one file: the graph with its weights, for any number of crops at once.

    Args:
        path: The file.
        released: Model and calibration.
        facts: Metadata of the file, such as the hash of the statement.
    """
    size = int(released.model.hparams["image_size"])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _QUIET)
        program = torch.onnx.export(
            _Scores(released).eval(),
            (torch.zeros(2, 1, size, size),),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS if released.calibration else OUTPUTS[:2]),
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            optimize=False,  # it drops summands below about 1e-8, which keep flat crops from 0 / 0
            external_data=False,
            verbose=False,
        )
    assert program is not None
    for part in (program.model.graph, *program.model.functions.values()):
        for node in part.all_nodes():  # type: ignore[attr-defined]  # a graph, or a function
            node.metadata_props.clear()  # torch notes its call stack, with paths of this machine
    program.model.metadata_props.update(facts)
    program.save(path)


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
        *([f"- {line}." for line in terms] or [f"- {lineage.stored['summary']}"]),
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


FOLDER, CARD, PREPROCESSOR, GRAPH = (
    "classifier",
    "README.md",
    "preprocessor_config.json",
    "model.onnx",
)
Format = Literal["onnx", "huggingface"]


def classifier(
    *, run: str, out: str, format: Format = "huggingface", licence_of_cohort: str | None = None
) -> None:
    """Exports a released classifier as ONNX, or as a folder in the manner of Hugging Face.

    An export looks at no patient: the run's privacy.json goes along byte by byte, and the hashes in
    config.json lead from the exported weights to the checkpoint that it speaks about.

    Args:
        run: Run folder of a fit.
        out: Folder of this export; what can be passed on is its subfolder classifier.
        format: "huggingface" writes model.safetensors, which predict and timm read; "onnx" writes
            model.onnx with the calibration inside, and needs `pip install -e ".[export]"`.
        licence_of_cohort: Terms under which what was trained on the cohort may be passed on; needed
            for data sets whose terms are not known here.

    Raises:
        ExportError: If a package is missing.
        ReleasedError: If the run holds another kind of model.
        PrivacyError: If the statement is missing or does not hold.
        LicenceError: If the cohort's terms forbid the export, or are unknown.
    """
    if format == "onnx":
        require_onnx()
    shared = SharedClassifier.read(run, as_stated=True)
    if shared.path.name == CONFIG:
        raise RunError(f"{run}: is an export already. Give the run folder that it was made of.")
    lineage = Lineage.of(shared.folder, shared.checkpoint_sha256)
    terms = require_terms((access.cohort for access in lineage.ledger.accesses), licence_of_cohort)
    with run_folder(
        out,
        command="export classifier",
        config={"run": run, "format": format, "licence_of_cohort": licence_of_cohort},
        inputs={"checkpoint": shared.path},
    ) as record:
        if record.is_finished_as_said():
            return
        folder = record.folder / FOLDER
        folder.mkdir(exist_ok=True)
        weights = folder / (GRAPH if format == "onnx" else WEIGHTS)
        if format == "onnx":
            ids = {"checkpoint": shared.checkpoint_sha256, "statement": shared.statement_sha256}
            write_onnx(weights, shared.released, {f"{k}_sha256": v for k, v in ids.items()})
        else:
            shared.write_weights(weights)
        lineage.copy_to(folder)
        facts = shared.facts(weights)
        timm = format == "huggingface" and shared.is_plain_timm
        sized = takes_image_size(shared.released.model.net)
        config = (_timm(facts["settings"], sized=sized) if timm else {}) | {OURS: facts}
        write_text_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
        write_text_atomically(
            folder / PREPROCESSOR, json.dumps(_preprocessor(shared), indent=2) + "\n"
        )
        card = model_card(shared, lineage, terms, facts, form=format, timm=timm)
        write_text_atomically(folder / CARD, card)
        lineage.seal_files(folder, weights.name, CONFIG, PREPROCESSOR, CARD)
        print(f"{folder}: {weights.name}, statement {shared.statement_sha256[:12]}.")


def _timm(settings: dict[str, Any], *, sized: bool) -> dict[str, Any]:
    """What timm reads of ``config.json``, so that ``local-dir:`` and hubs can build the model.

    Args:
        settings: Of a ``CropClassifier``.
        sized: Whether timm builds the model for one size of images.
    """
    size = settings["image_size"]
    arguments = {"in_chans": 1} | ({"img_size": size} if sized else {})
    return {
        "architecture": settings["backbone"].partition(".")[0],  # the tag is of its weights
        "num_classes": 1,
        "model_args": arguments | (settings["backbone_args"] or {}),
        "pretrained_cfg": {
            "num_classes": 1,
            "input_size": [1, size, size],
            "fixed_input_size": sized,
            "interpolation": "bilinear",  # timm knows no area averaging; for small shrinkage alike
            "mean": [0.5],
            "std": [0.5],
            "label_names": ["malignant"],
        },
    }


def _preprocessor(shared: SharedClassifier) -> dict[str, Any]:
    """From a 16-bit crop to the input, in the words of Hugging Face, and how the crop is cut."""
    size = shared.image_size
    return {
        "do_convert_grayscale": True,
        "do_rescale": True,
        "rescale_factor": 1 / 65535,
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 4,  # of PIL: box, which is area averaging
        "do_normalize": True,
        "image_mean": [0.5],
        "image_std": [0.5],
        "crop": shared.crops and shared.crops.as_json(),
    }
