from pathlib import Path

import numpy as np
import pytest

from mammo_dp.attacks.bounds.schedules import Schedule
from mammo_dp.attacks.ladder.cells import NO_PRIOR, PRIOR, Cell
from mammo_dp.attacks.ladder.measurements import image_cells
from mammo_dp.attacks.ladder.results import curve
from mammo_dp.attacks.reconstruction.collect import Targets, collect, known_at
from mammo_dp.attacks.reconstruction.prior import GaussianPrior, best_hit, predicted, prior_draws
from mammo_dp.attacks.reconstruction.quality import Images
from mammo_dp.attacks.reconstruction.results import score_signals
from mammo_dp.privacy.accounting.account import Mechanism

NOISY = Mechanism(noise_multiplier=0.6, sampling_rate=1, steps=20)


def blobs(count: int, seed: int, edge: int = 16) -> Images:
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:edge, :edge] / edge
    centres = rng.uniform(0.3, 0.7, (count, 2, 1, 1))
    image = np.exp(-((yy - centres[:, 0]) ** 2 + (xx - centres[:, 1]) ** 2) / 0.03)
    return np.asarray((0.2 + 0.5 * image + 0.05 * rng.random((count, edge, edge))).clip(0, 1))


TARGETS = Targets(
    images=blobs(10, 0), malignant=np.arange(10) % 2, reference=blobs(60, 1), real=False
)
KNOWN = known_at(TARGETS, [16, 8])


def cells_at(folder: Path, mechanism: Mechanism | None) -> dict[tuple[str, str], Cell]:
    schedule = Schedule(name="here", mechanism=mechanism)
    collect(schedule, TARGETS, KNOWN, [16, 8], folder)
    scored = score_signals(
        schedule, TARGETS, KNOWN, [16, 8], (0.1,), folder, level=0.95, resamples=200, seed=0
    )
    return {(cell.attack, cell.metric): cell for cell in image_cells(scored, KNOWN, 0.7)}


def test_cells_lie_on_the_closed_form_and_a_prior_helps(tmp_path: Path) -> None:
    found = cells_at(tmp_path, NOISY)
    alone, prior = found[NO_PRIOR, "NCC at 8 px"], found[PRIOR, "NCC at 8 px"]
    assert (alone.rung, alone.kind, prior.rung, prior.kind) == (3, "assumption", 4, "prediction")
    for cell in (alone, prior):
        assert cell.bound is not None
        assert cell.value == pytest.approx(cell.bound, abs=0.12)
    assert prior.blind is not None
    assert prior.value > max(alone.value, prior.blind)
    assert 0 <= found[NO_PRIOR, "share with NCC >= 0.7 at 16 px"].value <= 1
    assert not any(cell.exceeds for cell in found.values())
    assert ("one update, mean of rows of 64", "NCC of 10 images") in found
    before = {key: cell.value for key, cell in found.items()}
    again = {key: cell.value for key, cell in cells_at(tmp_path, NOISY).items()}
    assert again == before  # saved signals: fresh noise would move every number


def test_without_noise_an_image_is_read_as_it_is(tmp_path: Path) -> None:
    found = cells_at(tmp_path, None)
    assert found["no prior, unbiased", "PSNR at 16 px"].value > 40
    assert found[PRIOR, "NCC at 16 px"].value > 0.999
    assert found[NO_PRIOR, "share with NCC >= 0.7 at 16 px"].value == 1
    assert found[NO_PRIOR, "NCC at 16 px"].kind == "none"


def test_what_a_prior_predicts_is_its_formula() -> None:
    prior = GaussianPrior.fit(blobs(200, 2, edge=8))
    truth, guess = prior_draws(prior, 0.5, 10, seed=0)
    away = prior.variances.sum() + prior.rest * (64 - len(prior.variances))
    expected = prior.expected_mse(0.5**2 * float(away) / 10)
    assert float(((truth - guess) ** 2).mean()) == pytest.approx(expected, rel=0.15)
    louder, quiet = (
        predicted(prior, noise_multiplier=noise, rounds=10, correlation=0.9)
        for noise in (5.0, 0.05)
    )
    assert louder.ncc < quiet.ncc
    assert louder.read < quiet.read


def test_bounds_between_budgets_fall_with_the_noise() -> None:
    mechanism = Mechanism(noise_multiplier=1, sampling_rate=1, steps=30)
    found = curve(mechanism, [8.0, 0.1], TARGETS.images, KNOWN[8], (8, 16), 0.7)
    assert found.noise[0] > 8
    assert found.noise[-1] < 0.1
    assert found.relaxed is not None
    for values in (found.worst_case, found.relaxed, *found.scratch.values()):
        assert np.diff(values).min() > -1e-6
        assert values[-1] > 0.99
    assert max(np.subtract(found.relaxed, found.worst_case)) < 1e-6
    alone = curve(mechanism, [8.0], TARGETS.images, None, (8, 16), 0.7)
    assert (alone.prior, alone.kappa_image, alone.worst_case_image) == (None, None, None)


def test_the_best_guess_hits_itself_and_chances_stay_inside() -> None:
    assert best_hit(TARGETS.images, TARGETS.images[:1], 0.9999) == pytest.approx(0.1)
    assert 0 < best_hit(TARGETS.images, 1 - TARGETS.images[:1], 0.9999) < 0.1
    assert 0.9 < best_hit(TARGETS.images, TARGETS.images[:1], -0.99) < 1
