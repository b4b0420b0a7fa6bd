# SPDX-License-Identifier: Apache-2.0
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from mammo_dp.attacks import AttackError
from mammo_dp.attacks.membership import scores
from mammo_dp.attacks.membership.heads import NoisySteps, Recipe
from mammo_dp.attacks.membership.scores import Floats, Observed, read_observed, write_observed
from mammo_dp.attacks.membership.signals import Signals
from mammo_dp.attacks.statistics import auc
from mammo_dp.privacy.accounting.account import Mechanism, compose
from mammo_dp.privacy.accounting.risk import TradeOff
from mammo_dp.privacy.training.gradients.units import Clip
from tests.attacks.membership.cohorts import attacked, examples

RATIOS: list[Callable[[Observed], Floats]] = [scores.lira_online, scores.lira_offline, scores.rmia]
CROPS = examples()
MEMBERS = np.random.default_rng(2).random(CROPS.patients) < 0.5


@pytest.fixture(scope="module")
def leak() -> Observed:
    return attacked(CROPS, MEMBERS)


@pytest.fixture(scope="module")
def null() -> Observed:
    others = examples(seed=9)
    both = replace(
        CROPS,
        features=torch.cat([CROPS.features, others.features]),
        malignant=np.concatenate([CROPS.malignant, others.malignant]),
        patient=np.concatenate([CROPS.patient, CROPS.patients + others.patient]),
    )
    strangers = np.arange(both.patients) >= CROPS.patients
    found = attacked(both, strangers)
    mine = slice(0, len(CROPS.malignant))
    return Observed(
        malignant=found.malignant[mine],
        target=found.target[mine],
        models=found.models[:, mine],
        inside=found.inside[:, mine],
    )


SIGNALS = Signals(
    row=np.arange(len(CROPS.patient)),
    patient=CROPS.patient,
    member=MEMBERS[CROPS.patient],
    malignant=CROPS.malignant,
    columns={},
)


def by_patient(of: Floats) -> tuple[Floats, Floats]:
    return SIGNALS.scores(of, "patient", "sum")


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_memorised_patient_is_found_and_a_stranger_to_the_model_is_not(
    ratio: Callable[[Observed], Floats], leak: Observed, null: Observed
) -> None:
    found = auc(*by_patient(ratio(leak)))
    assert found.low > 0.6
    nothing = auc(*by_patient(ratio(null)))
    assert nothing.low < 0.5


def test_a_control_sees_no_leak_but_sees_that_the_groups_differ(leak: Observed) -> None:
    plain = scores.controls(SIGNALS, leak, "patient")
    assert set(plain) == set(scores.ATTACKS)
    assert all(0.4 < area < 0.6 for area in plain.values())
    areas = []
    for model in range(16):  # naive reference: the attack on each own model by the others
        others = [m for m in range(16) if m != model]
        alone = Observed(
            malignant=leak.malignant,
            target=leak.models[model],
            models=leak.models[others],
            inside=leak.inside[others],
        )
        areas.append(auc(*by_patient(scores.lira_online(alone))).value)
    assert plain["lira-online"] == pytest.approx(np.mean(areas))
    toward = np.where(leak.malignant == 1, 2.0, -2.0) * SIGNALS.member
    easier = replace(leak, models=leak.models + toward[:, None])  # members are easier to all models
    shifted = scores.controls(SIGNALS, easier, "patient")
    assert shifted["loss-threshold"] > 0.7
    assert shifted["lira-online"] == pytest.approx(plain["lira-online"])  # as easy to the others


