# SPDX-License-Identifier: Apache-2.0
import io
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_prep.manifest import CropsManifest
from mammo_dp.privacy.statement.document import write_statement
from mammo_dp.privacy.statement.ledger import PrivacyLedger
from mammo_dp.report.crops import GAP_PX, contact_sheet, notice, sheet

Make = Callable[..., CropsManifest]


def test_benign_crops_stand_above_malignant_ones(make_cohort: Make) -> None:
    manifest = make_cohort(origin="phantom")
    with Image.open(io.BytesIO(contact_sheet(manifest, columns=5))) as image:
        assert (image.format, image.mode) == ("PNG", "LA")
        sheet = np.array(image)
    step = 32 + GAP_PX
    assert sheet.shape == (2 * step - GAP_PX, 5 * step - GAP_PX, 2)
    discs = [  # of malignant crops are brighter; their grains average out
        [sheet[y * step + 12 :, x * step + 12 :][:8, :8, 0].mean() for x in range(5)]
        for y in range(2)
    ]
    assert max(discs[0]) < min(discs[1])
    assert (sheet[..., 1] == 0).any()  # gaps are transparent
    first = next(row for row in manifest.rows() if not manifest.crops[row].malignant)
    np.testing.assert_array_equal(sheet[:32, :32, 0], manifest.image(first) >> 8)


def test_large_crops_are_shrunk_and_missing_ones_leave_gaps(make_cohort: Make) -> None:
    manifest = make_cohort(origin="phantom", crops=6, size=64)
    with Image.open(io.BytesIO(contact_sheet(manifest, columns=5, cell_px=20))) as image:
        assert image.size == (5 * 22 - GAP_PX, 2 * 22 - GAP_PX)
        assert np.array(image)[:, 3 * 22 :, 1].max() == 0


def test_a_sheet_of_volumes_shows_their_middle_slices(volumes: CropsManifest) -> None:
    with Image.open(io.BytesIO(contact_sheet(volumes, columns=3))) as image:
        drawn = np.array(image)
    first = next(row for row in volumes.rows() if not volumes.crops[row].malignant)
    np.testing.assert_array_equal(drawn[:16, :16, 0], volumes.pixels(first)[2] >> 8)
    assert (
        "20 volumes of 4 slices, of each the middle one" in sheet("Deep", volumes.folder)["count"]
    )


def test_the_same_manifest_gives_the_same_picture(make_cohort: Make) -> None:
    manifest = make_cohort()
    assert contact_sheet(manifest) == contact_sheet(manifest)


def test_one_class_gives_one_line(make_cohort: Make) -> None:
    manifest = make_cohort()
    benign = [crop for crop in manifest.crops if not crop.malignant]
    with Image.open(io.BytesIO(contact_sheet(CropsManifest.write(manifest.folder, benign)))) as im:
        assert im.size[1] == 32


@pytest.mark.parametrize(
    ("origin", "words", "real"),
    [
        ("phantom", "No patient", False),
        ("phantom-archive", "No real patient", False),
        ("gan:" + "0" * 64, "Drawn by a generator", False),
        ("synthetic:mcgan", "Imported synthetic", False),
        ("cbis-ddsm", "internal use only", True),
    ],
)
def test_notice_says_whose_images_they_are(
    make_cohort: Make, origin: str, words: str, real: bool
) -> None:
    manifest = make_cohort(origin=origin)
    write_statement(manifest.folder, PrivacyLedger(), about=manifest.sha256)
    text, is_real = notice(manifest)
    assert words in text
    assert is_real is real


def test_a_table_that_nobody_sealed_shows_patients_whatever_it_says(make_cohort: Make) -> None:
    patients = make_cohort(origin="cbis-ddsm")
    edited = [replace(crop, origin="phantom", patient_id="") for crop in patients.crops]
    text, is_real = notice(CropsManifest.write(patients.folder, edited))
    assert is_real
    assert text.startswith("Shows images of the cohort: internal use only.")
    assert "not known here: the statement beside it is about another file." in text
