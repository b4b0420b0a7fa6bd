import numpy as np
import pytest
from scipy.stats import binomtest

from data_prep.manifest import CropsManifest
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.sampling import (
    NOISE,
    UNITS,
    PoissonSampling,
    PoissonUnitSampler,
    draw,
    new_key,
)


def sampling(units: int = 5, rate: float = 0.3) -> PoissonSampling:
    rows = tuple((2 * unit, 2 * unit + 1) for unit in range(units))
    return PoissonSampling(unit="patient", rows_of=rows, rate=rate)


def test_patients_come_with_all_their_crops(cohort: CropsManifest) -> None:
    drawn = PoissonSampling.from_manifest(cohort, "train", rate=1.0)
    assert drawn.units == 4
    assert sorted(row for rows in drawn.rows_of for row in rows) == cohort.rows("train")
    for rows in drawn.rows_of:
        assert len({cohort.crops[row].patient_id for row in rows}) == 1


def test_each_crop_is_a_unit_of_its_own_if_asked_for(cohort: CropsManifest) -> None:
    drawn = PoissonSampling.from_manifest(cohort, "train", unit="crop", rate=0.5)
    assert drawn.units == len(cohort.rows("train"))


def test_every_unit_is_included_at_the_stated_rate_and_empty_draws_occur() -> None:
    sampler = PoissonUnitSampler(sampling(rate=0.3), steps=4000, key=7, done=lambda: 0)
    draws = list(sampler)
    assert len(draws) == len(sampler) == 4000
    for unit in range(5):
        joined = sum(2 * unit in rows for rows in draws)
        assert joined == sum(2 * unit + 1 in rows for rows in draws)
        assert binomtest(joined, 4000, 0.3).pvalue > 1e-3
        assert binomtest(joined, 4000, 0.36).pvalue < 1e-3
    empty = sum(not rows for rows in draws)
    assert binomtest(empty, 4000, 0.7**5).pvalue > 1e-3


def test_units_join_independently() -> None:
    drawn = np.zeros((4000, 5))
    for step in range(4000):
        drawn[step, sampling().sample(3, step)] = 1
    assert np.abs(np.corrcoef(drawn.T) - np.eye(5)).max() < 0.08
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.08


def test_a_resumed_sampler_yields_the_steps_that_are_left() -> None:
    done = 0
    sampler = PoissonUnitSampler(sampling(), steps=20, key=7, done=lambda: done)
    whole = list(sampler)
    done = 12
    assert list(sampler) == whole[12:]
    assert len(sampler) == 20


def rows_of_ranks(world_size: int, keys: list[int]) -> list[list[list[int]]]:
    return [
        list(
            PoissonUnitSampler(
                sampling(units=7),
                steps=2000,
                key=keys[rank],
                done=lambda: 0,
                rank=rank,
                world_size=world_size,
            )
        )
        for rank in range(world_size)
    ]


@pytest.mark.parametrize("world_size", [2, 3, 9])
def test_ranks_share_the_draw_of_one_process(world_size: int) -> None:
    (whole,) = rows_of_ranks(1, [7])
    shares = rows_of_ranks(world_size, [7] * world_size)
    for drawn, *parts in zip(whole, *shares, strict=True):
        assert sorted(drawn) == sorted(row for part in parts for row in part)
        assert max(map(len, parts)) - min(map(len, parts)) <= 2  # one patient of two crops
    for rows in shares:
        assert any(not row for row in rows)


def test_a_draw_on_each_rank_would_take_units_twice_and_at_another_rate() -> None:
    def inclusions(keys: list[int]) -> tuple[int, int]:
        counts = np.array(
            [
                [sum(2 * unit in part for part in parts) for unit in range(7)]
                for parts in zip(*rows_of_ranks(2, keys), strict=True)
            ]
        )
        return int(counts.max()), int((counts > 0).sum())

    most, joined = inclusions([7, 7])
    assert most == 1
    assert binomtest(joined, 2000 * 7, 0.3).pvalue > 1e-3
    most, joined = inclusions([7, 8])
    assert most == 2
    assert binomtest(joined, 2000 * 7, 0.3).pvalue < 1e-3


def test_streams_steps_and_keys_are_apart() -> None:
    numbers = {
        float(draw(key, step, stream).random())
        for key in (1, 2, 1 + 2**64, 1 + 2**32)
        for step in (0, 1)
        for stream in (UNITS, NOISE)
    }
    assert len(numbers) == 16


def test_keys_are_fresh_and_long() -> None:
    keys = {new_key() for _ in range(50)}
    assert len(keys) == 50
    assert max(keys) > 2**120


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.0}, "rate=0.0"),
        ({"rate": 1.1}, "rate=1.1"),
        ({"rows_of": ()}, "without crops"),
        ({"rows_of": ((0,), ())}, "without crops"),
        ({"rows_of": ((0, 1), (1,))}, "two units"),
        ({"unit": "image"}, "'image'"),
    ],
)
def test_impossible_samplings_are_refused(change: dict[str, object], message: str) -> None:
    values: dict[str, object] = {"unit": "patient", "rows_of": ((0,), (1,)), "rate": 0.5}
    with pytest.raises(PrivacyError, match=message):
        PoissonSampling(**(values | change))  # type: ignore[arg-type]
