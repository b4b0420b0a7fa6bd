# SPDX-License-Identifier: Apache-2.0
"""Guarantees: what a unit of a cohort may rely on, in numbers and in a sentence."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from data_prep.manifest import Unit
from mammo_dp.privacy.accounting.account import (
    Adjacency,
    Mechanism,
    Noisy,
    Selection,
    common,
    compose,
    fits_of,
    mechanism_from_json,
    planned,
    rdp_epsilon,
)
from mammo_dp.privacy.accounting.risk import Risk, risk_of
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.statement.cohort import UNKNOWN, Cohort

COVERS = (
    "The released artefact, and whatever is computed from it without looking at these data again."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """What one kind of unit may rely on.

    Attributes:
        unit: What is protected: a patient with all crops, or one crop.
        units: How many there are, as far as it may be known; ``None`` if it is unknown.
        epsilon: Privacy loss, infinite if there is no guarantee.
        accountant: Where epsilon comes from; empty if it is infinite.
        epsilon_rdp: Second opinion by another accountant, never below the truth either.
        risk: Bounds on any attack on one unit.
        because: Why epsilon is what it is, in sentences.
    """

    unit: Unit
    units: int | None
    epsilon: float
    accountant: str
    epsilon_rdp: float
    risk: Risk
    because: str

    @classmethod
    def of(
        cls,
        mechanisms: Sequence[Noisy],
        delta: float,
        *,
        unit: Unit,
        units: int | None,
        because: str,
    ) -> Self:
        """Composes what was applied to one unit.

        Args:
            mechanisms: At least one.
            delta: Probability that the bound of epsilon fails.
            unit: What is protected.
            units: How many there are, if known; one of them is guessed with probability 1 / units.
            because: Why epsilon is what it is, in sentences.
        """
        curve = compose(mechanisms)
        because = f"{because} {curve.too_small(delta)}".rstrip()
        return cls(
            unit=unit,
            units=units,
            epsilon=curve.epsilon(delta),
            accountant=curve.source,
            epsilon_rdp=rdp_epsilon(mechanisms, delta),
            risk=risk_of(curve, kappas=_guess(units)),
            because=because,
        )

    @classmethod
    def none(cls, *, unit: Unit, units: int | None, because: str) -> Self:
        """No guarantee, for a reason given in sentences."""
        return cls(
            unit=unit,
            units=units,
            epsilon=math.inf,
            accountant="",
            epsilon_rdp=math.inf,
            risk=risk_of(None, kappas=_guess(units)),
            because=because,
        )

    @property
    def reconstruction(self) -> float:
        """Largest probability to name one unit among all; NaN where there is none to name.

        Where there is no guarantee it is 1; a cohort of one, or of unknown number, has no bound.
        """
        if math.isinf(self.epsilon):
            return 1.0
        units, bounds = self.units or 1, self.risk.reconstruction_robustness
        nearest = min(bounds, key=lambda kappa: abs(kappa * units - 1), default=None)
        return math.nan if nearest is None else bounds[nearest]

    @classmethod
    def from_json(cls, stored: Mapping[str, Any], unit: Unit) -> Self:
        """Reads what :meth:`as_json` gave.

        Args:
            stored: Plain values.
            unit: What is protected.
        """
        return cls(
            unit=unit,
            units=stored["units"],
            epsilon=float(stored["epsilon"]),
            accountant=stored["accountant"],
            epsilon_rdp=float(stored["epsilon_rdp"]),
            risk=Risk.from_json(stored["risk"]),
            because=stored["because"],
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values; infinity is a word."""
        return {
            "units": self.units,
            "epsilon": _finite(self.epsilon),
            "accountant": self.accountant,
            "epsilon_rdp": _finite(self.epsilon_rdp),
            "risk": self.risk.as_json(),
            "because": self.because,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyStatement:
    """What one cohort may rely on.

    Attributes:
        cohort: Whose guarantee.
        delta: Probability that the bounds of epsilon fail.
        adjacency: What neighbouring cohorts differ by, for every number here.
        guarantee: Of a patient, or of a crop if all mechanisms protect crops.
        patient: Of the patient with the most crops, if ``guarantee`` is that of a crop.
        crops_per_patient: Declared largest number of crops of one patient, where crops were drawn.
        by_crops: Epsilon of a patient by the most crops that a folder holds of them, up to the
            declared largest number.
        composed: Stage and mechanism of each access that epsilon covers, as it acts on one unit.
        exclusions: What this statement leaves out, beyond what every statement leaves out.
        is_own: Whether the stage that released the artefact used this cohort.
        own: Mechanism of the stage that released the artefact; none if that had none, or one whose
            account guarantees nothing.
    """

    cohort: Cohort
    delta: float
    adjacency: Adjacency
    guarantee: Guarantee
    patient: Guarantee | None = None
    crops_per_patient: int | None = None
    by_crops: tuple[tuple[int, float], ...] = ()
    composed: tuple[tuple[str, Noisy], ...]
    exclusions: tuple[str, ...] = ()
    is_own: bool = False
    own: Noisy | None = None

    @property
    def guarantees(self) -> tuple[Guarantee, ...]:
        """One for each kind of unit."""
        return (self.guarantee,) if self.patient is None else (self.guarantee, self.patient)

    @property
    def unit(self) -> Unit:
        """What the mechanisms protect."""
        return self.guarantee.unit

    @property
    def epsilon(self) -> float:
        """Of :attr:`unit`."""
        return self.guarantee.epsilon

    @property
    def because(self) -> str:
        """Why epsilon is what it is, in sentences."""
        return self.guarantee.because

    @property
    def patient_epsilon(self) -> float:
        """Of a patient with the most crops; equal to :attr:`epsilon` where patients are drawn."""
        return self.guarantees[-1].epsilon

    @property
    def own_epsilon(self) -> float:
        """Of the stage that released the artefact, alone; infinite if that was not private."""
        return math.inf if self.own is None else epsilon_of((self.own,), self.delta)

    @property
    def accountant(self) -> str:
        """Where :attr:`epsilon`, else :attr:`own_epsilon`, comes from; empty if both are infinite.

        Such as ``"PLD, dp-accounting 0.6.0"``.
        """
        if self.guarantee.accountant or self.own is None:
            return self.guarantee.accountant
        return compose([self.own]).source

    @property
    def conditions(self) -> str:
        """What must stand beside each epsilon of this statement."""
        parts = [f"unit {self.unit}", f"delta {self.delta:g}", self.adjacency, self.accountant]
        return ", ".join(filter(None, parts))

    @property
    def advantage(self) -> float:
        """Largest TPR - FPR of any membership attack on a unit; 1 without a guarantee."""
        return self.guarantee.risk.advantage if math.isfinite(self.epsilon) else 1.0

    @property
    def tpr(self) -> float:
        """Largest TPR of any membership attack at 1 % false positives; 1 without a guarantee."""
        return self.guarantee.risk.tpr_at_fpr[0.01] if math.isfinite(self.epsilon) else 1.0

    @property
    def reconstruction(self) -> float:
        """Largest probability to name one unit among all, see :attr:`Guarantee.reconstruction`."""
        return self.guarantee.reconstruction

    @property
    def sentence(self) -> str:
        """Each epsilon with everything it means nothing without."""
        first, *others = map(self._clause, self.guarantees)
        return "; ".join([first, *(other[0].lower() + other[1:] for other in others)]) + "."

    def _clause(self, guarantee: Guarantee) -> str:
        unit = guarantee.unit
        counted = _counted(guarantee, self.adjacency)
        if self.patient is guarantee and self.crops_per_patient is not None:
            counted += f", up to {self.crops_per_patient} crops each"
        whose = f"each {unit} of {self.cohort.name} ({counted})"
        if math.isinf(guarantee.epsilon):
            reason = guarantee.because.removesuffix(".")
            return f"No guarantee, epsilon = infinity, for {whose}: {reason}"
        return (
            f"epsilon = {guarantee.epsilon:.4g} at delta = {self.delta:g} for {whose}, "
            f"{self.adjacency}, by {guarantee.accountant}"
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Reads what :meth:`as_json` gave: one entry of ``statements`` in ``privacy.json``.

        The file's seal is not checked here; ``mammo_dp.verify`` checks it. The cohort is known by
        its tag and name, without its patients.

        Args:
            stored: The entry, as :mod:`json` reads it.

        Raises:
            PrivacyError: If a field is missing or no value for it.
        """
        try:
            return cls._read(stored)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise PrivacyError(
                f"statement: is no entry of `statements` in a privacy.json of this version "
                f"({error!r}). Give json.load(file)['statements'][i], or use "
                "mammo_dp.read_statements."
            ) from error

    @classmethod
    def _read(cls, stored: Mapping[str, Any]) -> Self:
        unit, split = stored["unit"], stored["split"]
        dataset = stored["cohort_name"].removesuffix(f"/{split}")
        patient = None
        if "epsilon_patient" in stored:
            suffix = "_patient"
            beside = {
                name.removesuffix(suffix): value
                for name, value in stored.items()
                if name.endswith(suffix) and name != "crops_per_patient"
            }
            patient = Guarantee.from_json(beside, "patient")
        composed = tuple(
            (one["stage"], mechanism_from_json({k: v for k, v in one.items() if k != "stage"}))
            for one in stored["mechanisms"]
        )
        return cls(
            cohort=Cohort(
                tag=stored["cohort"],
                dataset="" if dataset == UNKNOWN else dataset,
                split=split,
                patients=None,
            ),
            delta=float(stored["delta"]),
            adjacency=stored["adjacency"],
            guarantee=Guarantee.from_json(stored, unit),
            patient=patient,
            crops_per_patient=stored["crops_per_patient"],
            by_crops=tuple((e["crops"], float(e["epsilon"])) for e in stored["epsilon_by_crops"]),
            composed=composed,
            exclusions=tuple(stored["exclusions"]),
            is_own=bool(stored["own"]),
            own=_own(stored),
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``privacy.json``.

        What a patient has beside a crop stands under the same names with ``_patient``. Noise, rate
        and steps are those of one fit; ``selection`` says how it was chosen among several.
        """
        own, patient = next(iter(fits_of(self.own)), None), self.patient
        beside = {} if patient is None else patient.as_json()
        return {
            "cohort": self.cohort.tag,
            "cohort_name": self.cohort.name,
            "split": self.cohort.split,
            "own": self.is_own,
            "unit": self.unit,
            "crops_per_patient": self.crops_per_patient,
            "delta": self.delta,
            "adjacency": self.adjacency,
            **self.guarantee.as_json(),
            **{f"{name}_patient": value for name, value in beside.items()},
            "epsilon_by_crops": [
                {"crops": crops, "epsilon": _finite(epsilon)} for crops, epsilon in self.by_crops
            ],
            "mechanisms": [{**m.as_json(), "stage": stage} for stage, m in self.composed],
            "noise_multiplier": own and own.noise_multiplier,
            "sampling_rate": own and own.sampling_rate,
            "steps": own and own.steps,
            "crops_of_unit": own and own.crops_of_unit,
            "selection": planned(self.own),
            "covers": COVERS,
            "exclusions": list(self.exclusions),
        }


def _own(stored: Mapping[str, Any]) -> Noisy | None:
    """Mechanism of the stage itself; its clipping norm stands among the accesses."""
    if stored["noise_multiplier"] is None:
        return None
    fit = Mechanism(
        noise_multiplier=stored["noise_multiplier"],
        sampling_rate=stored["sampling_rate"],
        steps=stored["steps"],
        crops_of_unit=stored["crops_of_unit"],
    )
    plan = stored["selection"]
    return fit if plan is None else Selection(mechanisms=(fit,), **plan)


def taken_together(statements: Sequence[PrivacyStatement]) -> str:
    """What holds for the patients of all cohorts: the largest of their epsilons, not the sum.

    A cohort's statement composes whatever touched one of its patients, shared ones included. What
    holds for adding or removing a patient holds for blanking one, so that is what is spoken of
    unless all cohorts have the former.

    Args:
        statements: One per cohort, at one delta.

    Returns:
        A sentence; empty for fewer than two cohorts.
    """
    if len(statements) < 2:
        return ""
    worst = max((s.guarantees[-1] for s in statements), key=lambda g: g.epsilon)
    adjacency = common(statement.adjacency for statement in statements)
    whose = f"these {len(statements)} cohorts"
    if math.isinf(worst.epsilon):
        return f"Taken together, some patients of {whose} have no guarantee."
    return (
        f"Taken together, epsilon = {worst.epsilon:.4g} at delta = {statements[0].delta:g} for "
        f"each patient of {whose}, the largest of theirs, {adjacency}, by {worst.accountant}."
    )


def _counted(guarantee: Guarantee, adjacency: Adjacency) -> str:
    if guarantee.units is None:
        return "number unknown"
    declared = ", declared" if adjacency == "add-or-remove" else ""
    return f"{guarantee.units} {guarantee.unit}s{declared}"


def epsilon_of(mechanisms: Sequence[Noisy], delta: float) -> float:
    """Epsilon of what was applied to one unit."""
    return compose(mechanisms).epsilon(delta)


def _guess(units: int | None) -> tuple[float, ...]:
    return (1 / units,) if units is not None and units > 1 else ()


def _finite(value: float) -> float | str:
    return "infinity" if math.isinf(value) else value
