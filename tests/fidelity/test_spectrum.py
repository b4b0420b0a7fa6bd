import numpy as np
import pytest

from mammo_dp.fidelity.distances import GRID, spectra
from mammo_dp.fidelity.samples import FidelityError


def tissue(rng: np.random.Generator, count: int, beta: float, size: int = 64) -> np.ndarray:
    radius = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    radius[0, 0] = np.inf
    noise = np.fft.fft2(rng.standard_normal((count, size, size)))
    field = np.fft.ifft2(noise * radius ** (-beta / 2)).real
    return np.asarray(0.5 + 0.1 * field / field.std(), np.float32)


def test_a_smooth_spectrum_has_index_one_and_its_own_slope() -> None:
    images = tissue(np.random.default_rng(0), 60, 3.0)
    found = spectra(images)
    assert found.grid_index(np.arange(60)) == pytest.approx(1, abs=0.5)
    assert found.slope.mean() == pytest.approx(3.0, abs=0.15)
    steeper = spectra(tissue(np.random.default_rng(0), 60, 3.4))
    assert steeper.slope.mean() == pytest.approx(3.4, abs=0.15)


@pytest.mark.parametrize("name", GRID)
def test_a_faint_pattern_stands_out_at_its_own_frequency(name: str) -> None:
    y, x = np.mgrid[:64, :64]
    vertical, horizontal = GRID[name]
    wave = np.cos(2 * np.pi * (vertical * y + horizontal * x) / 4)
    images = tissue(np.random.default_rng(1), 20, 3.0) + 0.005 * wave.astype(np.float32)
    index = dict(zip(GRID, spectra(images).grid_index(np.arange(20)), strict=True))
    assert max(index, key=lambda key: index[key]) == name
    assert index[name] > 2


def test_a_size_without_the_bins_is_refused() -> None:
    with pytest.raises(FidelityError, match="30 px"):
        spectra(np.zeros((1, 30, 30), np.float32))
    with pytest.raises(FidelityError, match="at least 32"):
        spectra(np.zeros((1, 16, 16), np.float32))
