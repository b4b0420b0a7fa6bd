# SPDX-License-Identifier: Apache-2.0
"""Who looked at whose data: accesses along the lineage of an artefact, composed per cohort."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import permutations
from typing import Any, Literal, Self

from data_prep.manifest import CropsManifest, Split, Unit
from mammo_dp.privacy.accounting.account import (
    Adjacency,
    Mechanism,
    Noisy,
    common,
    mechanism_from_json,
)
from mammo_dp.privacy.accounting.budget import require_delta
from mammo_dp.privacy.statement.cohort import (
    NOT_COMPARED,
    THESE,
    UNDECIDED,
    Cohort,
    People,
    is_certain,
)
from mammo_dp.privacy.statement.data_sets import names_alike, names_none
from mammo_dp.privacy.statement.guarantee import Guarantee, PrivacyStatement, epsilon_of

Use = Literal["training", "selection"]
_TOGETHER = "compared together"
_DONE: dict[Use, str] = {"training": "was trained", "selection": "was chosen by metrics"}


def stage_name(kind: str, released: str) -> str:
    """Name of a stage of ours, for people: what it is, and what it released.

    Statements are shared, so the folder is not named: somebody may have called it after a person.

    Args:
        kind: Such as the class of a model.
        released: SHA-256 of what the stage released, of which the first digits are told.

    >>> stage_name("DPMCGAN", "0a1b2c3d4e5f6789")
    'DPMCGAN (0a1b2c3d4e5f)'
    """
    return f"{kind} ({released[:12]})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One stage's use of one cohort's data.

    Attributes:
        stage: Name of the stage, for people.
        cohort: Whose data.
        unit: What the mechanism protects.
        mechanism: Noisy steps; none if the stage had no differential privacy.
        released: SHA-256 of what the stage released; tells two runs of equal settings apart.
        note: What else a reader should know.
        public_size: Declared number of units that the stage divided by; ``None`` if it divided by
            the true number, which is then public.
        crops_per_patient: Declared largest number of crops of one patient; ``None`` if undeclared.
        void: Why the mechanism guarantees nothing, as a clause such as "with a fixed seed, for
            tests"; empty if it does what its account says.
        use: What the data were used for: they trained, or metrics on them chose what is released.
    """

    stage: str
    cohort: Cohort
    unit: Unit = "patient"
    mechanism: Noisy | None = None
    released: str | None = None
    note: str = ""
    public_size: int | None = None
    crops_per_patient: int | None = None
    void: str = ""
    use: Use = "training"

    @property
    def adjacency(self) -> Adjacency:
        """What neighbouring cohorts differ by, where the mechanism's account holds."""
        return "zero-out" if self.public_size is None else "add-or-remove"

    @property
    def units(self) -> int | None:
        """Number of units that may be known: the declared one, else the true one, if known."""
        if self.public_size is not None:
            return self.public_size
        patients = self.cohort.patients
        if self.unit == "crop":
            return self.cohort.crops or None
        return None if patients is None else len(patients)

    @classmethod
    def of_training(
        cls,
        stage: str,
        manifest: CropsManifest,
        split: Split,
        *,
        unit: Unit = "patient",
        mechanism: Noisy | None = None,
        released: str | None = None,
        note: str = "",
        public_size: int | None = None,
        crops_per_patient: int | None = None,
        void: str = "",
        use: Use = "training",
    ) -> Self:
        """Training on one split of a manifest, or selection by it.

        Args:
            stage: Name of the stage, for people.
            manifest: Table of crops that was used.
            split: Split that was used.
            unit: What the mechanism protects.
            mechanism: Noisy steps; none if the stage had no differential privacy.
            released: SHA-256 of what the stage released.
            note: What else a reader should know.
            public_size: Declared number of units that the stage divided by.
            crops_per_patient: Declared largest number of crops of one patient.
            void: Why the mechanism guarantees nothing.
            use: What for.
        """
        cohort = Cohort.of_manifest(manifest, split)
        if unit == "crop" and public_size is None:  # their number is public then
            real = [row for row in manifest.rows(split) if not manifest.crops[row].is_synthetic]
            cohort = replace(cohort, crops=len(real))
        return cls(
            stage=stage,
            cohort=cohort,
            unit=unit,
            mechanism=mechanism,
            released=released,
            note=note,
            public_size=public_size,
            crops_per_patient=crops_per_patient,
            void=void,
            use=use,
        )

    @classmethod
    def of_unknown(
        cls, stage: str, dataset: str, *, released: str | None = None, note: str = ""
    ) -> Self:
        """A stage of somebody else, without differential privacy, on patients not known to us.

        Args:
            stage: Name of the stage, for people, such as ``"medigan 00008"``.
            dataset: Origin that crops of the same data set have here, such as ``"cbis-ddsm"``;
                empty if unknown, which is taken to overlap with every cohort.
            released: SHA-256 of what the stage released.
            note: What else a reader should know.
        """
        return cls(stage=stage, cohort=Cohort.unknown(dataset), released=released, note=note)

    @property
    def is_unknown(self) -> bool:
        """Whether nobody knows whose data the stage saw."""
        return self.mechanism is None and not self.cohort.dataset and not self.cohort.tag

    def contact(self, clause: str) -> str:
        """Whom the stage saw, in a sentence.

        Args:
            clause: How its cohort meets the one that is asked about, see :meth:`Cohort.overlap`.
        """
        if self.is_unknown:
            return f"It is unknown whose data {self.stage} used."
        return f"{self.stage} {_DONE[self.use]} {clause.rstrip(',')}."

    def reason(self, clause: str) -> str:
        """Why there is no guarantee after a stage whose mechanism is none or void, in a sentence.

        Args:
            clause: How its cohort meets the one that is asked about, see :meth:`Cohort.overlap`.
        """
        if self.is_unknown:
            return f"It is unknown whose data {self.stage} used. {self.note}".rstrip()
        return f"{self.stage} {_DONE[self.use]} {clause} {self.void or 'without DP'}."

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``privacy.json``."""
        return {
            "stage": self.stage,
            "cohort": self.cohort.as_json(with_patients=self.adjacency == "zero-out"),
            "unit": self.unit,
            "mechanism": self.mechanism and self.mechanism.as_json(),
            "released": self.released,
            "note": self.note,
            "public_size": self.public_size,
            "crops_per_patient": self.crops_per_patient,
            "void": self.void,
            "use": self.use,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Reads what :meth:`as_json` gave."""
        mechanism = stored["mechanism"]
        return cls(
            **{
                **stored,
                "cohort": Cohort.from_json(stored["cohort"]),
                "mechanism": None if mechanism is None else mechanism_from_json(mechanism),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicData:
    """Weights from outside that were trained on public data, and are not accounted.

    Attributes:
        source: Where the weights come from.
        data: What they were trained on.
        licence: Of the weights.
        sha256: Hash of the file, or of its tensors.
    """

    source: str
    data: str
    licence: str
    sha256: str

    def __str__(self) -> str:
        """One sentence, for the statement."""
        return (
            f"Initial weights: {self.source} (sha256 {self.sha256}), trained on {self.data}; "
            f"licence: {self.licence}. Public data, not accounted: whoever is in these data has no "
            "guarantee, and they are taken to hold no patient of the cohorts above, but for those "
            "of a data set that they name."
        )

    def names(self, dataset: str) -> bool:
        """Whether source or data may name a data set, such as ``"cbis-ddsm"``, or name none.

        Args:
            dataset: Its name as crops have it, several joined by +; empty names none.
        """
        if not dataset:
            return False
        said = (self.source, self.data)
        return names_none(self.data) or any(names_alike(dataset, text) for text in said)

    @property
    def reason(self) -> str:
        """Why patients of a data set that it may name have no guarantee, in a sentence."""
        return (
            f"The initial weights, {self.source}, were trained on {self.data} without DP, which "
            "may mean these patients' data set."
        )

    def as_json(self) -> dict[str, str]:
        """Plain values, for ``privacy.json``."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, str]) -> Self:
        """Reads what :meth:`as_json` gave."""
        return cls(**stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyLedger:
    """Accesses along the lineage of an artefact, parents first.

    Attributes:
        accesses: Each stage's use of each cohort.
        exclusions: What the lineage leaves open.
        public: Weights from outside that were trained on public data.
        compared: What was known of the patients where the evidence was, see :attr:`comparisons`.
    """

    accesses: tuple[Access, ...] = ()
    exclusions: tuple[str, ...] = ()
    public: tuple[PublicData, ...] = ()
    compared: Mapping[str, str] = field(default_factory=dict)

    def plus(self, *accesses: Access) -> Self:
        """With further accesses; those without a patient are left out."""
        return self.joined([type(self)(accesses=accesses)])

    def joined(self, others: Iterable["PrivacyLedger"]) -> Self:
        """With the accesses of other ledgers.

        What is reached on two paths counts once, if it is known by the hash of what it released.
        """
        accesses = [*self.accesses]
        exclusions, public = dict.fromkeys(self.exclusions), dict.fromkeys(self.public)
        compared = dict(self.compared)
        for other in others:
            exclusions |= dict.fromkeys(other.exclusions)
            public |= dict.fromkeys(other.public)
            for names, said in other.comparisons.items():
                both = [compared.get(names, said), said]
                compared[names] = max(both, key=int) if said.isdecimal() else _surest(both)
            for access in other.accesses:
                if access.released is not None and access in accesses:
                    if access.cohort.private is not None:  # which the other path may have lost
                        accesses[accesses.index(access)] = access
                elif not access.cohort.is_empty:
                    accesses.append(access)
        return replace(
            self,
            accesses=tuple(accesses),
            exclusions=tuple(exclusions),
            public=tuple(public),
            compared=compared,
        )

    @property
    def comparisons(self) -> dict[str, str]:
        """What is known of the patients of all accesses, for those who lack the evidence.

        Crops are compared by evidence that is private, so the results go into what is shared: how
        the cohorts of every two accesses meet, by both names; how many patients of one are one
        person, if several are, by its name twice; and which were compared together, by all names.
        """
        met = _Meetings(self)
        found = dict(self.compared)
        for one, other in permutations(self.accesses, 2):
            names = _name(one), _name(other)
            if all(names) and one.cohort != other.cohort:
                clause = met.clause(one, other)
                if clause not in UNDECIDED:
                    found[" ".join(names)] = clause
        for access in self.accesses:
            if (name := _name(access)) and (most := met.most_in_one(access)) > 1:
                found[f"{name} {name}"] = str(most)
        known = [a for a in self.accesses if a.cohort.knows_its_crops and a.released]
        for key in {access.cohort.key_id for access in known}:
            together = sorted({_name(a) for a in known if a.cohort.key_id == key})
            if len(together) > 2:
                found[" ".join(together)] = _TOGETHER
        return dict(sorted(found.items()))

    def met(self, cohort: Cohort) -> "Met":
        """Which stages saw patients of a cohort, that of an evaluation for instance.

        Args:
            cohort: Any; with its private part it is compared by crops, too.
        """
        if cohort.is_empty:
            return Met()
        asked = _Meetings(self.plus(Access(stage="", cohort=cohort)))
        found = [(access, asked.touching(cohort, access)) for access in self.accesses]
        surely = [(access, clause) for access, clause in found if is_certain(clause)]
        perhaps = [a.contact(clause) for a, clause in found if clause and not is_certain(clause)]
        named = [one.reason for one in self.public if one.names(cohort.dataset)]
        seen = [access.cohort for access, _ in surely]
        patients: frozenset[str] | None
        if any(clause == THESE for _, clause in surely):
            patients = frozenset(cohort.patients or ())
        elif any(other.patients is None for other in seen):
            patients = None
        else:
            patients = People((cohort, *seen)).also_in(cohort, seen)
        return Met(
            surely=" ".join(dict.fromkeys(a.contact(clause) for a, clause in surely)),
            perhaps=" ".join(dict.fromkeys([*perhaps, *named])),
            patients=patients,
        )

    def statements(self, delta: float, released: str | None = None) -> list[PrivacyStatement]:
        """One statement per cohort.

        Mechanisms on the same patients compose; disjoint cohorts do not touch each other; a stage
        without differential privacy leaves the patients it saw without a guarantee. Where crops
        were drawn alone, a patient is accounted for as many crops as were declared, and has no
        guarantee if none were; where other stages drew patients, only patients have a number.

        Adding or removing a unit is spoken of only if every private stage divided by a declared
        constant; else a neighbour has one unit's data blanked, which all of them allow.

        Args:
            delta: Below 1 / units of each cohort with a finite epsilon.
            released: SHA-256 of the artefact, to tell which mechanism is its own.

        Raises:
            PrivacyError: If delta is too large.
        """
        cohorts = dict.fromkeys(access.cohort for access in self.accesses)
        met = _Meetings(self)
        return [self._statement(cohort, met, delta, released) for cohort in cohorts]

    def _statement(
        self, cohort: Cohort, met: "_Meetings", delta: float, released: str | None
    ) -> PrivacyStatement:
        touching = [
            (access, clause) for access in self.accesses if (clause := met.touching(cohort, access))
        ]
        private = [(a, a.mechanism) for a, _ in touching if a.mechanism is not None]
        times = [met.most_in_one(access) for access, _ in private]
        reasons = " ".join(
            [
                *(
                    access.reason(clause)
                    for access, clause in touching
                    if access.mechanism is None or access.void
                ),
                *(public.reason for public in self.public if public.names(cohort.dataset)),
            ]
        )
        most = _declared(cohort, private)
        by_crops: tuple[tuple[int, float], ...] = ()
        if reasons:
            units = _units(cohort, "patient", private)
            patient = Guarantee.none(unit="patient", units=units, because=reasons)
        else:
            patient, by_crops = _of_patients(cohort, private, times, delta, _because(touching))
        crop = None
        mechanisms = _on_patient(most or 1, cohort, private, times)
        if {access.unit for access, _ in private} == {"crop"}:
            mechanisms = tuple(mechanism for _, mechanism in private)
            crop = _of_crops(cohort, private, delta, reasons, _because(touching))
        accesses = [access for access, _ in private]
        composed = tuple((a.stage, m) for a, m in zip(accesses, mechanisms, strict=True))
        own = (
            mechanism
            for access, mechanism in zip(accesses, mechanisms, strict=True)
            if access.released == released and not access.void
        )
        return PrivacyStatement(
            cohort=cohort,
            delta=delta,
            adjacency=_adjacency(private),
            crops_per_patient=most,
            guarantee=crop or patient,
            patient=patient if crop else None,
            by_crops=by_crops,
            composed=composed,
            is_own=released is not None
            and any(a.released == released and a.cohort == cohort for a in self.accesses),
            own=None if released is None else next(own, None),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Met:
    """Which stages saw patients of a cohort, in sentences that count and name nobody.

    Attributes:
        surely: What is known; empty if nothing is.
        perhaps: What nobody can exclude here: patients that cannot be compared.
        patients: Keyed hashes of those who were surely seen; None where some were, and which is not
            known here: without its evidence, or of an imported set, a stage does not name them.
    """

    surely: str = ""
    perhaps: str = ""
    patients: frozenset[str] | None = frozenset()


class _Meetings:
    """How the cohorts of a ledger meet, by all that the ledger knows of their crops.

    Cohorts of equal patients are equal, but one may come from a folder with other crops. So what
    the crops of one show holds for all of them.
    """

    def __init__(self, ledger: PrivacyLedger) -> None:
        self._accesses = ledger.accesses
        self._compared = ledger.compared
        self._people = People(access.cohort for access in ledger.accesses)
        self._together = [
            frozenset(names.split()) for names, said in ledger.compared.items() if said == _TOGETHER
        ]

    def touching(self, cohort: Cohort, access: Access) -> str:
        """How an access touched the patients of a cohort; empty if it touched none."""
        if access.cohort == cohort:
            return THESE
        return _surest([self.clause(a, access) for a in self._accesses if a.cohort == cohort])

    def clause(self, one: Access, other: Access) -> str:
        """How the cohort of one access meets that of another, see :meth:`People.overlap`."""
        places = [self._accesses.index(access) for access in (one, other)]
        return self._clauses[places[0], places[1]]

    def most_in_one(self, access: Access) -> int:
        """Largest number of patients of an access who are one person, as far as was ever known."""
        most, cohort = self._people.most_in_one(access.cohort), access.cohort
        for other in self._accesses:
            name = _name(other)
            earlier = int(self._compared.get(f"{name} {name}", "1")) if name else 1
            if other.cohort != cohort and cohort.patients and other.cohort.patients:
                earlier = min(earlier, len({*cohort.patients} & {*other.cohort.patients}))
            elif other.cohort != cohort and not self.clause(access, other):
                continue
            most = max(most, earlier)
        return most

    @cached_property
    def _clauses(self) -> dict[tuple[int, int], str]:
        """How any two meet, by their places among the accesses.

        Two cohorts that share nobody may still hold one person, whom others know as both. That they
        do not is known only if all on the way were compared together.
        """
        pairs = [*permutations(range(len(self._accesses)), 2)]
        clauses = {(i, j): self._direct(self._accesses[i], self._accesses[j]) for i, j in pairs}
        known = {place for place, access in enumerate(self._accesses) if access.cohort.tag}

        def way(start: int, end: int) -> set[int]:
            """Cohorts of patients by which a person of one may be one of the other."""
            found, left = {start}, [start]
            while left:
                at = left.pop()
                following = {j for i, j in pairs if i == at and clauses[i, j]} - found
                found |= following & (known | {end})
                left += following & known
            return found

        def closed(start: int, end: int) -> str:
            """The clause, or that nobody knows, where others may join the two."""
            if clauses[start, end]:
                return clauses[start, end]
            joining = way(start, end)
            decided = end not in joining or self._were_together(joining)
            return "" if decided else NOT_COMPARED

        return {pair: closed(*pair) for pair in pairs}

    def _were_together(self, places: Iterable[int]) -> bool:
        """Whether accesses were compared by the evidence of all of them, now or earlier."""
        accesses = [self._accesses[place] for place in places]
        first = accesses[0].cohort
        if all(first.is_comparable(access.cohort) for access in accesses):
            return True
        names = {_name(access) for access in accesses}
        return any(names <= group for group in self._together)

    def _direct(self, one: Access, other: Access) -> str:
        """How two cohorts meet, by what is known of both."""
        found = self._people.overlap(one.cohort, other.cohort)
        names = _name(one), _name(other)
        earlier = self._compared.get(" ".join(names)) if all(names) else None
        if earlier is None or one.cohort == other.cohort:
            return found
        return earlier if found in UNDECIDED else _surest([found, earlier])


def _name(access: Access) -> str:
    """Names an access; empty if it may be taken for another one.

    Its cohort alone does not do, since equal patients may have other crops in another folder.
    """
    return f"{access.cohort.tag}@{access.released}" if access.released else ""


def _surest(clauses: Sequence[str]) -> str:
    """The one that says most; empty if no cohort meets another."""
    return max(clauses, key=lambda clause: (bool(clause), clause not in UNDECIDED, clause == THESE))


_Private = Sequence[tuple[Access, Noisy]]


def _adjacency(private: _Private) -> Adjacency:
    return common(access.adjacency for access, _ in private)


def _units(cohort: Cohort, unit: Unit, private: _Private) -> int | None:
    """Number of units that may be known; the true one never beside declared ones.

    Of several declared numbers the largest counts, to which delta is small enough.
    """
    if unit == "patient" and _adjacency(private) == "zero-out" and cohort.patients is not None:
        return len(cohort.patients)
    own = [a.units for a, _ in private if (a.cohort, a.unit) == (cohort, unit)]
    return max(filter(None, own), default=None)


def _require_delta(delta: float, cohort: Cohort, unit: Unit, units: int | None) -> None:
    """Refuses a delta that is not below 1 / units, of those declared and of those that are known.

    Raises:
        PrivacyError: If delta is too large.
    """
    known = cohort.private.crops_of_patients if cohort.private is not None else ()
    true = sum(patients * (crops if unit == "crop" else 1) for crops, patients in known)
    if count := max(units or 0, true):
        require_delta(delta, count, unit)


def _declared(cohort: Cohort, private: _Private) -> int | None:
    """Largest number of crops of one patient, where crops of this cohort were drawn alone.

    Of several the largest, since two folders of the same patients may hold other crops.
    """
    own = [a.crops_per_patient for a, _ in private if a.unit == "crop" and a.cohort == cohort]
    return max(filter(None, own), default=None)


def _of_crops(
    cohort: Cohort, private: _Private, delta: float, reasons: str, because: str
) -> Guarantee:
    """What one crop may rely on, if all stages drew crops."""
    units = _units(cohort, "crop", private)
    if reasons:
        return Guarantee.none(unit="crop", units=units, because=reasons)
    _require_delta(delta, cohort, "crop", units)
    mechanisms = tuple(mechanism for _, mechanism in private)
    return Guarantee.of(mechanisms, delta, unit="crop", units=units, because=because)


def _of_patients(
    cohort: Cohort, private: _Private, times: Sequence[int], delta: float, because: str
) -> tuple[Guarantee, tuple[tuple[int, float], ...]]:
    """What a patient with the most crops may rely on, and what patients by number of crops."""
    units = _units(cohort, "patient", private)
    by_crop = [access for access, _ in private if access.unit == "crop"]
    if undeclared := [access for access in by_crop if access.crops_per_patient is None]:
        reason = " ".join(
            f"{a.stage} drew each crop of {a.cohort.name} alone, and how many crops one patient "
            "has at most was not declared (crops_per_patient)."
            for a in undeclared
        )
        return Guarantee.none(unit="patient", units=units, because=reason), ()
    _require_delta(delta, cohort, "patient", units)
    if units is None and (crops := _units(cohort, "crop", private)) is not None:
        require_delta(delta, crops, "crop")  # how many patients there are was not declared
    most = _declared(cohort, private)
    if by_crop:
        because += (
            f" {' and '.join(a.stage for a in by_crop)} drew and clipped each crop alone, so a "
            "patient is accounted for each of the own; this is for the declared largest number of "
            "crops of one patient."
        )
        if _adjacency(private) == "zero-out":
            because += " How many crops there are, and how many of each patient, counts as known."
    if twice := [
        access.stage for (access, _), many in zip(private, times, strict=True) if many > 1
    ]:
        because += (
            f" Their crops show that several patients of {' and of '.join(twice)} are one person, "
            "who is accounted for each of them."
        )
    mechanisms = _on_patient(most or 1, cohort, private, times)
    patient = Guarantee.of(mechanisms, delta, unit="patient", units=units, because=because)
    by_crops = tuple(
        (crops, epsilon_of(_on_patient(crops, cohort, private, times), delta))
        for crops in range(1, (most or 0) + 1)
    )
    return patient, by_crops


def _on_patient(
    crops: int, cohort: Cohort, private: _Private, times: Sequence[int]
) -> tuple[Noisy, ...]:
    """What was applied to a patient of a cohort with at most so many crops in each of its folders.

    In another cohort that shares patients, each of these may be the one with the most crops.

    Args:
        crops: The number.
        cohort: The cohort.
        private: Accesses and their mechanisms.
        times: How many patients of each access may be one person, each drawn on its own.
    """

    def on_patient(access: Access, mechanism: Noisy, many: int) -> Noisy:
        if access.unit == "patient":
            return mechanism if many == 1 else mechanism.on_crops(many)
        drawn = access.crops_per_patient or 1  # undeclared: there is no guarantee
        return mechanism.on_crops(many * (min(crops, drawn) if access.cohort == cohort else drawn))

    return tuple(
        on_patient(access, mechanism, many)
        for (access, mechanism), many in zip(private, times, strict=True)
    )


def _because(touching: list[tuple[Access, str]]) -> str:
    stages = [
        (
            f"{access.stage} was trained {clause} with {access.mechanism.words}"
            if isinstance(access.mechanism, Mechanism)
            else f"{access.stage} was trained and chosen {clause} as {access.mechanism.words}"
        )
        for access, clause in touching
        if access.mechanism is not None
    ]
    together = " Their privacy losses are composed." if len(stages) > 1 else ""
    return "; ".join(stages) + f".{together} No other stage in the lineage saw these data."
