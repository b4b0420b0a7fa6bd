import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kurtosis

from data_prep.phantoms.texture import (
    MOST_BY_PRODUCT,
    SMALLEST,
    Details,
    Layer,
    Texture,
    decay,
    logistic,
    noise,
    power_law_fields,
    real_rows,
    uniform,
)
from tests.data_prep.phantoms.sources import sources
from tests.data_prep.phantoms.spectra import spectral_slope


def fields(count: int, size: int, **values: float) -> NDArray[np.float32]:
    beta = values.pop("beta", 3.0)
    return power_law_fields(
        sources(count),
        Layer.BACKGROUND,
        (size, size),
        beta=beta,
        **values,  # type: ignore[arg-type]
    )


def test_power_law_fields_have_the_requested_slope_and_no_other() -> None:
    made = fields(24, 64)
    assert spectral_slope(made) == pytest.approx(3.0, abs=0.2)
    assert abs(spectral_slope(made) - 2.4) > 0.2
    assert made.dtype == np.float32
    assert np.allclose(made.mean(axis=(1, 2)), 0, atol=1e-4)
    assert np.allclose(made.std(axis=(1, 2)), 1, atol=1e-3)


def test_values_of_a_field_are_normal_although_its_noise_is_not() -> None:
    flat = fields(60, 32, beta=1.0)[:, ::4, ::4].ravel()
    assert abs(kurtosis(flat)) < 0.2
    assert abs(kurtosis(noise([Details(Texture((3,)))], Layer.GRAIN, 4000)[0])) > 0.4


def test_power_is_the_same_in_all_directions() -> None:
    power = np.mean(np.abs(np.fft.fft2(fields(200, 32, beta=0.0))) ** 2, axis=0)
    rows, columns = power[1:12, 0].mean(), power[0, 1:12].mean()
    assert rows == pytest.approx(columns, rel=0.12)
    assert rows == pytest.approx(power[3:9, 3:9].mean(), rel=0.12)


def test_a_field_agrees_with_a_plain_sum_of_waves() -> None:
    (field,) = power_law_fields(
        sources(1), Layer.MASS, (16, 16), beta=3.0, outer_scale=8.0, finest=2
    )
    y, x = np.mgrid[:16, :16]
    drawn = iter(noise(sources(1), Layer.MASS, 1000)[0].view(np.complex64))
    waves = [(ky, kx) for kx in range(3) for ky in range(-2, 3) if (ky, kx) != (0, 0)]
    ring = sorted(waves, key=lambda k: (max(abs(k[0]), k[1]), k[1], k[0]))
    slow = np.zeros((16, 16))
    for ky, kx in ring:
        wave = next(drawn) * np.exp(2j * np.pi * (ky * y + kx * x) / 16)
        slow += (
            ((ky**2 + kx**2) / 16**2 + 1 / 8**2) ** -0.75 * wave.real * (2 if kx else math.sqrt(2))
        )
    assert np.allclose(field, (slow - slow.mean()) / slow.std(), atol=1e-4)


def test_a_stretched_field_is_smoother_along_its_angle() -> None:
    for angle, smooth, rough in ((0.0, 2, 1), (np.pi / 2, 1, 2)):
        made = fields(6, 64, stretch=6.0, angle=angle)
        steps = {axis: np.abs(np.diff(made, axis=axis)).mean() for axis in (1, 2)}
        assert steps[smooth] < 0.7 * steps[rough]


def test_an_outer_scale_removes_slow_variation() -> None:
    halves = [
        np.abs(fields(20, 64, outer_scale=scale)[:, :32].mean(axis=(1, 2))).mean()
        for scale in (math.inf, 12.0)
    ]
    assert halves[1] < 0.5 * halves[0]


def test_a_logistic_step_is_exact_and_never_overflows() -> None:
    value = np.array([-1e4, -3, 0, 3, 1e4], np.float32)
    assert logistic(value) is value
    assert value == pytest.approx([0, 1 / (1 + math.exp(3)), 0.5, 1 / (1 + math.exp(-3)), 1])


def test_decay_ends_where_single_precision_does() -> None:
    value = np.array([-2, 0, 1, 80, 1e5], np.float32)
    assert decay(value) == pytest.approx([math.e**2, 1, 1 / math.e, math.exp(-80), SMALLEST])


def test_uniform_values_are_those_of_the_error_function() -> None:
    values = np.random.default_rng(0).standard_normal((40, 50), np.float32)
    exact = [[0.5 * math.erfc(-z / math.sqrt(2)) for z in row] for row in values.tolist()]
    assert np.allclose(uniform(values), exact, rtol=1e-7, atol=0)
    assert uniform(np.array([-6, -99, 99], np.float32)) == pytest.approx(
        [0.5 * math.erfc(6 / math.sqrt(2)), 0, 1], rel=1e-6, abs=1e-15
    )


@pytest.mark.parametrize("columns", [9, 41, MOST_BY_PRODUCT + 1])
def test_rows_from_the_lowest_waves_are_those_of_a_transform(columns: int) -> None:
    rng = np.random.default_rng(0)
    half = rng.standard_normal((3, 5, columns, 2), np.float32).view(np.complex64)[..., 0]
    width = 80 if columns < 42 else 200  # the 41st of 80 pixels is the last that there is
    assert np.allclose(real_rows(half, width, 60), np.fft.irfft(half, width)[..., :60], atol=1e-6)


def test_noise_is_the_sum_of_two_bytes_of_each_part() -> None:
    texture = Texture((5, 6), (0.6, 0.8))
    words = [
        [int(word) for word in Details(Texture((seed,))).raw(Layer.GRAIN, 3)[0]] for seed in (5, 6)
    ]
    shifts = (0, 16, 32, 48)
    pairs = [[word >> shift & 65535 for word in part for shift in shifts] for part in words]
    unit = [
        [((pair >> 8) + (pair & 255) - 255) / math.sqrt((256**2 - 1) / 6) for pair in part]
        for part in pairs
    ]
    mixed = [0.6 * a + 0.8 * b for a, b in zip(*unit, strict=True)]
    plain, both = noise([Details(Texture((5,))), Details(texture)], Layer.GRAIN, 10)
    assert plain == pytest.approx(unit[0][:10], rel=1e-5)
    assert both == pytest.approx(mixed[:10], rel=1e-5)
