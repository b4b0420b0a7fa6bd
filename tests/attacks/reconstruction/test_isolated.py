from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import gamma, kstest, nct
from torch import nn

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.reconstruction.isolated import (
    Observations,
    Reconstruction,
    observe,
    read_rows,
    score,
)
from mammo_dp.attacks.reconstruction.prior import GaussianPrior
from mammo_dp.attacks.reconstruction.quality import mse, ncc
from mammo_dp.attacks.reconstruction.updates import mean_update, one_crop_each, pooled
from mammo_dp.privacy.errors import PrivacyError

Array = NDArray[np.float64]
EDGE, SIGMA, ROUNDS = 8, 0.3, 4
TARGETS = 1500


def same_image(count: int = TARGETS, edge: int = EDGE, seed: int = 0) -> Array:
    return np.repeat(np.random.default_rng(seed).random((1, edge, edge)), count, axis=0)


def seen_by_servers(**settings: object) -> Observations:
    chosen: dict[str, object] = {
        "noise_multiplier": SIGMA,
        "rounds": ROUNDS,
        "resolution": EDGE,
        "key": 7,
    }
    return observe(same_image(), **(chosen | settings))  # type: ignore[arg-type]


def reconstructed(images: Array, others: Array, *, sigma: float, key: int) -> Reconstruction:
    prior, edge = GaussianPrior.fit(others), images.shape[-1]
    seen = observe(images, noise_multiplier=sigma, rounds=10, resolution=edge, prior=prior, key=key)
    return score(seen, images, prior=prior, reference=others)


def law_of_errors(image: Array, sigma: float) -> Callable[[Array], Array]:
    n, v = image.size, sigma**2 * (image**2).sum() / ROUNDS
    return gamma(n / 2, scale=2 * v / n).cdf  # type: ignore[no-any-return]


def test_errors_of_an_imprint_follow_their_gamma_law_and_that_of_no_other_noise() -> None:
    image, seen = same_image()[0], seen_by_servers()
    errors = mse(same_image(), seen.plain.seen.reshape(-1, EDGE, EDGE))
    assert kstest(errors, law_of_errors(image, SIGMA)).pvalue > 1e-3
    for wrong in (0.9, 1.1):
        assert kstest(errors, law_of_errors(image, wrong * SIGMA)).pvalue < 1e-3
    np.testing.assert_allclose(seen.plain.noise, SIGMA**2 * (image**2).sum() / ROUNDS)


def test_correlations_follow_their_law_and_that_of_no_other_noise() -> None:
    image, seen = same_image()[0], seen_by_servers()
    found = ncc(same_image(), seen.centred.seen.reshape(-1, EDGE, EDGE))
    n = image.size

    def law(factor: float) -> Callable[[Array], Array]:
        signal = np.sqrt(ROUNDS) / (factor * SIGMA)  # of an image without its mean
        return lambda c: np.asarray(nct.cdf(c * np.sqrt((n - 2) / (1 - c**2)), n - 2, signal))

    assert kstest(found, law(1.0)).pvalue > 1e-3
    for wrong in (0.9, 1.1):
        assert kstest(found, law(wrong)).pvalue < 1e-3


@pytest.mark.parametrize(("rows", "clipping_norm"), [(1, 1.0), (5, 1.0), (2, 0.01)])
def test_neither_rows_nor_the_clip_change_the_noise_of_their_mean(
    rows: int, clipping_norm: float
) -> None:
    images = same_image(400)
    seen = observe(
        images,
        noise_multiplier=SIGMA,
        rounds=ROUNDS,
        resolution=EDGE,
        rows=rows,
        clipping_norm=clipping_norm,
        key=3,
    )
    errors = mse(images, seen.plain.seen.reshape(-1, EDGE, EDGE))
    assert kstest(errors, law_of_errors(images[0], SIGMA)).pvalue > 1e-3


def test_a_division_has_the_noise_of_one_row_and_the_mean_that_of_all() -> None:
    rows, sigma, images = 25, 1e-3, same_image(60)
    length = (images[0] ** 2).sum() + 1
    found = read_rows(images, noise_multiplier=sigma, rows=rows, resolution=EDGE, key=5)
    noise = {how: float(((seen - images) ** 2).mean()) for how, seen in found.items()}
    # The divisor's own noise adds to that of a division by the mean square of the image.
    division = rows * sigma**2 * length * (1 + (images[0] ** 2).mean())
    assert noise["division"] == pytest.approx(division, rel=0.2)
    assert noise["mean_of_rows"] == pytest.approx(sigma**2 * length, rel=0.1)


def drawn_from(prior: GaussianPrior, count: int, rng: np.random.Generator) -> Array:
    pixels, known = prior.directions.shape
    rest = rng.standard_normal((count, pixels)) * np.sqrt(prior.rest)
    rest -= rest @ prior.directions @ prior.directions.T
    along = rng.standard_normal((count, known)) * np.sqrt(prior.variances)
    return np.asarray(prior.mean + along @ prior.directions.T + rest)


@pytest.fixture
def truth() -> GaussianPrior:
    rng = np.random.default_rng(0)
    directions, _ = np.linalg.qr(rng.standard_normal((EDGE**2, 5)))
    return GaussianPrior(
        mean=rng.random(EDGE**2),
        directions=directions,
        variances=np.array([4.0, 2.0, 1.0, 0.5, 0.2]),
        rest=0.02,
    )


