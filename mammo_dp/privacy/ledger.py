# SPDX-License-Identifier: Apache-2.0
"""Who looked at whose data: accesses along the lineage of an artefact, composed per cohort."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from data_prep.manifest import CropsManifest, Split, Unit
from mammo_dp.privacy.accounting import Mechanism, compose, rdp_epsilon
from mammo_dp.privacy.budget import require_delta
from mammo_dp.privacy.cohorts import Cohort
from mammo_dp.privacy.risk import Risk, risk_of

COVERS = (
    "The released artefact, and whatever is computed from it without looking at these data again."
)
_NOT_PER_PATIENT = (
    "The unit is one crop. A patient with several crops has a weaker guarantee, not stated here."
)


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
    """

    stage: str
    cohort: Cohort
    unit: Unit = "patient"
    mechanism: Mechanism | None = None
    released: str | None = None
    note: str = ""

    @classmethod
    def of_training(
        cls,
        stage: str,
        manifest: CropsManifest,
        split: Split,
        *,
        unit: Unit = "patient",
        mechanism: Mechanism | None = None,
        released: str | None = None,
        note: str = "",
    ) -> Self:
        """Training on one split of a manifest.

        Args:
            stage: Name of the stage, for people.
            manifest: Table of crops that was trained on.
            split: Split that was trained on.
            unit: What the mechanism protects.
            mechanism: Noisy steps; none if the stage had no differential privacy.
            released: SHA-256 of what the stage released.
            note: What else a reader should know.
        """
        return cls(
            stage=stage,
            cohort=Cohort.of_manifest(manifest, split),
            unit=unit,
            mechanism=mechanism,
            released=released,
            note=note,
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

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``privacy.json``."""
        return {
            "stage": self.stage,
            "cohort": self.cohort.as_json(),
            "unit": self.unit,
            "mechanism": self.mechanism and self.mechanism.as_json(),
            "released": self.released,
            "note": self.note,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Reads what :meth:`as_json` gave."""
        mechanism = stored["mechanism"]
        return cls(
            **{
                **stored,
                "cohort": Cohort.from_json(stored["cohort"]),
                "mechanism": None if mechanism is None else Mechanism(**mechanism),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyStatement:
    """What the patients of one cohort may rely on.

    Attributes:
        cohort: Whose guarantee.
        unit: What is protected: a patient with all crops, or one crop.
        epsilon: Privacy loss, infinite if there is no guarantee.
        delta: Chance that the bound of epsilon fails.
        accountant: Where epsilon comes from; empty if it is infinite.
        epsilon_rdp: Second opinion by another accountant, never below the truth either.
        composed: Stage and mechanism of each access that epsilon covers.
        risk: Bounds on any attack on one unit.
        because: Why epsilon is what it is, in a sentence.
        exclusions: What this statement leaves out, beyond what every statement leaves out.
        own: Mechanism of the stage that released the artefact; none if that had none.
    """

    cohort: Cohort
    unit: Unit
    epsilon: float
    delta: float
    accountant: str
    epsilon_rdp: float
    composed: tuple[tuple[str, Mechanism], ...]
    risk: Risk
    because: str
    exclusions: tuple[str, ...] = ()
    own: Mechanism | None = None

    @property
    def sentence(self) -> str:
        """Epsilon with everything it means nothing without."""
        units = self.cohort.units(self.unit)
        counted = "number unknown" if units is None else f"{units} {self.unit}s"
        whose = f"each {self.unit} of {self.cohort.name} ({counted})"
        if math.isinf(self.epsilon):
            return f"No guarantee, epsilon = infinity, for {whose}: {self.because}"
        return (
            f"epsilon = {self.epsilon:.4g} at delta = {self.delta:g} for {whose}, "
            f"add-or-remove, by {self.accountant}."
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``privacy.json``; infinity is a word."""
        own = self.own
        return {
            "cohort": self.cohort.sha256,
            "cohort_name": self.cohort.name,
            "unit": self.unit,
            "units": self.cohort.units(self.unit),
            "crops": self.cohort.crops or None,
            "most_crops_of_a_unit": self.cohort.most_crops(self.unit),
            "epsilon": _finite(self.epsilon),
            "delta": self.delta,
            "adjacency": "add-or-remove",
            "accountant": self.accountant,
            "epsilon_rdp": _finite(self.epsilon_rdp),
            "mechanisms": [{**m.as_json(), "stage": stage} for stage, m in self.composed],
            "noise_multiplier": own and own.noise_multiplier,
            "sampling_rate": own and own.sampling_rate,
            "steps": own and own.steps,
            "risk": self.risk.as_json(),
            "because": self.because,
            "covers": COVERS,
            "exclusions": list(self.exclusions),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyLedger:
    """Accesses along the lineage of an artefact, parents first.

    Attributes:
        accesses: Each stage's use of each cohort.
        exclusions: What the lineage leaves open, such as weights from outside.
    """

    accesses: tuple[Access, ...] = ()
    exclusions: tuple[str, ...] = ()

    def plus(self, *accesses: Access) -> Self:
        """With further accesses; those without a patient are left out."""
        return self.joined([type(self)(accesses=accesses)])

    def joined(self, others: Iterable["PrivacyLedger"]) -> Self:
        """With the accesses of other ledgers.

        What is reached on two paths counts once, if it is known by the hash of what it released.
        """
        accesses = [*self.accesses]
        exclusions = dict.fromkeys(self.exclusions)
        for other in others:
            exclusions |= dict.fromkeys(other.exclusions)
            accesses += [
                access
                for access in other.accesses
                if not access.cohort.is_empty
                and (access.released is None or access not in accesses)
            ]
        return replace(self, accesses=tuple(accesses), exclusions=tuple(exclusions))

    def statements(self, delta: float, released: str | None = None) -> list[PrivacyStatement]:
        """One statement per cohort.

        Mechanisms on the same patients compose; disjoint cohorts do not touch each other; a stage
        without differential privacy leaves the patients it saw without a guarantee.

        Args:
            delta: Below 1 / units of each cohort with a finite epsilon.
            released: SHA-256 of the artefact, to tell which mechanism is its own.

        Raises:
            PrivacyError: If delta is too large.
        """
        cohorts = dict.fromkeys(access.cohort for access in self.accesses)
        return [self._statement(cohort, delta, released) for cohort in cohorts]

    def _statement(self, cohort: Cohort, delta: float, released: str | None) -> PrivacyStatement:
        touching = [
            (access, clause)
            for access in self.accesses
            if (clause := "on these patients" * (access.cohort == cohort))
            or (clause := cohort.overlap(access.cohort))
        ]
        private = [(a, a.mechanism) for a, _ in touching if a.mechanism is not None]
        units = {access.unit for access, _ in private}
        unit: Unit = "crop" if units == {"crop"} else "patient"
        composed = tuple((access.stage, mechanism) for access, mechanism in private)
        own = next((m for a, m in private if released is not None and a.released == released), None)
        exclusions = (_NOT_PER_PATIENT,) if unit == "crop" else ()
        reasons = [
            f"{access.stage} was trained {clause} without DP."
            for access, clause in touching
            if access.mechanism is None
        ]
        if len(units) > 1:
            reasons.append(
                f"{' and '.join(stage for stage, _ in composed)} protect different units, crop and "
                "patient, which do not compose."
            )
        count = cohort.units(unit)
        kappas = (1 / count,) if count is not None and count > 1 else ()
        if reasons:
            return PrivacyStatement(
                cohort=cohort,
                unit=unit,
                epsilon=math.inf,
                delta=delta,
                accountant="",
                epsilon_rdp=math.inf,
                composed=composed,
                risk=risk_of(None, kappas=kappas),
                because=" ".join(reasons),
                exclusions=exclusions,
                own=own,
            )
        if count is not None:
            require_delta(delta, count, unit)
        mechanisms = [mechanism for _, mechanism in composed]
        curve = compose(mechanisms)
        return PrivacyStatement(
            cohort=cohort,
            unit=unit,
            epsilon=curve.epsilon(delta),
            delta=delta,
            accountant=curve.source,
            epsilon_rdp=rdp_epsilon(mechanisms, delta),
            composed=composed,
            risk=risk_of(curve, kappas=kappas),
            because=_because(touching),
            exclusions=exclusions,
            own=own,
        )


def _because(touching: list[tuple[Access, str]]) -> str:
    stages = [
        f"{access.stage} was trained {clause} with {access.mechanism.steps} noisy steps (noise "
        f"multiplier {access.mechanism.noise_multiplier:g}, sampling rate "
        f"{access.mechanism.sampling_rate:g})"
        for access, clause in touching
        if access.mechanism is not None
    ]
    together = " Their privacy losses are composed." if len(stages) > 1 else ""
    return "; ".join(stages) + f".{together} No other stage in the lineage saw these data."


def _finite(value: float) -> float | str:
    return "infinity" if math.isinf(value) else value
