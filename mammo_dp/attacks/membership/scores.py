# SPDX-License-Identifier: Apache-2.0
"""Membership scores as functions of arrays, for any classifier; high means member.

Each takes log-likelihoods of the true label: what the attacked model, and models of the
adversary's own, say about the same examples. The scores go to ``mammo_dp.membership_audit``.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mammo_dp.attacks.membership.lira import offline_ratio, online_ratio
from mammo_dp.attacks.membership.observed import Floats
from mammo_dp.attacks.membership.rmia import log_ratio, tuned
from mammo_dp.attacks.signals import AttackError

_LEAST = 1e-30  # of 1 - p: a model can be certain only up to rounding


def loss_scores(target: ArrayLike) -> Floats:
    """Logit-scaled confidence of the attacked model, ``log(p / (1 - p))``.

    The loss attack: the adversary queries the released model and trains none of its own.

    Args:
        target: Log-probability of the true label under the attacked model, natural logarithm, at
            most 0, shape ``(examples,)``.

    Returns:
        Shape ``(examples,)``.

    Raises:
        AttackError: For values that are no log-probabilities.
    """
    found = _checked("target", target)
    return np.asarray(found - np.log(np.maximum(-np.expm1(found), _LEAST)))


def lira_scores(
    target: ArrayLike, models: ArrayLike, inside: ArrayLike, *, online: bool = True
) -> Floats:
    """Log-likelihood ratio of the confidence: models that knew the example against others.

    Args:
        target: As for :func:`loss_scores`.
        models: The same of the adversary's models, shape ``(models, examples)``.
        inside: Whether a model was trained on the unit of an example, shape
            ``(models, examples)``.
        online: Whether models that knew the example are used; needs two on either side of each
            example, else two that did not know it.

    Returns:
        Shape ``(examples,)``; those of one patient add up.

    Raises:
        AttackError: For arrays that do not fit, or too few models.

    Source: Carlini et al. 2022, arXiv 2112.03570.
    """
    found, own, knew = _fitting(target, models, inside)
    least = min(knew.sum(0).min(), (~knew).sum(0).min()) if online else (~knew).sum(0).min()
    if least < 2:
        raise AttackError(
            f"inside: {least} models on one side of some example. Give two or more"
            + (" on either side, or online=False." if online else " that did not know it.")
        )
    ratio = online_ratio if online else offline_ratio
    return ratio(loss_scores(found), loss_scores(own), knew)


def rmia_scores(target: ArrayLike, models: ArrayLike, inside: ArrayLike) -> Floats:
    """Log-likelihood of each example over what is usual for it among other models.

    Args:
        target: As for :func:`loss_scores`.
        models: The same of the adversary's models, shape ``(models, examples)``.
        inside: Whether a model was trained on the unit of an example, shape
            ``(models, examples)``; each example needs a model that was not.

    Returns:
        Shape ``(examples,)``; those of one patient add up.

    Raises:
        AttackError: For arrays that do not fit, or an example that all models knew.

    Source: Zarifzadeh et al. 2024, arXiv 2312.03262, offline form.
    """
    found, own, knew = _fitting(target, models, inside)
    if knew.all(0).any():
        raise AttackError(
            "inside: all models knew some example. Give one or more that did not know it."
        )
    return log_ratio(found, own, ~knew, a=tuned(own, knew))


def sum_by_unit(scores: ArrayLike, units: ArrayLike) -> tuple[NDArray[np.generic], Floats]:
    """Adds up the scores of each unit, such as the crops of a patient.

    Args:
        scores: Shape ``(examples,)``.
        units: Unit of each example, shape ``(examples,)``.

    Returns:
        Units, sorted, and their scores, both of shape ``(units,)``.
    """
    names, place = np.unique(np.asarray(units), return_inverse=True)
    sums: Floats = np.zeros(len(names))
    np.add.at(sums, place, np.asarray(scores, np.float64))
    return names, sums


def _checked(name: str, values: ArrayLike) -> Floats:
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all() or (found > 0).any():
        raise AttackError(
            f"{name}: holds values that are not finite or above 0. Give natural logarithms of "
            "probabilities of the true label."
        )
    return found


def _fitting(
    target: ArrayLike, models: ArrayLike, inside: ArrayLike
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    found, own = _checked("target", target), _checked("models", models)
    knew = np.asarray(inside, bool)
    if own.ndim != 2 or own.shape != knew.shape or found.shape != own.shape[1:]:
        raise AttackError(
            f"target, models, inside: have shapes {found.shape}, {own.shape}, {knew.shape}. Give "
            "(examples,), (models, examples) and (models, examples)."
        )
    return found, own, knew
