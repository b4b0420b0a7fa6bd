# SPDX-License-Identifier: Apache-2.0
"""Bounds on the success of any attack on one unit, from a privacy curve.

Every bound is read off the trade-off function of the account: the smallest miss rate of an attacker
with a given false positive rate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import Unit
from mammo_dp.privacy.accounting.account import (
    Adjacency,
    PrivacyCurve,
)
from mammo_dp.privacy.errors import PrivacyError

FPRS = (0.001, 0.01, 0.1)
# Beyond this epsilon a line of the trade-off function matters only for false positives below e^-50.
_EPSILONS = np.concatenate([[0.0], np.geomspace(1e-3, 50.0, 400)])
_CERTAIN = 1e-6


@dataclass(frozen=True)
class TradeOff:
    """Smallest miss rate of any membership test at a given false positive rate.

    Attributes:
        curve: Privacy curve of the account.

    Source: ``f(a) = max_eps max(0, 1 - delta(eps) - e^eps a, e^-eps (1 - delta(eps) - a))``, Dong
    et al. 2019, arXiv 1905.02383. We take the maximum over a grid of epsilons, so ``f`` errs
    towards more risk. Where ``delta(0)`` is 1 up to 1e-6, ``f`` is 0: libraries that interpolate
    extreme curves report no risk there.
    """

    curve: PrivacyCurve

    @property
    def _deltas(self) -> NDArray[np.float64]:
        return _deltas_of(self.curve)

    @property
    def advantage(self) -> float:
        """Largest TPR - FPR of a membership test, which is ``delta(0)``."""
        zero = float(self._deltas[0])
        return 1.0 if zero > 1 - _CERTAIN else zero

    def __call__(self, fpr: float) -> float:
        """Smallest miss rate at false positive rate ``fpr``, in ``[0, 1 - fpr]``."""
        if self.advantage == 1.0:
            return 0.0
        power = np.exp(_EPSILONS)
        lower = 1 - self._deltas - power * fpr
        upper = (1 - self._deltas - fpr) / power
        return float(max(0.0, lower.max(), upper.max()))


@lru_cache(maxsize=128)  # statement, report and check of one run ask for the risks of one curve
def _deltas_of(curve: PrivacyCurve) -> NDArray[np.float64]:
    deltas = curve.deltas(_EPSILONS)
    deltas.setflags(write=False)
    return deltas


@dataclass(frozen=True, slots=True, kw_only=True)
class Risk:
    """Upper bounds for an attacker who sees the release, knows all units but one, and how many.

    Attributes:
        advantage: Largest TPR - FPR of a membership test.
        tpr_at_fpr: Largest probability to recognise a member, by false positive rate.
        reconstruction_robustness: Largest probability to reconstruct a unit, by the probability
            ``kappa`` of succeeding without the release.
    """

    advantage: float
    tpr_at_fpr: Mapping[float, float]
    reconstruction_robustness: Mapping[float, float]

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Reads what :meth:`as_json` gave."""
        return cls(
            advantage=stored["advantage"],
            tpr_at_fpr=_by_number(stored["tpr_at_fpr"]),
            reconstruction_robustness=_by_number(stored["reconstruction_robustness"]),
        )

    def as_json(self) -> dict[str, object]:
        """Plain values, for ``privacy.json``; keys have six significant digits."""
        return {
            "advantage": self.advantage,
            "tpr_at_fpr": {f"{fpr:.6g}": value for fpr, value in self.tpr_at_fpr.items()},
            "reconstruction_robustness": {
                f"{kappa:.6g}": value for kappa, value in self.reconstruction_robustness.items()
            },
        }


def risk_of(
    curve: PrivacyCurve | None, *, kappas: Sequence[float] = (), fprs: Sequence[float] = FPRS
) -> Risk:
    """Bounds that an account implies.

    Args:
        curve: Privacy curve, or none if there is no guarantee.
        kappas: Probabilities of a correct guess without the release, in ``(0, 1)``.
        fprs: False positive rates, in ``(0, 1)``.

    Raises:
        PrivacyError: For a rate or probability outside ``(0, 1)``.

    Source: reconstruction robustness, Kaissis et al. 2023, arXiv 2307.03928.
    """
    for name, values in (("kappa", kappas), ("fpr", fprs)):
        for value in values:
            if not 0 < value < 1:
                raise PrivacyError(
                    f"{name}={value} is no probability. Give a value between 0 and 1."
                )
    if curve is None:
        certain = MappingProxyType(dict.fromkeys(fprs, 1.0))
        return Risk(
            advantage=1.0,
            tpr_at_fpr=certain,
            reconstruction_robustness=dict.fromkeys(kappas, 1.0),
        )
    misses = TradeOff(curve)
    return Risk(
        advantage=misses.advantage,
        tpr_at_fpr={fpr: 1 - misses(fpr) for fpr in fprs},
        reconstruction_robustness={kappa: 1 - misses(kappa) for kappa in kappas},
    )


def _by_number(stored: Mapping[str, float]) -> Mapping[float, float]:
    return {float(key): float(value) for key, value in stored.items()}


def neighbour(adjacency: Adjacency, unit: Unit) -> str:
    """What a neighbouring cohort is, as a clause: "had any one patient ... been absent"."""
    whole = " with all crops, views and labels" if unit == "patient" else ""
    if adjacency == "add-or-remove":
        return f"had any one {unit}{whole} been absent"
    return (
        f"had the data of any one {unit}{whole} been blanked, their number being the same and "
        "public"
    )


def adversary(adjacency: Adjacency, unit: Unit) -> str:
    """Whom the bounds hold against: what is known beside the release, as an object of "knows"."""
    others = f"all other {unit}s"
    return f"{others} and how many there are" if adjacency == "zero-out" else others
