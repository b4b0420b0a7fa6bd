import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import nn

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.reconstruction.quality import ncc
from mammo_dp.attacks.reconstruction.search import invert
from mammo_dp.attacks.reconstruction.traps import Trap, match, plant, small_classifier, spring
from mammo_dp.attacks.reconstruction.updates import (
    FirstLayer,
    cross_entropy,
    mean_update,
    one_crop_each,
)

Array = NDArray[np.float64]
EDGE, BATCH = 16, 6


def smooth(count: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    waves = gaussian_filter(rng.standard_normal((count, EDGE, EDGE)), (0, 2, 2))
    level = rng.uniform(0.2, 0.8, (count, 1, 1))
    return np.asarray((level + waves).clip(0, 1))


IMAGES, OTHERS = smooth(BATCH, 0), smooth(200, 1)
LABELS = np.arange(BATCH) % 2


def trapped(kind: Trap, noise: float, rows: int = 64, batch: Array = IMAGES) -> Array:
    return spring(
        batch, LABELS[: len(batch)], OTHERS, kind, noise_multiplier=noise, rows=rows, key=3
    )


@pytest.mark.parametrize("kind", ["imprint", "trap_weights"])
def test_traps_recover_images_of_a_batch_where_there_is_no_noise(kind: Trap) -> None:
    found = match(IMAGES, trapped(kind, 0.0), OTHERS[:64])
    assert found.recovered >= 0.5
    assert found.quality.psnr.value > 40
    assert found.blind.psnr.value < 25


def test_an_image_alone_between_two_levels_is_recovered_exactly() -> None:
    found = match(IMAGES[:1], trapped("imprint", 0.0, batch=IMAGES[:1]), OTHERS[:64])
    assert found.candidates == 1
    assert found.recovered == 1


@pytest.mark.parametrize("kind", ["imprint", "trap_weights"])
def test_divided_traps_fail_under_noise_that_hardly_protects(kind: Trap) -> None:
    found = match(IMAGES, trapped(kind, 0.05), OTHERS[:64])
    assert found.recovered == 0
    assert found.quality.ncc.high < found.blind.ncc.low


def test_a_batch_that_is_not_there_is_not_found() -> None:
    found = match(smooth(BATCH, 9), trapped("imprint", 0.0), OTHERS[:64])
    assert found.recovered == 0


def test_rows_that_never_fired_give_no_candidate() -> None:
    found = match(IMAGES, np.empty((0, EDGE, EDGE)), OTHERS[:8])
    assert found.candidates == 0
    assert found.quality.ncc.value == 0


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 1)),
        nn.Sequential(nn.Flatten(), nn.Linear(EDGE**2, 8), nn.GELU(), nn.Linear(8, 1)),
        nn.Sequential(nn.Flatten(), nn.Linear(EDGE**2, 8, bias=False), nn.ReLU(), nn.Linear(8, 1)),
        nn.Sequential(nn.Flatten(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 1)),
        nn.Sequential(nn.Flatten(), nn.Linear(EDGE**2, 1)),
        nn.Flatten(),
    ],
)
def test_a_model_that_is_not_imprintable_is_refused(net: nn.Module) -> None:
    with pytest.raises(AttackError, match="is not imprintable: it starts with"):
        plant(net, OTHERS, "imprint", batch=4)


def test_an_unknown_trap_is_refused() -> None:
    with pytest.raises(AttackError, match="Give one of imprint, trap_weights"):
        plant(small_classifier(EDGE, 4), OTHERS, "net", batch=4)  # type: ignore[arg-type]


def searched(noise: float) -> float:
    torch.manual_seed(0)
    net = nn.Sequential(FirstLayer(EDGE), nn.Linear(EDGE**2, 32), nn.Sigmoid(), nn.Linear(32, 1))
    losses = cross_entropy(net)
    update = mean_update(net, losses, one_crop_each(IMAGES[:1]), noise_multiplier=noise, key=1)
    found = invert(net, losses, update, 0, EDGE, steps=60).double().numpy()[None]
    return float(ncc(IMAGES[:1], found)[0])


def test_a_search_finds_the_image_of_a_plain_gradient_and_not_that_of_a_noisy_one() -> None:
    assert searched(0.0) > 0.95
    assert searched(0.5) < 0.4


def test_an_update_of_another_model_is_refused() -> None:
    net = small_classifier(EDGE, 4)
    with pytest.raises(AttackError, match="Give the update of this model"):
        invert(net, cross_entropy(net), {"weight": torch.zeros(1)}, 0, EDGE)
