# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from data_prep.descriptors.measurements import (
    BANDS,
    BINS,
    CELL_WIDTHS,
    CELLS,
    COUNT,
    EDGE_RINGS,
    EDGE_WIDTHS,
    QUANTILES,
    RING_WIDTHS,
    RINGS,
    Measurements,
)

SIZE = 32
SIZES = (
    *[BINS * CELLS**2] * len(CELL_WIDTHS),
    *[5 * RINGS] * len(RING_WIDTHS),
    *[4 * EDGE_RINGS] * len(EDGE_WIDTHS),
    2 + len(QUANTILES),
    *[5] * len(BANDS),
)


def noise(count: int = 3, size: int = SIZE) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def parts(image: Tensor) -> tuple[Tensor, ...]:
    found: Tensor = Measurements(image.shape[-1])(image)
    return torch.split(found, list(SIZES), 1)


def rings(image: Tensor, width: int) -> tuple[Tensor, ...]:
    found = parts(image)[len(CELL_WIDTHS) + RING_WIDTHS.index(width)]
    return torch.split(found, RINGS, 1)


def distance(size: int) -> Tensor:
    along = torch.arange(size) - (size - 1) / 2
    return torch.hypot(along[:, None], along)


@pytest.mark.parametrize("size", [16, 20, 64])
def test_every_crop_has_count_finite_measurements(size: int) -> None:
    for image in (noise(2, size), torch.zeros(2, 1, size, size), torch.ones(2, 1, size, size)):
        found = Measurements(size)(image)
        assert found.shape == (2, COUNT)
        assert found.isfinite().all()
    assert sum(SIZES) == COUNT


@pytest.mark.parametrize("size", [8, 30])
def test_sizes_that_cannot_be_cut_into_cells_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"img_size={size}"):
        Measurements(size)


def test_turned_and_mirrored_crops_measure_alike_and_others_do_not() -> None:
    image, measure = noise(), Measurements(SIZE)
    for other in (image.rot90(1, (2, 3)), image.flip(3), image.flip(2), image.transpose(2, 3)):
        torch.testing.assert_close(measure(other), measure(image), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(measure(image.roll(5, 3)), measure(image), atol=0.01)


def test_crops_of_a_batch_do_not_mix() -> None:
    image, measure = noise(), Measurements(SIZE)
    torch.testing.assert_close(measure(image)[1:2], measure(image[1:2]), atol=1e-5, rtol=1e-5)


def test_cells_equal_loops_over_pixels_and_symmetries() -> None:
    image = noise(1, 16)
    expected = torch.zeros(BINS, CELLS, CELLS)
    for turns in range(4):
        for mirror in (False, True):
            seen = image[0, 0].rot90(turns, (0, 1))
            expected += _histograms(seen.flip(1) if mirror else seen)
    torch.testing.assert_close(parts(image)[0][0], expected.flatten() / 8, atol=1e-4, rtol=1e-3)


def _histograms(image: Tensor) -> Tensor:
    grey, size = (image.double().numpy() + 1) / 2, len(image)
    for axis in (0, 1):
        grey = gaussian_filter1d(grey, size / 128, axis=axis, mode="mirror", radius=1)
    grey = np.pad(grey, 1, mode="edge")
    towards = 2 * math.pi * np.arange(BINS) / BINS
    found = np.zeros((BINS, CELLS, CELLS))
    for y in range(size):
        for x in range(size):
            right = (grey[y + 1, x + 2] - grey[y + 1, x]) / 2
            down = (grey[y + 2, x + 1] - grey[y, x + 1]) / 2
            near = np.cos(2 * math.atan2(down, right) - towards).clip(0) ** 2
            found[:, y * CELLS // size, x * CELLS // size] += math.hypot(right, down) * near
    cells = torch.tensor(found / (size // CELLS) ** 2, dtype=torch.float32)
    return cells / (cells.square().sum(0) + 2e-6).sqrt()


def test_rings_equal_means_over_their_pixels() -> None:
    image = noise(1, 64)
    grey = (image[0, 0].double().numpy() + 1) / 2
    for axis in (0, 1):
        grey = gaussian_filter1d(grey, 2, axis=axis, mode="mirror", radius=6)
    ring = np.floor(distance(64).numpy() / 32 * RINGS)
    level, *_, spread = rings(image, 4)
    for index in range(RINGS):
        inside = grey[ring == index]
        assert float(level[0, index]) == pytest.approx(inside.mean() - grey.mean(), abs=1e-4)
        assert float(spread[0, index]) == pytest.approx(inside.std(), abs=2e-4)


def test_a_bright_disc_has_edges_that_point_inward_and_spokes_have_none() -> None:
    size = 64
    disc = torch.exp(-((distance(size) / 20) ** 2))[None, None]
    along = torch.arange(size) - (size - 1) / 2
    spokes = torch.cos(8 * torch.atan2(along[:, None].expand(size, size), along))[None, None]

    def edges(image: Tensor) -> tuple[Tensor, ...]:
        place = len(CELL_WIDTHS) + len(RING_WIDTHS) + EDGE_WIDTHS.index(2)
        return torch.split(parts(image)[place], EDGE_RINGS, 1)

    for sign in (1, -1):
        _, out, radial, _ = edges(sign * disc)
        assert (sign * out[0, 1:3] < -0.9).all()
        assert (radial[0, 1:3] > 0.9).all()
    _, out, radial, _ = edges(spokes)
    assert (out[0, 1:3].abs() < 0.1).all()
    assert (radial[0, 1:3] < -0.7).all()


def test_grey_has_the_moments_and_quantiles_of_the_crop() -> None:
    image = noise(1)
    flat = (image.flatten().double().numpy() + 1) / 2
    found = parts(image)[-len(BANDS) - 1][0].tolist()
    assert found[:2] == pytest.approx([flat.mean(), flat.std(ddof=1)], abs=1e-5)
    assert found[2:] == pytest.approx(np.quantile(flat, QUANTILES), abs=0.005)
