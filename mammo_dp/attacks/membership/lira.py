# SPDX-License-Identifier: Apache-2.0
"""Likelihood-ratio attacks on membership: is the confidence that of models that knew the patient?

Threat model (rung 5 of the ladder): the adversary holds labelled crops of the candidate patients,
without knowing who took part; knows how the model was trained, its frozen body included; trains
models of its own on random halves of the patients; and queries the released model, in views of the
kind that it was trained on. It sees no update.

Source: Carlini et al. 2022, arXiv 2112.03570, with the logit-scaled confidence averaged over views;
one variance for all crops where a side has few models, as there. Crops of a patient add up.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from mammo_dp.attacks.membership.observed import Floats, Observed
from mammo_dp.attacks.scoring import Attack

OWN_MODELS = (
    "Black-box membership with own models: the adversary holds labelled crops of the candidate "
    "patients, knows how the model was trained and which frozen body it uses, has {}, and "
    "queries the released classifier; it sees no update."
)
ONLINE = Attack(
    name="lira-online",
    threat_model=OWN_MODELS.format("models trained on random halves of them"),
    score=(
        "Sum over the crops of a unit of log N(c; models that knew the patient) - log N(c; models "
        "that did not), where c is log(p_y / (1 - p_y)), mean over views; high means member."
    ),
    combine="sum",
)
OFFLINE = Attack(
    name="lira-offline",
    threat_model=OWN_MODELS.format("models that never saw the patient in question"),
    score=(
        "Sum over the crops of a unit of -log(1 - Phi(z)), where z is the distance of "
        "log(p_y / (1 - p_y)), mean over views, from models that did not know the patient, in "
        "their standard deviations; high means member."
    ),
    combine="sum",
)
ENOUGH = 31  # models of a side, for a variance of each crop's own: half of 64, less a stand-in
_LEAST = 1e-6  # of a variance; identical models would divide by zero


def online(observed: Observed) -> Floats:
    """Log-likelihood ratio of each crop, shape ``(crops,)``.

    Args:
        observed: At least two models on either side of each crop.
    """
    return online_ratio(observed.of_target(), observed.of_models(), observed.inside)


def online_ratio(found: Floats, confidence: Floats, inside: NDArray[np.bool_]) -> Floats:
    """As :func:`online`, of arrays.

    Args:
        found: ``log(p_y / (1 - p_y))`` of the attacked model, shape ``(crops,)``.
        confidence: The same of the adversary's models, shape ``(models, crops)``.
        inside: Models that knew the patient, shape ``(models, crops)``.
    """
    knew, did_not = (_normal(confidence, side) for side in (inside, ~inside))
    return np.asarray(norm.logpdf(found, *knew) - norm.logpdf(found, *did_not))


def offline(observed: Observed) -> Floats:
    """How unlikely each crop's confidence is without membership, shape ``(crops,)``.

    Args:
        observed: At least two models per crop that did not know the patient.
    """
    return offline_ratio(observed.of_target(), observed.of_models(), observed.inside)


def offline_ratio(found: Floats, confidence: Floats, inside: NDArray[np.bool_]) -> Floats:
    """As :func:`offline`, of arrays, see :func:`online_ratio`."""
    return np.asarray(-norm.logsf(found, *_normal(confidence, ~inside)))


def _normal(confidence: Floats, side: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean and standard deviation of each crop over the models of one side."""
    count = side.sum(0)
    mean = (confidence * side).sum(0) / count
    squares = ((confidence - mean) ** 2 * side).sum(0)
    if count.min() >= ENOUGH:
        variance = squares / (count - 1)
    else:
        variance = np.full(len(mean), squares.sum() / (count - 1).sum())
    return mean, np.sqrt(np.maximum(variance, _LEAST))
