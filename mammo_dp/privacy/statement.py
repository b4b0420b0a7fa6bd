# SPDX-License-Identifier: Apache-2.0
"""``privacy.json`` and ``PRIVACY.md``: the statement that travels with an artefact."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import Crop, CropsManifest
from mammo_dp.privacy.cohorts import seal
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.guarantee import taken_together
from mammo_dp.privacy.ledger import Access, PrivacyLedger
from mammo_dp.privacy.preparation import preparation_exclusions
from mammo_dp.privacy.prose import in_words
from mammo_dp.runs import FILE_NAME as RUN
from mammo_dp.runs import (
    RunRecord,
    file_sha256,
    read_run,
    run_of,
    versions,
    write_text_atomically,
)

FILE_NAME, TEXT_NAME = "privacy.json", "PRIVACY.md"
SCHEMA = 2  # 1 had no seal, no text hash and no patient's number beside a crop's
NO_PATIENTS = "No patient data was used."
NO_RELEASE = "This folder is no release: crops of patients stand in it as they are."
_DERIVED_BY = ("mammo-dp", "dp-accounting", "opacus")  # shape words and numbers

EXCLUSIONS = (
    "Metrics, predictions, figures and attack results computed on patient data: diagnostics for "
    "those who hold the data, not covered by epsilon.",
    "Choices made by looking at patient data: hyper-parameters, the number of steps, the target "
    "itself, which of several runs is published. Each further look costs privacy that is not "
    "counted here.",
    "Patients of splits that were only used to validate or test: they have no guarantee.",
    "The numbers of patients and crops, and the split: treated as public.",
    "The feature cache (features/), training state and logs of the run folder: private, not to be "
    "published.",
    "Side channels such as running time and memory, and attacks on the rounding of floating-point "
    "noise.",
    "What a model teaches about patients in general, which holds whether or not a given patient "
    "took part.",
)


def write_statement(
    folder: str | Path,
    ledger: PrivacyLedger,
    *,
    delta: float = 1e-4,
    artefact: Path | None = None,
    exclusions: Sequence[str] = (),
    randomness: Mapping[str, Any] | None = None,
    precision: str | None = None,
    run: RunRecord | None = None,
) -> None:
    """Writes ``privacy.json``, sealed under the cohort key, and ``PRIVACY.md``.

    Args:
        folder: Run folder or data folder.
        ledger: Accesses along the lineage of the artefact, its own included.
        delta: Below 1 / units of each cohort with a finite epsilon.
        artefact: What is released, below ``folder``; none if the folder releases nothing.
        exclusions: What is left out beyond what every statement leaves out.
        randomness: Where draws and noise came from.
        precision: Of the training, such as ``"32-true"``.
        run: The run that made the artefact; its configuration and inputs come under the seal.

    Raises:
        PrivacyError: If delta is too large.
    """
    folder, released = Path(folder), None
    if artefact is not None:
        name = artefact.relative_to(folder).as_posix()
        released = {"path": name, "sha256": file_sha256(artefact)}
    stored, text = contents(
        ledger,
        delta=delta,
        artefact=released,
        exclusions=exclusions,
        randomness=randomness or {},
        precision=precision,
        run=None if run is None else run_facts(run),
    )
    sealed = json.dumps({**stored, "seal": seal(stored)}, indent=2, allow_nan=False) + "\n"
    write_text_atomically(folder / FILE_NAME, sealed)
    write_text_atomically(folder / TEXT_NAME, text)


def run_facts(run: RunRecord) -> dict[str, Any]:
    """What a statement says about the run that made its artefact."""
    return {
        "command": run.command,
        "config_sha256": run.config_sha256,
        "commit": run.commit,
        "inputs": {role: entry.sha256 for role, entry in run.inputs.items()},
    }


def contents(
    ledger: PrivacyLedger,
    *,
    delta: float,
    artefact: Mapping[str, Any] | None = None,
    exclusions: Iterable[str] = (),
    randomness: Mapping[str, Any],
    precision: str | None,
    run: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], str]:
    """What follows from a ledger: the content of ``privacy.json``, unsealed, and ``PRIVACY.md``.

    Args:
        ledger: Accesses along the lineage of the artefact, its own included.
        delta: Below 1 / units of each cohort with a finite epsilon.
        artefact: ``path`` and ``sha256`` of what is released; none if the run released nothing.
        exclusions: What is left out beyond what every statement leaves out.
        randomness: Where draws and noise came from.
        precision: Of the training.
        run: :func:`run_facts` of the run that made the artefact.

    Raises:
        PrivacyError: If delta is too large.
    """
    statements = ledger.statements(delta, artefact["sha256"] if artefact else None)
    sentences = [*(statement.sentence for statement in statements), taken_together(statements)]
    if run is not None and artefact is None:
        sentences = [NO_RELEASE, *sentences]
    stored = {
        "schema": SCHEMA,
        "artefact": artefact,
        "summary": " ".join(filter(None, sentences)) or NO_PATIENTS,
        "delta": delta,
        "statements": [statement.as_json() for statement in statements],
        "accesses": [access.as_json() for access in ledger.accesses],
        "lineage_exclusions": list(ledger.exclusions),
        "exclusions": list(dict.fromkeys([*exclusions, *ledger.exclusions, *EXCLUSIONS])),
        "randomness": dict(randomness),
        "precision": precision,
        "run": run,
        "versions": versions(_DERIVED_BY),
    }
    text = in_words(stored, statements)
    return {**stored, "text_sha256": hashlib.sha256(text.encode()).hexdigest()}, text


def ledger_of(stored: Mapping[str, Any]) -> PrivacyLedger:
    """The accesses in the content of ``privacy.json``."""
    return PrivacyLedger(
        accesses=tuple(Access.from_json(access) for access in stored["accesses"]),
        exclusions=tuple(stored["lineage_exclusions"]),
    )


def read_statement(path: str | Path) -> dict[str, Any]:
    """Reads ``privacy.json``.

    Args:
        path: The file, or its folder.

    Raises:
        PrivacyError: If it is missing or unreadable.
    """
    path = Path(path)
    path = path / FILE_NAME if path.is_dir() else path
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        if stored["schema"] != SCHEMA:
            raise ValueError(f"schema {stored['schema']}, known is {SCHEMA}")
        ledger_of(stored)
        if (artefact := stored["artefact"]) is not None and set(artefact) != {"path", "sha256"}:
            raise ValueError(f"artefact {artefact}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PrivacyError(
            f"{path}: is no readable privacy statement ({error}). Without it the lineage is "
            "unknown; run the stage that makes the folder again."
        ) from error
    return stored


def read_ledger(folder: str | Path) -> PrivacyLedger:
    """The accesses that a folder's statement carries.

    Raises:
        PrivacyError: If the statement is missing, unreadable, or not about the artefact beside it.
    """
    path = Path(folder) / FILE_NAME
    stored = read_statement(path)
    if artefact := stored["artefact"]:
        released = Path(folder) / artefact["path"]
        if not released.is_file() or file_sha256(released) != artefact["sha256"]:
            raise PrivacyError(
                f"{released}: is not the file that {path} speaks about. Restore it, or run the "
                "stage again."
            )
    return ledger_of(stored)


def collect_parents(paths: Iterable[str | Path]) -> PrivacyLedger:
    """Joins the ledgers of what a stage read.

    Args:
        paths: Folders of crops, and files of weights.

    Returns:
        Accesses of all stages behind these inputs. Weights from outside become an exclusion, and
        so does what the preparation of crops leaves open.

    Raises:
        PrivacyError: If what a model made or labelled, or a checkpoint of a fit, comes without its
            statement, crops are unfinished, or a statement does not fit its artefact.
    """
    ledger = PrivacyLedger()
    for path in paths:
        prepared = PrivacyLedger(exclusions=preparation_exclusions(path))
        ledger = ledger.joined([_parent(Path(path)), prepared])
    return ledger


def _parent(path: Path) -> PrivacyLedger:
    if path.is_file() and path.suffix != Path(CROPS).suffix:
        folder = run_of(path)
        if folder != path.parent and (path.parent / FILE_NAME).is_file():
            return _exported(path)
        if folder is None and _is_ours(path):
            raise PrivacyError(
                f"{path}: is a checkpoint of a fit outside of its run folder, so nobody knows "
                "whose data it saw. Use the file in the run folder, beside its statement."
            )
        if folder is None:
            return PrivacyLedger(
                exclusions=(
                    f"Initial weights from outside (sha256 {file_sha256(path)}) have no statement: "
                    "patients in their training data are not covered.",
                )
            )
        ledger = read_ledger(folder)
        _require_artefact(path, folder)
        return ledger
    manifest = CropsManifest.read(path)
    if (manifest.folder / FILE_NAME).is_file():
        return read_ledger(manifest.folder)
    if (manifest.folder / RUN).is_file() and not read_run(manifest.folder).is_finished:
        raise PrivacyError(
            f"{manifest.folder}: is unfinished and has no {FILE_NAME} yet. Run the command that "
            "makes it again, to its end."
        )
    if made := sorted({crop.origin for crop in manifest.crops if _learned(crop)}):
        raise PrivacyError(
            f"{manifest.folder / CROPS}: crops of {', '.join(made)} without {FILE_NAME}, so nobody "
            "knows whose data their generator, or the classifier that labelled them, saw. Run the "
            "command that makes them again, to its end; it writes it."
        )
    return PrivacyLedger()


def _exported(path: Path) -> PrivacyLedger:
    """What the statement says that was passed on with weights; it is about their checkpoint."""
    ledger = ledger_of(read_statement(path.parent))
    doubt = (
        f"Initial weights from an export (sha256 {file_sha256(path)}): the statement beside them "
        "is counted; that it is theirs was not checked."
    )
    return replace(ledger, exclusions=(*ledger.exclusions, doubt))


def _learned(crop: Crop) -> bool:
    """Whether pixels or label of a synthetic crop come from a model, which saw somebody's data."""
    return crop.is_synthetic and (crop.origin != "phantom" or crop.label_source == "classifier")


def _is_ours(path: Path) -> bool:
    """Whether a file of weights was written by Lightning, not by timm."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises errors of many types for other formats
        return False
    return isinstance(stored, dict) and "pytorch-lightning_version" in stored


def _require_artefact(path: Path, folder: Path) -> None:
    """Refuses a file of a run folder that its statement does not speak about."""
    artefact = json.loads((folder / FILE_NAME).read_text())["artefact"]
    if artefact is None or file_sha256(path) != artefact["sha256"]:
        name = "nothing" if artefact is None else artefact["path"]
        raise PrivacyError(
            f"{path}: the statement in {folder} is about {name}. Use the released file."
        )
