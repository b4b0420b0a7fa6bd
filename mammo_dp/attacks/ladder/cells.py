# SPDX-License-Identifier: Apache-2.0
"""What one attack achieved at one budget, beside its bound and a blind guess."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from classifier.evaluate import Estimate

KAPPA = 0.01  # probability of naming a patient by guessing, and false-positive rate, on all rungs
NO_PRIOR, PRIOR = "no prior", "Gaussian prior"  # attacks of rungs 3 and 4 that are drawn
_NO_PROBABILITIES = ("NCC", "MSE", "PSNR", "SSIM", "AUC", "epsilon")  # how other metrics begin
Key = tuple[int, str, str]  # rung, attack, metric
Bound = Literal["guarantee", "assumption", "prediction", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement.

    Attributes:
        rung: Of the ladder of threat models, 1 to 6.
        attack: Name of the attack.
        metric: What was measured, such as ``"TPR at FPR 0.01"``.
        value: Of the attack.
        low: Lower end of its 95 % interval.
        high: Upper end.
        bound: What theory allows or predicts; None if it says nothing.
        kind: What the bound is: a guarantee, holds only for an adversary as weak as assumed, is the
            prediction of a model, or none.
        blind: The same metric for a guess that uses no update; None if it has no value.
        exceeds: Whether the attack refutes a guarantee, with the error shared by all attacks.
    """

    rung: int
    attack: str
    metric: str
    value: float
    low: float
    high: float
    bound: float | None = None
    kind: Bound = "none"
    blind: float | None = None
    exceeds: bool = False

    @classmethod
    def of(cls, estimate: Estimate, **facts: Any) -> Self:
        """A measurement with an interval."""
        return cls(value=estimate.value, low=estimate.low, high=estimate.high, **facts)

    @property
    def text(self) -> str:
        """``attack [interval] / bound / blind``."""

        def shown(value: float | None) -> str:
            if value is None:
                return "-"
            if self.metric.startswith("epsilon"):
                return short(value)
            return f"{value:.1f}" if self.metric.startswith("PSNR") else f"{value:.3f}"

        interval = f" [{shown(self.low)}, {shown(self.high)}]" if self.low < self.high else ""
        text = f"{shown(self.value)}{interval} / {shown(self.bound)} / {shown(self.blind)}"
        return text + (" EXCEEDS" if self.exceeds else "")

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One budget: the privacy that was asked for, the utility of the model, what attacks achieved.

    Attributes:
        name: ``"6"`` or ``"none"``.
        noise_multiplier: Of the fit; 0 without privacy.
        epsilon: Of the fit, as executed, per patient; infinite without privacy.
        accountant: Where epsilon comes from; empty without privacy.
        auroc: Utility, with a 95 % interval over patients.
        patients: Number of patients that it was measured on.
        perhaps_seen: Which stages may have seen these patients, as of ``test``.
        bounds: All bounds, see :mod:`mammo_dp.attacks.bounds`.
        cells: What attacks achieved.
    """

    name: str
    noise_multiplier: float
    epsilon: float
    accountant: str
    auroc: Estimate
    patients: int
    perhaps_seen: str = ""
    bounds: Mapping[str, Any]
    cells: tuple[Cell, ...]

    @property
    def shown_epsilon(self) -> str:
        """As executed, such as ``"6"``, ``"5.5e7"`` or ``"infinity"``."""
        return short(self.epsilon)

    @property
    def title(self) -> str:
        """What was asked for, such as ``"budget 6"`` or ``"no privacy"``."""
        return "no privacy" if math.isinf(self.epsilon) else f"budget {short(float(self.name))}"

    @property
    def label(self) -> str:
        """What was executed, such as ``"epsilon 6"`` or ``"no privacy"``."""
        return self.title if math.isinf(self.epsilon) else f"epsilon {self.shown_epsilon}"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "noise_multiplier": self.noise_multiplier,
            "epsilon": "infinity" if math.isinf(self.epsilon) else self.epsilon,
            "accountant": self.accountant,
            "auroc": {
                "value": self.auroc.value,
                "low": self.auroc.low,
                "high": self.auroc.high,
            },
            "patients": self.patients,
            "perhaps_seen": self.perhaps_seen,
            "bounds": dict(self.bounds),
            "attacks": [cell.as_json() for cell in self.cells],
        }


def ncc_at(px: int) -> str:
    """Metric: correlation of what a server read at a resolution with the image."""
    return f"NCC at {px} px"


def is_probability(metric: str) -> bool:
    """Whether a metric is a probability of success, which the corridor can show."""
    return not metric.startswith(_NO_PROBABILITIES)


def key_of(cell: Mapping[str, Any]) -> Key:
    """Rung, attack and metric of a stored cell."""
    return cell["rung"], cell["attack"], cell["metric"]


def find(budget: Mapping[str, Any], key: Key) -> Mapping[str, Any] | None:
    """A cell of a stored budget, if that was attacked so."""
    return next((cell for cell in budget["attacks"] if key_of(cell) == key), None)


def probabilities(budgets: Sequence[Mapping[str, Any]], px: int) -> list[Key]:
    """What the corridor shows: probabilities; of membership attacks, the most successful one.

    Args:
        budgets: As ``ladder.json`` has them.
        px: Resolution at which reading an image is shown.
    """
    cells = [cell for budget in budgets for cell in budget["attacks"]]
    cells = [cell for cell in cells if is_probability(cell["metric"])]
    best = max((c for c in cells if c["rung"] == 5), key=lambda c: c["value"], default=None)
    keys = [
        key_of(cell)
        for cell in cells
        if cell["rung"] == 1
        or (cell["metric"].endswith(f" {px} px") and cell["attack"] in (NO_PRIOR, PRIOR))
    ]
    return sorted({*keys, *([key_of(best)] if best else [])})


def short(epsilon: float) -> str:
    """Three digits, without zeros and signs in an exponent."""
    if math.isinf(epsilon):
        return "infinity"
    shown = f"{epsilon:.3g}" if epsilon < 999 else f"{epsilon:.2g}"
    return shown.replace("e+0", "e").replace("e+", "e")


def findings(rungs: Iterable[Rung]) -> list[str]:
    """A sentence for each attack that refutes a guarantee: the release is to be blocked."""
    return [
        f"budget {rung.name}: {cell.attack} reaches {cell.metric} {cell.text}, rung {cell.rung}"
        for rung in rungs
        for cell in rung.cells
        if cell.exceeds
    ]
