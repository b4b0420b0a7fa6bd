# SPDX-License-Identifier: Apache-2.0
"""Selection of the best of a random number of fits: the law of the number, and the score."""

import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import geom, logser

from data_prep.manifest import Split
from mammo_dp.privacy.accounting.account import Law, Mechanism, Selection
from mammo_dp.privacy.errors import PrivacyError


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionPlan:
    """How a fit takes part in a selection; declared before any fit starts.

    Attributes:
        law: Of the number of fits, on 1, 2, ...: ``"logarithmic"`` costs least; ``"geometric"``
            stops at a single fit less often.
        mean: Of the law, >= 1.
        score_noise_multiplier: Noise of the score on the training patients, in units of what one
            patient can change, > 0; ``None`` if the score comes from other patients.
        score_split: Split of the patients that the score comes from, who are left without a
            guarantee; ``None`` if it comes from the training patients.
        name: That no other selection has, so that a fit is a candidate of one alone; empty before
            the selection is drawn.
    """

    law: Law = "logarithmic"
    mean: float = 10.0
    score_noise_multiplier: float | None = None
    score_split: Split | None = None
    name: str = ""

    def __post_init__(self) -> None:
        """Refuses a plan without a score, or with two.

        Raises:
            PrivacyError: Naming what is wrong.
        """
        if (self.score_noise_multiplier is None) == (self.score_split is None):
            raise PrivacyError(
                f"selection: score_noise_multiplier={self.score_noise_multiplier}, score_split="
                f"{self.score_split}. Give one of them: noise for a score on the training "
                "patients, or the split of other patients."
            )

    def quantile(self, probability: float) -> int:
        """Smallest number that is not exceeded with this probability, in ``(0, 1)``."""
        if self.mean == 1:
            return 1
        if self.law == "geometric":
            return int(geom.ppf(probability, 1 / self.mean))
        return int(logser.ppf(probability, 1 - self._halting))

    def draw(self) -> int:
        """A number from the operating system's entropy. It has to stay private."""
        return self.quantile((secrets.randbits(52) + 0.5) / 2**52)

    @property
    def _halting(self) -> float:
        """Parameter ``gamma`` of the logarithmic law, ``mean = (1/gamma - 1) / log(1/gamma)``."""

        def excess(gamma: float) -> float:
            return (1 / gamma - 1) / -math.log(gamma) - self.mean

        return float(brentq(excess, 1e-12, 1 - 1e-12, xtol=1e-15))

    def of(self, mechanisms: Sequence[Mechanism]) -> "Selection":
        """The selection among fits with these mechanisms."""
        return Selection(
            mechanisms=tuple(mechanisms),
            law=self.law,
            mean=self.mean,
            score_noise_multiplier=self.score_noise_multiplier,
        )

    def refuse_data(
        self, *, unit: str | None, train_split: str | None, public_size: int | None
    ) -> None:
        """Checks the settings of the data that the fits shall have.

        Args:
            unit: What is sampled and protected.
            train_split: Split that trains.
            public_size: Declared number of patients; ``None`` if their true number is public.

        Raises:
            PrivacyError: If no account of the selection would hold.
        """
        if unit != "patient":
            raise PrivacyError(f"selection: unit is {unit!r}. Set data.init_args.unit to patient.")
        if self.score_split == train_split:
            raise PrivacyError(
                f"selection: score_split={train_split} is the split that trains. Give another, or "
                "score_noise_multiplier."
            )
        if public_size is not None and self.score_noise_multiplier is not None:
            raise PrivacyError(
                f"selection: a score on the training patients tells how many there are, but "
                f"public_size={public_size} keeps that private. Leave it out, or give score_split."
            )


def concordance(
    patient: NDArray[np.int64], malignant: NDArray[np.int64], logit: NDArray[np.float64]
) -> float:
    """How well scores order crops of different classes, as a mean over all pairs of patients.

    A pair counts the mean, over pairs of a crop of one and a crop of the other, of 1/2 where the
    malignant crop has the larger score, -1/2 where it has the smaller, and 0 for equal scores and
    equal classes. The result is the AUROC between patients, less 1/2, times the share of such
    pairs, which is the same for all fits on the same patients.

    Args:
        patient: Shape ``(n,)``, whose crop it is.
        malignant: Shape ``(n,)``, 0 or 1.
        logit: Shape ``(n,)``.

    Returns:
        A number in ``[-1/2, 1/2]``. Blanking one of ``N`` patients removes ``N - 1`` of the
        ``N (N - 1) / 2`` pairs, each at most 1/2 in size: it moves the result by at most ``1 / N``.
    """
    _, crops_of, number = np.unique(patient, return_inverse=True, return_counts=True)
    units = len(number)
    weight = 1 / number[crops_of]
    one, other = malignant == 1, malignant == 0
    ordered = np.sign(logit[one, None] - logit[None, other]) / 2
    apart = crops_of[one, None] != crops_of[None, other]
    total = (ordered * apart * weight[one, None] * weight[None, other]).sum()
    return float(total / max(1, units * (units - 1) / 2))