@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_the_error_with_the_right_prior_is_the_predicted_one(
    truth: GaussianPrior, noise: float
) -> None:
    rng = np.random.default_rng(1)
    images = drawn_from(truth, 4000, rng)
    seen = images + np.sqrt(noise) * rng.standard_normal(images.shape)
    guesses = truth.most_likely(seen, np.full(len(images), noise))
    error = ((guesses - images) ** 2).mean()
    assert error == pytest.approx(truth.expected_mse(noise), rel=0.02)
    assert error != pytest.approx(truth.expected_mse(1.2 * noise), rel=0.02)


def test_the_posterior_mean_is_that_of_a_full_covariance(truth: GaussianPrior) -> None:
    v, eye = 0.1, np.eye(EDGE**2)
    outer = truth.directions @ truth.directions.T
    cov = truth.directions * truth.variances @ truth.directions.T + truth.rest * (eye - outer)
    seen = np.random.default_rng(2).random((3, EDGE**2))
    expected = truth.mean + (seen - truth.mean) @ np.linalg.solve(cov + v * eye, cov)
    np.testing.assert_allclose(truth.most_likely(seen, np.full(3, v)), expected)


def test_a_fitted_prior_predicts_the_error_on_fresh_images(truth: GaussianPrior) -> None:
    rng = np.random.default_rng(3)
    fitted = GaussianPrior.fit(drawn_from(truth, 300, rng).reshape(-1, EDGE, EDGE))
    np.testing.assert_allclose(
        fitted.directions.T @ fitted.directions, np.eye(fitted.directions.shape[1]), atol=1e-9
    )
    images = drawn_from(truth, 1000, rng)
    seen = images + np.sqrt(0.3) * rng.standard_normal(images.shape)
    error = ((fitted.most_likely(seen, np.full(1000, 0.3)) - images) ** 2).mean()
    assert error == pytest.approx(fitted.expected_mse(0.3), rel=0.1)
    assert error < 1.3 * truth.expected_mse(0.3)


def test_without_noise_every_attacker_has_the_image(truth: GaussianPrior) -> None:
    images = np.random.default_rng(4).random((5, 32, 32))
    others = np.random.default_rng(5).random((20, 32, 32))
    found = reconstructed(images, others, sigma=0.0, key=1)
    for attacker in ("from_scratch", "prior"):
        assert found.attacks[attacker].quality.psnr.low > 40
    assert found.attacks["centred"].quality.ncc.low > 0.9999
    assert found.blind["mean"].quality.psnr.high < 20


def test_a_prior_helps_and_blind_guesses_do_not_look_at_updates() -> None:
    rng = np.random.default_rng(6)
    waves = np.sin(np.arange(16) / 3 + rng.random((300, 1, 1)) * 6) * np.ones((1, 16, 1))
    images = 0.5 + 0.4 * waves
    loud, quiet = (
        reconstructed(images[:40], images[100:], sigma=sigma, key=2) for sigma in (0.5, 50.0)
    )
    assert loud.attacks["prior"].quality.ncc.low > loud.attacks["centred"].quality.ncc.high
    assert loud.attacks["prior"].quality.ncc.low > loud.blind["mean"].quality.ncc.high
    assert loud.blind["nearest"].quality == quiet.blind["nearest"].quality


def test_an_absent_target_is_not_found() -> None:
    rng = np.random.default_rng(8)
    images, others = rng.random((40, 16, 16)), rng.random((40, 16, 16))
    seen = observe(others, noise_multiplier=0.1, rounds=10, resolution=16, key=2)
    found = score(seen, images).attacks["centred"].quality.ncc
    assert found.low < 0 < found.high
    present = score(seen, others).attacks["centred"].quality.ncc
    assert present.low > 0.8


def test_rounds_lie_in_one_account_and_noise_is_drawn_afresh_in_each() -> None:
    images = same_image(2, edge=64)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64 * 64, 1))
    batch = one_crop_each(images)

    def spread(rounds: int) -> float:
        update = mean_update(
            net,
            lambda b: net(b.image).squeeze(1) * 0,
            batch,
            noise_multiplier=2.0,
            steps=rounds,
            clipping_norm=0.5,
            key=9,
        )
        return float(update["1.weight"].std())

    assert spread(1) == pytest.approx(1.0, rel=0.05)
    assert spread(16) == pytest.approx(0.25, rel=0.05)


def test_a_model_that_mixes_patients_is_refused_by_the_client() -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 1))
    with pytest.raises(PrivacyError, match="mix patients"):
        mean_update(
            net, lambda b: net(b.image), one_crop_each(same_image(2)), noise_multiplier=1.0, key=0
        )


def test_pooling_averages_blocks_as_the_first_layer_does() -> None:
    images = np.random.default_rng(0).random((2, 12, 12))
    slow = np.zeros((2, 4, 4))
    for i, j in np.ndindex(4, 4):
        slow[:, i, j] = images[:, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].mean(axis=(1, 2))
    np.testing.assert_allclose(pooled(images, 4), slow)
    seen = observe(images, noise_multiplier=0.0, rounds=1, resolution=4, key=0)
    np.testing.assert_allclose(seen.plain.seen.reshape(-1, 4, 4), slow, atol=1e-6)
    for wrong in (5, 2, 0):
        with pytest.raises(AttackError, match="divisor of 12"):
            pooled(images, wrong)


def test_a_prior_of_a_handful_of_images_is_refused() -> None:
    with pytest.raises(AttackError, match="at least 8"):
        GaussianPrior.fit(np.zeros((7, 4, 4)))
