from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.audit.canaries import WhiteBoxObserver, canary_scores
from mammo_dp.attacks.lower_bounds import many_run, many_run_gaussian, one_run
from mammo_dp.attacks.statistics import Scores, tpr_at_fpr
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.risk import TradeOff
from mammo_dp.privacy.training import optimizer as noise
from mammo_dp.privacy.training.optimizer import PrivateOptimizer
from mammo_dp.privacy.training.sampling import UNITS, PoissonSampling, draw, noisy
from tests.attacks.audit.canary_fits import (
    COORDINATES,
    DELTA,
    Trials,
    canaries,
    head,
    observed,
    trials,
)
from tests.privacy.training.fits import accounted, quiet, trainer

pytestmark = quiet


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Callable[[float, float], Trials]:
    @cache
    def audit(epsilon: float, rate: float) -> Trials:
        return trials(tmp_path_factory.mktemp("runs"), 4, epsilon=epsilon, rate=rate, steps=4)

    return audit


@pytest.fixture
def scale_noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def scale(factor: float) -> None:
        monkeypatch.setattr(noise, "noisy", lambda exact, by, of: noisy(exact, factor * by, of))

    return scale


# The score.


def simulated(mechanism: Mechanism, trials: int, seed: int = 0) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(seed)
    shape = mechanism.steps, trials
    rate, sigma = mechanism.sampling_rate, mechanism.noise_multiplier
    groups = []
    for present in (1, 0):
        products = present * (rng.random(shape) < rate) + sigma * rng.standard_normal(shape)
        groups.append(canary_scores(products, noise_multiplier=sigma, sampling_rate=rate))
    return groups[0], groups[1]


@pytest.mark.parametrize("rate", [0.01, 0.5, 1.0])
def test_score_is_the_log_likelihood_ratio(rate: float) -> None:
    products = np.random.default_rng(0).normal(0.5, 1, (7, 5))
    absent = norm.pdf(products, 0, 0.7)
    present = (1 - rate) * absent + rate * norm.pdf(products, 1, 0.7)
    found = canary_scores(products, noise_multiplier=0.7, sampling_rate=rate)
    np.testing.assert_allclose(found, np.log(present / absent).sum(axis=0))


def test_score_is_finite_where_densities_underflow() -> None:
    found = canary_scores(np.array([[1.0, 0.0, 60.0]]), noise_multiplier=0.01, sampling_rate=0.1)
    assert np.isfinite(found).all()
    assert found[1] == pytest.approx(np.log(0.9))


@pytest.mark.parametrize("fpr", [0.01, 0.1])
def test_score_attains_the_curve_of_the_accountant_and_no_other(fpr: float) -> None:
    stated = Mechanism(noise_multiplier=1.5, sampling_rate=0.2, steps=40)
    rate = tpr_at_fpr(*simulated(stated, 20_000), fpr=fpr, level=0.99).tpr

    def allowed(factor: float) -> float:
        sigma = factor * stated.noise_multiplier
        other = Mechanism(noise_multiplier=sigma, sampling_rate=0.2, steps=40)
        return 1 - TradeOff(compose([other]))(fpr)

    assert rate.low <= allowed(1.0) <= rate.high
    assert allowed(1.2) < rate.low
    assert allowed(1 / 1.2) > rate.high


# The training loop.


def test_observer_reads_who_was_drawn_where_there_is_no_noise(
    tmp_path: Path, scale_noise: Callable[[float], None]
) -> None:
    scale_noise(0.0)
    inside = np.array([5, COORDINATES - 1, 0, 777])
    model, data = head(8.0), canaries(inside, crops=3, rate=0.5)
    observer = WhiteBoxObserver("net.weight")
    trainer(tmp_path, max_steps=6, callbacks=[observer]).fit(model, data)
    expected = np.zeros((6, COORDINATES))
    for step in range(6):
        expected[step, inside[data.sampling.sample(data.key, step)]] = 1
    assert 0 < expected.sum() < 24
    np.testing.assert_allclose(observer.products, expected, atol=1e-5)


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("epsilon", [2.0, 8.0])
def test_lower_bound_lies_between_half_of_the_stated_epsilon_and_all_of_it(
    audited: Callable[[float, float], Trials], epsilon: float, rate: float
) -> None:
    run = audited(epsilon, rate)
    assert run.epsilon == pytest.approx(epsilon, rel=0.01)
    found = many_run(run.members, run.nonmembers, delta=DELTA)
    assert run.epsilon / 2 <= found.epsilon <= run.epsilon < found.ceiling


