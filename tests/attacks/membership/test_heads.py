# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classifier.module import warmup_cosine
from data_prep.manifest import Unit
from mammo_dp.attacks.membership.heads import (
    Examples,
    NoisySteps,
    PlainSteps,
    Recipe,
    halves,
    noisy_gradients,
    plain_gradients,
    train_heads,
)
from mammo_dp.privacy.training.gradients.units import Clip, Clipping
from tests.attacks.membership.cohorts import examples


def loss(head: Tensor, crops: Examples, rows: list[int]) -> Tensor:
    logits = crops.features[rows] @ head[:-1] + head[-1]
    target = torch.from_numpy(crops.malignant[rows]).float()[:, None].expand_as(logits)
    return F.binary_cross_entropy_with_logits(logits, target)


def gradient(head: Tensor, crops: Examples, rows: list[int]) -> Tensor:
    own = head.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(own, crops, rows), own)
    return found


@pytest.mark.parametrize("rule", ["flat", "automatic"])
@pytest.mark.parametrize("unit", ["patient", "crop"])
def test_noiseless_private_gradient_equals_a_loop_over_heads_and_units(
    unit: Unit, rule: Clipping
) -> None:
    crops, clip = examples(9, 5), Clip(norm=0.7, rule=rule)
    inside = halves(9, 4, seed=0)
    heads = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    steps = NoisySteps(unit=unit, noise_multiplier=0, sampling_rate=1, clip=clip)
    found = noisy_gradients(crops, inside, steps, np.random.default_rng(0))(heads)
    for mask, head, ours in zip(inside, heads, found, strict=True):
        rows = np.flatnonzero(mask[crops.patient])
        key = crops.patient if unit == "patient" else np.arange(len(crops.patient))
        units = [np.flatnonzero(key == u).tolist() for u in np.unique(key[rows])]
        each = [gradient(head, crops, unit_rows) for unit_rows in units]
        clipped = [g * clip.factors(g.norm()) for g in each]
        expected = torch.stack(clipped).sum(0) / len(units)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


def test_noise_and_draws_have_the_stated_size() -> None:
    crops = examples(60, 4)
    inside = np.ones((50, 60), bool)
    steps = NoisySteps(unit="patient", noise_multiplier=3.0, sampling_rate=0.25, clip=Clip(norm=2))
    step = noisy_gradients(crops, inside, steps, np.random.default_rng(0))
    found = torch.stack([step(torch.full((50, 5), 50.0)) for _ in range(40)]).flatten()
    silent = replace(steps, noise_multiplier=0.0)
    quiet = noisy_gradients(crops, inside, silent, np.random.default_rng(1))
    drawn = torch.stack([quiet(torch.full((50, 5), 50.0)) for _ in range(40)]).flatten()
    spread = float((found.var() - drawn.var()).sqrt())
    assert spread == pytest.approx(3.0 * 2 / (0.25 * 60), rel=0.05)
    assert spread != pytest.approx(1.2 * 3.0 * 2 / (0.25 * 60), rel=0.05)
    everyone = noisy_gradients(
        crops, inside, replace(silent, sampling_rate=1.0), np.random.default_rng(1)
    )(torch.full((50, 5), 50.0))[0]
    mean = torch.stack([quiet(torch.full((50, 5), 50.0)) for _ in range(40)]).mean((0, 1))
    torch.testing.assert_close(mean, everyone, atol=0.02, rtol=0.05)


def test_plain_gradient_equals_autograd_on_the_own_half_and_is_clipped() -> None:
    crops = examples(8, 5, views=1)
    inside = halves(8, 2, seed=0)
    heads = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    whole = min(int(mask[crops.patient].sum()) for mask in inside)
    found = plain_gradients(crops, inside, PlainSteps(batch_size=99), np.random.default_rng(0))
    for place, (mask, ours) in enumerate(zip(inside, found(heads), strict=True)):
        own = np.flatnonzero(mask[crops.patient]).tolist()
        if len(own) == whole:
            torch.testing.assert_close(ours, gradient(heads[place], crops, own))
    clipped = plain_gradients(
        crops, inside, PlainSteps(batch_size=4, gradient_clip=1e-3), np.random.default_rng(0)
    )(heads)
    torch.testing.assert_close(clipped.norm(dim=1), torch.full((2,), 1e-3))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "descent"])
