import numpy as np
import pytest

from data_prep.phantoms.crops import phantom_stream
from data_prep.symmetries import SYMMETRIES, symmetric
from mammo_dp.fidelity.comparison import players
from mammo_dp.fidelity.copying import (
    Copying,
    Gallery,
    copying,
    copying_of,
    gallery,
    nearest_training_crop,
    pixels,
    to_patients,
)
from mammo_dp.fidelity.samples import FidelityError, Samples

LAW = np.random.default_rng(99).standard_normal((12, 12)) / 3


def crowd(rng: np.random.Generator, patients: int, dimension: int = 12) -> np.ndarray:
    """Features of crops of patients, two each, alike within a patient."""
    own = rng.standard_normal((patients, 1, dimension)) @ LAW[:dimension, :dimension]
    return (own + 0.2 * rng.standard_normal((patients, 2, dimension))).reshape(-1, dimension)


def tried(seed: int, share: float, *, training: int = 90, held_out: int = 45) -> Copying:
    """A generator that copies this share of 300 samples and draws the others from the law."""
    rng = np.random.default_rng(seed)
    real = crowd(rng, training + held_out)
    fresh = crowd(rng, 300)[::2]
    copies = real[rng.integers(2 * training, size=round(share * 300))]
    made = np.concatenate([fresh[: 300 - len(copies)], copies])
    made = made + 0.05 * rng.standard_normal(made.shape)
    patient = np.arange(training + held_out).repeat(2)
    distances = to_patients(made, [real], patient)
    everyone = np.arange(training + held_out)
    return copying([distances], everyone < training, 0 * everyone, draws=20, seed=0)


def test_a_memoriser_is_flagged_and_its_ratio_is_below_one() -> None:
    found = tried(0, 1.0)
    assert found.p_value <= 0.001
    assert found.ratio.high < 1


def test_ten_copies_in_a_hundred_are_flagged_and_show_in_the_low_ratio() -> None:
    found = [tried(seed, 0.1) for seed in range(5)]
    assert all(one.p_value <= 0.005 for one in found)
    assert all(one.low_ratio.value < 0.7 * one.low_ratio_reversed.value for one in found)


def test_without_copies_the_ratio_is_one_and_chances_are_uniform() -> None:
    found = [tried(seed, 0.0) for seed in range(30)]
    p_values = np.array([one.p_value for one in found])
    assert np.mean([one.ratio.value for one in found]) == pytest.approx(1, abs=0.05)
    assert np.mean([one.low_ratio.value for one in found]) == pytest.approx(
        np.mean([one.low_ratio_reversed.value for one in found]), abs=0.05
    )
    assert (p_values <= 0.05).sum() <= 6  # 1.5 expected; more than 6 has probability 1e-3
    assert 0.3 < p_values.mean() < 0.7


def test_patients_are_exchanged_within_their_group_only() -> None:
    # ten patients with many crops are near the synthetic ones, and nine of them are in training
    distances = np.ones((10, 40))
    distances[np.arange(10), np.arange(10)] = 0.5
    is_training = np.isin(np.arange(40), [*range(9), *range(20, 31)])
    many = (np.arange(40) < 10).astype(int)
    assert copying([distances], is_training, many, draws=2, seed=0).p_value == 1
    assert copying([distances], is_training, 0 * many, draws=2, seed=0).p_value < 0.02


def test_too_few_patients_are_refused() -> None:
    with pytest.raises(FidelityError, match="20 and 3"):
        tried(0, 0.0, training=20, held_out=3)


@pytest.mark.parametrize("block", [1024, 3])  # 3: distances of four crops come in two blocks
def test_distances_to_patients_agree_with_loops_over_symmetries_and_crops(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mammo_dp.fidelity.copying._BLOCK", block)
    rng = np.random.default_rng(1)
    made, views = rng.standard_normal((4, 3)), list(rng.standard_normal((2, 5, 3)))
    patient = np.array([0, 2, 2, 0, 3])
    found = to_patients(made, views, patient)
    for i, j in np.ndindex(4, 4):
        expected = [
            np.linalg.norm(made[i] - view[crop])
            for view in views
            for crop in range(5)
            if patient[crop] == j
        ]
        assert found[i, j] == pytest.approx(min(expected, default=np.inf))


def phantoms(per_class: int, seed: int) -> Samples:
    drawn = list(phantom_stream(per_class=per_class, size=32, seed=seed))
    return Samples(
        images=np.stack([phantom.image for phantom in drawn]).astype(np.float32),
        malignant=np.array([int(phantom.malignant) for phantom in drawn]),
        patient=np.arange(len(drawn)),
    )


@pytest.fixture(scope="module")
def real() -> tuple[Samples, Gallery]:
    everyone = phantoms(50, 1)
    training, held_out = everyone.take(np.arange(72)), everyone.take(np.arange(72, 100))
    return training, gallery(training, held_out, pixels)


def test_noisy_training_crops_turned_by_a_quarter_are_flagged_and_fresh_phantoms_are_not(
    real: tuple[Samples, Gallery],
) -> None:
    training, shown = real
    noise = 0.03 * np.random.default_rng(0).standard_normal(training.images.shape)
    copied = np.stack([symmetric(one, 4 + i % 4) for i, one in enumerate(training.images)])
    fresh = phantoms(40, 2)
    copied += noise.astype(np.float32)
    flagged = copying_of(pixels(copied), training.malignant, shown, draws=20, seed=0)
    clear = copying_of(pixels(fresh.images), fresh.malignant, shown, draws=20, seed=0)
    assert flagged["all"].p_value <= 0.001
    assert clear["all"].p_value > 0.01
    assert flagged["benign"].crops + flagged["malignant"].crops == flagged["all"].crops == 72


def few(malignant_patients: int) -> Gallery:
    ill = np.arange(12) < malignant_patients
    return Gallery(
        views=(np.zeros((12, 1)),),
        malignant=ill.astype(int),
        patient=np.arange(12),
        is_training=np.ones(12, bool),
    )


@pytest.mark.parametrize("seed", range(20))
def test_both_sides_of_the_control_hold_both_classes(seed: int) -> None:
    plays = players(few(2), seed)
    assert 0 < plays[:2].sum() < 2
    assert 0 < plays[2:].sum() < 10


def test_a_control_of_one_malignant_patient_is_refused() -> None:
    with pytest.raises(FidelityError, match="12 training patients do not give a third"):
        players(few(1), 0)


@pytest.mark.parametrize("number", range(SYMMETRIES))
def test_the_nearest_training_crop_of_a_turned_copy_is_its_original(
    number: int, real: tuple[Samples, Gallery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mammo_dp.fidelity.copying._BLOCK", 7)  # more than one block
    training, shown = real
    own = np.flatnonzero(training.malignant == 1)
    copied = symmetric(training.images[own], number)
    rows, found, distance = nearest_training_crop(pixels(copied), 1, shown)
    assert np.array_equal(rows, own)
    assert set(found.tolist()) == {number}
    assert distance == pytest.approx(0, abs=1e-5)
