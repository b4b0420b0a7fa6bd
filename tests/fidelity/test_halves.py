import numpy as np
import pytest

from mammo_dp.fidelity.samples import (
    FidelityError,
    Halves,
    Samples,
    estimate,
    real_halves,
    synthetic_parts,
)


def samples(
    patients: int = 40, crops: int = 100, *, synthetic: bool = False, seed: int = 0
) -> Samples:
    rng = np.random.default_rng(seed)
    patient = np.arange(crops) if synthetic else np.sort(rng.integers(patients, size=crops))
    return Samples(
        images=np.zeros((crops, 8, 8), np.float32), malignant=patient % 2, patient=patient
    )


@pytest.fixture
def halves() -> Halves:
    return real_halves(samples(), [(60, 60)], draws=30, least=5, seed=0)


def test_halves_share_no_patient_and_hold_equal_numbers(halves: Halves) -> None:
    real = samples()
    for one, other in zip(halves.one, halves.other, strict=True):
        assert not set(real.patient[one]) & set(real.patient[other])
        for rows in (one, other):
            assert len(set(rows.tolist())) == len(rows)
            malignant = int(real.malignant[rows].sum())
            assert (len(rows) - malignant, malignant) == halves.per_class


def test_halves_are_nearly_halves(halves: Halves) -> None:
    assert sum(halves.per_class) >= 0.8 * 100 / 2


def test_a_small_source_shrinks_all_sides_and_one_too_small_is_refused() -> None:
    assert real_halves(samples(), [(60, 21)], draws=3, least=5, seed=0).per_class[1] == 10
    with pytest.raises(FidelityError, match="need 5 of each"):
        real_halves(samples(), [(60, 9)], draws=3, least=5, seed=0)


def test_each_draw_is_half_of_a_source_in_parts_of_equal_numbers(halves: Halves) -> None:
    source = samples(crops=400, synthetic=True)
    parts = min(200 // (2 * count) for count in halves.per_class)
    assert parts > 1
    draws = synthetic_parts(source, halves, seed=2)
    assert len(draws) == len(halves.one)
    for draw in draws:
        assert len(draw) == parts
        rows = np.concatenate(draw)
        assert len(set(rows.tolist())) == len(rows)
        assert all(source.take(part).per_class == halves.per_class for part in draw)
    assert set(np.concatenate([part for draw in draws for part in draw])) == set(range(400))


def test_the_interval_of_a_mean_has_the_width_of_its_standard_error() -> None:
    rng = np.random.default_rng(3)
    one_each = Samples(
        images=np.zeros((400, 8, 8), np.float32),
        malignant=np.arange(400) % 2,
        patient=np.arange(400),
    )
    found = real_halves(one_each, [(400, 400)], draws=400, least=5, seed=4)
    ratios = []
    for _ in range(20):
        values = rng.standard_normal(400)
        interval = estimate(np.array([values[rows].mean() for rows in found.one]))
        ratios.append((interval.high - interval.low) / (2 * 1.96 * values.std() / np.sqrt(400)))
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)  # 1.2 standard errors would fail


def test_a_source_of_more_crops_has_a_narrower_interval_that_is_its_standard_error() -> None:
    rng = np.random.default_rng(3)
    one_each = Samples(
        images=np.zeros((40, 8, 8), np.float32), malignant=np.arange(40) % 2, patient=np.arange(40)
    )
    real = real_halves(one_each, [(400, 400)], draws=400, least=5, seed=4)
    source = samples(crops=400, synthetic=True)
    ratios = []
    for _ in range(20):
        values = rng.standard_normal(400)
        means = [
            np.mean([values[part].mean() for part in parts])
            for parts in synthetic_parts(source, real, seed=5)
        ]
        interval = estimate(np.array(means))
        ratios.append((interval.high - interval.low) / (2 * 1.96 * values.std() / np.sqrt(400)))
    assert np.mean(ratios) == pytest.approx(1, abs=0.05)  # one part alone would give 4.4


def test_undefined_draws_are_left_out() -> None:
    assert estimate(np.array([1.0, np.nan, 3.0])).value == 2
    assert np.isnan(estimate(np.array([np.nan])).value)