@pytest.mark.parametrize("models", [16, 64])
def test_online_ratio_equals_a_loop_over_crops(models: int) -> None:
    rng = np.random.default_rng(0)
    observed = Observed(
        malignant=rng.integers(0, 2, 7),
        target=rng.normal(size=(7, 3)),
        models=rng.normal(size=(models, 7, 3)),
        inside=(np.arange(models)[:, None] + rng.integers(0, 2, 7)) % 2 == 0,
    )
    found, far = scores.lira_online(observed), scores.lira_offline(observed)

    def confidence(logits: Floats, crop: int) -> float:
        p = 1 / (1 + np.exp(-logits))
        p = p if observed.malignant[crop] else 1 - p
        return float(np.mean(np.log(p / (1 - p))))

    sides = []
    for side in (True, False):
        values = [
            [
                confidence(observed.models[m, crop], crop)
                for m in range(models)
                if observed.inside[m, crop] == side
            ]
            for crop in range(7)
        ]
        pooled = sum(np.var(v) * len(v) for v in values) / sum(len(v) - 1 for v in values)
        sides.append(
            [(np.mean(v), math.sqrt(np.var(v, ddof=1) if models >= 64 else pooled)) for v in values]
        )
    for crop in range(7):
        own = confidence(observed.target[crop], crop)
        inside, outside = (norm(*side[crop]) for side in sides)
        assert found[crop] == pytest.approx(inside.logpdf(own) - outside.logpdf(own))
        assert far[crop] == pytest.approx(-math.log(outside.sf(own)))


