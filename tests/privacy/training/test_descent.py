import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classifier.backbones import head
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.errors import PrivacyError
from mammo_dp.privacy.training.classifier import DPCropClassifier
from mammo_dp.privacy.training.descent import LARGEST_RATE_TIMES_STEPS, Descent, plan_descent
from tests.privacy.training.fits import data, quiet, trainer

pytestmark = quiet
FACTS: dict[str, Any] = {
    "noise_multiplier": 10.0,
    "clipping_norm": 3.5,
    "expected_units": 500.0,
    "steps": 32,
    "features": 48,
    "score_noise": 0.6,
}


def model(**settings: Any) -> DPCropClassifier:
    torch.manual_seed(0)
    chosen: dict[str, Any] = {
        "backbone": "crop_measurements",
        "backbone_args": {"components": 6},
        "image_size": 32,
        "trainable": "head",
        "target_epsilon": 8.0,
        "delta": 1e-3,
        "clipping_norm": math.sqrt(7) / 2,
        "views": 1,
        "optimizer": "descent",
        "learning_rate": None,
        "ema_decay": None,
    }
    return DPCropClassifier(**chosen | settings)


def spread_by_noise_alone(plan: Descent, draws: int) -> float:
    """Deviation that noise gives one crop's score, step by step, without any data."""
    rng = np.random.default_rng(0)
    feature = rng.normal(size=FACTS["features"])
    feature *= math.sqrt(FACTS["features"]) / np.linalg.norm(feature)
    crop = np.append(feature, 1.0)
    weights = np.zeros((draws, len(crop)))
    scale = FACTS["noise_multiplier"] * FACTS["clipping_norm"] / FACTS["expected_units"]
    for _ in range(plan.steps):
        weights -= plan.rate * scale * rng.normal(size=weights.shape)
    return float((weights @ crop).std())


def test_noise_moves_a_score_by_what_is_stated_and_no_other() -> None:
    plan = plan_descent(**FACTS)
    found = spread_by_noise_alone(plan, 1000)
    margin = 4 / math.sqrt(2 * 1000)  # four standard errors of a standard deviation
    assert abs(found / plan.score_noise - 1) < margin
    assert abs(found / (1.2 * plan.score_noise) - 1) > margin


def test_the_walk_ends_at_the_noise_or_at_its_length() -> None:
    short = plan_descent(**FACTS)
    assert short.bound_by == "noise"
    assert short.score_noise == pytest.approx(0.6)
    assert short.rate * short.steps < LARGEST_RATE_TIMES_STEPS
    long = plan_descent(**FACTS | {"noise_multiplier": 0.1})
    assert long.bound_by == "length"
    assert long.rate * long.steps == pytest.approx(LARGEST_RATE_TIMES_STEPS)
    assert long.score_noise < 0.6
    assert plan_descent(**FACTS | {"noise_multiplier": 0.0}).score_noise == 0


def test_more_steps_do_not_change_the_walk() -> None:
    one = plan_descent(**FACTS)
    noise = FACTS["noise_multiplier"] * 2  # that of four times the steps at one budget
    four = plan_descent(**FACTS | {"steps": 128, "noise_multiplier": noise})
    assert four.rate * four.steps == pytest.approx(one.rate * one.steps)


def test_a_fit_takes_and_prints_the_planned_rate(
    cohort: CropsManifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net, module = model(), data(cohort, rate=1.0)
    trainer(tmp_path, max_steps=5).fit(net, module)
    plan = plan_descent(
        noise_multiplier=net.noise_multiplier,
        clipping_norm=net.clipping_norm,
        expected_units=module.sampling.units,
        steps=5,
        features=6,
        score_noise=0.6,
    )
    assert net.learning_rate == plan.rate
    assert str(plan) in capsys.readouterr().out


def test_descent_equals_plain_steps_at_one_rate(cohort: CropsManifest, tmp_path: Path) -> None:
    net, module = model(learning_rate=0.3), data(cohort, rate=1.0, insecure_seed=1)
    before = head(net.net).weight.detach().clone()
    trainer(tmp_path, max_steps=1).fit(net, module)
    once = head(net.net).weight.detach() - before
    twice = model(learning_rate=0.6)
    trainer(tmp_path, max_steps=1).fit(twice, data(cohort, rate=1.0, insecure_seed=1))
    assert float(once.abs().max()) > 0
    torch.testing.assert_close(head(twice.net).weight.detach() - before, 2 * once)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamw"}, "Give a rate, or descent"),
        ({"score_noise": 0.0}, "score_noise=0.0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PrivacyError, match=message):
        model(**settings)


def test_the_rule_is_refused_for_more_than_a_head(cohort: CropsManifest, tmp_path: Path) -> None:
    vit = {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2}
    net = model(backbone="vit_tiny_patch16_224", backbone_args=vit, trainable="all")
    with pytest.raises(PrivacyError, match="only where trainable: head"):
        trainer(tmp_path, max_steps=2).fit(net, data(cohort))
