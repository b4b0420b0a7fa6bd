# SPDX-License-Identifier: Apache-2.0
"""``export classifier``: a released classifier for other programs, with its statement unchanged."""

import json
from typing import Any, Literal

from classifier.backbones import takes_image_size
from mammo_dp.exchange.lineage import Lineage
from mammo_dp.exchange.model_card import model_card
from mammo_dp.exchange.onnx_model import require_onnx, write_onnx
from mammo_dp.exchange.shared_classifier import CONFIG, OURS, WEIGHTS, SharedClassifier
from mammo_dp.exchange.terms import require_terms
from mammo_dp.runs import RunError, close_run, open_run, write_text_atomically

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
    shared = SharedClassifier.read(run)
    if shared.path.name == CONFIG:
        raise RunError(f"{run}: is an export already. Give the run folder that it was made of.")
    lineage = Lineage.of(shared.path)
    terms = require_terms((access.cohort for access in lineage.ledger.accesses), licence_of_cohort)
    record = open_run(
        out,
        command="export classifier",
        config={"run": run, "format": format, "licence_of_cohort": licence_of_cohort},
        inputs={"checkpoint": shared.path},
    )
    if record.is_finished:
        print(f"{record.folder}: already finished; nothing to do.")
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
    write_text_atomically(folder / PREPROCESSOR, json.dumps(_preprocessor(shared), indent=2) + "\n")
    card = model_card(shared, lineage, terms, facts, form=format, timm=timm)
    write_text_atomically(folder / CARD, card)
    lineage.seal_files(folder, weights.name, CONFIG, PREPROCESSOR, CARD)
    close_run(record)
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
            "fixed_input_size": True,
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
