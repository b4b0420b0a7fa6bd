# SPDX-License-Identifier: Apache-2.0
"""All bounds at one budget, per patient: the numbers of one column of the risk corridor."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mammo_dp.attacks.bounds.from_scratch import (
    FromScratch,
    expected_observations,
    observations_in_weights,
)
from mammo_dp.attacks.bounds.identification import (
    LEAST_STEPS,
    identification,
    relaxed_identification,
    require_probability,
)
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.risk import TradeOff, risk_of

RESOLUTIONS = (4, 8, 16, 32, 64, 128)
FPRS = (0.001, 0.01)
CURVE_FPRS = tuple(float(f"{fpr:.4g}") for fpr in np.geomspace(1e-5, 1, 26)[:-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked at every budget.

    Attributes:
        delta: Delta at which epsilon is stated.
        kappas: Probabilities of naming the patient without the release, each in ``(0, 1)``.
        fprs: False-positive rates of membership tests, each in ``(0, 1)``.
        resolutions: Edges of the images that the server reads, in pixels, each >= 2.
        correlation: A reconstruction succeeds from this correlation on, in ``(0, 1)``.
        mean_square: Mean of the squared grey values of an image in ``[0, 1]``.
    """

    delta: float = 1e-4
    kappas: tuple[float, ...]
    fprs: tuple[float, ...] = FPRS
    resolutions: tuple[int, ...] = RESOLUTIONS
    correlation: float = 0.7
    mean_square: float

    def __post_init__(self) -> None:
        """Refuses values that are no probability.

        Raises:
            AttackError: For a value outside ``(0, 1)``.
        """
        require_probability("delta", self.delta)
        require_probability("correlation", self.correlation)
        for name, values in (("kappa", self.kappas), ("fpr", self.fprs)):
            for value in values:
                require_probability(name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """From-scratch reconstruction by one kind of server; values hold for the worst image.

    Attributes:
        edge: Edge of the image, in pixels.
        observations: Aligned noisy observations of the image.
        bounds_anything: Whether the error stays below that of a blank image. Otherwise the
            numbers describe one estimator, and a blind guess does better.
        mse: Expected mean squared error, in squared grey values.
        psnr: Expected peak signal-to-noise ratio, in decibels.
        ncc: Expected correlation, for an image of mean 0.
        success: Probability of a correlation of at least ``Questions.correlation``, likewise.
    """

    edge: int
    observations: float
    bounds_anything: bool
    mse: float
    psnr: float
    ncc: float
    success: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Corridor:
    """Bounds at one budget, all per patient, for the adjacency of the schedule.

    Attributes:
        mechanism: Steps as they act on one patient; None for training without privacy.
        epsilon: At ``Questions.delta``; infinite without privacy.
        accountant: Where epsilon and the guarantees come from; empty without privacy.
        advantage: Rung 5: largest TPR - FPR of a membership test.
        tpr_at_fpr: Rung 5: largest true-positive rate, by false-positive rate.
        trade_off: Rung 5: largest true-positive rates at :data:`CURVE_FPRS`.
        identification: Rung 1: largest probability of naming the patient, by ``kappa``.
        edgeworth: Second opinion on ``identification``; None for fewer than 30 subsampled steps.
        relaxed: Rung 2, an assumption: as rung 1 without the gradient's sign, by ``kappa``.
        one: Rung 3, an assumption: one observation, by resolution.
        every: Rung 3: every step of the target recognised, by resolution.
        weights: The final weights alone, by resolution.
    """

    mechanism: Mechanism | None
    epsilon: float
    accountant: str
    advantage: float
    tpr_at_fpr: dict[float, float]
    trade_off: tuple[float, ...]
    identification: dict[float, float]
    edgeworth: dict[float, float] | None
    relaxed: dict[float, float] | None
    one: tuple[View, ...]
    every: tuple[View, ...]
    weights: tuple[View, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values; infinity is a word, a perfect error of 0 has no decibels."""

        def finite(view: View) -> dict[str, Any]:
            return asdict(view) | {"psnr": view.psnr if math.isfinite(view.psnr) else None}

        def keyed(values: dict[float, float] | None) -> dict[str, float] | None:
            return None if values is None else {f"{key:.6g}": v for key, v in values.items()}

        return {
            "epsilon": "infinity" if math.isinf(self.epsilon) else self.epsilon,
            "accountant": self.accountant,
            "mechanism": self.mechanism and self.mechanism.as_json(),
            "advantage": self.advantage,
            "tpr_at_fpr": keyed(self.tpr_at_fpr),
            "trade_off": dict(zip(map(str, CURVE_FPRS), self.trade_off, strict=True)),
            "identification": keyed(self.identification),
            "edgeworth": keyed(self.edgeworth),
            "relaxed": keyed(self.relaxed),
            "from_scratch": {
                name: [finite(view) for view in views]
                for name, views in (
                    ("one_observation", self.one),
                    ("every_step", self.every),
                    ("final_weights", self.weights),
                )
            },
        }


def corridor(mechanism: Mechanism | None, questions: Questions) -> Corridor:
    """Bounds at one budget.

    Args:
        mechanism: Steps as they act on one patient; None for training without privacy.
        questions: What is asked.
    """
    if mechanism is None:
        return _without_privacy(questions)
    curve = compose([mechanism])
    risk = risk_of(curve, kappas=questions.kappas, fprs=questions.fprs)
    misses = TradeOff(curve)
    plain = mechanism.dominating
    summable = plain.steps >= LEAST_STEPS or plain.sampling_rate == 1
    unsigned = plain.steps >= LEAST_STEPS
    every = expected_observations(mechanism)
    weights = observations_in_weights(mechanism)

    def views(observations: float) -> tuple[View, ...]:
        return tuple(
            _view(
                FromScratch(
                    pixels=edge**2,
                    noise_multiplier=mechanism.noise_multiplier,
                    observations=observations,
                    mean_square=questions.mean_square,
                ),
                edge,
                questions.correlation,
            )
            for edge in questions.resolutions
        )

    return Corridor(
        mechanism=mechanism,
        epsilon=curve.epsilon(questions.delta),
        accountant=curve.source,
        advantage=risk.advantage,
        tpr_at_fpr=dict(risk.tpr_at_fpr),
        trade_off=tuple(1 - misses(fpr) for fpr in CURVE_FPRS),
        identification=dict(risk.reconstruction_robustness),
        edgeworth=_by_kappa(identification, mechanism, questions.kappas) if summable else None,
        relaxed=_by_kappa(relaxed_identification, mechanism, questions.kappas)
        if unsigned
        else None,
        one=views(1.0),
        every=views(every),
        weights=views(weights),
    )


def _by_kappa(
    bound: Callable[[Mechanism, float], float], mechanism: Mechanism, kappas: Sequence[float]
) -> dict[float, float]:
    return {kappa: bound(mechanism, kappa) for kappa in kappas}


def _view(image: FromScratch, edge: int, correlation: float) -> View:
    return View(
        edge=edge,
        observations=image.observations,
        bounds_anything=image.bounds_anything,
        mse=image.variance,
        psnr=image.mean_psnr(),
        ncc=image.mean_ncc,
        success=image.ncc_at_least(correlation),
    )


def _without_privacy(questions: Questions) -> Corridor:
    risk = risk_of(None, kappas=questions.kappas, fprs=questions.fprs)
    exact = tuple(
        View(
            edge=edge,
            observations=1.0,
            bounds_anything=True,
            mse=0.0,
            psnr=math.inf,
            ncc=1.0,
            success=1.0,
        )
        for edge in questions.resolutions
    )
    certain = dict.fromkeys(questions.kappas, 1.0)
    return Corridor(
        mechanism=None,
        epsilon=math.inf,
        accountant="",
        advantage=1.0,
        tpr_at_fpr=dict(risk.tpr_at_fpr),
        trade_off=(1.0,) * len(CURVE_FPRS),
        identification=dict(risk.reconstruction_robustness),
        edgeworth=certain,
        relaxed=certain,
        one=exact,
        every=exact,
        weights=exact,
    )
