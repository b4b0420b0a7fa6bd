import numpy as np
import pytest

from mammo_dp.fidelity.distances import overlap, squared_distances


def naive(real: np.ndarray, synthetic: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def reach(points: np.ndarray, i: int) -> float:
        return sorted(float(np.linalg.norm(points[i] - p)) for j, p in enumerate(points) if j != i)[
            k - 1
        ]

    def inside(point: np.ndarray, points: np.ndarray) -> list[bool]:
        return [bool(np.linalg.norm(point - p) <= reach(points, i)) for i, p in enumerate(points)]

    in_real = np.array([inside(s, real) for s in synthetic])
    in_synthetic = np.array([inside(r, synthetic) for r in real])
    return (
        in_real.any(1).mean(),
        in_synthetic.any(1).mean(),
        in_real.sum() / (k * len(synthetic)),
        in_real.any(0).mean(),
    )


def test_all_four_agree_with_double_loops() -> None:
    rng = np.random.default_rng(0)
    real, synthetic = rng.standard_normal((25, 3)), 0.7 * rng.standard_normal((25, 3)) + 0.4
    found = overlap(real, synthetic, k=3)
    expected = naive(real, synthetic, 3)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected)


def test_equal_laws_reach_the_known_expectations_and_collapse_does_not() -> None:
    rng = np.random.default_rng(1)
    real, fresh = rng.standard_normal((2, 400, 4))
    collapsed = np.repeat(fresh[:1], 400, axis=0) + 1e-3 * rng.standard_normal((400, 4))
    equal, poor = overlap(real, fresh), overlap(real, collapsed)
    assert equal.density == pytest.approx(1, abs=0.1)
    assert equal.coverage == pytest.approx(1 - 2**-5, abs=0.03)
    assert poor.recall < 0.05
    assert poor.coverage < 0.1


def test_unequal_numbers_are_refused() -> None:
    points = np.random.default_rng(2).standard_normal((10, 2))
    with pytest.raises(ValueError, match="equal numbers"):
        overlap(points, points[:9])
    with pytest.raises(ValueError, match="k=10"):
        overlap(points, points, k=10)


def test_distances_of_far_clouds_keep_their_digits() -> None:
    points = np.random.default_rng(3).standard_normal((5, 3))
    naive_squares = ((points[:, None] - points[None]) ** 2).sum(2)
    assert squared_distances(points + 1e6, points + 1e6) == pytest.approx(naive_squares, abs=1e-6)
