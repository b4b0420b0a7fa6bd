from typing import Any
from unittest.mock import create_autospec

import numpy as np
import pytest

from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.evolution.population import Evolution, in_proportion
from mammo_dp.privacy.evolution.simulators import Genome

SETTINGS: dict[str, Any] = {
    "candidates": 6,
    "rounds": 4,
    "threshold": 1.0,
    "first_degree": 0.8,
    "last_degree": 0.2,
    "seed": 3,
}


def evolution(**changed: Any) -> Evolution:
    return Evolution(**(SETTINGS | changed))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("candidates", 0),
        ("rounds", 0),
        ("threshold", -0.1),
        ("first_degree", 1.1),
        ("last_degree", 0.0),
        ("last_degree", 0.9),
        ("seed", -1),
    ],
)
def test_values_outside_their_range_are_named(name: str, value: float) -> None:
    with pytest.raises(PrivacyError, match=rf"evolution: {name}={value} \(give "):
        evolution(**{name: value})


def test_first_candidates_are_fresh_distinct_and_repeatable() -> None:
    first = evolution().first()
    assert [len(of_class) for of_class in first] == [6, 6]
    assert [{genome.malignant for genome in of_class} for of_class in first] == [{False}, {True}]
    assert len({genome.steps for of_class in first for genome in of_class}) == 12
    assert evolution().first() == first
    assert evolution(seed=4).first() != first


def test_votes_below_the_threshold_give_no_place() -> None:
    votes = np.array([[5.0, 2.0, 3.0, -4.0], [1.0, 0.0, -1.0, 1.9]])
    weights = evolution(threshold=2.0).weights(votes, 1.0)
    assert weights.tolist() == [[0.75, 0, 0.25, 0], [0.25] * 4]
    assert votes[1, 2] == -1  # the account's result stays as it was


def test_winners_stay_and_their_further_places_vary() -> None:
    course = evolution()
    first = course.first()
    weights = np.array([[1.0, 0, 0, 0, 0, 0], [0, 0.5, 0, 0, 0.5, 0]])
    benign, malignant = course.following(first, weights, after=1)
    assert benign[0] == first[0][0]
    assert len(set(benign)) == 6
    assert {genome.steps[0] for genome in benign} == {first[0][0].steps[0]}
    assert {genome.steps[-1][1] for genome in benign[1:]} == {course.degree(1)}
    assert [genome.steps[0] for genome in malignant] == [first[1][1].steps[0]] * 3 + [
        first[1][4].steps[0]
    ] * 3
    assert course.following(first, weights, after=1) == (benign, malignant)
    assert course.following(first, weights, after=2) != (benign, malignant)


def test_degrees_fall_from_the_first_to_the_last() -> None:
    degrees = [evolution().degree(after) for after in range(4)]
    assert np.allclose(degrees, [0.8, 0.6, 0.4, 0.2])
    assert evolution(rounds=1).degree(0) == 0.8


def test_released_crops_follow_the_shares_and_depend_on_their_number_alone() -> None:
    course = evolution()
    first = course.first()
    weights = np.array([[0.25, 0.75, 0, 0, 0, 0], [1.0, 0, 0, 0, 0, 0]])
    genomes = [course.released(first, weights, number) for number in range(800)]
    assert [genome.malignant for genome in genomes] == [False, True] * 400
    assert {genome.steps[0] for genome in genomes[1::2]} == {first[1][0].steps[0]}
    share = np.mean([genome.steps[0] == first[0][1].steps[0] for genome in genomes[::2]])
    assert 0.68 < share < 0.82
    assert all(genome.steps[1][1] == 0.2 for genome in genomes)
    assert len(set(genomes)) == 800
    assert course.released(first, weights, 7) == genomes[7]


def test_places_are_shares_rounded_up_or_down() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        shares = rng.dirichlet(np.full(8, 0.5))
        places = in_proportion(shares, 20, rng)
        counts = np.bincount(places, minlength=8)
        assert counts.sum() == 20
        assert (np.abs(counts - 20 * shares) < 1).all()
        assert places == sorted(places)


def test_places_are_fair_on_average() -> None:
    shares, rng = np.array([0.05, 0.25, 0.7]), np.random.default_rng(1)
    total = sum(np.bincount(in_proportion(shares, 3, rng), minlength=3) for _ in range(4000))
    assert np.allclose(total / 12_000, shares, atol=0.01)


def test_candidates_without_a_share_get_no_place_even_by_rounding() -> None:
    shares = np.array([0.1] * 10 + [0.0])

    rng = create_autospec(np.random.Generator, instance=True)
    rng.random.return_value = np.nextafter(1.0, 0)
    places = in_proportion(shares, 10, rng)
    assert max(places) == 9


@pytest.mark.parametrize("steps", [(), ((1, 0.5),), ((1, 1.0), (2, 0.0)), ((1, 1.0), (2, 1.5))])
def test_a_genome_without_a_fresh_ancestor_is_refused(steps: tuple[tuple[int, float], ...]) -> None:
    with pytest.raises(PrivacyError, match="Begin with 1"):
        Genome(malignant=True, steps=steps)
