import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import gamma, kstest

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.bounds.from_scratch import (
    FromScratch,
    clipped_observations,
    expected_observations,
    mse_at_most,
    noise_for,
    observations_in_weights,
)
from mammo_dp.attacks.reconstruction.prior import expected_mse
from mammo_dp.privacy.accounting.account import Mechanism

Array = NDArray[np.float64]
NORM2, PIXELS, NOISE = 21.15, 64, 0.25


def image(pixels: int, norm2: float, seed: int = 0) -> Array:
    x = np.random.default_rng(seed).random(pixels)
    return x * math.sqrt(norm2 / float(x @ x))


def imprint(
    x: Array, *, noise: float, clip: float, rows: int, draws: int, steps: int = 1, seed: int = 0
) -> Array:
    """Naive reference: noisy clipped gradients of a linear layer, rows averaged and rescaled."""
    rng = np.random.default_rng(seed)
    scale = min(1.0, clip / (math.sqrt(rows) * float(np.linalg.norm(x))))
    gradient = np.tile(x, (rows, 1)) * scale
    noisy = gradient + noise * clip * rng.standard_normal((draws, steps, rows, len(x)))
    return np.asarray(noisy.mean(axis=(1, 2)) / scale)


def errors(found: Array, x: Array) -> Array:
    return np.asarray(((found - x) ** 2).mean(axis=1))


def one(**changes: float) -> FromScratch:
    values = {"noise_multiplier": NOISE, "mean_square": NORM2 / PIXELS} | changes
    return FromScratch(pixels=PIXELS, **values)


def test_the_error_of_an_imprint_follows_its_gamma_law() -> None:
    x = image(PIXELS, NORM2)
    found = errors(imprint(x, noise=NOISE, clip=1.0, rows=4, draws=4000), x)
    law = one()
    spread = 2 * law.variance**2 / PIXELS
    assert (law.variance, spread) == pytest.approx((1.3219, 0.0546), abs=1e-4)
    assert found.mean() == pytest.approx(law.variance, rel=0.01)
    assert found.var() == pytest.approx(spread, rel=0.1)
    shape = PIXELS / 2
    assert kstest(found, gamma(shape, scale=law.variance / shape).cdf).pvalue > 1e-3
    for wrong in (0.9, 1.1):
        other = one(noise_multiplier=wrong * NOISE).variance
        assert kstest(found, gamma(shape, scale=other / shape).cdf).pvalue < 1e-3


def test_chances_of_small_errors_are_calibrated() -> None:
    x = image(PIXELS, NORM2)
    found = errors(imprint(x, noise=NOISE, clip=1.0, rows=4, draws=4000), x)
    for share in (0.1, 0.5, 0.9):
        point = float(np.quantile(found, share))
        assert one().mse_at_most(point) == pytest.approx(share, abs=0.03)
        assert abs(one(noise_multiplier=1.2 * NOISE).mse_at_most(point) - share) > 0.03


def test_the_value_depends_neither_on_rows_nor_on_the_clip_while_the_clip_is_active() -> None:
    x = image(PIXELS, NORM2)
    for clip, rows in ((1.0, 1), (0.1, 8), (4.0, 2)):
        assert clipped_observations(1, rows=rows, norm=math.sqrt(NORM2), clipping_norm=clip) == 1
        found = errors(imprint(x, noise=NOISE, clip=clip, rows=rows, draws=1500), x)
        assert found.mean() == pytest.approx(one().variance, rel=0.02)


def test_an_inactive_clip_leaves_more_noise() -> None:
    observations = clipped_observations(1, rows=1, norm=math.sqrt(NORM2), clipping_norm=5.0)
    law = one(observations=observations)
    assert law.variance == pytest.approx(1.5625)
    x = image(PIXELS, NORM2)
    found = errors(imprint(x, noise=NOISE, clip=5.0, rows=1, draws=3000), x)
    assert found.mean() == pytest.approx(law.variance, rel=0.01)


def test_expected_decibels_are_not_those_of_the_expected_error() -> None:
    x = image(PIXELS, NORM2)
    found = -10 * np.log10(errors(imprint(x, noise=NOISE, clip=1.0, rows=1, draws=3000), x))
    assert one().mean_psnr() == pytest.approx(-1.1437, abs=1e-4)
    assert -10 * math.log10(one().variance) == pytest.approx(-1.212, abs=1e-3)
    assert found.mean() == pytest.approx(one().mean_psnr(), abs=0.05)
    assert one().mean_psnr(2.0) == pytest.approx(-1.1437 + 20 * math.log10(2), abs=1e-4)


