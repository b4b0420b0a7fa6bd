# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from scipy.stats import binomtest, norm, t
from sklearn.metrics import roc_auc_score, roc_curve

from mammo_dp.attacks.statistics import (
    Bounds,
    Scores,
    advantage,
    auc,
    audit,
    clopper_pearson,
    exceeds,
    roc,
    tpr_at_fpr,
)

GAUSSIAN = Bounds(  # trade-off curve of two unit normals at distance 1
    epsilon=math.inf,
    delta=0.0,
    advantage=2 * norm.cdf(0.5) - 1,
    tpr_at_fpr={a: float(norm.cdf(norm.ppf(a) + 1)) for a in (0.01, 0.001)},
)


def draws(
    shift: float, members: int = 578, nonmembers: int = 102, seed: int = 0
) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, members), rng.normal(0, 1, nonmembers)


@pytest.mark.parametrize("digits", [1, 8])  # one digit makes many ties
def test_area_and_curve_equal_those_of_scikit_learn(digits: int) -> None:
    members, nonmembers = (x.round(digits) for x in draws(0.5, 60, 40))
    labels = np.r_[np.ones(60), np.zeros(40)]
    scores = np.r_[members, nonmembers]
    assert auc(members, nonmembers).value == pytest.approx(roc_auc_score(labels, scores))
    for ours, theirs in zip(
        roc(members, nonmembers), roc_curve(labels, scores, drop_intermediate=False), strict=True
    ):
        np.testing.assert_allclose(ours, theirs)


def test_the_interval_of_the_area_is_delongs_on_log_odds() -> None:
    members, nonmembers = draws(0.7, 50, 30)
    wins = members[:, None] > nonmembers
    variance = wins.mean(1).var(ddof=1) / 50 + wins.mean(0).var(ddof=1) / 30
    found = auc(members, nonmembers)
    spread = np.sqrt(variance) / (found.value * (1 - found.value))
    odds = np.log([found.low / (1 - found.low), found.high / (1 - found.high)])
    assert odds[1] - odds[0] == pytest.approx(2 * t.ppf(0.975, 78) * spread)


def test_an_attack_that_never_errs_on_few_leaves_doubt() -> None:
    found = auc(np.arange(10) + 100.0, np.arange(5.0))
    assert found.value == found.high == 1
    assert 0.5 < found.low < 0.95


def test_one_percent_of_102_nonmembers_is_one_false_positive() -> None:
    members, nonmembers = draws(1.0)
    rate = tpr_at_fpr(members, nonmembers, fpr=0.01)
    assert (rate.allowed, rate.false_positives) == (1, 1)
    assert rate.threshold == np.sort(nonmembers)[-2]
    assert rate.tpr.value == np.mean(members > rate.threshold)
    assert tpr_at_fpr(members, nonmembers, fpr=0.001).false_positives == 0


def test_interval_covers_the_rate_at_the_false_positive_rate_that_was_asked_for() -> None:
    true = norm.sf(norm.isf(0.01) - 1)
    few = [tpr_at_fpr(*draws(1.0, seed=s), fpr=0.01).tpr for s in range(60)]
    assert np.mean([x.low <= true <= x.high for x in few]) >= 0.95
    assert all(x.low == 0 for x in few)  # 102 non-members cannot exclude any small rate
    many = [tpr_at_fpr(*draws(1.0, 2000, 2000, s), fpr=0.01).tpr for s in range(60)]
    assert np.mean([x.low <= true <= x.high for x in many]) >= 0.95
    assert np.mean([x.high - x.low for x in many]) < 0.1
    assert not any(x.low <= 2 * true <= x.high for x in many)


def test_ties_never_let_more_false_positives_pass_than_allowed() -> None:
    rate = tpr_at_fpr(np.ones(10), np.ones(200), fpr=0.05)
    assert (rate.allowed, rate.false_positives, rate.tpr.value) == (10, 0, 0.0)


def test_rounding_does_not_lose_a_false_positive() -> None:
    assert tpr_at_fpr(np.ones(1), np.arange(100.0), fpr=0.29).allowed == 29


@pytest.mark.parametrize(("successes", "trials"), [(0, 20), (3, 20), (20, 20), (1, 102)])
def test_clopper_pearson_equals_that_of_scipy(successes: int, trials: int) -> None:
    interval = binomtest(successes, trials).proportion_ci(0.9, method="exact")
    assert clopper_pearson(successes, trials, level=0.9) == pytest.approx(
        (interval.low, interval.high)
    )


