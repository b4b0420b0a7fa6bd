# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from gan.diffusion.guidance import MeanGuidance, guided_crops
from gan.diffusion.networks import Sampler
from tests.gan.diffusion.tiny import NETS, diffusion

CLASSES = torch.tensor([0, 1, 1, 0, 1])
TARGETS = torch.tensor([[0.3, -0.2], [-0.5, 0.4]], dtype=torch.float64)
MIX = torch.tensor([[1.0, 0.5, 0.0], [-0.3, 0.8, 0.6]], dtype=torch.float64)


def straight(codes: Tensor) -> Tensor:
    """Two features of a code of shape (3, 1)."""
    return codes.flatten(1) @ MIX.T


def bent(codes: Tensor) -> Tensor:
    return torch.tanh(straight(codes))


def codes(seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, 1, generator=rng, dtype=torch.float64)


def guidance(**settings: Any) -> MeanGuidance:
    usual: dict[str, Any] = {"features": bent, "classes": CLASSES, "targets": TARGETS}
    return MeanGuidance(**usual | settings)


def away(found: Tensor, label: int, features: Callable[[Tensor], Tensor] = bent) -> float:
    """Half the squared distance of the mean of a class, code by code."""
    own = [features(found[n : n + 1])[0] for n in range(5) if CLASSES[n] == label]
    return 0.5 * float(sum((o / len(own) for o in own), -TARGETS[label]).square().sum())


@pytest.mark.parametrize("label", [0, 1])
def test_codes_of_a_class_move_along_the_slope_of_its_mean(label: int) -> None:
    """Names the change by which it fails: another sign, or the mean of both classes."""
    start, step = codes(), 1e-5
    slope = torch.zeros_like(start)
    for place in range(start.numel()):
        up, down = start.clone(), start.clone()
        up.view(-1)[place] += step
        down.view(-1)[place] -= step
        slope.view(-1)[place] = (away(up, label) - away(down, label)) / (2 * step)
    rows = CLASSES.eq(label)
    assert not slope[~rows].any()
    moved = (start - guidance().moved(start))[rows].flatten()
    assert cosine_similarity(moved, slope[rows].flatten(), dim=0) > 1 - 1e-6


@pytest.mark.parametrize("label", [0, 1])
def test_a_move_of_strength_1_goes_to_the_nearest_mean_along_it(label: int) -> None:
    """Exact for linear features; a table of other lengths stands in for the minimum."""
    start, rows = codes(), CLASSES.eq(label)
    move = guidance(features=straight).moved(start) - start
    reached = [
        away(start + length * move * rows[:, None, None], label, straight)
        for length in (0.0, 0.9, 1.0, 1.1)
    ]
    assert reached[2] == min(reached)
    assert reached[2] < 0.6 * reached[0]


def test_repeated_moves_reach_means_within_reach_the_sooner_the_stronger() -> None:
    """Names the change by which it fails: a strength that is not used, or moves that do not end."""
    left = {}
    for strength in (0.05, 0.3, 1.0):
        found = codes()
        for _ in range(8):
            found = guidance(strength=strength).moved(found)
        left[strength] = away(found, 0) + away(found, 1)
    start = away(codes(), 0) + away(codes(), 1)
    assert left[1.0] < left[0.3] < left[0.05] < start
    assert left[1.0] < 0.01 * start


def test_pieces_change_speed_only() -> None:
    whole = guidance().moved(codes())
    assert torch.allclose(guidance(batch_size=2).moved(codes()), whole)


def test_means_out_of_reach_leave_codes_finite_and_no_farther() -> None:
    found, far = codes(), guidance(targets=40 * TARGETS)
    before = far.means(found)
    for _ in range(20):
        found = far.moved(found)
    assert found.isfinite().all()
    gaps = [(means - 40 * TARGETS).norm(dim=1) for means in (before, far.means(found))]
    assert (gaps[1] <= gaps[0]).all()


def test_a_code_without_a_slope_stays_and_the_others_move() -> None:
    def deviation(found: Tensor) -> Tensor:  # as measurements have it: no slope where flat
        return found.flatten(1).std(1, keepdim=True).expand(-1, 2)

    start = codes()
    start[2] = 0.5
    moved = guidance(features=deviation).moved(start)
    assert torch.equal(moved[2], start[2])
    assert moved.isfinite().all()
    assert not torch.allclose(moved[1], start[1])


def test_guided_crops_of_a_diffusion_come_nearer_and_without_a_move_are_its_own() -> None:
    torch.manual_seed(0)
    model = diffusion(**{"encoder_channels": None, "block": 2, "sample_steps": 4})
    sampler = Sampler(model.settings, 4)
    sampler.net.load_state_dict(model.net.state_dict())
    sampler.eval().requires_grad_(False)
    latent = torch.randn(6, sampler.latent)
    classes = torch.arange(6) % 2
    condition = model.conditions.of_classes(classes)

    def quarters(crops: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(crops, NETS["image_size"] // 2).flatten(1)

    plain = sampler(latent, torch.empty(0), condition)
    still = MeanGuidance(
        features=quarters, classes=classes, targets=torch.zeros(2, 4), strength=1e-9
    )
    found = guided_crops(sampler, latent, condition, still)
    assert torch.allclose(found, plain, atol=1e-5)
    targets = still.means(plain) + 0.2
    gaps = [0.2]
    for strength in (0.1, 1.0):
        pulled = MeanGuidance(
            features=quarters, classes=classes, targets=targets, strength=strength, batch_size=4
        )
        crops = guided_crops(sampler, latent, condition, pulled)
        gaps.append(float((pulled.means(crops) - targets).abs().mean()))
    assert gaps[2] < 0.5 * gaps[1]
    assert gaps[1] < 0.9 * gaps[0]