def test_several_observations_average_the_noise() -> None:
    x = image(PIXELS, NORM2)
    found = errors(imprint(x, noise=NOISE, clip=1.0, rows=1, draws=1500, steps=9), x)
    assert one(observations=9).variance == pytest.approx(0.14688, abs=1e-5)
    assert found.mean() == pytest.approx(0.14688, rel=0.01)


def test_a_target_drawn_at_random_is_a_mixture() -> None:
    mechanism = Mechanism(noise_multiplier=NOISE, sampling_rate=1 / 3, steps=27)
    view = FromScratch(pixels=64, noise_multiplier=NOISE, mean_square=20 / 64)
    probability = mse_at_most(view, mechanism, 0.15)
    assert probability == pytest.approx(0.5895, abs=1e-4)
    rng = np.random.default_rng(0)
    drawn = rng.binomial(27, 1 / 3, 20_000)
    seen = drawn > 0
    noise = rng.standard_normal((int(seen.sum()), 64)) / np.sqrt(drawn[seen])[:, None]
    hits = ((noise**2).mean(1) * view.variance <= 0.15).sum() / len(drawn)
    assert hits == pytest.approx(probability, abs=0.015)
    louder = FromScratch(pixels=64, noise_multiplier=1.1 * NOISE, mean_square=20 / 64)
    assert abs(mse_at_most(louder, mechanism, 0.15) - hits) > 0.1
    always = Mechanism(noise_multiplier=NOISE, sampling_rate=1.0, steps=9)
    nine = FromScratch(pixels=64, noise_multiplier=NOISE, mean_square=20 / 64, observations=9)
    assert mse_at_most(view, always, 0.15) == pytest.approx(nine.mse_at_most(0.15))


def test_noise_is_calibrated_to_a_chance_of_success() -> None:
    view = FromScratch(pixels=64, noise_multiplier=1.0, mean_square=20 / 64)
    noise = noise_for(view, error=0.1, probability=0.05)
    assert noise == pytest.approx(0.08287, abs=1e-5)
    kept = FromScratch(pixels=64, noise_multiplier=noise, mean_square=20 / 64)
    assert kept.mse_at_most(0.1) == pytest.approx(0.05)
    x = image(64, 20)
    found = errors(imprint(x, noise=noise, clip=1.0, rows=1, draws=4000), x)
    assert (found <= 0.1).mean() == pytest.approx(0.05, abs=0.014)
    less = errors(imprint(x, noise=noise / 1.1, clip=1.0, rows=1, draws=4000), x)
    assert (less <= 0.1).mean() > 0.1


def test_correlations_with_an_image_of_mean_zero() -> None:
    law = FromScratch(pixels=256, noise_multiplier=0.961, observations=300)
    assert law.ncc_at_least(0.7) == pytest.approx(0.9763, abs=1e-4)
    assert law.mean_ncc == pytest.approx(0.7478, abs=1e-3)
    x = np.random.default_rng(1).standard_normal(256)
    x = (x - x.mean()) / x.std()
    y = x + math.sqrt(law.variance) * np.random.default_rng(2).standard_normal((20_000, 256))
    found = (y - y.mean(1, keepdims=True)) @ x / (256 * y.std(axis=1))
    assert found.mean() == pytest.approx(law.mean_ncc, abs=2e-3)
    assert (found >= 0.7).mean() == pytest.approx(law.ncc_at_least(0.7), abs=0.004)
    louder = FromScratch(pixels=256, noise_multiplier=1.1 * 0.961, observations=300)
    assert abs((found >= 0.7).mean() - louder.ncc_at_least(0.7)) > 0.05


def test_a_brighter_image_correlates_less() -> None:
    dark, bright = (
        FromScratch(pixels=256, noise_multiplier=0.5, mean_square=square, spread=0.3)
        for square in (0.09, 0.4)
    )
    assert bright.mean_ncc < dark.mean_ncc
    assert dark.mean_ncc == pytest.approx(1 / math.sqrt(1 + 256 * 0.25))


