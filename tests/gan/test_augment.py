# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import Tensor

from gan.augment import AUGMENTATIONS, BRIGHTNESS, CONTRAST, SHIFT, augment, parse_policy

ALL = ",".join(AUGMENTATIONS)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(count: int = 64, edge: int = 16) -> Tensor:
    return torch.randn(count, 1, edge, edge, generator=rng(9))


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_gradient_reaches_the_crops(name: str) -> None:
    leaf = crops(2, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment(x, name, rng(3)), leaf)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_each_augmentation_changes_crops_but_not_its_input(name: str) -> None:
    before = crops()
    given = before.clone()
    after = augment(given, name, rng())
    assert after.shape == before.shape
    assert torch.equal(given, before)
    assert not torch.equal(after, before)


def test_same_draws_distort_real_and_generated_crops_alike() -> None:
    both = augment(torch.cat([crops(), crops()]), ALL, rng())
    real, fake = augment(crops(), ALL, rng(5)), augment(crops(), ALL, rng(5))
    assert torch.equal(real, fake)
    assert not torch.equal(both[:64], both[64:])  # each crop draws its own


def test_flip_gives_the_four_mirrorings_equally_often() -> None:
    crop = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(4000, 1, 2, 2)
    corner = augment(crop, "flip", rng())[:, 0, 0, 0]
    shares = [(corner == value).float().mean().item() for value in (1, 2, 3, 4)]
    assert shares == pytest.approx([0.25] * 4, abs=0.03)


def test_translation_equals_a_mirrored_slice() -> None:
    edge, most = 16, int(16 * SHIFT)
    images = crops(200, edge)
    padded = torch.nn.functional.pad(images, [most] * 4, mode="reflect")
    moved = augment(images, "translation", rng())
    seen = set()
    for i in range(len(images)):
        matches = [
            (y - most, x - most)
            for y in range(2 * most + 1)
            for x in range(2 * most + 1)
            if torch.equal(padded[i, 0, y : y + edge, x : x + edge], moved[i, 0])
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == {(y, x) for y in range(-most, most + 1) for x in range(-most, most + 1)}


def test_brightness_and_contrast_stay_in_their_ranges() -> None:
    images = crops(2000, 4)
    offset = (augment(images, "brightness", rng()) - images).flatten(1)
    assert offset.std(dim=1).max() < 1e-6
    assert BRIGHTNESS * 0.99 < offset.abs().max() <= BRIGHTNESS + 1e-6
    after = augment(images, "contrast", rng())
    assert torch.allclose(after.mean(dim=(2, 3)), images.mean(dim=(2, 3)), atol=1e-6)
    factor = after.flatten(1).std(dim=1) / images.flatten(1).std(dim=1)
    assert 1 - CONTRAST - 1e-5 <= factor.min() < 1 - 0.99 * CONTRAST
    assert 1 + 0.99 * CONTRAST < factor.max() <= 1 + CONTRAST + 1e-5


def test_cutout_blanks_at_most_a_square_of_half_the_edge() -> None:
    after = augment(torch.ones(500, 1, 16, 16), "cutout", rng())[:, 0]
    assert set(after.flatten().tolist()) == {0.0, 1.0}
    rows, columns = (after == 0).any(dim=2).sum(dim=1), (after == 0).any(dim=1).sum(dim=1)
    assert torch.equal((after == 0).sum(dim=(1, 2)), rows * columns)  # rectangles
    assert max(rows.max().item(), columns.max().item()) == 8
    assert min(rows.min().item(), columns.min().item()) >= 4  # the centre lies in the crop


def test_policy_names_are_checked() -> None:
    assert parse_policy("") == ()
    assert torch.equal(augment(crops(), "", rng()), crops())
    with pytest.raises(ValueError, match=r"\['mixup'\] unknown. Allowed: flip, translation"):
        parse_policy("flip,mixup")
