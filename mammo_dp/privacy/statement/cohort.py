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
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

from data_prep.fingerprints import near_copies
from data_prep.identity import normalised
from data_prep.manifest import Crop, CropsManifest, Split
from mammo_dp.privacy.statement.data_sets import names_alike, names_none
from mammo_dp.privacy.statement.seals import cohort_key, key_id

_DIGITS = 16  # of a patient's hash: 64 bits
UNKNOWN = "unknown data"  # in place of the name of a data set
_NOBODY = ""  # in place of the patient of a crop that a generator made
# How cohorts meet, as clauses of a sentence.
THESE, SOME = "on these patients", "on some of these patients"
_OTHER_KEY = "on patients hashed under another key, taken to be these,"
NOT_COMPARED = "on patients whose crops could not be compared, taken to be these,"
LIKE_NAMES = "on patients of a data set of like name, taken to be these,"
UNDECIDED = frozenset({_OTHER_KEY, NOT_COMPARED})


def is_certain(clause: str) -> bool:
    """Whether a clause of how cohorts meet says what is known, not what is assumed.

    >>> is_certain(SOME), is_certain(LIKE_NAMES), is_certain("")
    (True, False, False)
    """
    return clause.startswith((THESE, SOME))


_Patient = tuple[str, str]  # key and keyed hash


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
        key_id: Names the key of the hashes; empty if there is nothing to hash.
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
            key_id=key_id(key),
            private=CohortEvidence(
                manifest_sha256=manifest.sha256,
                crops_of_patients=(),
                pixels=MappingProxyType({_NOBODY: marks}),
            ),
        )

    def is_comparable(self, other: "Cohort") -> bool:
        """Whether patients and crops of both are known here, hashed under one key."""
        return self.key_id == other.key_id and self.knows_its_crops and other.knows_its_crops

    @property
    def has_crops(self) -> bool:
        """Whether there are, or were, crops by which patients can be recognised."""
        return bool(self.key_id)

    def with_evidence(self, evidence: CohortEvidence) -> Self:
        """The same cohort; also its patients, where what is shared leaves them out."""
        if _NOBODY in evidence.pixels:
            return replace(self, private=evidence)
        return replace(self, patients=tuple(sorted(evidence.pixels)), private=evidence)

    def overlap(self, other: "Cohort") -> str:
        """How this cohort's patients meet another's, see :meth:`People.overlap`."""
        return People((self, other)).overlap(self, other)

    @property
    def knows_its_crops(self) -> bool:
        """Whether each crop can be recognised under another name."""
        return self.private is not None and all(mark.near for _, mark in self.private.marks())

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


