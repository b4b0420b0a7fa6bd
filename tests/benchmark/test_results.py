# SPDX-License-Identifier: Apache-2.0
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from classifier.evaluate import HEADINGS
from classifier.intervals import auroc_interval, fewer_patients, left_out
from mammo_dp.benchmark import results
from mammo_dp.benchmark.jobs import MEASURED
from mammo_dp.benchmark.plan import Cell
from mammo_dp.benchmark.results import Cost, Row, differences, rows
from mammo_dp.benchmark.spec import Benchmark
from mammo_dp.benchmark.write import (
    comma_separated,
    finite,
    html,
    markdown,
    row_as_json,
    tables,
)
from mammo_dp.runs import close_run, open_run

COST = Cost(
    epsilon=5.999,
    epsilon_patient=5.999,
    unit="patient",
    delta=1e-4,
    adjacency="zero-out",
    accountant="PLD",
    advantage=0.5,
    tpr=0.2,
    reconstruction=0.07,
    because="",
    exclusions=("The phantoms.",),
)
LABEL, PATIENT = np.arange(20) % 5 % 2, np.arange(20) // 2
FREE = replace(
    COST,
    epsilon=float("inf"),
    epsilon_patient=float("inf"),
    accountant="",
    exclusions=("Class weights.",),
)


def values(key: str) -> np.ndarray:
    seed = int.from_bytes(key.encode()[:4])
    return 0.7 + 0.01 * np.random.default_rng(seed).standard_normal(201)


def logits(key: str) -> np.ndarray:
    """Scores of 20 crops."""
    seed = int.from_bytes(key.encode()[:4])
    return LABEL + np.random.default_rng(seed).standard_normal(len(LABEL))


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., list[Row]]:
    """Rows of regimes at one budget, each with the keys of its seeds 0 and 1."""

    def found(regimes: Mapping[str, Sequence[str]], failed: Sequence[str] = ()) -> list[Row]:
        cells = [
            Cell(regime=regime, budget=6, unit="patient", seed=seed, key=key)
            for regime, keys in regimes.items()
            for seed, key in enumerate(keys)
        ]
        known = {cell.key: tmp_path / cell.key for cell in cells if cell.key not in failed}
        for key, folder in known.items():
            model = {"init_args": {"trainable": "head" if key.startswith("dp") else "all"}}
            close_run(
                open_run(folder, command="fit", config={"model": model, "trainer": {}}, inputs={})
            )
            np.savez(
                folder / MEASURED,
                names=json.dumps(list(HEADINGS)),
                values=np.stack([values(key)] * len(HEADINGS)),
                counts=np.array([[10, 20, 8]] * len(HEADINGS)),
                malignant=LABEL,
                patient=PATIENT,
                logit=logits(key),
                areas=json.dumps(["auroc"]),
                rows=np.ones((1, len(LABEL)), bool),
                perhaps_seen="It is unknown whose data X used." if key.startswith("start") else "",
            )
        costs = {key: FREE if key == "dp1" else COST for key in known}
        return rows(cells, "val", run_folders=known, evaluations=known, costs=costs, failed=failed)

    return found


@pytest.fixture
def table(measured: Callable[..., list[Row]]) -> list[Row]:
    """Two regimes at one budget, two seeds each; a seed of the second has failed."""
    return measured({"dp": ("dp0", "dp1"), "start": ("start0", "start1")}, failed=("start1",))


def test_a_row_is_the_mean_over_seeds_on_the_same_patients(table: list[Row]) -> None:
    mean = np.stack([values("dp0"), values("dp1")]).astype(np.float32).mean(0)
    brier = table[0].metrics["brier"]
    assert brier.value == pytest.approx(mean[0], abs=1e-6)
    beyond = left_out(0.95, fewer_patients(LABEL, PATIENT))
    ends = np.quantile(mean[1:], [beyond, 1 - beyond], method="nearest")
    assert (brier.low, brier.high) == pytest.approx(tuple(ends))
    area = table[0].metrics["auroc"]
    both = [roc_auc_score(LABEL, logits(key)) for key in ("dp0", "dp1")]
    assert area.value == pytest.approx(np.mean(both))
    assert asdict(area) == dict(
        zip(
            ("value", "low", "high"),
            auroc_interval(LABEL, [logits("dp0"), logits("dp1")], PATIENT),
            strict=True,
        )
    )
    naive = abs(values("dp0")[0] - values("dp1")[0]) / np.sqrt(2)
    assert table[0].spread["auroc"] == pytest.approx(naive, abs=1e-6)


