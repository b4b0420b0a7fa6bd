# SPDX-License-Identifier: Apache-2.0
"""Result of membership attacks: ``attack.json``, rates with intervals beside their bounds.

Bounds come from the privacy statement of what is attacked, and hold for the cohort that the
statement names.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import CropsManifest, Split, Unit
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.membership.signals import Combine, Signals
from mammo_dp.attacks.statistics import FPRS, LEVEL, Audit, Bounds, audit, exceeds, rates_as_json
from mammo_dp.privacy.statement.guarantee import PrivacyStatement
from mammo_dp.privacy.statement.seals import require_result_of, sealed_content, sealed_result
from mammo_dp.runs import RunRecord, write_text_atomically

ATTACK = "attack.json"
SCHEMA = 2  # 1 held one attack, and no value per crop
CONTROL = (
    "control: mean AUC of the same attack between the same groups with shadow heads in the "
    "model's place, to which membership is random. Away from .5, the groups differ: no leak."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """Name and threat model of an attack, and what its signal is.

    Attributes:
        name: For tables; also the column of its signals, see :class:`Signals`.
        threat_model: What the adversary sees, controls and knows, in a sentence.
        score: What the score of a unit is; high means member.
        combine: How the crops of a patient become one score: the mean of a quantity, or the sum of
            log-likelihood ratios.
    """

    name: str
    threat_model: str
    score: str
    combine: Combine = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one attack achieved.

    Attributes:
        attack: Which attack.
        found: Rates with intervals, per unit of the statement.
        per_crop: The same signals with each crop on its own, for comparison; only its values mean
            something, since crops of one patient are not independent.
        exceeds_bound: Whether the scores refute the bound; all attacks on a release share the
            error.
        control: Area of the same attack, between the same groups, on models to which their
            membership is random; away from .5, the groups differ. None if there are no such models.
    """

    attack: Attack
    found: Audit
    per_crop: Audit
    exceeds_bound: bool
    control: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What several attacks on one release achieved, beside what its statement allows.

    Attributes:
        unit: Unit of the statement.
        bounds: What the statement allows.
        outcomes: One per attack, at least one.
        blind: Baselines that ask the release nothing, through the same code: a random score, and
            the share of malignant crops. Where the second succeeds, members and non-members
            differ in the labels, and an attack's area is no evidence of a leak.
        models: Models of the adversary's own behind the attacks.
        not_tried: Why an attack was left out, by its name.
    """

    unit: Unit
    bounds: Bounds
    outcomes: tuple[Outcome, ...]
    blind: Mapping[str, Audit]
    models: int = 0
    not_tried: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def strongest(self) -> Outcome:
        """The attack with the largest area under its curve."""
        return max(self.outcomes, key=lambda outcome: outcome.found.auc.value)

    @property
    def exceeds_bound(self) -> bool:
        """Whether any attack refutes the bound."""
        return any(outcome.exceeds_bound for outcome in self.outcomes)

    def lines(self) -> list[str]:
        """One line per attack, for the screen."""
        shown = []
        for outcome in self.outcomes:
            area, best = outcome.found.auc, outcome.found.advantage
            shown.append(
                f"{outcome.attack.name}: AUC {area.value:.3f} [{area.low:.3f}, {area.high:.3f}]"
                + ("" if outcome.control is None else f" (control {outcome.control:.3f})")
                + f", advantage {best.value:.3f} (bound {self.bounds.advantage:.3f}), per "
                f"{self.unit}, {outcome.found.members} members, {outcome.found.nonmembers} others"
                + ("; EXCEEDS THE BOUND" if outcome.exceeds_bound else "")
            )
        shown += [f"{name}: not tried, {why}" for name, why in self.not_tried.items()]
        if any(outcome.control is not None for outcome in self.outcomes):
            shown.append(CONTROL)
        return shown

    def as_json(self) -> dict[str, Any]:
        """Content of ``attack.json``: what all attacks share once, then each by name."""
        first, bounds = self.outcomes[0].found, self.bounds
        return {
            "schema": SCHEMA,
            "unit": self.unit,
            "members": first.members,
            "nonmembers": first.nonmembers,
            "level": LEVEL,
            "level_of_each_test": _shared_level(len(self.outcomes)),
            "bound_from": {
                "epsilon": "infinity" if math.isinf(bounds.epsilon) else bounds.epsilon,
                "delta": bounds.delta,
                "unit": self.unit,
                "sentence": bounds.sentence,
            },
            "models": self.models,
            "not_tried": dict(self.not_tried),
            "strongest": self.strongest.attack.name,
            "exceeds_bound": self.exceeds_bound,
            "attacks": {
                outcome.attack.name: {
                    "threat_model": outcome.attack.threat_model,
                    "score": outcome.attack.score,
                    "combine": outcome.attack.combine,
                    **rates_as_json(outcome.found, bounds),
                    "control": outcome.control,
                    "per_crop": _values(outcome.per_crop),
                    "exceeds_bound": outcome.exceeds_bound,
                }
                for outcome in self.outcomes
            },
            "blind": {name: rates_as_json(found) for name, found in self.blind.items()},
        }


def score(
    signals: Signals,
    attacks: Sequence[Attack],
    *,
    unit: Unit,
    bounds: Bounds,
    models: int = 0,
    control: Mapping[str, float] = MappingProxyType({}),
    not_tried: Mapping[str, str] = MappingProxyType({}),
    seed: int = 0,
) -> Result:
    """Scores the saved signals of attacks on one release; runs no model.

    The more attacks are tried, the more is needed to call one a finding: together they err with
    probability ``1 - LEVEL``.

    Args:
        signals: One column per attack, one entry per crop.
        attacks: At least one, each with its column.
        unit: Unit of the statement.
        bounds: What the statement allows.
        models: Models of the adversary's own behind the signals.
        control: Area of each attack on models to which membership is random, by its name.
        not_tried: Why an attack was left out, by its name.
        seed: Seed of the random baseline.

    Raises:
        AttackError: If an attack has no signals.
    """
    level = _shared_level(len(attacks))

    def found(of: NDArray[Any], unit: Unit, combine: Combine = "mean") -> Audit:
        return audit(*signals.scores(of, unit, combine), fprs=FPRS)

    outcomes = []
    for attack in attacks:
        of = signals.of(attack.name)
        groups = signals.scores(of, unit, attack.combine)
        outcomes.append(
            Outcome(
                attack=attack,
                found=found(of, unit, attack.combine),
                per_crop=found(of, "crop"),
                exceeds_bound=exceeds(*groups, bounds, fprs=FPRS, level=level),
                control=control.get(attack.name),
            )
        )
    random = np.random.default_rng(seed).standard_normal(len(signals.row))
    return Result(
        unit=unit,
        bounds=bounds,
        outcomes=tuple(outcomes),
        blind={"random": found(random, unit), "label-only": found(signals.malignant, unit)},
        models=models,
        not_tried=not_tried,
    )


def read_result(path: Path, record: RunRecord | None = None) -> dict[str, Any]:
    """Reads ``attack.json``.

    Args:
        path: The file.
        record: The run that must have found it; none if whoever reads it knows.

    Raises:
        AttackError: If it is unreadable, of another schema or run, or its seal does not hold.
    """
    try:
        result = sealed_content(path.read_text(encoding="utf-8"))
        if result["schema"] != SCHEMA:
            raise ValueError(f"schema {result['schema']}, known is {SCHEMA}")
        if record is not None:
            require_result_of(result, record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AttackError(
            f"{path}: is no readable result of an attack ({error}). Run the attack again, into a "
            "new folder."
        ) from error
    return result


def write_result(
    record: RunRecord,
    result: Result,
    manifest: CropsManifest,
    member_split: Split,
    nonmember_split: Split,
) -> None:
    """Writes ``attack.json``, sealed, in one move.

    Args:
        record: The run that attacked.
        result: Result of :func:`score`.
        manifest: Crops of members and non-members.
        member_split: Split of the members.
        nonmember_split: Split of the others.
    """
    groups = {
        "cohort": manifest.sha256,
        "member_split": member_split,
        "nonmember_split": nonmember_split,
    }
    content = sealed_result(result.as_json() | groups, record)
    text = json.dumps(content, indent=2, allow_nan=False)
    write_text_atomically(record.folder / ATTACK, text + "\n")


def _shared_level(attacks: int) -> float:
    """Level of each of several tests that together err as seldom as one (Bonferroni)."""
    return 1 - (1 - LEVEL) / attacks


def _values(found: Audit) -> dict[str, Any]:
    """Area and rates without intervals."""
    return {
        "auc": found.auc.value,
        "advantage": found.advantage.value,
        "tpr_at_fpr": {f"{fpr:g}": rate.tpr.value for fpr, rate in found.tpr_at_fpr.items()},
    }


def bounds_of(statement: PrivacyStatement) -> Bounds:
    """What a statement allows an attacker."""
    risk, is_nothing = statement.guarantee.risk, math.isinf(statement.epsilon)
    return Bounds(
        epsilon=statement.epsilon,
        delta=statement.delta,
        advantage=1 if is_nothing else risk.advantage,
        tpr_at_fpr=dict.fromkeys(FPRS, 1) if is_nothing else risk.tpr_at_fpr,
        sentence=statement.sentence,
    )
