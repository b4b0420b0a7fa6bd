# SPDX-License-Identifier: Apache-2.0
"""The fits behind the tables of ``docs/results.md``: ``benchmarks/{folds,ingredients}.py``."""

import csv
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from classifier.evaluate import auroc
from classifier.fixed_features import FixedFeatures
from classifier.weights import PUBLIC_NETWORK
from data_prep.descriptors.measurements import COUNT
from data_prep.manifest import CropsManifest
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.budget import PrivacyBudget, calibrate
from mammo_dp.privacy.accounting.selection import SelectionPlan

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def scripts() -> Iterator[Callable[[str], ModuleType]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))  # as Python does for a script that it runs
        yield importlib.import_module


@pytest.fixture
def folds(scripts: Callable[[str], ModuleType]) -> ModuleType:
    return scripts("folds")


@pytest.fixture
def ingredients(scripts: Callable[[str], ModuleType]) -> ModuleType:
    return scripts("ingredients")


def test_numbers_are_those_of_the_body(ingredients: ModuleType) -> None:
    every = ingredients.EveryNumber(PUBLIC_NETWORK, (3, 4), 32).eval()
    channels = dict(zip((3, 4), every.public.channels, strict=True))
    body = FixedFeatures(32, public=PUBLIC_NETWORK, stages=(4,), public_size=32).eval()
    assert body.public is not None
    body.public.net.load_state_dict(every.public.net.state_dict(), strict=False)
    image = torch.rand(2, 1, 32, 32) * 2 - 1
    with torch.inference_mode():
        numbers = every.forward_features(image)
        for symmetries in (1, 8):
            body.symmetries = symmetries
            expected = body.numbers(image)
            for measured, first in ((True, 0), (False, COUNT)):
                made = ingredients.Ingredients(
                    measured=measured, stages=(4,), symmetries=symmetries
                )
                blocks = torch.cat(made.blocks(numbers, channels), 1)
                assert torch.allclose(blocks, expected[:, first:], atol=1e-5)


