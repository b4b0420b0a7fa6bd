# SPDX-License-Identifier: Apache-2.0
"""Membership scores from the answers of models: loss threshold, LiRA and RMIA.

The public functions of arrays stand at the end; they serve any classifier.

Threat model of the likelihood ratios (rung 5 of the ladder): the adversary holds labelled crops of
the candidate patients, without knowing who took part; knows how the model was trained, its frozen
body included; trains models of its own on random halves of the patients; and queries the released
model, in views of the kind that it was trained on. It sees no update.

Source: LiRA, Carlini et al. 2022, arXiv 2112.03570, with the logit-scaled confidence averaged over
views; one variance for all crops where a side has few models, as there. Crops of a patient add up.

Source: RMIA, Zarifzadeh et al. 2024, arXiv 2312.03262, offline form. With gamma = 1 the score of a
crop x is the share of population crops z with ``ratio(x) > ratio(z)``. The population is the same
for every x, so the share orders candidates exactly as the ratio does; the ratio is kept, since
ratios of a patient's crops multiply.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from data_prep.manifest import Unit
from mammo_dp.attacks import AttackError
from mammo_dp.attacks.arrays import read_arrays, write_arrays
from mammo_dp.attacks.membership.results import Attack
from mammo_dp.attacks.membership.signals import Signals
from mammo_dp.attacks.statistics import auc

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Answers of the attacked model and of the adversary's own; private data.

    Crops stand in the order of the :class:`~mammo_dp.attacks.membership.signals.Signals` beside it.

    Attributes:
        malignant: True label, 1 for malignant, shape ``(crops,)``.
        target: Logits of the attacked model, shape ``(crops, views)``.
        models: Logits of the adversary's models, shape ``(models, crops, views)``.
        inside: Whether a model was trained on the patient of a crop, shape ``(models, crops)``.
    """

    malignant: NDArray[np.int64]
    target: Floats
    models: Floats
    inside: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Checks that every logit is a number.

        Raises:
            AttackError: If one is not.
        """
        for name in ("target", "models"):
            if bad := int((~np.isfinite(getattr(self, name))).sum()):
                raise AttackError(
                    f"{name}: {bad} logits are not finite. The model has diverged; train it again."
                )

    @property
    def seen_by(self) -> tuple[int, int]:
        """Fewest models that were, and that were not, trained on the patient of any crop."""
        inside = self.inside.sum(0)
        return int(inside.min()), int((len(self.inside) - inside).min())

    def with_target(self, model: int) -> Self:
        """What the adversary sees if it attacks one of its own models with the others."""
        others = np.arange(len(self.models)) != model
        return replace(
            self,
            target=self.models[model],
            models=self.models[others],
            inside=self.inside[others],
        )

    def of_target(self) -> Floats:
        """``log(p_y / (1 - p_y))`` of the attacked model, mean over views, shape ``(crops,)``."""
        return np.asarray(self._signed(self.target).mean(1))

    def of_models(self) -> Floats:
        """The same of the adversary's models, shape ``(models, crops)``."""
        return np.asarray(self._signed(self.models).mean(2))

    def log_likelihood(self, logits: Floats) -> Floats:
        """Logarithm of the probability of the true label, itself a mean over views.

        Args:
            logits: Shape ``(..., crops, views)``.
        """
        each = -np.logaddexp(0, -self._signed(logits))
        return np.asarray(np.logaddexp.reduce(each, axis=-1) - np.log(each.shape[-1]))

    def _signed(self, logits: Floats) -> Floats:
        return np.where(self.malignant[:, None] == 1, logits, -logits)


def write_observed(path: Path, observed: Observed) -> None:
    """Writes ``models.npz`` in one move; logits as 32-bit numbers."""
    write_arrays(
        path,
        {
            "malignant": observed.malignant,
            "target": observed.target.astype(np.float32),
            "models": observed.models.astype(np.float32),
            "inside": observed.inside,
        },
    )


def read_observed(path: Path) -> Observed:
    """Reads ``models.npz``.

    Raises:
        AttackError: If it is unreadable.
    """
    stored = read_arrays(path, "malignant", "target", "models", "inside")
    return Observed(
        malignant=stored["malignant"],
        target=stored["target"].astype(np.float64),
        models=stored["models"].astype(np.float64),
        inside=stored["inside"],
    )