def test_each_head_is_trained_as_a_module_on_its_own_would_be(optimizer: str) -> None:
    crops = examples(6, 4, views=1)
    inside = np.array([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], bool)
    clip = Clip(norm=1e9)
    recipe = Recipe(
        steps=12,
        kind=NoisySteps(unit="crop", noise_multiplier=0, sampling_rate=1, clip=clip),
        learning_rate=0.1,
        warmup_steps=3,
        weight_decay=0.3,
        optimizer=optimizer,  # type: ignore[arg-type]
        ema_decay=0.9,
    )
    start = torch.linspace(-1, 1, 5)
    found = train_heads(crops, inside, recipe, start, seed=0)
    for mask, ours in zip(inside, found, strict=True):
        layer = nn.Linear(4, 1)
        layer.weight.data, layer.bias.data = start[None, :-1].clone(), start[-1:].clone()
        groups = [
            {"params": [layer.weight], "weight_decay": 0.3},
            {"params": [layer.bias], "weight_decay": 0.0},
        ]
        stepper = (
            torch.optim.AdamW(groups, lr=0.1)
            if optimizer == "adamw"
            else torch.optim.SGD(groups, lr=0.1, momentum=0.9 if optimizer == "sgd" else 0.0)
        )
        schedule = warmup_cosine(stepper, 3, 12) if optimizer != "descent" else None
        rows = np.flatnonzero(mask[crops.patient])
        average = start.clone()
        for step in range(12):
            stepper.zero_grad()
            logits = layer(crops.features[rows, 0]).squeeze(1)
            target = torch.from_numpy(crops.malignant[rows]).float()
            F.binary_cross_entropy_with_logits(logits, target).backward()  # type: ignore[no-untyped-call]
            stepper.step()
            if schedule:
                schedule.step()
            weights = torch.cat([layer.weight[0], layer.bias]).detach()
            average = average.lerp(weights, 1 - min(0.9, (1 + step) / (10 + step)))
        torch.testing.assert_close(ours, average, atol=1e-5, rtol=1e-4)


def test_every_patient_is_in_exactly_half_of_the_halves() -> None:
    inside = halves(11, 8, seed=0)
    assert (inside.sum(0) == 4).all()
    assert set(inside.sum(1)) == {5, 6}
    assert len({tuple(half) for half in inside}) == 8


def test_no_crop_comes_again_before_all_others_of_the_half_came() -> None:
    crops = examples(12, 3, views=1)
    crops = replace(crops, features=torch.eye(len(crops.malignant))[:, None])
    inside = np.zeros((1, 12), bool)
    inside[0, :6] = True
    own = np.flatnonzero(inside[0][crops.patient])
    size = len(own) // 2
    step = plain_gradients(crops, inside, PlainSteps(batch_size=size), np.random.default_rng(0))
    heads = torch.zeros(1, len(crops.malignant) + 1)
    seen = torch.stack([step(heads)[0, :-1] != 0 for _ in range(2)]).sum(0)
    assert seen[own].tolist() == [1] * len(own)
    assert seen.sum() == len(own)


@pytest.mark.parametrize("weight", [0.25, 4.0])
def test_shadow_heads_weigh_classes_as_the_run_does(weight: float) -> None:
    crops = examples(1, 5, views=1)
    inside, head = (
        np.ones((1, 1), bool),
        torch.randn(1, 6, generator=torch.Generator().manual_seed(0)),
    )
    features = torch.cat([crops.features[:, 0], torch.ones(len(crops.malignant), 1)], 1)
    logits = (features @ head[0]).requires_grad_()
    target = torch.from_numpy(crops.malignant).float()
    loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=torch.tensor(weight))
    (error,) = torch.autograd.grad(loss / max(1.0, weight), logits)
    expected = error @ features
    rng, clip = np.random.default_rng(0), Clip(norm=1e6)
    noisy = NoisySteps(unit="patient", noise_multiplier=0, sampling_rate=1, clip=clip)
    plain = PlainSteps(batch_size=99)
    for found in (
        noisy_gradients(crops, inside, noisy, rng, weight)(head)[0],
        plain_gradients(crops, inside, plain, rng, weight)(head)[0],
    ):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
