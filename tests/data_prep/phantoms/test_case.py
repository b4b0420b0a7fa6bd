from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kstest

from data_prep.phantoms import case as case_module
from data_prep.phantoms.case import NORMALS, PhantomCase, draw_case, vary_case
from data_prep.phantoms.crops import phantom_cases, render
from data_prep.phantoms.parameters import (
    PhantomError,
    PhantomParameters,
    class_shares,
)
from data_prep.phantoms.texture import MOST_SEEDS, Details, Layer, Texture, noise

KNOWN = PhantomParameters()


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def draws(count: int, *, malignant: bool = True) -> list[PhantomCase]:
    rng = generator(1)
    return [draw_case(rng, malignant=malignant, parameters=KNOWN) for _ in range(count)]


def correlations(a: NDArray[np.float32], b: NDArray[np.float32]) -> list[float]:
    return [float(np.corrcoef(x.ravel(), y.ravel())[0, 1]) for x, y in zip(a, b, strict=True)]


def test_equal_cases_give_equal_pictures_whatever_stands_beside_them() -> None:
    cases = phantom_cases(0, 21, parameters=KNOWN)
    together = render(cases, size=32)
    assert np.array_equal(together, np.concatenate([render([case], size=32) for case in cases]))
    assert np.array_equal(together[3:], render(cases[3:], size=32))
    assert not np.array_equal(together[4], together[6])
    assert render([], size=32).shape == (0, 32, 32)


def test_a_case_shows_one_phantom_at_every_size() -> None:
    smooth = replace(KNOWN, grain_range=(0.0, 0.0), artefact_probability=0.0)
    cases = phantom_cases(0, 8, parameters=smooth)
    small, large = render(cases, size=32), render(cases, size=64)
    shrunk = large.reshape(8, 32, 2, 32, 2).mean(axis=(2, 4))
    assert min(correlations(small, shrunk)) > 0.9
    assert max(correlations(small, shrunk[::-1])) < 0.9


def test_equal_seeds_draw_equal_cases_and_others_do_not() -> None:
    first, again, other = (
        draw_case(generator(seed), malignant=True, parameters=KNOWN) for seed in (4, 4, 5)
    )
    assert first == again
    assert first != other
    assert hash(first) == hash(again)
    assert phantom_cases(6, 9, parameters=KNOWN) == phantom_cases(0, 9, parameters=KNOWN)[6:]


def test_a_case_reads_each_of_its_normals(monkeypatch: pytest.MonkeyPatch) -> None:
    rest: list[int] = []

    class Counted(case_module._Values):
        def __init__(self, normals: list[float]) -> None:
            super().__init__(normals)
            rest.append(len(normals))

        def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
            rest[-1] -= 1
            return super().uniform(low, high)

        def normal(self, *values: float, **within: float) -> float:
            rest[-1] -= 1
            return super().normal(*values, **within)

    monkeypatch.setattr(case_module, "_Values", Counted)
    cases = [case for malignant in (True, False) for case in draws(20, malignant=malignant)]
    assert rest == [0] * 40
    assert all(len(case.normals) == NORMALS for case in cases)


def test_variations_drift_away_with_their_degree() -> None:
    cases = draws(12)
    pictures = render(cases, size=32)
    distance = []
    for degree in (0.02, 0.1, 0.3, 0.6, 1.0):
        rng = generator(2)
        varied = [vary_case(rng, case, degree=degree, parameters=KNOWN) for case in cases]
        assert all(case.malignant for case in varied)
        distance.append(float(np.abs(render(varied, size=32) - pictures).mean()))
    assert all(near < far for near, far in pairwise(distance))
    assert distance[0] < 0.1 * distance[-1]


def test_variations_follow_the_population() -> None:
    rng = generator(3)
    low, high = KNOWN.size_range
    cases = draws(500)
    naive = sizes = np.array([case.mass.size for case in cases])
    for _ in range(3):
        cases = [vary_case(rng, case, degree=0.5, parameters=KNOWN) for case in cases]
        sizes = np.array([case.mass.size for case in cases])
        naive = 0.5 * naive + 0.5 * rng.uniform(low, high, 500)
    assert kstest((sizes - low) / (high - low), "uniform").pvalue > 1e-3
    # Mixing values in place of normals would lose spread.
    assert kstest((naive - low) / (high - low), "uniform").pvalue < 1e-3
    found = Counter(case.margin for case in cases)
    for word, share in class_shares(KNOWN.margins, malignant=True).items():
        assert found[word] / 500 == pytest.approx(share, abs=0.07)


@pytest.mark.parametrize("degree", [0.0, -0.1, 1.1])
def test_degrees_outside_the_range_are_refused(degree: float) -> None:
    with pytest.raises(PhantomError, match=r"degree: .*above 0"):
        vary_case(generator(), draws(1)[0], degree=degree, parameters=KNOWN)


def test_a_varied_texture_is_the_stated_mixture_and_standard_normal() -> None:
    texture = Texture.draw(generator())
    varied = texture.varied(generator(1), 0.6)
    (fresh,) = set(varied.seeds) - set(texture.seeds)
    old, new, mixed = (
        Details(t).normals(Layer.MASS, 20_000) for t in (texture, Texture((fresh,)), varied)
    )
    assert np.allclose(mixed, 0.8 * old + 0.6 * new, atol=1e-5)
    assert kstest(mixed, "norm").pvalue > 1e-3
    assert kstest(1.05 * mixed, "norm").pvalue < 1e-3
    assert texture.varied(generator(1), 1.0) == Texture((fresh,))


def test_a_texture_forgets_its_lightest_part() -> None:
    rng = generator()
    texture = Texture.draw(rng)
    for _ in range(10):
        texture = texture.varied(rng, 0.3)
        assert len(texture.seeds) <= MOST_SEEDS
        assert sum(weight**2 for weight in texture.weights) == pytest.approx(1)


def test_layers_are_independent_and_longer_draws_start_like_shorter_ones() -> None:
    source = Details(Texture((7,)))

    def noise_of(layer: Layer, count: int) -> NDArray[np.float32]:
        return noise([source], layer, count).ravel()

    for draw in (source.normals, noise_of):
        first = draw(Layer.GRAIN, 10_000)
        assert np.array_equal(draw(Layer.GRAIN, 500), first[:500])
        assert abs(np.corrcoef(first, draw(Layer.MASS, 10_000))[0, 1]) < 0.04
        assert first.mean() == pytest.approx(0, abs=0.04)
        assert first.std() == pytest.approx(1, abs=0.03)
