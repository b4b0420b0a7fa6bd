import math

import numpy as np
import pytest
from numpy.typing import NDArray

from mammo_dp.attacks.statistics import auc
from mammo_dp.attacks.synthetic.methods import (
    METHODS,
    Distances,
    Method,
    Seen,
    authenticity,
    calibrated,
    density_ratio,
    methods,
    monte_carlo,
    nearest,
)


def between(one: NDArray[np.float64], other: NDArray[np.float64]) -> Distances:
    found: Distances = np.linalg.norm(one[:, None] - other[None], axis=2).astype(np.float32)
    return found


def seen(
    asked: NDArray[np.float64], released: NDArray[np.float64], reference: NDArray[np.float64]
) -> Seen:
    others = between(asked, asked)
    np.fill_diagonal(others, np.inf)
    return Seen(
        released=between(asked, released), others=others, reference=between(asked, reference)
    )


def law(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Points of a law whose density varies much, as that of crops does."""
    points: NDArray[np.float64] = rng.standard_normal((count, 4))
    spread: NDArray[np.float64] = rng.choice([0.3, 1.0, 3.0], (count, 1))
    return points * spread


def areas(seed: int, *, copied: float) -> dict[str, float]:
    """Area under the curve of each attack; each released point follows a member or the law."""
    rng = np.random.default_rng(seed)
    asked, released, reference = law(rng, 120), law(rng, 300), law(rng, 300)
    own = np.flatnonzero(rng.random(300) < copied)
    released[own] = asked[rng.integers(60, size=len(own))]
    released += 0.05 * rng.standard_normal(released.shape)
    return scored(seen(asked, released, reference), members=60)


def scored(found: Seen, *, members: int) -> dict[str, float]:
    signals = {method.name: method.signal(found) for method in METHODS}
    return {name: auc(signal[:members], signal[members:]).value for name, signal in signals.items()}


def test_each_attack_finds_copies() -> None:
    assert min(areas(0, copied=1.0).values()) > 0.8


def test_no_attack_finds_anything_where_nothing_leaks() -> None:
    found = [areas(seed, copied=0.0) for seed in range(40)]
    for method in METHODS:
        values = [one[method.name] for one in found]
        error = np.std(values) / math.sqrt(len(values))
        assert abs(np.mean(values) - 0.5) < 4 * error
        assert error < 0.015


def test_a_reference_tells_copies_from_what_is_common() -> None:
    # members lie where points are rare: a copy is not nearer there than a neighbour at random
    # elsewhere, so the plain distance is misled
    rng = np.random.default_rng(1)
    members, others = 6 * rng.standard_normal((60, 4)), 0.3 * rng.standard_normal((60, 4))
    copies = members + 0.5 * rng.standard_normal(members.shape)
    crowds = 0.3 * rng.standard_normal((2, 300, 4))
    far = 6 * rng.standard_normal((300, 4))
    found = scored(
        seen(
            np.concatenate([members, others]),
            np.concatenate([crowds[0], copies]),
            np.concatenate([crowds[1], far]),
        ),
        members=60,
    )
    assert found["nearest-sample"] < 0.5
    assert found["nearest-sample calibrated"] > 0.9
    assert found["density-ratio"] > 0.9


def test_signals_match_plain_loops() -> None:
    rng = np.random.default_rng(2)
    asked, released, reference = law(rng, 7), law(rng, 5), law(rng, 6)
    found = seen(asked, released, reference)
    for i, point in enumerate(asked):
        to_released = [math.dist(point, other) for other in released]
        to_reference = [math.dist(point, other) for other in reference]
        to_others = [math.dist(point, other) for j, other in enumerate(asked) if j != i]
        radius = np.median([min(math.dist(p, q) for q in released) for p in asked])
        width = np.median([min(math.dist(p, q) for q in reference) for p in asked])
        densities = [
            np.mean([math.exp(-((d / width) ** 2) / 2) for d in many])
            for many in (to_released, to_reference)
        ]
        assert nearest(found)[i] == pytest.approx(-min(to_released), abs=1e-5)
        assert calibrated(found)[i] == pytest.approx(min(to_reference) - min(to_released), abs=1e-5)
        assert density_ratio(found)[i] == pytest.approx(
            math.log(densities[0] / densities[1]), abs=1e-5
        )
        assert monte_carlo(found)[i] == np.mean([d <= radius for d in to_released])
        assert authenticity(found)[i] == pytest.approx(
            math.log(min(to_others) / min(to_released)), abs=1e-5
        )


def test_exact_copies_have_finite_signals() -> None:
    points = law(np.random.default_rng(3), 20)
    found = seen(points, points, points)
    for method in METHODS:
        assert np.isfinite(method.signal(found)).all()


def test_without_a_reference_only_attacks_that_need_none_are_made() -> None:
    assert [one.name for one in methods(with_reference=False)] == [
        "nearest-sample",
        "monte-carlo",
        "authenticity",
    ]
    rng = np.random.default_rng(4)
    alone = Seen(released=between(law(rng, 3), law(rng, 3)), others=np.ones((3, 3), np.float32))
    with pytest.raises(ValueError, match="reference is None"):
        density_ratio(alone)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_each_attack_says_what_the_adversary_holds(method: Method) -> None:
    attack = method.in_space("pixels")
    assert attack.name == f"{method.name}, pixels"
    assert "Released samples only: the adversary holds crops of" in attack.threat_model
    assert ("second set" in attack.threat_model) == method.needs_reference
