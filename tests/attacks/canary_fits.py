"""Private fits of a linear head in which every patient is a canary on a coordinate of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.manifest import Unit
from mammo_dp.attacks.audit import Bounds, Scores, exceeds, tpr_at_fpr
from mammo_dp.attacks.canaries import WhiteBoxObserver, canary_scores
from mammo_dp.attacks.canary_fit import PIXELS, CanaryData, CanaryHead
from mammo_dp.privacy.accounting import Mechanism, compose
from mammo_dp.privacy.budget import PrivacyBudget
from mammo_dp.privacy.risk import risk_of
from mammo_dp.privacy.sampling import PoissonSampling
from tests.privacy.fits import trainer

OUTPUTS = 1200
COORDINATES = PIXELS * OUTPUTS  # of the weights, each a canary that is in or out
PATIENTS = 2000  # canaries that are in
DELTA = 1e-4
FPRS = (0.001, 0.01)


def head(epsilon: float) -> CanaryHead:
    return CanaryHead(PrivacyBudget(delta=DELTA, epsilon=epsilon), OUTPUTS)


def canaries(
    inside: NDArray[np.int64], *, crops: int = 1, unit: Unit = "patient", rate: float
) -> CanaryData:
    rows = np.arange(crops * len(inside)).reshape(-1, crops if unit == "patient" else 1)
    sampling = PoissonSampling(unit=unit, rows_of=tuple(map(tuple, rows.tolist())), rate=rate)
    return CanaryData(np.repeat(inside, crops), sampling, key=int(inside.sum()))


def observed(
    folder: Path,
    inside: NDArray[np.int64],
    *,
    epsilon: float,
    rate: float,
    steps: int,
    crops: int = 1,
    unit: Unit = "patient",
) -> tuple[Scores, CanaryHead]:
    model, observer = head(epsilon), WhiteBoxObserver("net.weight")
    data = canaries(inside, crops=crops, unit=unit, rate=rate)
    trainer(folder, max_steps=steps, callbacks=[observer]).fit(model, data)
    (mechanism,) = model.mechanisms
    scores = canary_scores(
        observer.products, noise_multiplier=mechanism.noise_multiplier, sampling_rate=rate
    )
    return scores, model


@dataclass(frozen=True)
class Trials:
    members: Scores
    nonmembers: Scores
    mechanism: Mechanism
    epsilon: float  # as stated: per unit, at DELTA, zero-out, by PLD

    @property
    def stated(self) -> Bounds:
        risk = risk_of(compose([self.mechanism]), fprs=FPRS)
        return Bounds(
            epsilon=self.epsilon, delta=DELTA, advantage=risk.advantage, tpr_at_fpr=risk.tpr_at_fpr
        )

    @property
    def break_the_curve(self) -> bool:
        return exceeds(self.members, self.nonmembers, self.stated, fprs=FPRS)

    @property
    def attain_the_curve(self) -> bool:
        rate = tpr_at_fpr(self.members, self.nonmembers, fpr=0.01, level=0.99).tpr
        return rate.low <= self.stated.tpr_at_fpr[0.01] <= rate.high


def trials(folder: Path, fits: int, **settings: Any) -> Trials:
    members, nonmembers = [], []
    for seed in range(fits):
        inside = np.random.default_rng(seed).permutation(COORDINATES)[:PATIENTS]
        scores, model = observed(folder, inside, **settings)
        members.append(scores[inside])
        nonmembers.append(np.delete(scores, inside))
    (mechanism,) = model.mechanisms
    return Trials(
        np.concatenate(members), np.concatenate(nonmembers), mechanism, model.spent_epsilon
    )
