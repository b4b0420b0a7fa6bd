import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from mammo_dp.attacks.reconstruction.quality import MOST_PSNR, Quality, mse, ncc, psnr, ssim

RNG = np.random.default_rng(0)
ORIGINALS = RNG.random((6, 20, 20))
GUESSES = (ORIGINALS + 0.2 * RNG.standard_normal((6, 20, 20))).clip(0, 1)


def test_measures_equal_slow_ones() -> None:
    for index in range(6):
        one, other = ORIGINALS[index], GUESSES[index]
        error = np.mean([(a - b) ** 2 for a, b in zip(one.flat, other.flat, strict=True)])
        assert mse(ORIGINALS, GUESSES)[index] == pytest.approx(error)
        assert psnr(ORIGINALS, GUESSES)[index] == pytest.approx(10 * np.log10(1 / error))
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert ncc(ORIGINALS, GUESSES)[index] == pytest.approx(correlation)


def test_structural_similarity_is_the_mean_over_windows() -> None:
    one, other = ORIGINALS[0], GUESSES[0]
    values = []
    for i, j in np.ndindex(14, 14):
        a, b = one[i : i + 7, j : j + 7], other[i : i + 7, j : j + 7]
        cov = np.cov(a.ravel(), b.ravel())
        top = (2 * a.mean() * b.mean() + 1e-4) * (2 * cov[0, 1] + 9e-4)
        bottom = (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (cov[0, 0] + cov[1, 1] + 9e-4)
        values.append(top / bottom)
    assert ssim(ORIGINALS, GUESSES)[0] == pytest.approx(np.mean(values))


def test_structural_similarity_is_near_that_of_torchmetrics() -> None:
    guesses, originals = (torch.from_numpy(i)[:, None] for i in (GUESSES, ORIGINALS))
    other = structural_similarity_index_measure(
        guesses, originals, gaussian_kernel=False, kernel_size=7, data_range=1.0, reduction="none"
    )
    assert isinstance(other, torch.Tensor)
    np.testing.assert_allclose(ssim(ORIGINALS, GUESSES), other.numpy(), atol=0.02)


@pytest.mark.parametrize("edge", [3, 4, 5, 16])
def test_equal_images_are_perfect_at_every_size(edge: int) -> None:
    images = RNG.random((3, edge, edge))
    assert ssim(images, images) == pytest.approx(1)
    assert ncc(images, images) == pytest.approx(1)
    assert (psnr(images, images) == MOST_PSNR).all()


def test_a_constant_guess_correlates_with_nothing() -> None:
    assert (ncc(ORIGINALS, np.zeros_like(ORIGINALS)) == 0).all()


def test_intervals_resample_patients() -> None:
    many = Quality.of(np.tile(ORIGINALS, (50, 1, 1)), np.tile(GUESSES, (50, 1, 1)))
    few = Quality.of(ORIGINALS, GUESSES)
    for wide, narrow in ((few.mse, many.mse), (few.ncc, many.ncc), (few.ssim, many.ssim)):
        assert wide.low <= wide.value <= wide.high
        assert wide.value == pytest.approx(narrow.value)
        assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
