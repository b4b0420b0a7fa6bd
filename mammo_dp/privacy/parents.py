# SPDX-License-Identifier: Apache-2.0
"""Whose data are behind what a stage reads: parents, found by the hash of the file that is used.

What cannot be checked is unknown, and unknown is infinite: weights or crops without a statement
that is sealed under the key here and names their hash leave no patient with a guarantee. Public
weights need a provenance instead, see :mod:`mammo_dp.privacy.public_weights`.
"""

import logging
from collections.abc import Iterable
from pathlib import Path

from data_prep.manifest import FILE_NAME as CROPS
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.ledger import Access, PrivacyLedger
from mammo_dp.privacy.preparation import preparation_exclusions
from mammo_dp.privacy.public_weights import provenance_of
from mammo_dp.privacy.statement import FILE_NAME, covering_ledger
from mammo_dp.runs import file_sha256, run_of

log = logging.getLogger(__name__)


def collect_parents(paths: Iterable[str | Path]) -> PrivacyLedger:
    """Joins the ledgers of what a stage read.

    Args:
        paths: Folders of crops, their tables, and files of weights.

    Returns:
        Accesses of all stages behind these inputs; an access to unknown patients for each input
        whose origin cannot be checked. What the preparation of crops leaves open is an exclusion.

    Raises:
        PrivacyError: If a provenance beside weights is malformed.
        ManifestError: If a table of crops is malformed.
    """
    ledger = PrivacyLedger()
    for path in paths:
        prepared = PrivacyLedger(exclusions=preparation_exclusions(path))
        ledger = ledger.joined([_parent(Path(path)), prepared])
    return ledger


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
        return PrivacyLedger(public=(public,))
    doubts = doubts or ["it comes with neither a statement nor a provenance"]
    return _unknown(f"the training of {path.name}", sha256, doubts[0])


def _of_crops(manifest: CropsManifest) -> PrivacyLedger:
    """Accesses of generators and of classifiers that labelled; patients are the reader's access."""
    made = sorted({crop.origin for crop in manifest.crops if crop.is_synthetic})
    found = covering_ledger(manifest.folder, manifest.sha256)
    if isinstance(found, PrivacyLedger):
        return found
    if not made:
        return PrivacyLedger()
    return _unknown(f"the source of the crops of {', '.join(made)}", manifest.sha256, found)


def _unknown(what: str, sha256: str, doubt: str) -> PrivacyLedger:
    access = Access.of_unknown(what, "", released=sha256, note=f"{doubt[0].upper()}{doubt[1:]}.")
    return PrivacyLedger(accesses=(access,))
