import numpy as np
import pytest
from scipy.linalg import sqrtm

from mammo_dp.fidelity.distances import covariance_of, frechet, kernel_distance


@pytest.fixture
def clouds() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((6, 6))
    return rng.standard_normal((80, 6)), rng.standard_normal((70, 6)) @ mix + 0.5


def test_frechet_agrees_with_the_matrix_root(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = clouds
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(cov_a @ cov_b).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-8)


def test_frechet_of_a_set_with_itself_is_zero_even_with_fewer_samples_than_dimensions() -> None:
    few = np.random.default_rng(1).standard_normal((10, 30))
    assert frechet(few, few) == pytest.approx(0, abs=1e-8)
    assert np.linalg.eigvalsh(covariance_of(few)).min() > 0


def test_a_shift_adds_its_square_to_frechet(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    a, _ = clouds
    assert frechet(a, a + 3) == pytest.approx(6 * 9, rel=1e-8)


def test_kernel_distance_agrees_with_a_double_loop(clouds: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = clouds[0][:12], clouds[1][:9]

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 6 + 1) ** 3)

    def mean(x: np.ndarray, y: np.ndarray, *, skip: bool) -> float:
        return float(
            np.mean(
                [
                    kernel(p, q)
                    for i, p in enumerate(x)
                    for j, q in enumerate(y)
                    if not (skip and i == j)
                ]
            )
        )

    expected = mean(a, a, skip=True) + mean(b, b, skip=True) - 2 * mean(a, b, skip=False)
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_is_unbiased_and_sees_another_scale() -> None:
    rng = np.random.default_rng(2)
    equal = [kernel_distance(*rng.standard_normal((2, 40, 5))) for _ in range(200)]
    wider = [
        kernel_distance(rng.standard_normal((40, 5)), 1.5 * rng.standard_normal((40, 5)))
        for _ in range(200)
    ]
    error = np.std(equal) / np.sqrt(200)
    assert abs(np.mean(equal)) < 4 * error
    assert np.mean(wider) > 8 * error
