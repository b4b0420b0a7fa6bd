# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
from torch import Tensor, nn

from gan.losses import (
    Loss,
    class_loss,
    discriminator_loss,
    generator_loss,
    gradient_penalty,
    mode_seeking,
)

REAL = torch.tensor([-2.0, 0.3, 1.7])
FAKE = torch.tensor([0.4, -3.0])


def naive_discriminator(loss: Loss) -> float:
    real, fake = REAL.tolist(), FAKE.tolist()
    if loss == "hinge":
        terms: tuple[list[float], list[float]] = (
            [max(0.0, 1 - x) for x in real],
            [max(0.0, 1 + x) for x in fake],
        )
    else:  # binary cross-entropy of the probability of being real
        terms = (
            [-math.log(1 / (1 + math.exp(-x))) for x in real],
            [-math.log(1 - 1 / (1 + math.exp(-x))) for x in fake],
        )
    return sum(terms[0]) / len(real) + sum(terms[1]) / len(fake)


@pytest.mark.parametrize("loss", ["hinge", "non-saturating"])
def test_discriminator_loss_equals_the_formula(loss: Loss) -> None:
    assert discriminator_loss(REAL, FAKE, loss).item() == pytest.approx(naive_discriminator(loss))


def test_generator_losses_equal_the_formulas() -> None:
    assert generator_loss(FAKE, "hinge").item() == pytest.approx(-(0.4 - 3.0) / 2)
    naive = sum(-math.log(1 / (1 + math.exp(-x))) for x in FAKE.tolist()) / 2
    assert generator_loss(FAKE, "non-saturating").item() == pytest.approx(naive)


def test_gradient_penalty_equals_finite_differences() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 1)).double()

    def judge(crops: Tensor) -> Tensor:
        logits: Tensor = net(crops).squeeze(1)
        return logits

    real = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    step, squares = 1e-5, torch.zeros(4, dtype=torch.float64)
    for i in range(9):
        shift = torch.zeros(9, dtype=torch.float64)
        shift[i] = step
        shift = shift.view(1, 1, 3, 3)
        squares += ((judge(real + shift) - judge(real - shift)) / (2 * step)) ** 2
    assert gradient_penalty(judge, real).item() == pytest.approx(squares.mean().item(), rel=1e-6)


def test_gradient_penalty_has_a_gradient_for_the_judge() -> None:
    weight = torch.tensor(3.0, requires_grad=True)
    penalty = gradient_penalty(lambda x: weight * x.sum(dim=(1, 2, 3)), torch.randn(2, 1, 2, 2))
    penalty.backward()  # type: ignore[no-untyped-call]
    assert penalty.item() == pytest.approx(4 * 9)  # slope 3 at each of four pixels
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(4 * 2 * 3)


def test_class_loss_asks_real_crops_for_their_class_and_generated_ones_for_the_other() -> None:
    real, fake = torch.tensor([1.0, 0.0, -4.0]), torch.tensor([0.5, -2.0])
    right = [-math.log(1 / (1 + math.exp(-x))) for x in real.tolist()]
    wrong = [-math.log(1 / (1 + math.exp(x))) for x in fake.tolist()]
    expected = (sum(right) / 3 + sum(wrong) / 2) / 2
    assert float(class_loss(real, fake)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("made", "best"), [(9, math.log(0.9 / 1.1)), (8, 0.0), (5, math.log(1.3 / 0.7))]
)
def test_the_best_opinion_weighs_real_classes_against_generated_ones(
    made: int, best: float
) -> None:
    # crops that look alike: 8 of 10 real ones are malignant, and ``made`` of 10 generated ones
    opinion = torch.tensor(best, requires_grad=True)
    side = opinion * torch.ones(10)
    real, fake = (side * torch.tensor(n * [1] + (10 - n) * [-1]) for n in (8, made))
    class_loss(real, fake).backward()  # type: ignore[no-untyped-call]
    assert opinion.grad is not None
    assert opinion.grad.item() == pytest.approx(0, abs=1e-6)


def test_mode_seeking_matches_a_plain_loop_over_pairs_under_one_condition() -> None:
    generator = torch.Generator().manual_seed(0)
    fakes = torch.rand(7, 1, 4, 4, generator=generator)
    latents = torch.randn(7, 5, generator=generator)
    labels = torch.tensor([0, 1, 1, 0, 0, 1, 1])
    condition = torch.nn.functional.one_hot(labels, 2).float()
    ratios = []
    for i, j in ((0, 3), (1, 4), (2, 5)):
        if labels[i] == labels[j]:
            apart = float((latents[i] - latents[j]).abs().mean())
            ratios.append(apart / (float((fakes[i] - fakes[j]).abs().mean()) + 1e-3))
    assert len(ratios) == 2
    assert float(mode_seeking(fakes, latents, condition)) == pytest.approx(
        sum(ratios) / 2, rel=1e-5
    )


def test_mode_seeking_is_large_for_equal_pictures_and_0_without_pairs() -> None:
    latents, labels = torch.randn(2, 5), torch.ones(2, 2)
    equal, other = torch.zeros(2, 1, 4, 4), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    varied = equal + other
    assert mode_seeking(equal, latents, labels) > 100 * mode_seeking(varied, latents, labels)
    assert mode_seeking(varied, latents, torch.eye(2)) == 0
    assert mode_seeking(varied[:1], latents[:1], labels[:1]) == 0
