# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gan.monitor import Monitor, kernel_distance


def crops(count: int, seed: int) -> Tensor:
    """Smooth random patterns."""
    coarse = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    smooth = F.interpolate(coarse, size=32, mode="bicubic", align_corners=False)
    return (0.4 * smooth).clamp(-1, 1)


def labels(count: int) -> Tensor:
    return torch.arange(count) % 2


@pytest.fixture
def monitor() -> Monitor:
    return Monitor(crops=crops(80, 0), malignant=labels(80), others=crops(80, 1))


def test_fresh_crops_of_one_law_raise_no_warning(monitor: Monitor) -> None:
    found = monitor.check(crops(80, 2), labels(80))
    assert found.warnings == []
    assert abs(found.distance) < 0.2
    assert found.diversity == pytest.approx(1, abs=0.05)
    assert found.copying == pytest.approx(1, abs=0.05)


def test_one_picture_for_all_is_collapse(monitor: Monitor) -> None:
    alike = crops(1, 2) + 0.05 * crops(80, 3)
    found = monitor.check(alike, labels(80))
    assert "may be collapsing" in found.warnings[0]
    assert found.distance > 0.5


def test_crops_that_are_no_numbers_are_named(monitor: Monitor) -> None:
    found = monitor.check(torch.full((80, 1, 32, 32), torch.nan), labels(80))
    assert found.warnings == ["Crops hold NaN: the training diverged. Fit again with lower rates."]


def test_turned_training_crops_under_another_exposure_are_copies(monitor: Monitor) -> None:
    copies = 0.7 * torch.rot90(monitor.crops.flip(3), 1, (2, 3)) + 0.1
    found = monitor.check(copies, monitor.malignant)
    assert found.copying is not None
    assert found.copying < 0.1
    assert any("may be copying" in warning for warning in found.warnings)


def test_without_other_patients_copying_is_unknown() -> None:
    alone = Monitor(crops=crops(8, 0), malignant=labels(8), others=torch.empty(0))
    assert alone.check(crops(8, 1), labels(8)).copying is None


def test_kernel_distance_matches_plain_loops_over_pairs() -> None:
    rng = torch.Generator().manual_seed(0)
    one, other = torch.randn(5, 3, generator=rng), 0.5 + torch.randn(4, 3, generator=rng)

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = [
        sum(kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j)
        / (len(x) * (len(x) - 1))
        for x in (one, other)
    ]
    across = sum(kernel(a, b) for a in one for b in other) / 20
    assert kernel_distance(one, other) == pytest.approx(sum(within) - 2 * across, rel=1e-4)