def test_threshold_of_the_nonmembers_keeps_its_upper_limit() -> None:
    above = 0
    for seed in range(200):
        members, nonmembers = draws(0, 1, 102, seed)
        rate = tpr_at_fpr(members, nonmembers, fpr=0.01)
        above += norm.sf(rate.threshold) > rate.fpr_high
    assert 0 < above / 200 < 0.06  # one tail of a 95 % interval
    # ... while the rate that was asked for is exceeded in most draws: it is no limit
    assert (
        np.mean(
            [
                norm.sf(tpr_at_fpr(*draws(0, 1, 102, s), fpr=0.01).threshold) > 0.01
                for s in range(200)
            ]
        )
        > 0.6
    )


def test_advantage_interval_covers_zero_for_random_scores_and_the_truth_for_others() -> None:
    assert all(advantage(*draws(0, seed=s)).low == 0 for s in range(50))
    true = 2 * norm.cdf(0.75) - 1
    for seed in range(50):
        found = advantage(*draws(1.5, seed=seed))
        assert found.low <= true <= found.high
        assert found.low > 0


def test_a_perfect_attack_has_advantage_one() -> None:
    result = audit(np.arange(10) + 100.0, np.arange(5.0))
    assert (result.auc.value, result.advantage.value) == (1.0, 1.0)
    rate = result.tpr_at_fpr[0.01]
    assert (rate.tpr.value, rate.tpr.low, rate.tpr.high) == (1, 0, 1)
    assert rate.above.low == clopper_pearson(10, 10)[0]


def test_scores_that_attain_the_bound_are_no_finding() -> None:
    findings = [exceeds(*draws(1.0, seed=s), bounds=GAUSSIAN) for s in range(100)]
    assert np.mean(findings) <= 0.05


def test_scores_beyond_the_bound_are_a_finding() -> None:
    assert exceeds(*draws(3.0), bounds=GAUSSIAN)
    tight = Bounds(epsilon=1.0, delta=1e-4, advantage=0.11, tpr_at_fpr={0.01: 0.021})
    assert exceeds(*draws(1.5), bounds=tight)
    assert not exceeds(*draws(0.0), bounds=tight)


def test_bound_between_known_points_is_never_below_the_exact_curve() -> None:
    for fpr in np.r_[np.geomspace(1e-5, 1, 200), 0.01, 0.001]:
        assert GAUSSIAN.tpr(float(fpr)) >= norm.cdf(norm.ppf(fpr) + 1) - 1e-12
    assert GAUSSIAN.tpr(0.01) == pytest.approx(norm.cdf(norm.ppf(0.01) + 1))
    finite = Bounds(epsilon=1.0, delta=1e-4, advantage=1.0, tpr_at_fpr={})
    assert finite.tpr(0.01) == pytest.approx(math.e * 0.01 + 1e-4)
    assert Bounds(epsilon=math.inf, delta=0, advantage=1, tpr_at_fpr={0.01: 1}).tpr(0.02) == 1


def test_largest_area_belongs_to_the_curve_at_the_advantage_above_the_diagonal() -> None:
    fpr = np.linspace(0, 1, 100_001)
    bounds = Bounds(epsilon=math.inf, delta=0, advantage=0.3, tpr_at_fpr={})
    assert bounds.auc == pytest.approx(np.minimum(1, fpr + 0.3).mean(), abs=1e-4)


@pytest.mark.parametrize(
    ("members", "nonmembers", "message"),
    [
        ([], [1.0], "member_scores: shape"),
        ([1.0], [[1.0]], "nonmember_scores: shape"),
        ([1.0], [math.nan, 1.0], "nonmember_scores: 1 scores are not finite"),
    ],
)
def test_bad_scores_are_named(members: list, nonmembers: list, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=message):
        audit(members, nonmembers)


@pytest.mark.parametrize("fpr", [0.0, 1.0, 1.5])
def test_a_false_positive_rate_outside_the_unit_interval_is_refused(fpr: float) -> None:
    with pytest.raises(ValueError, match="false-positive rate"):
        tpr_at_fpr([1.0], [0.0], fpr=fpr)
