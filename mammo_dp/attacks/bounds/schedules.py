# SPDX-License-Identifier: Apache-2.0
"""Schedules of noisy steps: of budgets, or of a finished run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mammo_dp.attacks import AttackError
from mammo_dp.privacy.accounting.account import Adjacency, Mechanism, Selection
from mammo_dp.privacy.accounting.budget import PrivacyBudget, calibrate
from mammo_dp.privacy.statement.document import ledger_of, read_statement
from mammo_dp.privacy.statement.guarantee import PrivacyStatement
from mammo_dp.privacy.statement.seals import seal_doubt

Target = float | str  # an epsilon, or "none"
NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Noisy steps, with a name.

    Attributes:
        name: For people, such as ``"6"`` for a budget.
        mechanism: Steps as they act on one patient; None for training without privacy.
        patients: How many there are, as far as it may be known.
        delta: Of the statement; None for a budget.
        adjacency: What neighbouring cohorts differ by.
        end_to_end: Epsilon of all stages together, in a sentence; empty for a budget.
    """

    name: str
    mechanism: Mechanism | None
    patients: int | None = None
    delta: float | None = None
    adjacency: Adjacency = "zero-out"
    end_to_end: str = ""


def of_budgets(
    budgets: Sequence[Target], *, sampling_rate: float, steps: int, delta: float
) -> list[Schedule]:
    """The least noise for each epsilon.

    Args:
        budgets: Epsilons, > 0, and ``"none"`` for training without privacy.
        sampling_rate: Probability that a patient joins a step, in ``(0, 1]``.
        steps: Number of steps.
        delta: Of each epsilon.

    Raises:
        PrivacyError: For a budget that no noise can keep.
    """
    if not budgets:
        raise AttackError("budgets: is empty. Give epsilons, or none for training without DP.")
    return [
        Schedule(name=named(budget), mechanism=_mechanism(budget, sampling_rate, steps, delta))
        for budget in budgets
    ]


def of_run(folder: str | Path) -> list[Schedule]:
    """The last stage of a run, as its statement has it: one entry per cohort that it touched.

    A statement that cannot be relied on here is quoted as such: it may be that of somebody else.

    Raises:
        PrivacyError: If there is no readable statement.
        AttackError: If no stage of its own touched patients.
    """
    stored = read_statement(folder)
    ledger, artefact = ledger_of(stored), stored["artefact"] or {"sha256": None}
    own = {a.cohort for a in ledger.accesses if a.released and a.released == artefact["sha256"]}
    statements = ledger.statements(stored["delta"], artefact["sha256"])
    doubt = seal_doubt(stored)
    warning = f"The statement of {Path(folder).name} {doubt}. It says: " if doubt else ""
    found = [
        Schedule(
            name=Path(folder).name + (" (not checked)" if doubt else ""),
            mechanism=_on_patient(statement),
            patients=statement.guarantees[-1].units,
            delta=statement.delta,
            adjacency=statement.adjacency,
            end_to_end=f"{warning}{statement.sentence}",
        )
        for statement in statements
        if statement.cohort in own
    ]
    if not found:
        raise AttackError(
            f"{folder}: its last stage touched no patient, so there is nobody to attack. Give the "
            "run of a fit on patients."
        )
    return found


def named(budget: Target) -> str:
    """``"6"``, ``"1e+06"`` or ``"none"``."""
    return budget if isinstance(budget, str) else f"{budget:g}"


def _mechanism(budget: Target, rate: float, steps: int, delta: float) -> Mechanism | None:
    if isinstance(budget, str):
        if budget != NONE:
            raise AttackError(f"budget {budget!r}. Give an epsilon above 0, or {NONE}.")
        return None
    noise = calibrate(PrivacyBudget(epsilon=budget, delta=delta), sampling_rate=rate, steps=steps)
    return Mechanism(noise_multiplier=noise, sampling_rate=rate, steps=steps)


def _on_patient(statement: PrivacyStatement) -> Mechanism | None:
    """The stage's own steps as they act on the patient with the most crops.

    None where crops were drawn and their largest number was not declared: nothing bounds it then.

    Raises:
        AttackError: If the release was chosen among several fits.
    """
    own = statement.own
    if isinstance(own, Selection):
        raise AttackError(
            f"{statement.cohort.name}: the release is {own.words}. These bounds are those of one "
            "fit; what holds for the choice is stated, see `mammo-dp privacy explain`."
        )
    if own is None or statement.unit == "patient":
        return own
    most = statement.crops_per_patient
    return None if most is None else replace(own, crops_of_unit=most)
