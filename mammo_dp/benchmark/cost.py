# SPDX-License-Identifier: Apache-2.0
"""What a cell cost its patients: from its sealed statement, never from the benchmark's file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mammo_dp.benchmark.errors import BenchmarkError
from mammo_dp.privacy.statement import read_statement, seal_doubt
from mammo_dp.runs import file_sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The worst that the statement says of any cohort, end to end.

    Attributes:
        epsilon: Per ``unit``; 0 if no patient's data were used, infinite without a guarantee.
        epsilon_patient: Of the patient with the most crops; equal to ``epsilon`` per patient.
        unit: What neighbouring cohorts differ in; empty if no patient's data were used.
        delta: Probability that the guarantee does not cover.
        adjacency: Empty if no patient's data were used.
        accountant: Empty if there is no finite epsilon.
        advantage: Bound on TPR - FPR of any membership attack on a unit.
        tpr: Bound on the TPR of any membership attack at 1 % FPR.
        reconstruction: Bound on naming the unit among all of its cohort.
        because: Why epsilon is what it is.
    """

    epsilon: float
    epsilon_patient: float
    unit: str
    delta: float
    adjacency: str
    accountant: str
    advantage: float
    tpr: float
    reconstruction: float
    because: str

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Reads the statement of a run folder.

        Raises:
            PrivacyError: If there is none.
            BenchmarkError: If it is not about the weights beside it, or its seal is broken or made
                with another cohort key.
        """
        stored = read_statement(folder)
        doubt = seal_doubt(stored)
        if not doubt and (artefact := stored["artefact"]) is not None:
            released = folder / artefact["path"]
            if not released.is_file() or file_sha256(released) != artefact["sha256"]:
                doubt = f"is not about the {artefact['path']} beside it"
        if doubt:
            raise BenchmarkError(
                f"{folder}: its privacy statement {doubt}. It was changed, or a worker had another "
                "cohort key: give all of them the same MAMMO_DP_COHORT_KEY, and remove the folder."
            )
        if not stored["statements"]:
            return cls(
                epsilon=0.0,
                epsilon_patient=0.0,
                unit="",
                delta=0.0,
                adjacency="",
                accountant="",
                advantage=0.0,
                tpr=0.01,
                reconstruction=math.nan,
                because="No patient data was used.",
            )
        worst = max(stored["statements"], key=_of_patient)
        risk, finite = worst["risk"], math.isfinite(float(worst["epsilon"]))
        return cls(
            epsilon=float(worst["epsilon"]),
            epsilon_patient=_of_patient(worst),
            unit=worst["unit"],
            delta=float(worst["delta"]),
            adjacency=worst["adjacency"],
            accountant=worst["accountant"] or "",
            advantage=float(risk["advantage"]) if finite else 1.0,
            tpr=float(risk["tpr_at_fpr"]["0.01"]) if finite else 1.0,
            reconstruction=_reconstruction(worst) if finite else 1.0,
            because=worst["because"],
        )


def _of_patient(statement: Mapping[str, Any]) -> float:
    """Epsilon of the patient with the most crops; that of the unit where patients are drawn."""
    return float(statement.get("epsilon_patient", statement["epsilon"]))


def _reconstruction(statement: Mapping[str, Any]) -> float:
    """The bound for a guess among all units; NaN for a cohort of one, or of unknown number."""
    bounds = {float(k): float(v) for k, v in statement["risk"]["reconstruction_robustness"].items()}
    units = statement["units"]  # where it is unknown, there is no bound
    nearest = min(bounds, key=lambda kappa: abs(kappa * units - 1), default=None)
    return math.nan if nearest is None else bounds[nearest]
