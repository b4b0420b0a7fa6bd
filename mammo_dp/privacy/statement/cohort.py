# SPDX-License-Identifier: Apache-2.0
"""Cohorts: whose data a stage used, and the overlap of cohorts by keyed hashes of patients.

Patient identifiers never leave the manifest. A statement holds HMAC-SHA-256 of them under a key of
the institution, so two cohorts can be compared without naming anyone; whoever lacks the key cannot
test whether a given identifier is among them. The same key seals statements.

Names can differ where patients do not. So cohorts are also compared by their crops, which the
private part of a cohort knows by keyed hashes: patients who share a crop are the same.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self

from data_prep.fingerprints import near_copies
from data_prep.identity import normalised
from data_prep.manifest import Crop, CropsManifest, Split
from mammo_dp.privacy.statement.seals import cohort_key, key_id

_DIGITS = 16  # of a patient's hash: 64 bits
UNKNOWN = "unknown data"  # in place of the name of a data set
_NOBODY = ""  # in place of the patient of a crop that a generator made
_NOT_COMPARED = "on patients whose crops could not be compared, taken to be these,"


@dataclass(frozen=True, slots=True, kw_only=True)
class CropMark:
    """What recognises one crop under another name, for holders of the key only.

    Attributes:
        exact: HMAC-SHA-256 of the pixel hash.
        near: Fingerprint under a mask that the key gives, in hexadecimal; empty if unknown. The
            mask keeps distances between crops, and hides the fingerprints from those who lack the
            key as long as they know none of the crops: one known crop gives the mask away, and
            many crops show its bits that are not balanced. Hence it is never shared.
    """

    exact: str
    near: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortEvidence:
    """What ``verify`` and the comparison of cohorts need, and nobody else may see.

    Attributes:
        manifest_sha256: Hash of the manifest.
        crops_of_patients: How many patients have how many crops: pairs (crops, patients), sorted.
        pixels: The crops of each patient, by the keyed hash of the patient, sorted; under an empty
            name those of an imported set, of which no patient is known.
    """

    manifest_sha256: str
    crops_of_patients: tuple[tuple[int, int], ...]
    pixels: Mapping[str, tuple[CropMark, ...]]

    def marks(self) -> Iterator[tuple[str, CropMark]]:
        """Each crop, with the keyed hash of its patient."""
        for patient, marks in self.pixels.items():
            for mark in marks:
                yield patient, mark

    def as_json(self) -> dict[str, Any]:
        """Plain values, for a private file of the run folder."""
        return {
            "manifest_sha256": self.manifest_sha256,
            "crops_of_patients": [list(pair) for pair in self.crops_of_patients],
            "pixels": {
                patient: [[mark.exact, mark.near] for mark in marks]
                for patient, marks in self.pixels.items()
            },
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Reads what :meth:`as_json` gave."""
        return cls(
            manifest_sha256=stored["manifest_sha256"],
            crops_of_patients=tuple((a, b) for a, b in stored["crops_of_patients"]),
            pixels=MappingProxyType(
                {
                    patient: tuple(CropMark(exact=exact, near=near) for exact, near in marks)
                    for patient, marks in stored["pixels"].items()
                }
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cohort:
    """The patients of one split of one manifest.

    Attributes:
        tag: Keyed hash of split and patients, the name of the cohort; empty if they are unknown.
        dataset: Origins of the crops, such as ``"cbis-ddsm"``, joined by ``+``; empty if unknown.
        split: Split of the manifest; empty if unknown.
        patients: Keyed hashes, sorted; None if unknown; empty if no patient is in the data. The
            tag stands for them where cohorts are compared for equality.
        key_id: Names the key of the hashes.
        crops: Number of crops, where they are the units of a mechanism and so public; else 0.
        private: What recognises the crops under other names; none if unknown. Never shared, and no
            part of what makes two cohorts equal.
    """

    tag: str
    dataset: str
    split: str
    patients: tuple[str, ...] | None = field(compare=False)
    key_id: str = ""
    crops: int = field(default=0, compare=False)
    private: CohortEvidence | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """For people, such as ``"cbis-ddsm/train"``."""
        return f"{self.dataset or UNKNOWN}/{self.split}".rstrip("/")

    @property
    def is_empty(self) -> bool:
        """Whether no patient stands behind the data."""
        return self.patients == ()

    @classmethod
    def of_manifest(cls, manifest: CropsManifest, split: Split) -> Self:
        """The patients of one split; synthetic crops have none.

        Args:
            manifest: Table of crops.
            split: Split that a stage saw.
        """
        key = cohort_key()
        crops = [manifest.crops[row] for row in manifest.rows(split)]
        real = [crop for crop in crops if not crop.is_synthetic]
        marks: dict[str, list[CropMark]] = {}
        for crop in real:
            marks.setdefault(_keyed(key, "patient", crop.patient), []).append(_mark(key, crop))
        crops_of_patients = tuple(sorted(Counter(map(len, marks.values())).items()))
        patients = tuple(sorted(marks))
        return cls(
            tag=_keyed(key, "cohort", "\0".join((split, *patients))) if patients else "",
            dataset="+".join(one_spelling(crop.origin for crop in real or crops)),
            split=split,
            patients=patients,
            key_id=key_id(key),
            private=CohortEvidence(
                manifest_sha256=manifest.sha256,
                crops_of_patients=crops_of_patients,
                pixels=MappingProxyType({name: tuple(marks[name]) for name in sorted(marks)}),
            ),
        )

    @classmethod
    def unknown(cls, dataset: str, split: str = "") -> Self:
        """Patients of an outside data set, of which only the name is known."""
        return cls(tag="", dataset=dataset, split=split, patients=None)

    @classmethod
    def of_imported(cls, manifest: CropsManifest, dataset: str) -> Self:
        """Patients of an outside data set, behind a generator of which there are crops.

        A copy of a patient's crop among them shows that the generator saw the patient, whatever
        is said of it.

        Args:
            manifest: The crops.
            dataset: Name of the data set, as somebody says.
        """
        key = cohort_key()
        marks = tuple(_mark(key, crop) for crop in manifest.crops)
        return replace(
            cls.unknown(dataset),
            private=CohortEvidence(
                manifest_sha256=manifest.sha256,
                crops_of_patients=(),
                pixels=MappingProxyType({_NOBODY: marks}),
            ),
        )

    def is_comparable(self, other: "Cohort") -> bool:
        """Whether patients and crops of both are known here, hashed under one key."""
        return self.key_id == other.key_id and self._knows_its_crops and other._knows_its_crops

    def with_evidence(self, evidence: CohortEvidence) -> Self:
        """The same cohort; also its patients, where what is shared leaves them out."""
        if _NOBODY in evidence.pixels:
            return replace(self, private=evidence)
        return replace(self, patients=tuple(sorted(evidence.pixels)), private=evidence)

    def overlap(self, other: "Cohort") -> str:
        """How this cohort's patients meet another's.

        Patients are the same if their identity is, or if they share a crop, exactly or nearly.

        Returns:
            Empty if no patient is in both, else a clause for a sentence, which does not count them.
            What cannot be compared is taken to overlap: other keys, crops that are unknown, and
            unknown patients, unless both data sets are named and differ; spelling does not tell
            them apart, nor that one name is a part of the other (DDSM, CBIS-DDSM).
        """
        if self.is_empty or other.is_empty:
            return ""
        if self.patients is not None and other.patients is not None:
            if self.key_id != other.key_id:
                return "on patients hashed under another key, taken to be these,"
            shared = set(self.patients) & set(other.patients)
            if len(shared) < len(self.patients):
                shared |= self._by_crops(other)
            if len(shared) == len(self.patients):
                return "on these patients"
            if shared:
                return "on some of these patients"
            comparable = self._knows_its_crops and other._knows_its_crops
            return "" if comparable else _NOT_COMPARED
        if self._by_crops(other):  # evidence is sealed, so both have the marks of the key here
            return "on some of these patients, as copies of their crops show,"
        if self.tag and other.tag:  # known once, but not from what is here
            return "on these patients" if self.tag == other.tag else _NOT_COMPARED
        if any(
            mine in others or others in mine
            for mine in _names(self.dataset)
            for others in _names(other.dataset)
        ):
            return "on unknown patients, taken to be these,"
        return ""

    @property
    def _knows_its_crops(self) -> bool:
        """Whether each crop can be recognised under another name."""
        return self.private is not None and all(mark.near for _, mark in self.private.marks())

    def _by_crops(self, other: "Cohort") -> set[str]:
        """Patients of this cohort who share a crop with the other, as far as crops are known."""
        if self.private is None or other.private is None:
            return set()
        mine, others = list(self.private.marks()), list(other.private.marks())
        exact = {mark.exact for _, mark in others}
        near = near_copies(
            [mark.near for _, mark in mine if mark.near],
            [mark.near for _, mark in others if mark.near],
        )
        known = [patient for patient, mark in mine if mark.near]
        return {patient for patient, mark in mine if mark.exact in exact} | {
            known[position] for position in near[:, 0]
        }

    def as_json(self, *, with_patients: bool = True) -> dict[str, Any]:
        """Plain values, for ``privacy.json``; the private part stays out.

        Args:
            with_patients: Whether the keyed hashes of patients are written: not where their number
                is no public one.
        """
        return {
            "tag": self.tag,
            "dataset": self.dataset,
            "split": self.split,
            "patients": list(self.patients or ()) if with_patients and self.patients else None,
            "key_id": self.key_id,
            "crops": self.crops,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Reads what :meth:`as_json` gave."""
        patients = stored["patients"]
        return cls(**{**stored, "patients": None if patients is None else tuple(patients)})


def _mark(key: bytes, crop: Crop) -> CropMark:
    """What recognises a crop; the mask of fingerprints keeps distances, see :class:`CropMark`."""
    mask = int.from_bytes(hmac.digest(key, b"fingerprints", hashlib.sha256))
    return CropMark(
        exact=_keyed(key, "pixels", crop.sha256),
        near=crop.fingerprint and f"{int(crop.fingerprint, 16) ^ mask:064x}",
    )


def _names(dataset: str) -> list[str]:
    """Names of data sets in normal form."""
    return [normalised(name) for name in dataset.split("+")]


def one_spelling(names: Iterable[str]) -> list[str]:
    """Names of data sets, sorted, each in one spelling."""
    spelled: dict[str, str] = {}
    for name in sorted(set(names)):
        spelled.setdefault(normalised(name), name)
    return [*spelled.values()]


def _keyed(key: bytes, kind: str, name: str) -> str:
    """Hash of a patient's identity, or of pixels; the kinds never give the same."""
    message = f"{kind}\0{name}".encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()[:_DIGITS]
