from pathlib import Path

import numpy as np
import pytest

from mammo_dp.attacks.ladder.curve import best_hit, curve
from mammo_dp.attacks.ladder.readings import (
    Targets,
    cells,
    prior_draws,
    read_images,
    resolutions_of,
)
from mammo_dp.attacks.reconstruction.isolated import pooled
from mammo_dp.attacks.reconstruction.prior import GaussianPrior
from mammo_dp.attacks.reconstruction.quality import Images
from mammo_dp.attacks.signals import AttackError
from mammo_dp.privacy.accounting import Mechanism


def blobs(count: int, seed: int, edge: int = 16) -> Images:
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:edge, :edge] / edge
    centres = rng.uniform(0.3, 0.7, (count, 2, 1, 1))
    image = np.exp(-((yy - centres[:, 0]) ** 2 + (xx - centres[:, 1]) ** 2) / 0.03)
    return np.asarray((0.2 + 0.5 * image + 0.05 * rng.random((count, edge, edge))).clip(0, 1))


TARGETS = Targets(images=blobs(12, 0), reference=blobs(60, 1), correlation=0.7)


def test_readings_lie_on_the_closed_form_and_a_prior_helps(tmp_path: Path) -> None:
    reading = read_images(
        TARGETS,
        noise_multiplier=0.6,
        observations=20,
        resolution=8,
        file=tmp_path / "seen.npz",
        seed=0,
    )
    found = {(cell.attack, cell.metric): cell for cell in cells(reading, TARGETS)}
    centred, prior = found["centred", "NCC at 8 px"], found["prior", "NCC at 8 px"]
    assert centred.value == pytest.approx(reading.expected, abs=0.08)
    assert (centred.kind, prior.kind, centred.rung, prior.rung) == (
        "assumption",
        "prediction",
        3,
        4,
    )
    assert prior.value > centred.value
    assert prior.bound is not None
    assert prior.value == pytest.approx(prior.bound, abs=0.12)
    assert prior.blind is not None
    assert prior.low > prior.blind
    assert not any(cell.exceeds for cell in found.values())


def test_saved_updates_are_scored_again_without_a_server(tmp_path: Path) -> None:
    def read() -> tuple[float, ...]:
        reading = read_images(
            TARGETS,
            noise_multiplier=0.6,
            observations=20,
            resolution=8,
            file=tmp_path / "seen.npz",
            seed=0,
        )
        return tuple(cell.value for cell in cells(reading, TARGETS))

    first = read()
    assert read() == first  # fresh noise would move every number


def test_without_noise_an_image_is_read_as_it_is(tmp_path: Path) -> None:
    reading = read_images(
        TARGETS, noise_multiplier=0, observations=1, resolution=16, file=tmp_path / "s", seed=0
    )
    found = {(cell.attack, cell.metric): cell for cell in cells(reading, TARGETS)}
    assert found["from scratch", "PSNR at 16 px"].value > 40
    assert found["prior", "NCC at 16 px"].value > 0.999
    assert found["centred", "share with NCC >= 0.7 at 16 px"].value == 1


def test_what_a_prior_predicts_is_its_formula() -> None:
    prior = GaussianPrior.fit(pooled(blobs(200, 2), 8))
    truth, guess = prior_draws(prior, 0.5, 10, 8, seed=0)
    away = prior.variances.sum() + prior.rest * (64 - len(prior.variances))
    predicted = prior.expected_mse(0.5**2 * float(away) / 10)
    assert float(((truth - guess) ** 2).mean()) == pytest.approx(predicted, rel=0.15)


def test_bounds_between_budgets_fall_with_the_noise() -> None:
    found = curve(
        Mechanism(noise_multiplier=1, sampling_rate=1, steps=30), [8.0, 0.1], TARGETS, (4, 16), 0
    )
    assert found.noise[0] > 8
    assert found.noise[-1] < 0.1
    assert found.relaxed is not None
    for values in (found.worst_case, found.relaxed, *found.scratch.values()):
        assert np.diff(values).min() > -1e-6
        assert values[-1] > 0.99
    assert max(np.subtract(found.relaxed, found.worst_case)) < 1e-6
    assert found.kappa_image == best_hit(TARGETS, 4)


def test_the_best_guess_of_a_list_hits_most_targets() -> None:
    own = Targets(images=TARGETS.images, reference=TARGETS.images[:1], correlation=0.999)
    assert best_hit(own, 8) == pytest.approx(1 / 12, abs=0.01)


def test_resolutions_must_divide_the_edge() -> None:
    assert resolutions_of(48, (4, 7, 16, 48, 64)) == [4, 16, 48]
    with pytest.raises(AttackError, match="none divides"):
        resolutions_of(48, (5, 7))
