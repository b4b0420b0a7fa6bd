# SPDX-License-Identifier: Apache-2.0
import math

import torch
from torch import Tensor

from gan.diffusion.schedule import denoise, noised, shares, velocity


def test_noise_and_velocity_give_the_code_and_the_noise_back() -> None:
    code, noise, time = torch.randn(5, 2, 3), torch.randn(5, 2, 3), torch.linspace(0, 1, 5)
    seen, moved = noised(code, noise, time), velocity(code, noise, time)
    code_share, noise_share = shares(time, code)
    assert torch.allclose(code_share * seen - noise_share * moved, code, atol=1e-6)
    assert torch.allclose(noise_share * seen + code_share * moved, noise, atol=1e-6)
    assert torch.allclose(seen[0], code[0])
    assert torch.allclose(seen[-1], noise[-1], atol=1e-6)


def test_the_exact_velocity_of_a_normal_distribution_is_sampled_from_it() -> None:
    mean, deviation = 0.7, 0.3

    def exact(seen: Tensor, time: Tensor) -> Tensor:  # conditional expectations of normal numbers
        c, s = shares(time, seen)
        off = (seen - c * mean) / (c**2 * deviation**2 + s**2)
        return c * (s * off) - s * (mean + c * deviation**2 * off)

    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    found = denoise(exact, noise, steps=40)
    expected = mean + deviation * noise  # the flow of a normal distribution is linear
    assert torch.allclose(found, expected, atol=0.02)
    assert not torch.allclose(found, mean + 1.2 * deviation * noise, atol=0.02)


def test_white_codes_keep_their_deviation() -> None:
    noise = torch.randn(2, 4)
    for steps in (10, 20):
        found = denoise(lambda seen, time: 0 * seen, noise, steps)
        assert torch.allclose(found, math.cos(math.pi / 2 / steps) * noise, atol=1e-6)


def test_one_step_is_the_guess_from_pure_noise() -> None:
    noise = torch.randn(2, 4)
    found = denoise(lambda seen, time: 0.5 + 0 * seen, noise, steps=1)
    assert torch.allclose(found, torch.full((2, 4), -0.5), atol=1e-6)


def test_steps_lead_to_moved_codes_from_half_of_the_time_on() -> None:
    """A loop in words of code and noise, which DDIM's first step is exact in, is the reference."""
    noise, seen = torch.randn(3, 4), []

    def still(current: Tensor, time: Tensor) -> Tensor:  # code and noise as they were: a rotation
        c, s = shares(time, current)
        code = 0.3 + 0 * current
        return c * (current - c * code) / s - s * code

    def moved(code: Tensor) -> Tensor:
        seen.append(code.clone())
        return code + 0.1

    found = denoise(still, noise, steps=2, moved=moved)
    half = math.sqrt(0.5)
    assert len(seen) == 1  # at time 1/2, not at 1
    assert torch.allclose(seen[0], torch.full((3, 4), 0.3), atol=1e-6)
    assert torch.allclose(found, denoise(still, noise, steps=2) + 0.1, atol=1e-6)
    assert not torch.allclose(found, denoise(still, noise, steps=2) + 0.1 * half, atol=1e-3)
    seen.clear()
    denoise(still, noise, steps=10, moved=moved)
    assert len(seen) == 5