def test_final_weights_hold_fewer_observations() -> None:
    mechanism = Mechanism(noise_multiplier=0.96127, sampling_rate=1 / 9, steps=2700)
    assert expected_observations(mechanism) == pytest.approx(300)
    seen = FromScratch(
        pixels=1024, noise_multiplier=0.96127, observations=observations_in_weights(mechanism)
    )
    assert seen.mean_ncc == pytest.approx(0.1845, abs=1e-4)
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1024)
    x = (x - x.mean()) / x.std()
    length, found = math.sqrt(1024), []
    for _ in range(300):  # q T clipped gradients, and noise in all T steps
        total = 300 * x / length + 0.96127 * math.sqrt(2700) * rng.standard_normal(1024)
        found.append(np.corrcoef(total, x)[0, 1])
    assert np.mean(found) == pytest.approx(seen.mean_ncc, abs=0.006)
    assert abs(float(np.mean(found)) - seen.mean_ncc / 1.1) > 0.006


@pytest.mark.parametrize(
    ("noise", "edge", "published"),
    [(4.33, 4, 0.71), (1.78, 8, 0.77), (0.961, 16, 0.75), (0.961, 128, 0.14), (0.333, 32, 0.85)],
)
def test_thumbnails_are_readable_where_images_are_not(
    noise: float, edge: int, published: float
) -> None:
    seen = FromScratch(pixels=edge**2, noise_multiplier=noise, observations=300)
    assert seen.mean_ncc == pytest.approx(published, abs=0.006)


def test_a_blank_image_beats_the_value_from_a_known_noise_on() -> None:
    for observations, limit in ((1, 0.0078), (300, 0.135)):
        for noise, holds in ((0.99 * limit, True), (1.01 * limit, False)):
            view = FromScratch(pixels=16_384, noise_multiplier=noise, observations=observations)
            assert view.bounds_anything is holds


def test_a_gaussian_prior_leaves_the_predicted_error() -> None:
    pixels, kept, residual, variance = 40, 5, 0.02, 0.1
    rng = np.random.default_rng(0)
    directions, _ = np.linalg.qr(rng.standard_normal((pixels, pixels)))
    eigenvalues = np.array([3.0, 1.0, 0.5, 0.2, 0.1])
    scales = np.concatenate([eigenvalues, np.full(pixels - kept, residual)])
    draws = 40_000
    x = (rng.standard_normal((draws, pixels)) * np.sqrt(scales)) @ directions.T
    y = x + math.sqrt(variance) * rng.standard_normal((draws, pixels))
    guess = (y @ directions * (scales / (scales + variance))) @ directions.T
    error = float(((guess - x) ** 2).mean())
    predicted = expected_mse(eigenvalues, residual=residual, pixels=pixels, variance=variance)
    assert error == pytest.approx(predicted, rel=2e-3)
    assert predicted < variance
    wrong = expected_mse(eigenvalues, residual=residual, pixels=pixels, variance=1.1 * variance)
    assert abs(error - wrong) > 2e-3 * predicted
    nothing = expected_mse(eigenvalues, residual=residual, pixels=pixels, variance=math.inf)
    assert nothing == pytest.approx(scales.mean())


@pytest.mark.parametrize(
    ("changes", "offender"),
    [
        ({"pixels": 2}, "pixels=2"),
        ({"noise_multiplier": 0.0}, "noise_multiplier=0"),
        ({"observations": 0.0}, "observations=0"),
        ({"mean_square": -1.0}, "mean_square=-1"),
        ({"spread": 2.0}, "spread=2"),
    ],
)
def test_what_is_no_image_is_refused(changes: dict[str, float], offender: str) -> None:
    values: dict[str, float] = {"noise_multiplier": 1.0, **changes}
    pixels = int(values.pop("pixels", 64))
    with pytest.raises(AttackError, match=offender):
        FromScratch(pixels=pixels, **values)


def test_impossible_targets_are_refused() -> None:
    with pytest.raises(AttackError, match="probability=1"):
        noise_for(one(), error=0.1, probability=1.0)
    with pytest.raises(AttackError, match="error=0"):
        noise_for(one(), error=0.0, probability=0.5)
    with pytest.raises(AttackError, match="correlation=1"):
        one().ncc_at_least(1.0)
    with pytest.raises(AttackError, match="eigenvalues"):
        expected_mse([-1.0], residual=0, pixels=4, variance=1)
    with pytest.raises(AttackError, match="variance=0"):
        expected_mse([1.0], residual=0, pixels=4, variance=0)
