# SPDX-License-Identifier: Apache-2.0
"""A classifier with its statement, from the run that made it or from a folder that was passed on.

An exported folder carries the run's ``privacy.json`` byte by byte. ``config.json`` links tensors
to that statement: by the hash of the checkpoint that the statement is about, the hashes of both
files; ``privacy_files.json`` seals all of them under the cohort key.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from classifier.backbones import slices_of
from classifier.lora import merged
from classifier.released import Calibration, ReleasedClassifier, settings_of
from data_prep.recorded import as_recorded, read_recorded
from mammo_dp.crop_rule import TrainedCrops
from mammo_dp.export import ExportError
from mammo_dp.privacy.statement.document import FILE_NAME as STATEMENT
from mammo_dp.privacy.statement.document import FILES_NAME, covering_ledger, read_statement
from mammo_dp.privacy.statement.seals import cohort_key, key_id, seal_doubt
from mammo_dp.runs import FILE_NAME as RUN
from mammo_dp.runs import MADE_BY, RunError, file_sha256, read_run

CONFIG, WEIGHTS = "config.json", "model.safetensors"
OURS = "mammo_dp"  # the part of config.json that is not of other tools
_AGAIN = "Restore the folder, or export it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedClassifier:
    """A classifier to be passed on, with the hashes that tie it to its statement.

    Attributes:
        folder: Where its statement lies: the run folder, or the export.
        path: The checkpoint, or ``config.json`` of an export.
        released: The model and its calibration.
        crops: How its training crops were cut; none if the run does not say so.
        checkpoint_sha256: Hash of the checkpoint: as it was loaded, or, of an export, as its
            ``config.json`` names it.
        statement_sha256: Hash of ``privacy.json``, the id of the statement.
    """

    folder: Path
    path: Path
    released: ReleasedClassifier
    crops: TrainedCrops | None
    checkpoint_sha256: str
    statement_sha256: str

    @property
    def doubt(self) -> str:
        """Why its statement cannot be relied on here, as a clause; empty if it can."""
        hashes = [self.checkpoint_sha256]
        if self.path.name == CONFIG:
            hashes = [file_sha256(self.folder / name) for name in (CONFIG, WEIGHTS)]
        found = [covering_ledger(self.folder, sha256) for sha256 in hashes]
        return next((doubt for doubt in found if isinstance(doubt, str)), "")

    @property
    def image_size(self) -> int:
        """Edge of what the model sees, in pixels."""
        return int(self.released.model.hparams["image_size"])

    @property
    def is_plain_timm(self) -> bool:
        """Whether the net is timm's own model, which timm alone can build again."""
        return type(self.released.model.net).__module__.startswith("timm.")

    @classmethod
    def read(cls, folder: str | Path, *, as_stated: bool = False) -> "SharedClassifier":
        """Reads a run folder, or a folder of ``export classifier --format huggingface``.

        Args:
            folder: The folder.
            as_stated: Whether a checkpoint is refused that the statement of the run is not about.

        Raises:
            DataError: For a checkpoint that is refused.
            RunError: If the folder is no finished fit, or one on volumes.
            ReleasedError: If it holds another kind of model.
            ExportError: If an exported folder is damaged or its hashes do not fit.
            PrivacyError: If the statement is missing or about another file.
        """
        folder = Path(folder)
        if not (folder / RUN).is_file() and (folder / CONFIG).is_file():
            return _of_export(folder)
        record = read_run(folder)
        if record.command != "fit" or not record.is_finished:
            found = f"`{record.command}`" if record.is_finished else "a fit that is not finished"
            raise RunError(f"{folder}: holds {found}. Give the run folder of a finished fit.")
        artefact = read_statement(folder)["artefact"]
        if artefact is None:
            raise RunError(f"{folder}: its statement says that nothing was released. Fit again.")
        path = folder / artefact["path"]
        sha256 = artefact["sha256"]
        if path.is_file() and not as_stated:
            sha256 = file_sha256(path)
        with as_recorded({path: sha256}):
            released = ReleasedClassifier.read(path)
        if (slices := slices_of(released.model.net)) is not None:
            raise RunError(
                f"{folder}: its classifier takes volumes of {slices} slices, and crops in the "
                "plane are scored and exported here. Score volumes with `mammo-dp test`."
            )
        return cls(
            folder=folder,
            path=path,
            released=released,
            crops=TrainedCrops.read(folder),
            checkpoint_sha256=sha256,
            statement_sha256=file_sha256(folder / STATEMENT),
        )

    def write_weights(self, path: Path) -> None:
        """Writes the tensors as safetensors, adapters merged, so that the keys are timm's."""
        state = merged(self.released.model.net.state_dict())
        whole = {key: value.contiguous() for key, value in state.items()}
        safetensors.torch.save_file(whole, path, metadata={"format": "pt", "note": MADE_BY})

    def facts(self, weights: Path) -> dict[str, Any]:
        """What ``config.json`` says under ``mammo_dp``: all that builds the classifier.

        Args:
            weights: The exported file of weights.
        """
        fitted = self.released.calibration
        settings = settings_of(self.released.model) | {"trainable": "head"}  # adapters are merged
        content = {
            "settings": settings,
            "calibration": fitted and {"slope": fitted.slope, "intercept": fitted.intercept},
            "crops": self.crops and self.crops.as_json(),
            "checkpoint_sha256": self.checkpoint_sha256,
            "statement_sha256": self.statement_sha256,
            "weights": weights.name,
            "weights_sha256": file_sha256(weights),
        }
        return dict(json.loads(json.dumps(content)))