@pytest.mark.parametrize("epsilon", [2.0, 8.0])
def test_gaussian_form_comes_closer_where_batches_are_full(
    audited: Callable[[float, float], Trials], epsilon: float
) -> None:
    run = audited(epsilon, 1.0)
    found = many_run_gaussian(run.members, run.nonmembers, delta=DELTA)
    assert 0.85 * run.epsilon <= found.epsilon <= run.epsilon


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("epsilon", [2.0, 8.0])
def test_training_attains_the_curve_of_the_accountant_and_does_not_pass_it(
    audited: Callable[[float, float], Trials], epsilon: float, rate: float
) -> None:
    run = audited(epsilon, rate)
    assert run.attain_the_curve
    assert not run.break_the_curve


def test_guesses_in_one_run_stay_below_the_stated_epsilon(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    planted = rng.permutation(COORDINATES)[:1000]
    tossed = rng.random(1000) < 0.5
    scores, model = observed(tmp_path, planted[tossed], epsilon=8.0, rate=1.0, steps=4)
    found = one_run(
        scores[planted[tossed]],
        scores[planted[~tossed]],
        guessed_in=100,
        guessed_out=100,
        delta=DELTA,
    )
    assert found.ceiling / 2 < found.epsilon < found.ceiling < accounted(model)


@pytest.mark.parametrize("factor", [0.0, 0.25])
@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize("epsilon", [2.0, 8.0])
def test_missing_noise_is_caught(
    tmp_path: Path,
    scale_noise: Callable[[float], None],
    epsilon: float,
    rate: float,
    factor: float,
) -> None:
    scale_noise(factor)
    faulty = trials(tmp_path, 1, epsilon=epsilon, rate=rate, steps=4)
    assert faulty.epsilon == pytest.approx(epsilon, rel=0.01)  # what it still claims
    found = many_run(faulty.members, faulty.nonmembers, delta=DELTA)
    assert faulty.epsilon < found.epsilon <= found.ceiling


def test_noise_a_fifth_too_small_or_too_large_is_off_the_curve_of_the_accountant(
    tmp_path: Path, scale_noise: Callable[[float], None]
) -> None:
    for factor, breaks in ((0.8, True), (1.2, False)):
        scale_noise(factor)
        found = trials(tmp_path, 1, epsilon=8.0, rate=0.5, steps=4)
        assert not found.attain_the_curve
        assert found.break_the_curve == breaks


def test_patients_drawn_twice_as_often_as_stated_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubled(sampling: PoissonSampling, key: int, step: int) -> NDArray[np.int64]:
        return np.flatnonzero(draw(key, step, UNITS).random(sampling.units) < 2 * sampling.rate)

    settings: dict[str, Any] = {"epsilon": 8.0, "rate": 0.1, "steps": 4}
    assert not trials(tmp_path, 1, **settings).break_the_curve
    monkeypatch.setattr(PoissonSampling, "sample", doubled)
    assert trials(tmp_path, 1, **settings).break_the_curve


def test_epsilon_of_a_crop_is_none_of_a_patient_with_four(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epsilon": 2.0, "rate": 1.0, "steps": 1, "crops": 4}
    patient = trials(tmp_path, 1, unit="patient", **settings)
    assert many_run(patient.members, patient.nonmembers, delta=DELTA).epsilon <= patient.epsilon
    crop = trials(tmp_path, 1, unit="crop", **settings)
    found = many_run(crop.members, crop.nonmembers, delta=DELTA).epsilon
    sum_of_four = replace(crop.mechanism, noise_multiplier=crop.mechanism.noise_multiplier / 4)
    assert 2 * crop.epsilon < found <= compose([sum_of_four]).epsilon(DELTA)


# What cannot be audited.


@pytest.mark.parametrize(
    "optimizer",
    [
        Adam,
        lambda p, lr: SGD(p, lr=lr, momentum=0.9),
        lambda p, lr: SGD(p, lr=lr, weight_decay=0.1),
        lambda p, lr: SGD([{"params": p}, {"params": [nn.Parameter(torch.zeros(1))]}], lr=lr),
    ],
)
def test_updates_that_hide_the_gradient_are_refused(optimizer: Callable[..., Optimizer]) -> None:
    model = head(8.0)
    private = PrivateOptimizer(
        optimizer(list(model.parameters()), lr=0.1),
        noise_multiplier=1.0,
        clipping_norm=1.0,
        expected_units=1.0,
        key=0,
        account=lambda: 0,
    )
    run: Any = SimpleNamespace(optimizers=[private])
    with pytest.raises(AttackError, match="Audit with SGD"):
        WhiteBoxObserver("net.weight").on_train_batch_start(run, model, None, 0)


def test_training_without_privacy_is_refused() -> None:
    model = lightning.LightningModule()
    run: Any = SimpleNamespace(optimizers=[SGD([nn.Parameter(torch.zeros(1))], lr=1.0)])
    with pytest.raises(AttackError, match="LightningModule: does not train privately"):
        WhiteBoxObserver("net.weight").on_train_batch_start(run, model, None, 0)