@pytest.mark.parametrize("models", [16, 64])
@pytest.mark.parametrize("name", list(scores.ATTACKS))
def test_the_score_of_a_patient_equals_a_naive_attack_on_its_crops(name: str, models: int) -> None:
    """From logits to patients, by the formulas of the papers and standard Python alone."""
    rng = np.random.default_rng(models)
    patient = np.array([3, 0, 3, 1, 3, 0, 2, 4])  # of unequal numbers of crops, in no order
    drawn = np.array([rng.permutation(5) for _ in range(models // 2)]) < 2  # patients by model
    inside = np.concatenate([drawn, ~drawn])[:, patient]
    observed = Observed(
        malignant=rng.integers(0, 2, 8),
        target=rng.normal(size=(8, 3)),
        models=rng.normal(size=(models, 8, 3)),
        inside=inside,
    )
    alone = Signals(
        row=np.arange(8) + 10,
        patient=patient,
        member=patient < 3,
        malignant=observed.malignant,
        columns=scores.of_target(observed.of_target(), observed.malignant),
    )
    column = scores.with_ratios(alone, observed).of(name)
    members, others = alone.scores(column, "patient", scores.ATTACKS[name].combine)

    def probabilities(logits: Floats, crop: int) -> list[float]:
        sign = 1 if observed.malignant[crop] else -1
        return [1 / (1 + math.exp(-sign * logit)) for logit in logits.tolist()]

    def confidence(logits: Floats, crop: int) -> float:
        return statistics.mean(math.log(p / (1 - p)) for p in probabilities(logits, crop))

    def confidences(crop: int, *, knew: bool) -> list[float]:
        asked = [m for m in range(models) if bool(inside[m, crop]) is knew]
        return [confidence(observed.models[m, crop], crop) for m in asked]

    def normal(crop: int, *, knew: bool) -> statistics.NormalDist:
        """The variance is the crop's own from 31 models on, else that of all crops."""
        by_crop = {c: confidences(c, knew=knew) for c in range(8)}
        if min(map(len, by_crop.values())) >= 31:
            spread = statistics.variance(by_crop[crop])
        else:
            left = [v - statistics.mean(one) for one in by_crop.values() for v in one]
            spread = sum(v * v for v in left) / sum(len(one) - 1 for one in by_crop.values())
        return statistics.NormalDist(statistics.mean(by_crop[crop]), math.sqrt(spread))

    a = scores.tuned(observed.log_likelihood(observed.models), inside)

    def naive(crop: int) -> float:
        own = confidence(observed.target[crop], crop)
        if name == "loss-threshold":
            return own
        if name == "rmia":
            p = statistics.mean(probabilities(observed.target[crop], crop))
            out = [m for m in range(models) if not inside[m, crop]]
            usual = statistics.mean(
                statistics.mean(probabilities(observed.models[m, crop], crop)) for m in out
            )
            return math.log(p / ((1 + a) / 2 * usual + (1 - a) / 2))
        without = normal(crop, knew=False)
        if name == "lira-offline":
            return -math.log(without.cdf(2 * without.mean - own))  # 1 - cdf(own), by symmetry
        return math.log(normal(crop, knew=True).pdf(own) / without.pdf(own))

    expected = {}
    for who in range(5):
        crops = [naive(crop) for crop in range(8) if patient[crop] == who]
        expected[who] = statistics.mean(crops) if name == "loss-threshold" else sum(crops)
    assert members.tolist() == pytest.approx([expected[who] for who in (0, 1, 2)])
    assert others.tolist() == pytest.approx([expected[who] for who in (3, 4)])


def test_ratio_orders_crops_as_the_share_of_the_population_that_they_dominate(
    leak: Observed,
) -> None:
    own, target = leak.log_likelihood(leak.models), leak.log_likelihood(leak.target)
    a = 0.3
    found = scores.log_ratio(target, own, ~leak.inside, a=a)
    ratios = []
    for crop in range(len(target)):
        out = [np.exp(own[m, crop]) for m in range(len(own)) if not leak.inside[m, crop]]
        ratios.append(np.exp(target[crop]) / ((1 + a) / 2 * np.mean(out) + (1 - a) / 2))
    np.testing.assert_allclose(np.exp(found), ratios, rtol=1e-6)
    share = [np.mean([x / z > 1 for z in ratios]) for x in ratios]
    order = np.argsort(found)
    assert (np.diff(np.array(share)[order]) >= 0).all()


def test_likelihood_is_the_mean_probability_of_the_views(leak: Observed) -> None:
    p = 1 / (1 + np.exp(-leak.target))
    p = np.where(leak.malignant[:, None] == 1, p, 1 - p)
    np.testing.assert_allclose(np.exp(leak.log_likelihood(leak.target)), p.mean(1))


def test_tuning_looks_at_own_models_only_and_needs_a_pair(leak: Observed) -> None:
    own = leak.log_likelihood(leak.models)
    assert scores.tuned(own, leak.inside) in np.linspace(0, 1, 11)
    assert scores.tuned(own[:1], leak.inside[:1]) == scores.A_UNTUNED
    assert scores.tuned(own, np.zeros_like(leak.inside)) == scores.A_UNTUNED


@pytest.mark.parametrize("ratio", RATIOS)
def test_attacks_on_a_private_head_stay_below_the_curve_of_its_accountant(
    ratio: Callable[[Observed], Floats],
) -> None:
    mechanism = Mechanism(noise_multiplier=4.0, sampling_rate=1.0, steps=40)
    kind = NoisySteps(unit="patient", noise_multiplier=4.0, sampling_rate=1.0, clip=Clip(norm=1.0))
    private = Recipe(steps=40, kind=kind, learning_rate=0.05)
    found = auc(*by_patient(ratio(attacked(CROPS, MEMBERS, recipe=private))))
    fpr = np.linspace(0, 1, 101)
    curve = TradeOff(compose([mechanism]))
    assert found.low < np.mean([1 - curve(float(x)) for x in fpr])


def test_logits_survive_the_file(tmp_path: Path, leak: Observed) -> None:
    write_observed(tmp_path / "models.npz", leak)
    back = read_observed(tmp_path / "models.npz")
    np.testing.assert_array_equal(back.inside, leak.inside)
    np.testing.assert_array_equal(back.malignant, leak.malignant)
    np.testing.assert_allclose(back.models, leak.models, rtol=1e-6)
    (tmp_path / "models.npz").write_bytes(b"nothing")
    with pytest.raises(AttackError, match="holds no signals"):
        read_observed(tmp_path / "models.npz")


def test_models_that_diverged_are_refused(leak: Observed) -> None:
    broken = leak.models.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(AttackError, match="models: 1 logits are not finite"):
        replace(leak, models=broken)