def test_each_fit_is_made_once_and_sees_no_patient_that_it_is_scored_on(
    folds: ModuleType, cohort: CropsManifest, tmp_path: Path
) -> None:
    made = []

    def train(
        epsilon: float, rows: Sequence[int]
    ) -> Callable[[Sequence[int]], NDArray[np.float64]]:
        made.append(epsilon)
        if len(made) == 3:
            raise KeyboardInterrupt
        known = {cohort.crops[row].patient for row in rows}

        def scores(others: Sequence[int]) -> NDArray[np.float64]:
            assert not known & {cohort.crops[row].patient for row in others}
            return np.array([float(cohort.crops[row].malignant) for row in others])

        return scores

    plan = folds.Folds(epsilons=(1.0, 6.0), count=2, repeats=2, draws=1, val_fits=2, seed=3)
    with pytest.raises(KeyboardInterrupt):
        folds.crossvalidated(tmp_path / "fits.csv", cohort, train, plan)
    fits = folds.crossvalidated(tmp_path / "fits.csv", cohort, train, plan)
    assert len(fits) == 2 * 2 + 2 * 2 * 2
    assert len(made) == len(fits) + 1  # the one that was stopped
    assert folds.crossvalidated(tmp_path / "fits.csv", cohort, train, plan) == fits
    assert len(made) == len(fits) + 1
    with (tmp_path / "fits.csv").open(encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == fits
    assert {fit["auroc"] for fit in fits} == {"1.0000"}
    held = [held for *_, held in plan.held_out(list("abcde"))]
    assert sorted(held[0] | held[1]) == sorted(held[2] | held[3]) == list("abcde")
    assert not held[0] & held[1]


def test_a_private_head_finds_a_direction_at_much_budget_and_noise_at_none(
    folds: ModuleType, cohort: CropsManifest
) -> None:
    rows = cohort.require_classes("train")
    malignant = torch.tensor([float(crop.malignant) for crop in cohort.crops])
    features = torch.randn(len(malignant), 8, generator=torch.Generator().manual_seed(0))
    features[:, 0] = 3 * (2 * malignant - 1)
    features = features / features.square().mean(1, keepdim=True).sqrt()
    start = nn.Linear(8, 1)
    nn.init.zeros_(start.weight)
    nn.init.zeros_(start.bias)
    how = {"start": start, "delta": 1e-2}
    layer = folds.private_head(cohort, features, rows, epsilon=1e4, **how)
    scores = folds.scores_of(layer, features)(range(len(features)))
    assert auroc(malignant.numpy(), scores) == 1.0
    assert int(layer.weight.abs().argmax()) == 0
    noisy = folds.private_head(cohort, features, rows, epsilon=0.1, **how)
    along = [float((w[0, 0] / w.norm()).abs()) for w in (layer.weight.data, noisy.weight.data)]
    assert along[0] > 0.95
    assert along[1] < along[0]
    assert not start.weight.any()  # the start stays as it is


def test_the_epsilon_of_a_fit_makes_that_of_the_choice(ingredients: ModuleType) -> None:
    plan = SelectionPlan(mean=5.0, score_noise_multiplier=5.0)
    one = ingredients.epsilon_of_one(plan, 6.0)
    assert 1 < one < 6
    noise = calibrate(PrivacyBudget(epsilon=one, delta=1e-4), sampling_rate=1.0, steps=32)
    fit = Mechanism(noise_multiplier=noise, sampling_rate=1.0, steps=32)
    assert compose([plan.of([fit])]).epsilon(1e-4) == pytest.approx(6.0, rel=2e-3)


def test_a_table_compares_the_same_folds(ingredients: ModuleType, folds: ModuleType) -> None:
    def fits(*areas: float) -> list[dict[str, str]]:
        on = ["fold"] * (len(areas) - 1) + ["val"]
        return [
            dict(
                zip(
                    folds.COLUMNS,
                    ("6", on[i], "0", str(i), "0", "9", str(a), "0.5", "0.9"),
                    strict=True,
                )
            )
            for i, a in enumerate(areas)
        ]

    rows = {"one": fits(0.7, 0.8, 0.75), "two": fits(0.72, 0.78, 0.7)}
    lines = ingredients.table(rows, [6.0]).splitlines()
    assert lines[0] == "| | 6 | difference at 6 |"
    assert lines[2] == "| one | 0.750 / 0.750 |  |"
    error = math.sqrt(((0.02 - 0) ** 2 + (-0.02 - 0) ** 2) / 1) / math.sqrt(2)
    assert lines[3] == f"| two | 0.750 / 0.700 | +0.000 ({error:.3f}) |"


def test_constants_are_chosen_at_random_by_phantoms_or_within_the_epsilon(
    ingredients: ModuleType, cohort: CropsManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(0)
    malignant = torch.tensor([crop.malignant for crop in cohort.crops])
    numbers = ingredients.Numbers(
        crops=torch.randn(len(malignant), COUNT + 8 * 2 * 3, generator=rng),
        phantoms=torch.randn(len(malignant), COUNT + 8 * 2 * 3, generator=rng),
        malignant=malignant[cohort.require_classes("train")],
        channels={4: 3},
    )
    rows = cohort.require_classes("train")
    numbers = replace(numbers, phantoms=numbers.phantoms[: len(rows)])
    good = ingredients.Constants(components=2, score_noise=0.6)
    bad = ingredients.Constants(components=3, score_noise=0.1)
    monkeypatch.setattr(ingredients, "CHOICES", [bad, good])
    monkeypatch.setattr(ingredients, "Ingredients", partial(ingredients.Ingredients, stages=(4,)))
    asked: list[tuple[int, float, tuple[int, ...]]] = []

    def private_head(
        manifest: CropsManifest,
        features: torch.Tensor,
        rows: Sequence[int],
        *,
        start: nn.Linear,
        epsilon: float,
        **recipe: float,
    ) -> tuple[CropsManifest, int]:
        asked.append((start.in_features, epsilon, tuple(rows)))
        return manifest, start.in_features

    def scores_of(
        layer: tuple[CropsManifest, int], features: torch.Tensor
    ) -> Callable[[Sequence[int]], NDArray[np.float64]]:
        table, components = layer
        sign = 1.0 if components == good.components else -1.0
        return lambda rows: np.array([sign * table.crops[row].malignant for row in rows])

    monkeypatch.setattr(ingredients, "private_head", private_head)
    monkeypatch.setattr(ingredients, "scores_of", scores_of)
    monkeypatch.setattr(ingredients, "epsilon_of_one", lambda plan, epsilon: epsilon / 2)
    monkeypatch.setattr(ingredients, "SCORE_NOISE", {6.0: 1e-6})
    choices = ingredients.Choices(cohort, numbers)
    assert choices.best_for_phantoms(cohort, [6.0]) == good
    taught = asked[0][2]
    assert len(taught) == len(rows) // 2
    assert {cohort.crops[rows[i]].malignant for i in taught} == {False, True}
    asked.clear()
    monkeypatch.setattr(SelectionPlan, "draw", lambda self: 20)
    best = choices.accounted(6.0, rows)(rows)
    assert len(asked) == 20
    assert {epsilon for _, epsilon, _ in asked} == {3.0}
    assert auroc(malignant[rows].numpy(), best) == 1.0  # one of the good ones was drawn, and won
