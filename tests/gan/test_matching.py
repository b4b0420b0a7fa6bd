import pytest
import torch
from torch import Tensor

from data_prep.descriptors.measurements import COUNT, Measurements
from gan.matching import CLASSES, RIDGE, SQUARES, Matching

SIZE = 16


def crops(count: int, seed: int, spread: float = 0.2) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(count, 1, SIZE, SIZE, generator=rng)).clamp(-1, 1)


def labels(count: int) -> Tensor:
    return torch.arange(count) % 2


@pytest.fixture
def matching() -> Matching:
    found = Matching(SIZE)
    found.take_real(crops(64, seed=0), labels(64))
    return found


def shown(matching: Matching, spread: float, batches: int = 60) -> float:
    for seed in range(1, batches + 1):
        matching(crops(8, seed, spread), labels(8))
    return float(matching.distance())


def test_crops_of_one_law_measure_alike_and_others_do_not(matching: Matching) -> None:
    other = Matching(SIZE)
    other.take_real(crops(64, seed=0), labels(64))
    assert shown(matching, spread=0.2) < 0.1 * shown(other, spread=0.3)


def test_classes_are_matched_apart() -> None:
    swapped, straight = Matching(SIZE), Matching(SIZE)
    both = torch.cat([crops(32, 0, 0.2), crops(32, 1, 0.3)])
    malignant = torch.arange(64) // 32
    straight.take_real(both, malignant)
    swapped.take_real(both, 1 - malignant)
    for matching in (straight, swapped):
        for seed in range(2, 40):
            made = torch.cat([crops(4, seed, 0.2), crops(4, seed + 100, 0.3)])
            matching(made, torch.arange(8) // 4)
    assert straight.distance() < 0.3 * swapped.distance()


def test_gradient_is_that_of_half_the_squared_distance_of_one_batch(matching: Matching) -> None:
    real, made = crops(64, seed=0), crops(6, seed=9, spread=0.3).requires_grad_()
    malignant = torch.tensor([1, 0, 0, 1, 1, 0])
    matching(made, malignant).backward()  # the first batch is its own running mean
    assert made.grad is not None
    found = made.grad

    taken = Measurements(SIZE)(real)
    mean, spread = taken.mean(0), taken.std(0) + 1e-6

    def scaled(images: Tensor) -> Tensor:
        measured: Tensor = Measurements(SIZE)(images)
        found: Tensor = ((measured - mean) / spread).clamp(-5, 5)
        return found

    own, known = scaled(made), scaled(real)
    half, difference = torch.zeros(()), torch.zeros(COUNT)
    within = torch.zeros(COUNT, COUNT, dtype=torch.float64)
    for label, sign in ((0, -1), (1, 1)):
        ours, theirs = own[malignant == label], known[labels(64) == label]
        half = half + (ours.mean(0) - theirs.mean(0)).square().sum() / 2
        squares = ours.square().mean(0) - theirs.square().mean(0)
        half = half + SQUARES * squares.square().sum() / 2
        difference = difference + sign * (ours.mean(0) - theirs.mean(0))
        for row in (theirs - theirs.mean(0)).double():
            within += torch.outer(row, row) / 64
    metric = torch.linalg.inv(within + RIDGE * torch.eye(COUNT)).float()
    half = half + CLASSES * difference @ metric @ difference / 4
    # each class is half of the batch, and the penalty is a mean over numbers
    (expected,) = torch.autograd.grad(half / 2 / (2 * COUNT), made)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)
    assert not torch.allclose(found, torch.zeros_like(found), atol=1e-5)


def test_a_flat_crop_has_a_gradient(matching: Matching) -> None:
    flat = torch.zeros(2, 1, SIZE, SIZE, requires_grad=True)
    matching(flat, labels(2)).backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


def test_following_the_gradient_brings_measurements_closer(matching: Matching) -> None:
    scale = torch.tensor(1.0, requires_grad=True)
    optimizer = torch.optim.Adam([scale], lr=0.02)
    for seed in range(120):
        optimizer.zero_grad()
        matching(scale * crops(8, seed + 1, 0.1), labels(8)).backward()
        optimizer.step()
    assert abs(scale.item() - 2) < 0.3  # .1 becomes .2
    start = Matching(SIZE)
    start.take_real(crops(64, seed=0), labels(64))
    assert matching.distance() < 0.2 * shown(start, spread=0.1)


def test_running_statistics_survive_a_checkpoint(matching: Matching) -> None:
    shown(matching, spread=0.3, batches=3)
    resumed = Matching(SIZE)
    resumed.load_state_dict(matching.state_dict())
    resumed.take_real(crops(64, seed=0), labels(64))
    for each in (matching, resumed):
        each(crops(8, seed=50), labels(8))
    assert torch.equal(resumed.distance(), matching.distance())


def test_mixed_precision_does_not_round_what_crops_are_pushed_along(matching: Matching) -> None:
    shown(matching, spread=0.3, batches=3)
    exact = matching._slope()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(matching._slope(), exact)
