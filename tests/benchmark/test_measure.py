# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from classifier.evaluate import FILE_NAME as METRICS
from classifier.evaluate import HEADINGS, write_metrics
from classifier.intervals import auroc_interval
from classifier.predictions import FILE_NAME as PREDICTIONS
from classifier.predictions import Predictions, write_predictions
from data_prep.crop_image import save_crop_image
from data_prep.manifest import Crop, CropsManifest
from mammo_dp.benchmark.measure import Measured, compute, measure, subgroups
from mammo_dp.benchmark.spec import BenchmarkError
from mammo_dp.runs import close_run, open_run
from tests.classifier.test_evaluate import twin


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
        sha256="0" * 64,
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
    naive = twin(found.malignant, found.probability)
    for name in HEADINGS:
        assert measured.values[name][0] == pytest.approx(naive[name], abs=1e-5), name
    views = [name for name in measured.values if name.startswith("auroc, view")]
    assert set(measured.values) == {*HEADINGS, *views}
    on_cc = roc_auc_score(found.malignant[:30], found.logit[:30])
    assert measured.values["auroc, view CC"][0] == pytest.approx(on_cc)
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


def test_what_is_written_is_read(tmp_path: Path, measured: Measured) -> None:
    assert set(measured.rows) == {name for name in measured.values if name.startswith("auroc")}
    rows = measured.rows["auroc, view CC"]
    area, low, high = auroc_interval(
        measured.malignant[rows], measured.logit[rows], measured.patient[rows]
    )
    assert area == pytest.approx(measured.values["auroc, view CC"][0])
    assert low < area < high
    written = save_crop_image(tmp_path / "crops" / "0.png", np.zeros((128, 128), np.uint16))
    crops = [replace(CROPS[0], sha256=written), *CROPS[1:]]
    manifest = CropsManifest.write(tmp_path / "crops", crops)
    folder = tmp_path / "test_val"
    record = open_run(folder, command="test", config={}, inputs={"data": manifest.folder})
    write_predictions(folder / PREDICTIONS, predictions(0))
    write_metrics(folder / METRICS, predictions(0), split="val", seen="A was trained on some.")
    close_run(record)
    with pytest.raises(BenchmarkError, match=r"A was trained on some\. So this is no measure"):
        measure(folder)
    write_metrics(folder / METRICS, predictions(0), split="val", perhaps="Nobody knows of A.")
    measure(folder)
    found = Measured.read(folder)
    assert found.counts == measured.counts
    assert found.perhaps_seen == "Nobody knows of A."
    for name in ("malignant", "patient", "logit"):
        np.testing.assert_array_equal(getattr(found, name), getattr(measured, name))
    for name, mask in measured.rows.items():
        np.testing.assert_array_equal(found.rows[name], mask)
