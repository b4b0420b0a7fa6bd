# SPDX-License-Identifier: Apache-2.0
"""``export medigan``: a trained generator as a folder that medigan and plain Python can use.

medigan (Osuala et al. 2023, Journal of Medical Imaging 10(6), arXiv 2209.14472) lists generative
models; each is a Python package with one function ``generate`` and an entry of metadata.
"""

import json
import re
import shutil
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import torch

import gan.generator
from gan.checkpoint import Checkpoint, read_content
from gan.conditions import Conditions
from gan.diffusion.checkpoint import DiffusionCheckpoint
from mammo_dp import __version__
from mammo_dp.export import ExportError, medigan_package
from mammo_dp.export.lineage import Lineage, require_terms
from mammo_dp.runs import MADE_BY, file_sha256, write_text_atomically

WEIGHTS = "generator.pt"
DEPENDENCIES = ("numpy>=2.0", "pillow>=10.3", "torch>=2.6")
SAMPLES = 8
_MADE = (
    *(WEIGHTS, "__init__.py", "generator.py", "metadata.json"),
    *("requirements.txt", "test.sh", "LICENSE"),
)
# medigan imports the folder as a package, so the network lies beside the function.
_IMPORT, _BESIDE = "from gan.generator import", "from .generator import"
_TEST = """\
#!/bin/sh
# Generates ten crops into test_images/. Needs what requirements.txt lists.
set -e
cd "$(dirname "$0")/.."
"${{PYTHON:-python3}}" -c "
from {name} import generate
generate('{name}/{weights}', 10, '{name}/test_images', True)"
echo "Ten crops are in {name}/test_images."
"""


def medigan(*, checkpoint: str, out: str, name: str, licence_of_cohort: str | None = None) -> None:
    """Exports a trained generator as a medigan package: code, weights, metadata and statement.

    The package needs torch, numpy and pillow, not mammo_dp. Its metadata and its privacy.json say
    what the generator's own statement says.

    Args:
        checkpoint: Released checkpoint of a fit of mammo_dp.MCGAN or mammo_dp.DPMCGAN, in its run
            folder.
        out: Folder of this export; the package is its subfolder NAME.
        name: Name of the package: letters, digits and '_', no digit first, such as MASSES_MCGAN.
        licence_of_cohort: Terms under which what was trained on the cohort may be passed on; needed
            for data sets whose terms are not known here.

    Raises:
        ExportError: If the name cannot be imported, or the generator is a diffusion.
        CheckpointError: If the checkpoint holds no generator of this version.
        PrivacyError: If the generator's statement is missing or does not hold.
        LicenceError: If the cohort's terms forbid the export, or are unknown.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ExportError(f"{name=}. Give letters, digits and '_', no digit first.")
    sha256, parts = read_content(Path(checkpoint))
    if DiffusionCheckpoint.holds_diffusion(parts):
        raise ExportError(
            f"{checkpoint}: a diffusion needs MONAI, and a medigan package has torch, numpy and "
            "pillow alone. Pass its crops on instead: `mammo-dp generate`, then `export set`."
        )
    source = Checkpoint.of(Path(checkpoint), sha256, parts)
    lineage = Lineage.of(checkpoint, sha256)
    terms = require_terms((access.cohort for access in lineage.ledger.accesses), licence_of_cohort)
    folder = Path(out) / name
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder / WEIGHTS, source)
    _write_code(folder, name)
    lineage.copy_to(folder)
    write_text_atomically(
        folder / "metadata.json",
        json.dumps({name: _metadata(name, source, lineage, terms, folder)}, indent=2) + "\n",
    )
    medigan_package.generate(str(folder / WEIGHTS), SAMPLES, str(folder / "samples"), True, seed=0)
    labels = (medigan_package.CLASSES[number % 2] for number in range(SAMPLES))
    samples = (f"samples/{number}_{label}.png" for number, label in enumerate(labels))
    lineage.seal_files(folder, *_MADE, *samples)


def _write_weights(path: Path, source: Checkpoint) -> None:
    settings = {name: source.settings[name] for name in ("image_size", "channels", "latent")}
    settings["columns"] = Conditions(tuple(source.settings["conditions"])).width
    settings["separability"] = source.settings.get("separability", 1.0)
    content = {"note": MADE_BY, "generator": source.generator.state_dict(), "settings": settings}
    torch.save(content, path)


def _write_code(folder: Path, name: str) -> None:
    code = Path(medigan_package.__file__).read_text(encoding="utf-8")
    write_text_atomically(folder / "__init__.py", code.replace(_IMPORT, _BESIDE))
    shutil.copyfile(gan.generator.__file__, folder / "generator.py")
    write_text_atomically(folder / "requirements.txt", "\n".join(DEPENDENCIES) + "\n")
    write_text_atomically(folder / "test.sh", _TEST.format(name=name, weights=WEIGHTS))
    licence = next(f for f in distribution("mammo-dp").files or () if f.name == "LICENSE")
    write_text_atomically(folder / "LICENSE", licence.read_text(encoding="utf-8"))


def _metadata(
    name: str, source: Checkpoint, lineage: Lineage, terms: list[str], folder: Path
) -> dict[str, Any]:
    """The entry of medigan's ``global.json``; where the package will lie is for the uploader."""
    trained = (lineage.run.finished or "")[:10]
    size = source.generator.image_size
    return {
        "execution": {
            "package_name": name,
            "package_link": "",
            "model_name": WEIGHTS.partition(".")[0],
            "extension": ".pt",
            "image_size": [size, size],
            "dependencies": list(DEPENDENCIES),
            "generate_method": {
                "name": "generate",
                "args": {
                    "base": ["model_file", "num_samples", "output_path", "save_images"],
                    "custom": {"condition": None, "z": None, "seed": None},
                },
            },
        },
        "selection": {
            "performance": {},
            "use_cases": ["classification"],
            "organ": ["breast"],
            "modality": ["mammography", "MMG", "x-ray mammography"],
            "vendors": [],
            "centres": [],
            "function": ["noise to image", "conditional generation", "data augmentation"],
            "condition": list(medigan_package.CLASSES),
            "dataset": [dataset for dataset in lineage.datasets if dataset],
            "augmentations": [],
            "generates": ["mass", "masses", "mass ROI", "benign mass", "malignant mass"],
            "height": size,
            "width": size,
            "depth": None,
            "type": "cGAN",
            "license": "; ".join(["Apache-2.0 (code)", *terms]),
            "dataset_type": None,
            "privacy_preservation": lineage.sentence,
            "tags": ["mammogram", "mammography", f"{size}x{size}", "mass", "malignancy"],
            "year": trained[:4],
        },
        "description": {
            "title": f"{name}: benign and malignant breast masses, {size} x {size} pixels",
            "provided_date": None,
            "trained_date": trained,
            "provided_after_epoch": None,
            "version": source.sha256[:12],
            "publication": None,
            "doi": [],
            "comment": (
                f"Exported by mammo_dp {__version__}. SHA-256 of the checkpoint "
                f"{source.sha256}, of {WEIGHTS} {file_sha256(folder / WEIGHTS)}, of "
                f"privacy.json {lineage.sha256}. Malignant is 1 in mammo_dp; here classes are "
                "words."
            ),
        },
    }