def test_infinite_slopes_have_no_mean_and_no_deviation_and_warn_of_nothing() -> None:
    slopes = np.array([[np.inf, 1.0, np.inf], [-np.inf, 2.0, 3.0]])  # a seed in each row
    found = results._mean(slopes, 10)
    assert np.isnan(found.value)
    assert (found.low, found.high) == (1.5, 1.5)
    assert np.isnan(results._deviation(slopes[:, 0]))


def test_the_largest_epsilon_of_the_seeds_is_stated_with_what_any_of_them_excludes(
    table: list[Row],
) -> None:
    assert table[0].cost == replace(FREE, exclusions=("The phantoms.", "Class weights."))


def test_a_failed_seed_stays_in_its_row(table: list[Row]) -> None:
    assert (table[1].seeds, table[1].missing, table[1].failed) == ((0,), (1,), (1,))


def test_a_row_says_where_nobody_knows_whether_its_patients_are_new(table: list[Row]) -> None:
    assert [row.perhaps_seen for row in table] == [(), ("It is unknown whose data X used.",)]


def test_a_fit_that_seeds_share_counts_once_and_has_no_spread(
    measured: Callable[..., list[Row]],
) -> None:
    (two, one, other) = measured({"dp": ("dp0", "dp1"), "one": ("a", "a"), "other": ("b", "b")})
    assert (one.seeds, one.missing) == ((0,), ())
    assert np.isnan(one.spread["auroc"])
    assert one.metrics["brier"].value == pytest.approx(values("a")[0], abs=1e-6)
    assert row_as_json(one)["auroc_by_seed"].keys() == {0}
    first, _, fixed = differences([two, one, other])
    mean = np.mean([values("dp0")[0], values("dp1")[0]]) - values("a")[0]
    assert first.seeds == 2
    assert first.auroc.value == pytest.approx(mean, abs=1e-6)
    assert fixed.seeds == 1
    assert np.isnan(fixed.spread)


def test_a_fit_that_seeds_share_and_that_failed_is_missing_once(
    measured: Callable[..., list[Row]],
) -> None:
    (one,) = measured({"one": ("a", "a")}, failed=("a",))
    assert (one.seeds, one.missing) == ((), (0,))


def test_a_difference_pairs_patients_and_seeds_and_names_what_is_unlike(table: list[Row]) -> None:
    (found,) = differences(table)
    drawn = values("dp0") - values("start0")
    assert found.seeds == 1
    assert found.auroc.value == pytest.approx(drawn[0], abs=1e-6)
    assert found.auroc.high == pytest.approx(np.quantile(drawn[1:], 0.975), abs=1e-6)
    assert found.unlike == ("trainable",)


def test_tables_say_what_an_epsilon_means_and_keep_failures(
    table: list[Row], write: Callable[..., Path]
) -> None:
    failed = replace(table[1], seeds=(), missing=(0, 1), metrics={}, cost=None)
    rows = [replace(table[0], cost=COST), failed, replace(failed, failed=())]
    bench = Benchmark.read(write())
    stored = {
        "title": bench.title,
        "regimes": {regime.name: regime.title for regime in bench.regimes},
        "reference": bench.reference,
        "sets": [{"name": "val", "said": "val is for research."}],
        "rows": [row_as_json(row) for row in rows],
        "differences": [asdict(difference) for difference in differences(table)],
        "published": [],
        "failures": {"start | seed 0": "ValueError: the crops are too small"},
        "skipped": {"mixed": "needs synthetic crops"},
    }
    written = tables(finite(stored))
    text = markdown(written)
    for part in ("6.00 per patient", "zero-out, PLD, delta 0.0001", "val is for research"):
        assert part in text
    assert "0 of 2 | failed" in text
    assert "0 of 2 | not finished" in text
    assert "start \\| seed 0 [" not in text
    assert "the crops are too small" in text
    assert "needs synthetic crops" in text
    assert text.count("The phantoms.") == 1
    page = html(written, {"AUROC <val>": "utility.png"})
    assert 'alt="AUROC &lt;val&gt;"' in page
    assert "infinity" in comma_separated(table)
    assert "The phantoms.; Class weights." in comma_separated(table)
