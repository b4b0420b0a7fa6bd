# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from data_prep.descriptors.targets import BANDS, COUNT, EDGE_RINGS, EDGE_SIGMAS, RINGS, describe

SIZE = 32
EDGES = BANDS + 2 * RINGS  # where the edges begin


def noise(count: int = 3, size: int = SIZE) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def distance(size: int = SIZE) -> Tensor:
    along = torch.arange(size) - (size - 1) / 2
    return torch.hypot(along[:, None], along)


def edges(image: Tensor, sigma: int) -> dict[str, Tensor]:
    start = EDGES + 4 * EDGE_RINGS * EDGE_SIGMAS.index(sigma)
    parts = torch.split(describe(image)[:, start : start + 4 * EDGE_RINGS], EDGE_RINGS, 1)
    return dict(zip(("strength", "out", "radial", "spread"), parts, strict=True))


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_every_crop_has_count_finite_measurements(size: int) -> None:
    for image in (noise(2, size), torch.zeros(2, 1, size, size)):
        found = describe(image)
        assert found.shape == (2, COUNT)
        assert found.isfinite().all()


def test_turned_and_mirrored_crops_measure_alike() -> None:
    image = noise()
    for other in (image.rot90(1, (2, 3)), image.flip(3), image.transpose(2, 3)):
        torch.testing.assert_close(describe(other), describe(image), atol=1e-3, rtol=1e-3)


def test_crops_of_a_batch_do_not_mix() -> None:
    image = noise()
    torch.testing.assert_close(describe(image)[1:2], describe(image[1:2]), atol=1e-4, rtol=1e-4)


def test_power_equals_a_double_loop_over_the_spectrum() -> None:
    image = noise(1)[0, 0].double().numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(SIZE) / (SIZE - 1))
    power = np.abs(np.fft.fft2((image - image.mean()) * np.outer(window, window))) ** 2
    bands: list[list[float]] = [[] for _ in range(BANDS)]
    for y in range(SIZE):
        for x in range(SIZE):
            radius = math.hypot(min(y, SIZE - y), min(x, SIZE - x))
            if radius >= 1:
                band = math.floor(math.log2(radius) / math.log2(SIZE / 2) * BANDS + 1e-4)
                if band < BANDS:
                    bands[band].append(power[y, x])
    expected = [math.log(np.mean(values) + 1e-8) if values else None for values in bands]
    for found, value in zip(describe(noise(1))[0, :BANDS].tolist(), expected, strict=True):
        assert value is None or found == pytest.approx(value, abs=0.02)


def test_ring_moments_equal_those_of_the_pixels_in_the_ring() -> None:
    image = noise(1)
    ring = (distance() / (SIZE / 2) * RINGS).floor()
    for index in range(RINGS):
        inside = image[0, 0][ring == index]
        found = describe(image)[0, BANDS:EDGES]
        assert float(found[index]) == pytest.approx(float(inside.mean()), abs=1e-5)
        deviation = float(inside.std(correction=0))
        assert float(found[RINGS + index]) == pytest.approx(deviation, abs=1e-4)


def test_gradients_equal_differences_of_a_blurred_crop() -> None:
    size, sigma = 128, 4
    image = torch.nn.functional.interpolate(noise(1, 16), size, mode="bicubic")
    blurred = image[0, 0].double().numpy()
    for axis in (0, 1):
        blurred = gaussian_filter1d(blurred, sigma, axis=axis, mode="mirror", truncate=6)
    down, right = np.gradient(blurred)
    strength = np.hypot(down, right)
    ring = np.floor(distance(size).numpy() / (size / 2) * EDGE_RINGS)
    expected = [math.log(strength[ring == index].mean()) for index in range(EDGE_RINGS)]
    assert edges(image, sigma)["strength"][0].tolist() == pytest.approx(expected, abs=0.02)


def test_a_bright_disc_has_edges_that_point_inward_and_spokes_have_none() -> None:
    size = 64
    disc = torch.exp(-((distance(size) / 20) ** 2))[None, None]
    along = torch.arange(size) - (size - 1) / 2
    spokes = torch.cos(8 * torch.atan2(along[:, None].expand(size, size), along))[None, None]
    inward, crossing = edges(disc, 2), edges(spokes, 2)
    assert (inward["out"][0, 1:3] < -0.9).all()
    assert (edges(-disc, 2)["out"][0, 1:3] > 0.9).all()
    assert (inward["radial"][0, 1:3] > 0.9).all()
    assert (crossing["radial"][0, 1:3] < -0.7).all()
    assert (crossing["out"][0, 1:3].abs() < 0.1).all()