def _of_export(folder: Path) -> SharedClassifier:
    path = folder / CONFIG
    try:
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))[OURS]
        crops = None if facts["crops"] is None else TrainedCrops.from_json(facts["crops"])
        settings, weights = facts["settings"], folder / facts["weights"]
        calibration = facts["calibration"] and Calibration(**facts["calibration"])
        said = facts["checkpoint_sha256"], facts["statement_sha256"], facts["weights_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path}: is no config of an exported classifier ({error!r}).") from error
    if weights.suffix != ".safetensors":
        raise ExportError(
            f"{folder}: holds {weights.name}, which other programs run. Give the run folder, or an "
            "export with --format huggingface."
        )
    artefact = read_statement(folder)["artefact"] or {}
    there = artefact.get("sha256"), file_sha256(folder / STATEMENT), _hash(weights)
    names = f"the checkpoint of {STATEMENT}", STATEMENT, weights.name
    _require_listed(folder)
    if odd := [name for name, a, b in zip(names, said, there, strict=True) if a != b]:
        raise ExportError(
            f"{folder}: {' and '.join(odd)} differ from what {CONFIG} was written with. {_AGAIN}."
        )
    with as_recorded({weights: said[2]}):
        content = read_recorded(weights)
    return SharedClassifier(
        folder=folder,
        path=path,
        released=ReleasedClassifier.of(
            safetensors.torch.load(content),
            settings,
            calibration=calibration,
            where=str(folder),
        ),
        crops=crops,
        checkpoint_sha256=said[0],
        statement_sha256=said[1],
    )


def _require_listed(folder: Path) -> None:
    """Compares an export with its list of files; under a foreign seal that is all there is."""
    path = folder / FILES_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files, sealed_under = dict(content["files"]), content["seal"]["key_id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(f"{path}: is no sealed list of files ({error!r}). {_AGAIN}.") from error
    if odd := [name for name, sha256 in files.items() if _hash(folder / name) != sha256]:
        raise ExportError(
            f"{folder}: {', '.join(odd)} differ from what {path.name} lists. {_AGAIN}."
        )
    if sealed_under == key_id(cohort_key()) and (doubt := seal_doubt(content)):
        raise ExportError(f"{path}: {doubt}. {_AGAIN}.")


def _hash(path: Path) -> str | None:
    return file_sha256(path) if path.is_file() else None