LOSS_THRESHOLD = Attack(
    name="loss-threshold",
    threat_model=(
        "Black-box membership: the adversary holds labelled crops of one person, queries the "
        "released classifier and reads its probabilities; it sees no update and no other patient "
        "and trains no model of its own."
    ),
    score=(
        "Mean over the crops of a unit of log(p_y / (1 - p_y)), the logit-scaled confidence of the "
        "true label; high means member."
    ),
)
OWN_MODELS = (
    "Black-box membership with own models: the adversary holds labelled crops of the candidate "
    "patients, knows how the model was trained and which frozen body it uses, has {}, and "
    "queries the released classifier; it sees no update."
)
LIRA_ONLINE = Attack(
    name="lira-online",
    threat_model=OWN_MODELS.format("models trained on random halves of them"),
    score=(
        "Sum over the crops of a unit of log N(c; models that knew the patient) - log N(c; models "
        "that did not), where c is log(p_y / (1 - p_y)), mean over views; high means member."
    ),
    combine="sum",
)
LIRA_OFFLINE = Attack(
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
_LEAST_VARIANCE = 1e-6  # of a variance; identical models would divide by zero


def lira_online(observed: Observed) -> Floats:
    """Log-likelihood ratio of each crop, shape ``(crops,)``.

    Args:
        observed: At least two models on either side of each crop.
    """
    return online_ratio(observed.of_target(), observed.of_models(), observed.inside)


def online_ratio(found: Floats, confidence: Floats, inside: NDArray[np.bool_]) -> Floats:
    """As :func:`lira_online`, of arrays.

    Args:
        found: ``log(p_y / (1 - p_y))`` of the attacked model, shape ``(crops,)``.
        confidence: The same of the adversary's models, shape ``(models, crops)``.
        inside: Models that knew the patient, shape ``(models, crops)``.
    """
    knew, did_not = (_normal(confidence, side) for side in (inside, ~inside))
    return np.asarray(norm.logpdf(found, *knew) - norm.logpdf(found, *did_not))


def lira_offline(observed: Observed) -> Floats:
    """How unlikely each crop's confidence is without membership, shape ``(crops,)``.

    Args:
        observed: At least two models per crop that did not know the patient.
    """
    return offline_ratio(observed.of_target(), observed.of_models(), observed.inside)


def offline_ratio(found: Floats, confidence: Floats, inside: NDArray[np.bool_]) -> Floats:
    """As :func:`lira_offline`, of arrays, see :func:`online_ratio`."""
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
    return mean, np.sqrt(np.maximum(variance, _LEAST_VARIANCE))


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
_GRID_OF_A = np.linspace(0, 1, 11)


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
    areas = np.zeros(len(_GRID_OF_A))
    tried = 0
    for model in range(min(PRETENDED, len(own))):
        others = np.arange(len(own)) != model
        asked = (~inside[others]).any(0)  # not the crops that all others knew
        member, outside = inside[model, asked], ~inside[others][:, asked]
        if member.all() or not member.any():
            continue
        tried += 1
        for place, a in enumerate(_GRID_OF_A):
            ratio = log_ratio(own[model, asked], own[others][:, asked], outside, a=float(a))
            mean_rank = rankdata(ratio)[member].mean()
            areas[place] += (mean_rank - (member.sum() + 1) / 2) / (~member).sum()
    return float(_GRID_OF_A[areas.argmax()]) if tried else A_UNTUNED


ATTACKS = {attack.name: attack for attack in (LOSS_THRESHOLD, RMIA, LIRA_OFFLINE, LIRA_ONLINE)}
STAND_INS = 16  # heads put in the target's place: pairs, so that each patient is in half of them


def of_target(confidence: Floats, malignant: NDArray[np.int64]) -> dict[str, Floats]:
    """The value of each attack that asks the attacked model alone, by its name.

    Args:
        confidence: ``log(p_y / (1 - p_y))`` of the true label, the logit with its sign, shape
            ``(crops,)``.
        malignant: True label, shape ``(crops,)``.
    """
    return {LOSS_THRESHOLD.name: confidence}


def with_ratios(signals: Signals, observed: Observed) -> Signals:
    """Adds the column of each attack that the models allow; runs no model.

    Args:
        signals: Of the attacked model alone.
        observed: Logits on the same crops, of the adversary's models too.
    """
    knew, did_not = observed.seen_by
    columns = {RMIA.name: rmia(observed)}
    if did_not >= 2:
        columns[LIRA_OFFLINE.name] = lira_offline(observed)
    if min(knew, did_not) >= 2:
        columns[LIRA_ONLINE.name] = lira_online(observed)
    return replace(signals, columns={**signals.columns, **columns})


def completed(signals: Signals, observed: Observed | None) -> Signals:
    """Saved signals with a column for each attack that came since; runs no model.

    Args:
        signals: As they were saved.
        observed: Logits that were saved beside them; none if there are none.
    """
    columns = of_target(signals.of(LOSS_THRESHOLD.name), signals.malignant)
    if observed is not None:
        columns = dict(with_ratios(replace(signals, columns=columns), observed).columns)
    columns |= signals.columns
    ordered = {name: columns[name] for name in ATTACKS if name in columns}
    return replace(signals, columns=ordered)


def controls(signals: Signals, observed: Observed, unit: Unit) -> dict[str, float]:
    """Areas that the attacks reach where nothing tells members from others but who they are.

    Each of some shadow heads stands in for the attacked model, the others for the adversary's, and
    the groups stay those of the target. Half of either group was in the stand-in's training, at
    random, so an area away from .5 comes from a difference between the groups.

    Args:
        signals: Which crops, and whose.
        observed: Logits of shadow heads, in complementary pairs.
        unit: Whose crops are combined.

    Returns:
        Mean area under the ROC curve, by attack. Attacks on the attacked model alone see the mean
        over views here, since heads were asked about nothing else.
    """
    areas: dict[str, list[float]] = {}
    for model in range(min(STAND_INS, len(observed.models))):
        stand_in = observed.with_target(model)
        columns = of_target(stand_in.of_target(), signals.malignant)
        alone = replace(signals, columns=columns)
        for name, column in with_ratios(alone, stand_in).columns.items():
            groups = signals.scores(column, unit, ATTACKS[name].combine)
            areas.setdefault(name, []).append(auc(*groups).value)
    return {name: float(np.mean(found)) for name, found in areas.items()}


_LEAST_DOUBT = 1e-30  # of 1 - p: a model can be certain only up to rounding


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
    return np.asarray(found - np.log(np.maximum(-np.expm1(found), _LEAST_DOUBT)))


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