class People:
    """Who is one person in several cohorts.

    Two patients are one person if their identity is the same, or if they share a crop, exactly or
    nearly; also by way of others. So a patient of whom one folder holds some crops and another
    folder others is recognised by all of them.

    Args:
        cohorts: All whose patients and crops are known here.
    """

    def __init__(self, cohorts: Iterable[Cohort]) -> None:
        self._cohorts = tuple(cohorts)

    def overlap(self, cohort: Cohort, other: Cohort) -> str:
        """How a cohort's patients meet another's.

        Returns:
            Empty if no patient is in both, else a clause for a sentence, which does not count them.
            What cannot be compared is taken to overlap: other keys, crops that are unknown,
            patients whose data sets have like names (DDSM, CBIS-DDSM), and unknown patients, unless
            both data sets are named and differ, see :mod:`mammo_dp.privacy.statement.data_sets`.
        """
        if cohort.is_empty or other.is_empty:
            return ""
        if cohort.patients is not None and other.patients is not None:
            if cohort.key_id != other.key_id:
                return _OTHER_KEY
            shared = set(cohort.patients) & set(other.patients)
            if len(shared) < len(cohort.patients):
                theirs = self._persons_of(other)
                shared = {p for p in cohort.patients if self._persons[cohort.key_id, p] in theirs}
            if len(shared) == len(cohort.patients):
                return THESE
            if shared:
                return SOME
            if _other_names(cohort.dataset, other.dataset):
                return LIKE_NAMES
            return "" if cohort.is_comparable(other) else NOT_COMPARED
        if self._share_a_copy(cohort, other):  # evidence is sealed, so all marks have the key here
            return f"{SOME}, as copies of their crops show,"
        if cohort.tag and other.tag:  # known once, but not from what is here
            return THESE if cohort.tag == other.tag else NOT_COMPARED
        unknown = [each for each in (cohort, other) if each.patients is None]
        if any(names_none(each.dataset) for each in unknown) or names_alike(
            cohort.dataset, other.dataset
        ):
            return "on unknown patients, taken to be these,"
        undecided = cohort.has_crops and other.has_crops and not cohort.is_comparable(other)
        return NOT_COMPARED if undecided else ""

    def also_in(self, cohort: Cohort, others: Iterable[Cohort]) -> frozenset[str]:
        """Keyed hashes of the patients of a cohort who are a person of one of the others, too.

        Args:
            cohort: Whose patients are asked about.
            others: Cohorts whose patients are known here.
        """
        theirs = {person for other in others for person in self._persons_of(other)}
        mine = cohort.patients or ()
        return frozenset(p for p in mine if self._persons[cohort.key_id, p] in theirs)

    def most_in_one(self, cohort: Cohort) -> int:
        """Largest number of patients of a cohort who are one person, as far as is known here."""
        people = Counter(self._persons[cohort.key_id, p] for p in cohort.patients or ())
        return max(people.values(), default=1)

    @cached_property
    def _known(self) -> set[tuple[_Patient, CropMark]]:
        """All crops of which the patient is known."""
        return {
            ((cohort.key_id, patient), mark)
            for cohort in self._cohorts
            if cohort.patients is not None and cohort.private is not None
            for patient, mark in cohort.private.marks()
        }

    @cached_property
    def _persons(self) -> Mapping[_Patient, _Patient]:
        """The patient who stands for the person, by patient."""
        leads = {(c.key_id, p): (c.key_id, p) for c in self._cohorts for p in c.patients or ()}

        def lead(patient: _Patient) -> _Patient:
            while leads[patient] != patient:
                patient = leads[patient]
            return patient

        first: dict[tuple[str, str], _Patient] = {}  # key, and what recognises a crop
        for patient, mark in sorted(self._known, key=str):
            for found in filter(None, (mark.exact, mark.near)):
                leads[lead(patient)] = lead(first.setdefault((patient[0], found), patient))
        for key in {key for key, _ in first}:  # each masks fingerprints in its own way
            marks = sorted({m.near for (k, _), m in self._known if k == key and m.near})
            for one, two in near_copies(marks, marks):
                leads[lead(first[key, marks[one]])] = lead(first[key, marks[two]])
        return {patient: lead(patient) for patient in leads}

    def _persons_of(self, cohort: Cohort) -> set[_Patient]:
        return {self._persons[cohort.key_id, patient] for patient in cohort.patients or ()}

    def _share_a_copy(self, cohort: Cohort, other: Cohort) -> bool:
        """Whether a crop of one, or of a patient of it, is a copy of one of the other."""
        mine, others = self._marks_of(cohort), self._marks_of(other)
        if {mark.exact for mark in mine} & {mark.exact for mark in others}:
            return True
        near = [[mark.near for mark in marks if mark.near] for marks in (mine, others)]
        return len(near_copies(*near)) > 0

    def _marks_of(self, cohort: Cohort) -> list[CropMark]:
        """Crops of a cohort, and all that are known of its patients."""
        if cohort.patients is None:
            return [mark for _, mark in cohort.private.marks()] if cohort.private else []
        persons = self._persons_of(cohort)
        return [mark for patient, mark in self._known if self._persons[patient] in persons]


def hashed_patients(manifest: CropsManifest, rows: Iterable[int]) -> list[str]:
    """The keyed hash of the patient of each row, as :attr:`Cohort.patients` has them."""
    key = cohort_key()
    return [_keyed(key, "patient", manifest.crops[row].patient) for row in rows]


def _mark(key: bytes, crop: Crop) -> CropMark:
    """What recognises a crop; the mask of fingerprints keeps distances, see :class:`CropMark`."""
    mask = int.from_bytes(hmac.digest(key, b"fingerprints", hashlib.sha256))
    return CropMark(
        exact=_keyed(key, "pixels", crop.sha256),
        near=crop.fingerprint and f"{int(crop.fingerprint, 16) ^ mask:064x}",
    )


def _other_names(one: str, other: str) -> bool:
    """Whether one of the data sets may be one of the others under another name.

    Their patients have other identities then, which tell nothing.
    """
    names = [{normalised(name): name for name in dataset.split("+")} for dataset in (one, other)]
    return any(
        mine != theirs and names_alike(names[0][mine], names[1][theirs])
        for mine in names[0]
        for theirs in names[1]
    )


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
