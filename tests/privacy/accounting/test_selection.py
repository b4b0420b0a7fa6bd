"""The best of a random number of fits: reference costs, the law, and an exact small case."""

import functools
import itertools
import json
import math
import random
import secrets
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, geom, logser, norm

from mammo_dp.main import main
from mammo_dp.privacy.accounting.account import (
    Law,
    Mechanism,
    Selection,
    compose,
    mechanism_from_json,
    rdp_epsilon,
)
from mammo_dp.privacy.accounting.budget import PrivacyBudget, calibrate
from mammo_dp.privacy.accounting.risk import TradeOff
from mammo_dp.privacy.accounting.selection import SelectionPlan
from mammo_dp.privacy.errors import PrivacyError

DELTA = 1e-4
STEPS = 32
FIT = Mechanism(noise_multiplier=4.0, sampling_rate=1.0, steps=STEPS)


def fit_of(epsilon: float) -> Mechanism:
    budget = PrivacyBudget(delta=DELTA, epsilon=epsilon)
    noise = calibrate(budget, sampling_rate=1.0, steps=STEPS)
    return Mechanism(noise_multiplier=noise, sampling_rate=1.0, steps=STEPS)


@functools.cache
def law_of(law: Law, mean: float) -> Any:  # noqa: ANN401  scipy is untyped
    """The law by scipy; of the logarithmic one the parameter is found by trying."""
    if law == "geometric":
        return geom(1 / mean)
    tried = np.linspace(0.001, 0.999, 9999)
    return logser(tried[np.argmin(abs(tried / (tried - 1) / np.log1p(-tried) - mean))])


def best_of(mean: float, law: Law = "logarithmic", *mechanisms: Mechanism) -> Selection:
    return Selection(mechanisms=mechanisms or (FIT,), law=law, mean=mean)


@pytest.mark.parametrize(
    ("epsilon", "mean", "law", "cost"),
    [
        (1.0, 5, "logarithmic", 1.92),
        (6.0, 5, "logarithmic", 9.42),
        (1.0, 10, "logarithmic", 2.09),
        (6.0, 10, "logarithmic", 10.21),
        (1.0, 5, "geometric", 2.27),
        (6.0, 5, "geometric", 10.22),
    ],
)
def test_costs_are_those_of_the_note(epsilon: float, mean: float, law: Law, cost: float) -> None:
    found = compose([best_of(mean, law, fit_of(epsilon))])
    assert found.epsilon(DELTA) == pytest.approx(cost, abs=0.011)
    assert found.source.startswith("RDP, dp-accounting")


@pytest.mark.parametrize(
    ("epsilon", "fits", "cost"),
    [(1.0, 3, 1.87), (6.0, 3, 12.0), (1.0, 5, 2.51), (6.0, 5, 16.8), (1.0, 10, 3.77)],
)
def test_publishing_all_fits_costs_more_from_three_on(
    epsilon: float, fits: int, cost: float
) -> None:
    assert compose([fit_of(epsilon)] * fits).epsilon(DELTA) == pytest.approx(cost, rel=5e-3)
    best = compose([best_of(fits, "logarithmic", fit_of(epsilon))]).epsilon(DELTA)
    assert best < cost or fits < 3


def test_scores_and_other_stages_compose() -> None:
    score = Mechanism(noise_multiplier=5.0, sampling_rate=1.0, steps=1)
    plain, scored = best_of(5), best_of(5, "logarithmic", FIT, score)
    alone, with_score, with_parent = (
        compose(list(each)).epsilon(DELTA) for each in ((plain,), (scored,), (plain, FIT))
    )
    assert alone < with_score < 1.1 * alone
    assert with_parent > alone + 0.5 * compose([FIT]).epsilon(DELTA)
    event = dp_event.ComposedDpEvent(
        [
            dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(4.0), STEPS),
            dp_event.GaussianDpEvent(5.0),
        ]
    )
    naive = RdpAccountant().compose(dp_event.RepeatAndSelectDpEvent(event, 5, 0))
    assert with_score == pytest.approx(naive.get_epsilon(DELTA), rel=1e-9)
    assert rdp_epsilon([scored], DELTA) == with_score


def test_one_fit_for_certain_costs_no_less_than_a_fit() -> None:
    """Even without a choice the account is that of theorem 2, which is not tight."""
    assert compose([best_of(1)]).epsilon(DELTA) >= rdp_epsilon([FIT], DELTA)


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_trade_offs_of_a_selection_are_weaker_than_those_of_a_fit(rate: float) -> None:
    fit = Mechanism(noise_multiplier=4.0, sampling_rate=rate, steps=STEPS)
    one, best = (TradeOff(compose([each])) for each in (fit, best_of(5, "geometric", fit)))
    assert 0 < one.advantage < best.advantage < 1
    for fpr in (0.001, 0.01, 0.1, 0.5):
        assert 0 <= best(fpr) < one(fpr) <= 1 - fpr


def test_units_of_several_crops_weaken_each_fit() -> None:
    one, three = best_of(5), best_of(5).on_crops(3)
    assert three.mechanisms[0].crops_of_unit == 3
    assert compose([three]).epsilon(DELTA) > compose([one]).epsilon(DELTA)
    scored = replace(one, score_noise_multiplier=3.0)
    assert scored.on_crops(3) == replace(three, score_noise_multiplier=1.0)


