# SPDX-License-Identifier: Apache-2.0
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from data_prep.manifest import Crop, CropsManifest
from data_prep.phantoms.crops import phantom_cases, write_phantom_crops
from data_prep.phantoms.parameters import MarginShares, PhantomParameters
from data_prep.phantoms.tomosynthesis import draw_volume
from mammo_dp.fidelity import controllability as module
from mammo_dp.fidelity.controllability import (
    controllability,
    correlations,
    followed,
    kappas,
    mass_shares,
)
from mammo_dp.fidelity.samples import Samples

RNG = np.random.default_rng(0)


def test_correlations_are_those_of_the_repeated_crops() -> None:
    asked, noise = RNG.random((2, 30))
    measured = asked + noise
    weights = RNG.integers(0, 4, (5, 30)).astype(float)
    found = correlations(asked, measured, weights)
    for value, row in zip(found, weights.astype(int), strict=True):
        repeated = np.corrcoef(np.repeat(asked, row), np.repeat(measured, row))[0, 1]
        assert value == pytest.approx(repeated)


def test_kappas_are_those_of_scikit_learn_on_the_repeated_crops() -> None:
    asked, other = (RNG.choice(["a", "b", "c"], 40).tolist() for _ in range(2))
    measured = [a if i % 3 else b for i, (a, b) in enumerate(zip(asked, other, strict=True))]
    weights = RNG.integers(0, 4, (5, 40)).astype(float)
    found = kappas(asked, measured, weights)
    for value, row in zip(found, weights.astype(int), strict=True):
        repeated = cohen_kappa_score(np.repeat(asked, row), np.repeat(measured, row))
        assert value == pytest.approx(repeated)
    assert found.min() > 0.3


def test_what_does_not_vary_follows_nothing() -> None:
    weights = np.ones((1, 4))
    assert correlations(np.arange(4.0), np.full(4, 0.5), weights) == 0
    assert kappas(["a", "b", "a", "b"], ["a"] * 4, weights) == 0
    assert kappas(["a"] * 4, ["a"] * 4, weights) == 0


def test_what_was_not_asked_for_is_left_out_and_the_interval_holds_the_value() -> None:
    asked = [None if row % 5 == 0 else str(row / 100) for row in range(100)]
    measured = np.where(np.arange(100) % 5 == 0, 1e6, np.arange(100) + 40 * RNG.random(100))
    found = followed("size_share", asked, measured, np.arange(100), seed=0)
    assert found.crops == 80
    assert 0.8 < found.found.low < found.found.value < found.found.high < 1
    patients = followed("size_share", asked, measured, np.arange(100) // 20, seed=0).found
    assert patients.value == found.found.value
    assert patients.high - patients.low != found.found.high - found.found.low


def test_the_area_of_a_disc_is_found_on_a_slope_and_beside_another_disc() -> None:
    y, x = (np.mgrid[:64, :64] + 0.5) / 64 - 0.5
    radii = np.array([0.12, 0.2, 0.28, 0.35])
    images = np.stack(
        [
            0.3 + 0.2 * y + 0.3 * (np.hypot(y, x) < r) + 0.3 * (np.hypot(y - 0.42, x - 0.42) < 0.1)
            for r in radii
        ]
    ).astype(np.float32)
    assert mass_shares(images) == pytest.approx(np.sqrt(np.pi) * radii, abs=0.06)
    assert mass_shares(np.full((1, 64, 64), 0.5, np.float32)) == 0


# Masses that are plain to see, and margins that say the class.
PLAIN = PhantomParameters(
    subtleties=(0.0, 0.0, 0.0, 0.0, 1.0),
    mass_contrast_range=(0.3, 0.6),
    contrast_range=(0.01, 0.02),
    margins=MarginShares(
        circumscribed=(1.0, 0.0),
        obscured=(0.0, 0.0),
        ill_defined=(0.0, 0.0),
        microlobulated=(0.0, 0.0),
        spiculated=(0.0, 1.0),
    ),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401
    """Phantoms as a generator that does what it is asked for, and one that ignores it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("TAUGHT", 40), ("JUDGED", 25)):
            patch.setattr(module, name, count)
        patch.setattr(module, "POPULATION", PLAIN)
        manifest = write_phantom_crops(
            tmp_path_factory.mktemp("phantoms"),
            per_class=40,
            size=32,
            seed=9,
            parameters=PLAIN,
            workers=1,
        )
        samples = Samples.of_manifest(manifest)
        crops = list(manifest.crops)
        order = np.random.default_rng(1).permutation(len(crops))
        sources: dict[str, tuple[Samples, Sequence[Crop]]] = {
            "phantoms": (samples, crops),
            "deaf": (samples, [crops[row] for row in order]),
            "classes": (samples, [replace(crop, attributes={}, view=None) for crop in crops]),
        }
        module._reader.cache_clear()
        yield controllability(sources, depth=None, seed=0)["attributes"]
        module._reader.cache_clear()


def test_phantoms_follow_what_they_are_asked_for_and_a_deaf_generator_does_not(
    found: dict[str, Any],
) -> None:
    """Fails if asked and measured are not of the same crop, or the ceiling is of other words."""
    for name in ("malignancy", "margin", "size_share"):
        ceiling = found[name]["ceiling"]["found"]
        good, deaf = (found[name]["sources"][source]["found"] for source in ("phantoms", "deaf"))
        assert min(ceiling["value"], good["value"]) > 0.6
        assert good["low"] < ceiling["high"]
        assert abs(deaf["value"]) < 0.3  # 80 crops: standard deviation 0.11
    assert found["size_share"]["measure"] == "correlation"
    assert found["margin"]["measure"] == "kappa"


def test_a_source_that_was_asked_for_classes_alone_has_no_other_row(found: dict[str, Any]) -> None:
    assert [name for name in found if "classes" in found[name]["sources"]] == ["malignancy"]
    crops = found["malignancy"]["sources"]["classes"]["crops"]
    assert crops == found["malignancy"]["sources"]["phantoms"]["crops"]


def test_the_middle_slices_of_volumes_are_compared(volumes: CropsManifest) -> None:
    samples = Samples.of_manifest(volumes)
    whole = volumes.stacked(volumes.rows())
    assert np.allclose(samples.images * 65535, whole[:, 2], atol=0.01)


def test_volumes_are_read_by_their_middle_slices() -> None:
    images, known = module._phantoms(2, 16, 4, seed=3)
    cases = phantom_cases(0, 4, seed=3, parameters=module.POPULATION)
    for image, case, size in zip(images, cases, known["size_share"], strict=True):
        assert np.array_equal(image, draw_volume(case, size=16, depth=4).slices[2])
        assert float(size) == pytest.approx(case.mass.size, abs=1e-3)
    assert known["malignancy"] == ["benign", "malignant"] * 2


def test_a_generator_of_volumes_is_measured(
    volumes: CropsManifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TAUGHT_VOLUMES", "JUDGED_VOLUMES"):
        monkeypatch.setattr(module, name, 6)
    monkeypatch.setattr(module, "_reader", module._reader.__wrapped__)
    source = {"phantoms": (Samples.of_manifest(volumes), volumes.crops)}
    found = controllability(source, depth=4, seed=0)["attributes"]
    assert found["size_share"]["sources"]["phantoms"]["crops"] == len(volumes.crops)
    assert found["size_share"]["ceiling"]["crops"] == 12
