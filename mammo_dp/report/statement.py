# SPDX-License-Identifier: Apache-2.0
"""What ``privacy.json`` says about one cohort, as a reader needs it."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from mammo_dp.privacy.accounting import Mechanism, compose
from mammo_dp.privacy.selection import Noisy, Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What ``privacy.json`` says about one cohort.

    Attributes:
        epsilon: End to end, over all stages of the lineage; infinite without a guarantee.
        stage_epsilon: Of the model's own training alone; infinite if that was not private.
        accountant: Where these numbers come from, such as ``"PLD, dp-accounting 0.6.0"``; empty if
            both are infinite.
        delta: Probability that the guarantee does not cover.
        risk: Bounds on attacks: ``advantage``, ``tpr_at_fpr``, ``reconstruction_robustness``.
        stored: The statement as it stands in the file.
    """

    epsilon: float
    stage_epsilon: float
    accountant: str
    delta: float
    risk: Mapping[str, Any]
    stored: Mapping[str, Any]

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        """Reads one entry of ``statements``."""
        stage_epsilon, accountant = _stage(stored)
        return cls(
            epsilon=float(stored["epsilon"]),
            stage_epsilon=stage_epsilon,
            accountant=stored["accountant"] or accountant,
            delta=float(stored["delta"]),
            risk=stored["risk"],
            stored=stored,
        )

    @property
    def unit(self) -> str:
        """What neighbouring cohorts differ in: one ``patient`` or ``crop``."""
        return str(self.stored["unit"])

    @property
    def patient_epsilon(self) -> float | None:
        """Of the patient with the most crops, where :attr:`epsilon` is that of one crop."""
        stored = self.stored.get("epsilon_patient")
        return None if stored is None else float(stored)

    @property
    def conditions(self) -> str:
        """What must stand beside each epsilon of this statement."""
        parts = [f"unit {self.unit}", f"delta {self.delta:g}", self.stored["adjacency"]]
        return ", ".join([*parts, self.accountant] if self.accountant else parts)

    @property
    def advantage(self) -> float:
        """Largest TPR - FPR of any membership attack; 1 without a guarantee."""
        return float(self.risk["advantage"]) if math.isfinite(self.epsilon) else 1.0

    @property
    def tpr(self) -> float:
        """Largest true-positive rate of any membership attack at 1 % false positives."""
        return float(self.risk["tpr_at_fpr"]["0.01"]) if math.isfinite(self.epsilon) else 1.0

    @property
    def reconstruction(self) -> float:
        """Largest chance to pick one unit out of the whole cohort; NaN for a cohort of one."""
        if math.isinf(self.epsilon):
            return 1.0
        units = self.stored["units"]
        known = {float(k): v for k, v in self.risk["reconstruction_robustness"].items()}
        nearest = min(known, key=lambda kappa: abs(kappa * units - 1), default=None)
        return math.nan if nearest is None else float(known[nearest])


def _stage(stored: Mapping[str, Any]) -> tuple[float, str]:
    """Epsilon of the model's own training, at the delta of the statement, and its accountant."""
    if stored["noise_multiplier"] is None:
        return math.inf, ""
    mechanism = Mechanism(
        noise_multiplier=stored["noise_multiplier"],
        sampling_rate=stored["sampling_rate"],
        steps=stored["steps"],
        crops_of_unit=stored["crops_of_unit"],
    )
    if plan := stored.get("selection"):
        return _account(Selection(mechanisms=(mechanism,), **plan), stored["delta"])
    return _account(mechanism, stored["delta"])


@functools.cache  # runs of a grid share mechanisms, and one account takes a second
def _account(mechanism: Noisy, delta: float) -> tuple[float, str]:
    curve = compose([mechanism])
    return curve.epsilon(delta), curve.source
