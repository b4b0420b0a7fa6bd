import numpy as np
import pytest
import torch

import data_prep  # noqa: F401  declares what torchvision lacks before torchmetrics is imported

# isort: split
from torchmetrics.functional.image import structural_similarity_index_measure

from mammo_dp.fidelity.distances import pair_similarity, scales
from mammo_dp.fidelity.samples import FidelityError, Samples


def noise(count: int, *, alike: float, size: int = 16) -> Samples:
    rng = np.random.default_rng(0)
    common = rng.random((1, size, size))
    images = alike * common + (1 - alike) * rng.random((count, size, size))
    return Samples(
        images=images.astype(np.float32),
        malignant=np.arange(count) % 2,
        patient=np.arange(count) // 4 * 2 + np.arange(count) % 2,
    )


def test_equal_crops_have_similarity_one_and_more_alike_ones_more() -> None:
    equal, alike, varied = (
        pair_similarity(noise(40, alike=share), pairs=20, seed=0) for share in (1.0, 0.8, 0.0)
    )
    assert equal == pytest.approx(1, abs=1e-4)
    assert alike.mean() > varied.mean() + 0.2


def test_no_patient_is_in_two_pairs() -> None:
    assert len(pair_similarity(noise(40, alike=0.5), pairs=20, seed=0)) == 2 * (10 // 2)
    assert len(pair_similarity(noise(40, alike=0.5), pairs=3, seed=0)) == 6


def test_one_scale_is_plain_ssim() -> None:
    pair = noise(2, alike=0.5, size=8)
    two = Samples(images=pair.images, malignant=np.zeros(2, int), patient=np.arange(2))
    x, y = (torch.from_numpy(image)[None, None] for image in pair.images)
    expected: torch.Tensor = structural_similarity_index_measure(
        x, y, gaussian_kernel=False, kernel_size=7, data_range=1.0
    )  # type: ignore[assignment]  # a pair with other flags only
    assert scales(8) == (1.0,)
    assert pair_similarity(two, pairs=1, seed=0)[0] == pytest.approx(expected.item(), abs=1e-5)


def test_scales_fit_the_crop() -> None:
    assert len(scales(128)) == 5
    assert sum(scales(32)) == pytest.approx(1)
    with pytest.raises(FidelityError, match="6 px"):
        scales(6)
