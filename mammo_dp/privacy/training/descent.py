# SPDX-License-Identifier: Apache-2.0
"""The learning rate of a private head: a signal-to-noise rule for plain gradient descent.

A head learns a direction from the mean gradient of ``N`` patients, and noise with it. Plain steps
at one rate give each step's noise the same weight, which is the least noise for a given sum of
learning rates: ``T`` steps of rate ``r``, noise multiplier ``sigma`` and clipping norm ``C`` leave
noise of standard deviation ``r sigma C sqrt(T) / (q N)`` in each weight. At ``q = 1`` that depends
on ``r T`` alone, since ``sigma`` grows as ``sqrt(T)``. A crop whose features have length ``F`` is
scored with ``F`` times that. So a budget bounds the learning rate times steps: it may grow until
the noise of a score reaches what is accepted, and no further than a head needs.
"""

import math
from dataclasses import dataclass

# Rate times steps after which a head of features of variance 1 gains no more; see docs/results.md.
LARGEST_RATE_TIMES_STEPS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """A learning rate and the noise that it causes.

    Attributes:
        rate: Learning rate of each step.
        steps: Number of steps.
        features: Features of the head, each of variance about 1.
        score_noise: Standard deviation that noise gives the score of a crop, in logits.
        bound_by: ``noise``, or ``length`` where the budget allows a larger rate than a head needs.
    """

    rate: float
    steps: int
    features: int
    score_noise: float
    bound_by: str

    def __str__(self) -> str:
        """One sentence for people."""
        why = {
            "noise": "a larger rate would give more noise than is accepted",
            "length": "the budget allows a larger rate, which a head does not need",
        }[self.bound_by]
        return (
            f"gradient descent: {self.steps} steps at rate {self.rate:.3g} on {self.features} "
            f"features; noise moves a score by {self.score_noise:.2g} logits ({why})"
        )


def undecided_norm(features: int) -> float:
    """Length of the gradient of the log loss in a head, of a crop whose residual is a half.

    Args:
        features: Features of the head, >= 1, each of variance about 1; a crop's have length
            ``sqrt(features)``, and the bias is one more.
    """
    return math.sqrt(features + 1) / 2


def plan_descent(
    *,
    noise_multiplier: float,
    clipping_norm: float,
    expected_units: float,
    steps: int,
    features: int,
    score_noise: float,
) -> Descent:
    """The largest learning rate at which noise stays acceptable.

    Args:
        noise_multiplier: Standard deviation of the noise / clipping norm, >= 0.
        clipping_norm: Largest norm of one unit's gradient.
        expected_units: Units per step on average, ``q N``.
        steps: Steps of the whole fit, > 0.
        features: Features of the head, each of variance about 1; a crop's have length
            ``sqrt(features)``, and the bias is one more.
        score_noise: Largest standard deviation of the noise in a score, in logits, > 0.
    """
    per_rate = noise_multiplier * clipping_norm * math.sqrt(steps) / expected_units
    per_rate *= math.sqrt(features + 1)
    longest = LARGEST_RATE_TIMES_STEPS / steps
    noisy = per_rate * longest > score_noise
    rate = score_noise / per_rate if noisy else longest
    return Descent(
        rate=rate,
        steps=steps,
        features=features,
        score_noise=per_rate * rate,
        bound_by="noise" if noisy else "length",
    )
