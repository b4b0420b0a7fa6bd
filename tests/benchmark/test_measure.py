# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from classifier.predictions import Predictions
from data_prep.manifest import Crop
from mammo_dp.benchmark.measure import Measured, compute, subgroups


def crop(row: int, *, view: str = "CC", density: str = "2", spacing: float = 0.1) -> Crop:
    return Crop(
        file=f"{row}.png",
        patient_id=f"P{row // 2}",
        lesion_id="1",
        image_id=str(row),
        malignant=bool(row % 3 == 0),
        split="val",
        origin="phantom-archive",
        label_source="phantom",
        crop_rule="as-is",
        sha256="",
        view="CC" if view == "CC" else "MLO",
        pixel_spacing_mm=spacing,
        attributes={"density": density} if density else {},
    )


CROPS = [crop(row, view="CC" if row < 30 else "MLO", density="2") for row in range(60)]


def predictions(seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    label = np.array([int(crop.malignant) for crop in CROPS])
    return Predictions(
        row=np.arange(60),
        patient=np.arange(60) // 2,
        malignant=label,
        logit=0.5 * label + rng.standard_normal(60),
    )


@pytest.fixture(scope="module")
def measured() -> Measured:
    return compute(predictions(0), CROPS, edge_px=128, resamples=20)


def test_the_first_value_is_that_of_the_crops_as_they_are(measured: Measured) -> None:
    found = predictions(0)
    for name, naive in (
        ("auroc", roc_auc_score(found.malignant, found.probability)),
        ("auprc", average_precision_score(found.malignant, found.probability)),
        ("brier", brier_score_loss(found.malignant, found.probability)),
        ("auroc, view CC", roc_auc_score(found.malignant[:30], found.logit[:30])),
    ):
        assert measured.values[name][0] == pytest.approx(naive)
    assert measured.counts["auroc"] == (30, 60, 20)
    assert measured.counts["auroc, view MLO"] == (15, 30, 10)


def test_a_resample_counts_whole_patients(measured: Measured) -> None:
    found = predictions(0)
    drawn = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=20)
    rows = np.repeat(np.arange(60), drawn[7][found.patient])
    naive = roc_auc_score(found.malignant[rows], found.logit[rows])
    assert measured.values["auroc"][8] == pytest.approx(naive)


def test_all_models_are_measured_on_the_same_resamples(measured: Measured) -> None:
    other = compute(predictions(1), CROPS, edge_px=128, resamples=20)
    same = compute(predictions(0), CROPS, edge_px=128, resamples=20)
    assert np.array_equal(measured.values["auroc"], same.values["auroc"])
    difference = measured.values["auroc"] - other.values["auroc"]
    assert difference.std() < measured.values["auroc"].std() + other.values["auroc"].std()


def test_a_subgroup_of_few_patients_is_not_measured(measured: Measured) -> None:
    assert "auroc, view CC" in measured.values
    of_four = replace(predictions(0), patient=np.arange(60) // 15)
    found = compute(of_four, CROPS, edge_px=128, resamples=20)
    assert "auroc, view CC" not in found.values


def test_subgroups_are_those_that_the_manifest_tells_apart() -> None:
    crops = [crop(0, spacing=0.1), crop(1, spacing=0.2, view="MLO"), crop(2, spacing=0.4)]
    named = {name: rows.tolist() for name, rows in subgroups(crops, edge_px=128)}
    assert named == {
        "view CC": [True, False, True],
        "view MLO": [False, True, False],
        "size 20 to 40 mm": [False, True, False],
        "size below 20 mm": [True, False, False],
        "size from 40 mm": [False, False, True],
    }