@pytest.mark.parametrize("law", ["logarithmic", "geometric"])
def test_selection_survives_json(law: Law) -> None:
    before = best_of(5.5, law, FIT, Mechanism(noise_multiplier=9.0, sampling_rate=1.0, steps=1))
    stored = json.loads(json.dumps(before.as_json(), allow_nan=False))
    assert mechanism_from_json(stored) == before
    assert mechanism_from_json(json.loads(json.dumps(FIT.as_json()))) == FIT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": 0.9}, "mean=0.9"),
        ({"mean": math.inf}, "mean=inf"),
        ({"law": "poisson"}, "law='poisson'"),
        ({"mechanisms": ()}, "without a mechanism"),
    ],
)
def test_impossible_selections_are_refused(change: dict[str, object], message: str) -> None:
    settings = {"mechanisms": (FIT,), "law": "logarithmic", "mean": 5.0, **change}
    with pytest.raises(PrivacyError, match=message):
        Selection(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("law", ["logarithmic", "geometric"])
@pytest.mark.parametrize("mean", [1.0, 2.5, 5.0])
def test_numbers_follow_the_law_that_is_accounted(
    law: Law, mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "randbits", random.Random(0).getrandbits)
    plan, draws = SelectionPlan(law=law, mean=mean, score_split="val"), 4000
    found = Counter(plan.draw() for _ in range(draws))
    assert min(found) >= 1
    if mean == 1:
        assert set(found) == {1}
        return
    most = 12

    def p_value(law: Law, mean: float) -> float:
        distribution = law_of(law, mean)
        expected = draws * np.array(
            [*(distribution.pmf(k) for k in range(1, most)), distribution.sf(most - 1)]
        )
        seen = [*(found[k] for k in range(1, most)), sum(found[k] for k in found if k >= most)]
        kept = expected > 5
        left = expected[~kept].sum()
        counted = [*np.array(seen)[kept], *([np.array(seen)[~kept].sum()] if left > 0 else [])]
        return float(
            chisquare(
                counted, [*expected[kept], *([left] if left > 0 else [])], sum_check=False
            ).pvalue
        )

    other: Law = "geometric" if law == "logarithmic" else "logarithmic"
    assert p_value(law, mean) > 1e-4
    assert p_value(law, 1.2 * mean) < 1e-4
    assert p_value(other, mean) < 1e-4
    assert plan.quantile(0.5) <= mean <= plan.quantile(0.95)


def places(cuts: list[float], shift: float, noise: float) -> dict[int, float]:
    """Probability of each place that a noisy value has among cuts."""
    edges = [-math.inf, *sorted(cuts), math.inf]
    return {
        place: float(norm.cdf(b, shift, noise) - norm.cdf(a, shift, noise))
        for place, (a, b) in enumerate(itertools.pairwise(edges))
    }


def exact_delta(one: dict[int, float], other: dict[int, float], epsilon: float, law: Law) -> float:
    """Delta of the best of K outcomes at an epsilon, by summing over all K, for the mean 3."""
    numbers = np.arange(1, 400)
    weights = law_of(law, 3.0).pmf(numbers)

    def best(outcomes: dict[int, float]) -> list[float]:
        """Probability that the largest of K outcomes is each value, over the law of K."""
        below = np.cumsum([outcomes[value] for value in sorted(outcomes)])
        largest = [float(weights @ b**numbers) for b in (0.0, *below)]
        return [b - a for a, b in itertools.pairwise(largest)]

    return sum(
        max(0.0, p - math.exp(epsilon) * q) for p, q in zip(best(one), best(other), strict=True)
    )


@pytest.mark.parametrize("law", ["logarithmic", "geometric"])
@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.lists(st.floats(-3, 3), min_size=2, max_size=5), st.floats(0.7, 4.0))
def test_no_best_of_a_rounded_gaussian_exceeds_its_account(
    law: Law, cuts: list[float], noise: float
) -> None:
    """Exact, over all numbers of fits, where outcomes are a noisy value's place among cuts."""
    with_unit, without = (places(cuts, shift, noise) for shift in (1.0, 0.0))
    mechanism = Mechanism(noise_multiplier=noise, sampling_rate=1.0, steps=1)
    curve = compose([best_of(3.0, law, mechanism)])
    for delta in (1e-1, 1e-2, 1e-4):
        epsilon = curve.epsilon(delta)
        for one, other in ((with_unit, without), (without, with_unit)):
            assert exact_delta(one, other, epsilon, law) <= delta + 1e-6


def test_a_choice_costs_more_than_one_fit_in_truth() -> None:
    """The exact case can fail: the account of a single fit does not bound the best of several."""
    cuts = list(np.linspace(-2, 5, 15))
    one, other = (places(cuts, shift, 1.0) for shift in (1.0, 0.0))
    alone = compose([Mechanism(noise_multiplier=1.0, sampling_rate=1.0, steps=1)])
    assert exact_delta(one, other, alone.epsilon(1e-2), "geometric") > 1e-2


def test_risk_prints_what_repeats_cost(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["privacy", "risk", "--noise_multiplier", "4", "--sampling_rate", "1", "--steps", "32"]
    assert main([*words, "--repeats_mean", "5", "--repeats_law", "geometric"]) == 0
    text = capsys.readouterr().out
    assert "the best of a random number of such fits, geometric law, mean 5" in text
    assert main([*words, "--repeats_mean", "5", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["repeats_law"], found["repeats_mean"]) == ("logarithmic", 5)
    assert found["epsilon"] == pytest.approx(compose([best_of(5)]).epsilon(DELTA))
    assert main([*words, "--repeats_mean", "0.5"]) == 1
    assert "mean=0.5 fits. Give at least 1" in capsys.readouterr().err
    assert main(words) == 0
    assert "random number of such fits" not in capsys.readouterr().out
