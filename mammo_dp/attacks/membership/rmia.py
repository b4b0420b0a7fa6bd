# SPDX-License-Identifier: Apache-2.0
"""Robust membership inference (RMIA): is a crop likelier under the model than crops usually are?

Threat model: as :mod:`mammo_dp.attacks.membership.lira` with models that never saw the patient in
question; one of them is enough.

Source: Zarifzadeh et al. 2024, arXiv 2312.03262, offline form. With gamma = 1 the score of a crop x
is the share of population crops z with ``ratio(x) > ratio(z)``. The population is the same for
every x, so the share orders candidates exactly as the ratio does; the ratio is kept, since ratios
of a patient's crops multiply.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mammo_dp.attacks.membership.lira import OWN_MODELS
from mammo_dp.attacks.membership.observed import Floats, Observed
from mammo_dp.attacks.scoring import Attack

RMIA = Attack(
    name="rmia",
    threat_model=OWN_MODELS.format("models that never saw the patient in question"),
    score=(
        "Sum over the crops of a unit of log p(x) / ((1 + a)/2 mean p_out(x) + (1 - a)/2), where "
        "p is the probability of the true label, mean over views, p_out that of models that did "
        "not know the patient, and a is tuned on the adversary's own models; high means member."
    ),
    combine="sum",
)
A_UNTUNED = 0.33  # the paper's value, where no model of the adversary's own can be attacked
PRETENDED = 4  # own models that `a` is tuned on
_GRID = np.linspace(0, 1, 11)


def rmia(observed: Observed) -> Floats:
    """Log-ratio of each crop, shape ``(crops,)``.

    Args:
        observed: At least one model per crop that did not know the patient.
    """
    own = observed.log_likelihood(observed.models)
    found = observed.log_likelihood(observed.target)
    return log_ratio(found, own, ~observed.inside, a=tuned(own, observed.inside))


def log_ratio(found: Floats, own: Floats, outside: NDArray[np.bool_], *, a: float) -> Floats:
    """Logarithm of the likelihood of each crop over what is usual for it.

    Args:
        found: Log-likelihood of the attacked model, shape ``(crops,)``.
        own: Log-likelihoods of the adversary's models, shape ``(models, crops)``.
        outside: Models that did not know the patient, shape ``(models, crops)``.
        a: How much the likelihood of models that did know the patient depends on that of others,
            in ``[0, 1]``.
    """
    usual = (np.exp(own) * outside).sum(0) / outside.sum(0)
    usual = np.maximum((1 + a) / 2 * usual + (1 - a) / 2, 1e-30)
    return np.asarray(found - np.log(usual))


def tuned(own: Floats, inside: NDArray[np.bool_]) -> float:
    """The ``a`` with which the adversary tells members of its own models from others best.

    Args:
        own: Log-likelihoods of its models, shape ``(models, crops)``.
        inside: Models that knew the patient, shape ``(models, crops)``.
    """
    areas = np.zeros(len(_GRID))
    tried = 0
    for model in range(min(PRETENDED, len(own))):
        others = np.arange(len(own)) != model
        asked = (~inside[others]).any(0)  # not the crops that all others knew
        member, outside = inside[model, asked], ~inside[others][:, asked]
        if member.all() or not member.any():
            continue
        tried += 1
        for place, a in enumerate(_GRID):
            ratio = log_ratio(own[model, asked], own[others][:, asked], outside, a=float(a))
            mean_rank = rankdata(ratio)[member].mean()
            areas[place] += (mean_rank - (member.sum() + 1) / 2) / (~member).sum()
    return float(_GRID[areas.argmax()]) if tried else A_UNTUNED
