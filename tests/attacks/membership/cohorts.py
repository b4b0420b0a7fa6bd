# SPDX-License-Identifier: Apache-2.0
"""Features and labels of made-up patients, and the heads that an adversary trains on them."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mammo_dp.attacks.membership.heads import (
    Examples,
    PlainSteps,
    Recipe,
    halves,
    logits_of,
    train_heads,
)
from mammo_dp.attacks.membership.scores import Observed

OVERFITTING = Recipe(steps=100, kind=PlainSteps(batch_size=16), learning_rate=0.05)


def examples(patients: int = 80, d: int = 40, views: int = 2, seed: int = 0) -> Examples:
    """Labels that no feature knows; every third patient has three crops, the others one."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), np.where(np.arange(patients) % 3 == 0, 3, 1))
    features = rng.standard_normal((len(patient), 1, d)) + 0.2 * rng.standard_normal(
        (len(patient), views, d)
    )
    return Examples(
        features=torch.from_numpy(features.astype(np.float32)),
        malignant=rng.integers(0, 2, len(patient)),
        patient=patient,
    )


def attacked(
    crops: Examples, trained_on: NDArray[np.bool_], count: int = 16, **changes: Any
) -> Observed:
    """What the adversary sees of a head that was trained on some patients."""
    recipe = changes.pop("recipe", OVERFITTING)
    start = torch.zeros(crops.features.shape[2] + 1)
    target = train_heads(crops, trained_on[None], recipe, start, seed=7)
    return observe(crops, target, count, recipe)


def observe(crops: Examples, target: torch.Tensor, count: int, recipe: Recipe) -> Observed:
    start = torch.zeros(crops.features.shape[2] + 1)
    inside = halves(crops.patients, count, seed=3)
    own = train_heads(crops, inside, recipe, start, seed=5)
    return Observed(
        malignant=crops.malignant,
        target=logits_of(target, crops.features)[0].double().numpy(),
        models=logits_of(own, crops.features).double().numpy(),
        inside=inside[:, crops.patient],
    )
