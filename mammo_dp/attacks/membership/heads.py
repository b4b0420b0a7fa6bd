# SPDX-License-Identifier: Apache-2.0
"""Many linear heads on the same cached features, trained at once as one tensor program.

A head of a frozen body is a logistic regression, so that 64 of them on halves of the patients cost
one matrix product per step instead of 64 fits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.optim import SGD, AdamW

from classifier.module import warmup_cosine
from data_prep.manifest import Unit
from mammo_dp.privacy.training.gradients.units import Clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Features of crops, the input of a head.

    Attributes:
        features: Of a frozen body, shape ``(crops, views, d)``, float32.
        malignant: 1 for malignant, shape ``(crops,)``.
        patient: Patient of each crop, shape ``(crops,)``, numbers from 0 without gaps.
    """

    features: Tensor
    malignant: NDArray[np.int64]
    patient: NDArray[np.int64]

    @property
    def patients(self) -> int:
        """Number of patients."""
        return int(self.patient.max()) + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NoisySteps:
    """Private steps: a Poisson sample of units, their clipped mean gradients, noise.

    Attributes:
        unit: What is sampled and clipped.
        noise_multiplier: Standard deviation of the noise over the clipping norm, >= 0.
        sampling_rate: Probability that a unit joins a step, in ``(0, 1]``.
        clip: Scale of each unit's gradient.
    """

    unit: Unit
    noise_multiplier: float
    sampling_rate: float
    clip: Clip


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainSteps:
    """Steps on shuffled batches of crops, each in one of its views.

    Attributes:
        batch_size: Crops per step, > 0.
        gradient_clip: Largest norm of a step's gradient; None clips nothing.
    """

    batch_size: int
    gradient_clip: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a run trained its head.

    Attributes:
        steps: Number of steps, > 0.
        kind: What a step is.
        learning_rate: Largest learning rate; it falls to 0 along a cosine.
        warmup_steps: Steps of linear warm-up.
        weight_decay: Decay of the weights; the bias has none.
        optimizer: ``adamw``, ``sgd`` with momentum .9, or ``descent``: plain steps at one
            rate.
        ema_decay: Largest decay of the average that is released; None releases the last weights.
        malignant_weight: Weight of a malignant crop in the loss, beside 1 of a benign one.
    """

    steps: int
    kind: NoisySteps | PlainSteps
    learning_rate: float
    warmup_steps: int = 0
    weight_decay: float = 0.0
    optimizer: Literal["adamw", "sgd", "descent"] = "adamw"
    ema_decay: float | None = None
    malignant_weight: float = 1.0


def train_heads(
    examples: Examples,
    inside: NDArray[np.bool_],
    recipe: Recipe,
    start: Tensor,
    *,
    seed: int,
    progress: bool = False,
) -> Tensor:
    """Trains one head per set of patients, each as the recipe says.

    Args:
        examples: Crops of all patients.
        inside: Patients that each head is trained on, shape ``(heads, patients)``.
        recipe: How to train.
        start: Weights before the first step, bias last, shape ``(d + 1,)``.
        seed: Of samples and noise; these fits protect nobody.
        progress: Whether to show a bar.

    Returns:
        Weights of each head, bias last, shape ``(heads, d + 1)``.
    """
    rng = np.random.default_rng(seed)
    heads = start.detach().float().repeat(len(inside), 1)
    parts = weight, bias = [heads[:, :-1].clone(), heads[:, -1:].clone()]
    groups = [
        {"params": [weight], "weight_decay": recipe.weight_decay},
        {"params": [bias], "weight_decay": 0.0},
    ]
    optimizer = (
        AdamW(groups, lr=recipe.learning_rate)
        if recipe.optimizer == "adamw"
        else SGD(groups, lr=recipe.learning_rate, momentum=0.9 * (recipe.optimizer == "sgd"))
    )
    varied = recipe.optimizer != "descent"
    schedule = warmup_cosine(optimizer, recipe.warmup_steps, recipe.steps) if varied else None
    weight_of_malignant = recipe.malignant_weight
    if isinstance(recipe.kind, NoisySteps):
        gradient = noisy_gradients(examples, inside, recipe.kind, rng, weight_of_malignant)
    else:
        gradient = plain_gradients(examples, inside, recipe.kind, rng, weight_of_malignant)
    average = heads.clone()
    for step in track(range(recipe.steps), "Shadow heads", disable=not progress):
        found = gradient(torch.cat(parts, 1))
        weight.grad, bias.grad = found[:, :-1], found[:, -1:]
        optimizer.step()
        if schedule is not None:
            schedule.step()
        if recipe.ema_decay is not None:  # as DPTraining averages
            decay = min(recipe.ema_decay, (1 + step) / (10 + step))
            average.lerp_(torch.cat(parts, 1), 1 - decay)
    return torch.cat(parts, 1) if recipe.ema_decay is None else average


def logits_of(heads: Tensor, features: Tensor) -> Tensor:
    """Logits of heads.

    Args:
        heads: Shape ``(heads, d + 1)``, bias last.
        features: Shape ``(crops, views, d)``.

    Returns:
        Shape ``(heads, crops, views)``.
    """
    return (features @ heads[:, :-1].T + heads[:, -1]).permute(2, 0, 1)


def noisy_gradients(
    examples: Examples,
    inside: NDArray[np.bool_],
    steps: NoisySteps,
    rng: np.random.Generator,
    malignant_weight: float = 1.0,
) -> Callable[[Tensor], Tensor]:
    """Gradient of a private step, as a function of weights ``(heads, d + 1)``.

    Each call draws units, adds up their clipped mean gradients over crops and views, adds noise and
    divides by the number of units that is drawn on average.
    """
    crops = len(examples.malignant)
    unit = examples.patient if steps.unit == "patient" else np.arange(crops)
    inside = inside if steps.unit == "patient" else inside[:, examples.patient]
    expected = torch.from_numpy(steps.sampling_rate * inside.sum(1)).float()[:, None]
    groups = list(_by_size(examples, unit))

    def gradient(heads: Tensor) -> Tensor:
        drawn = inside & (rng.random(inside.shape) < steps.sampling_rate)
        total = steps.noise_multiplier * steps.clip.norm * _normal(rng, heads.shape)
        for units, features, target in groups:
            error = (torch.sigmoid(features @ heads.T) - target) / features.shape[1]
            error *= _class_weight(target, malignant_weight)
            each = error.transpose(1, 2) @ features  # (units, heads, d + 1)
            factor = steps.clip.factors(each.norm(dim=2))
            factor *= torch.from_numpy(drawn[:, units].T)
            total += torch.einsum("us,usd->sd", factor, each)
        return total / expected

    return gradient


def plain_gradients(
    examples: Examples,
    inside: NDArray[np.bool_],
    steps: PlainSteps,
    rng: np.random.Generator,
    malignant_weight: float = 1.0,
) -> Callable[[Tensor], Tensor]:
    """Mean gradient of a batch per head, as a function of weights ``(heads, d + 1)``."""
    rows = [np.flatnonzero(mask[examples.patient]) for mask in inside]
    size = min(steps.batch_size, *map(len, rows))
    streams = [_shuffled(own, size, rng) for own in rows]
    features = _with_one(examples.features)
    malignant = torch.from_numpy(examples.malignant).float()

    def gradient(heads: Tensor) -> Tensor:
        batch = np.stack([next(stream) for stream in streams])
        view = rng.integers(features.shape[1], size=batch.shape)
        seen = features[batch, view]  # (heads, size, d + 1)
        error = torch.sigmoid((seen @ heads[:, :, None]).squeeze(2)) - malignant[batch]
        error *= _class_weight(malignant[batch], malignant_weight)
        mean: Tensor = (error[:, None] @ seen).squeeze(1) / size
        if steps.gradient_clip is None:
            return mean
        norms: Tensor = mean.norm(dim=1, keepdim=True).clamp(min=steps.gradient_clip)
        return mean * (steps.gradient_clip / norms)

    return gradient


def halves(patients: int, count: int, seed: int) -> NDArray[np.bool_]:
    """Random halves of patients in complementary pairs, so that each is in as often as out.

    Args:
        patients: Number of patients, at least 2.
        count: Number of halves, even.
        seed: Of the halves.

    Returns:
        Shape ``(count, patients)``.
    """
    rng = np.random.default_rng(seed)
    chosen = np.zeros((count, patients), bool)
    for pair in range(count // 2):
        chosen[2 * pair, rng.permutation(patients)[: patients // 2]] = True
        chosen[2 * pair + 1] = ~chosen[2 * pair]
    return chosen


def _class_weight(malignant: Tensor, malignant_weight: float) -> Tensor:
    """Weight of each crop in the loss, as :class:`classifier.module.CropClassifier` has it."""
    weights = torch.tensor([1.0, malignant_weight]) / max(1.0, malignant_weight)
    return weights[malignant.long()]


def _by_size(
    examples: Examples, unit: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Units with equally many crops: numbers, features ``(units, L, d + 1)``, labels."""
    order = np.argsort(unit, kind="stable")
    numbers, first, sizes = np.unique(unit[order], return_index=True, return_counts=True)
    features = _with_one(examples.features)
    for size in np.unique(sizes):
        chosen = np.flatnonzero(sizes == size)
        rows = order[first[chosen][:, None] + np.arange(size)]
        seen = features[rows].flatten(1, 2)
        labels = np.repeat(examples.malignant[rows], examples.features.shape[1], axis=1)
        yield numbers[chosen], seen, torch.from_numpy(labels).float()[..., None]


def _shuffled(
    rows: NDArray[np.int64], size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Endless batches; no crop comes again before all others came."""
    left = rng.permutation(rows)
    while True:
        if len(left) < size:
            left = np.concatenate([left, rng.permutation(rows)])
        yield left[:size]
        left = left[size:]


def _with_one(features: Tensor) -> Tensor:
    """Features with a last column of ones, which carries the bias."""
    return torch.cat([features, torch.ones(*features.shape[:2], 1)], 2)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, np.float32))
