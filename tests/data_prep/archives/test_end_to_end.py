# SPDX-License-Identifier: Apache-2.0
"""Each miniature archive through its command: from the files to a manifest of crops."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep import prepare
from data_prep.errors import LicenceError
from data_prep.manifest import CropsManifest
from mammo_dp.export.lineage import require_terms
from mammo_dp.main import main
from mammo_dp.privacy.statement.cohort import Cohort
from tests.data_prep.archives import miniature


def rejected(folder: Path) -> dict[str, str]:
    with (folder / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return {row["record"]: row["reason"] for row in csv.DictReader(file)}


def counts(manifest: CropsManifest) -> Counter[tuple[str, bool]]:
    return Counter((crop.origin, crop.malignant) for crop in manifest.crops)


def test_cbis_ddsm_masses_and_calcifications(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    manifest = prepare.cbis_ddsm(
        root=str(miniature.cbis_ddsm(tmp_path / "archive").write()),
        out=str(out),
        size=32,
        findings="both",
        val_fraction=0,
    )
    assert counts(manifest) == {("cbis-ddsm", True): 4, ("cbis-ddsm", False): 3}
    assert rejected(out) == dict.fromkeys(("test_0002", "calc_train_0003"), "opposite_splits")
    assert [crop.file for crop in manifest.crops][-3:] == [
        "images/cbis-ddsm_calc_train_0002.png",
        "images/cbis-ddsm_calc_train_0004.png",
        "images/cbis-ddsm_calc_test_0002.png",
    ]
    assert manifest.crops[-1].attributes["calc_type"] == "IRREGULAR"
    shown = capsys.readouterr().out
    assert "CBIS-DDSM: CC BY 3.0\ncite: Lee et al. 2017" in shown
    assert "their 2 rows are left out (--opposite_splits leave_out)" in shown


@pytest.mark.parametrize("described", [True, False])
def test_jpeg_copy_gives_nearly_the_same_boxes(tmp_path: Path, described: bool) -> None:
    root = miniature.cbis_ddsm_jpeg(tmp_path / "archive")
    if not described:
        for description in ("full mammogram images", "ROI mask images", "cropped images"):
            miniature.change(root / "csv" / "dicom_info.csv", description, "")
    out = tmp_path / "out"
    manifest = prepare.cbis_ddsm_jpeg(
        root=str(root), out=str(out), size=32, spacing_mm=0.05, strict=True, val_fraction=0
    )
    assert counts(manifest) == {("cbis-ddsm", True): 1, ("cbis-ddsm", False): 2}
    assert rejected(out) == {}
    side = 40 + 2 * 60  # the lesion has 30 x 40 px; lossy edges may move by a pixel
    for crop in manifest.crops:
        assert crop.pixel_spacing_mm == pytest.approx(0.05 * side / 32, rel=0.03)


def test_bcdr(tmp_path: Path) -> None:
    out = tmp_path / "out"
    root = miniature.bcdr(tmp_path / "archive")
    manifest = prepare.bcdr(root=str(root), out=str(out), size=32)
    assert counts(manifest) == {("bcdr", True): 3, ("bcdr", False): 2}
    assert rejected(out) == {"D01_0004": "too_small", "F01_0005": "mask_mismatch"}
    assert {crop.label_source for crop in manifest.crops} == {"pathology"}


def test_inbreast(tmp_path: Path) -> None:
    out = tmp_path / "out"
    root = miniature.inbreast(tmp_path / "archive")
    manifest = prepare.inbreast(root=str(root), out=str(out), size=32, label_source="birads")
    assert counts(manifest) == {("inbreast", True): 2, ("inbreast", False): 2}
    assert rejected(out) == {"0004_02": "too_small"}
    assert {crop.label_source for crop in manifest.crops} == {"birads"}
    side = 41 + 2 * round(3 / 0.07)  # an outline holds the pixels of its vertices
    assert manifest.crops[0].pixel_spacing_mm == round(0.07 * side / 32, 6)


def test_vindr(tmp_path: Path) -> None:
    out = tmp_path / "out"
    root = miniature.vindr(tmp_path / "archive")
    manifest = prepare.vindr(
        root=str(root), out=str(out), size=32, label_source="birads", val_fraction=0
    )
    assert [(c.malignant, c.split) for c in manifest.crops] == [
        (True, "train"),
        (False, "train"),
        (True, "test"),
    ]
    assert rejected(out) == {}


def test_cmmd(tmp_path: Path) -> None:
    out = tmp_path / "out"
    root, annotations = miniature.cmmd(tmp_path / "archive")
    manifest = prepare.cmmd(root=str(root), annotations=str(annotations), out=str(out), size=32)
    assert counts(manifest) == {("cmmd", True): 2, ("cmmd", False): 1}
    assert {(crop.view, crop.patient_id) for crop in manifest.crops} == {
        ("MLO", "D1-0001"),
        ("MLO", "D2-0003"),
    }
    assert rejected(out) == {"file_00004_03": "conflict"}  # a fibroadenoma in a malignant breast
    side = 40 + 2 * round(3 / 0.07)  # the lesion has 30 x 40 px of 0.07 mm
    assert manifest.crops[0].pixel_spacing_mm == round(0.07 * side / 32, 6)


def test_bcs_dbt(tmp_path: Path) -> None:
    out = tmp_path / "out"
    root = miniature.bcs_dbt(tmp_path / "archive")
    manifest = prepare.bcs_dbt(root=str(root), out=str(out), size=32, depth=4, val_fraction=0)
    assert counts(manifest) == {("bcs-dbt", True): 1, ("bcs-dbt", False): 2}
    assert rejected(out) == {
        "train_00003": "duplicate",
        "train_00006": "no_image",
        "test_00002": "slice_outside",
        "test_00003": "box_outside",
        "test_00004": "too_few_slices",
    }
    first, edge, turned = manifest.crops
    assert (first.depth, first.slice_spacing_mm, first.attributes["centre_slice"]) == (4, 1.0, "2")
    assert edge.attributes["centre_slice"] == "0"  # the window stays within the volume
    side = 40 + 2 * 15  # the lesion has 30 x 40 px of 0.2 mm
    assert first.pixel_spacing_mm == round(0.2 * side / 32, 6)
    for crop, seed, start in ((first, 1, 1), (edge, 2, 0), (turned, 3, 1)):
        naive = [
            miniature.naive_crop(one, side) for one in miniature.volume(seed)[start : start + 4]
        ]
        cut = manifest.pixels(manifest.crops.index(crop)).astype(float)
        for one, other in zip(cut, naive, strict=True):
            inside = (one > 0) & (one < 65535)  # where the grey range does not cut
            assert np.corrcoef(one[inside], other[inside])[0, 1] > 0.999
    assert "Secret" not in (out / "card.html").read_text()
    assert (out / "card.html").read_text().count("<image") >= 3


def test_a_damaged_volume_costs_its_own_lesions(tmp_path: Path) -> None:
    root, out = miniature.bcs_dbt(tmp_path / "archive"), tmp_path / "out"
    path = next(root.rglob("1.3.lmlo2/1-1.dcm"))
    path.write_bytes(path.read_bytes()[:-400_000])
    manifest = prepare.bcs_dbt(root=str(root), out=str(out), size=32, depth=8, val_fraction=0)
    assert rejected(out)["train_00004"] == "unreadable"
    assert len(manifest.crops) == 2


def test_embed_rejects_regions_in_the_background_and_is_never_exported(tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = prepare.embed(root=str(miniature.embed(tmp_path / "archive")), out=str(out), size=32)
    assert counts(manifest) == {("embed", True): 1, ("embed", False): 1}
    assert rejected(out) == {"000007": "ambiguous", "000005_02": "box_outside"}
    with pytest.raises(LicenceError, match="forbids passing on"):
        require_terms([Cohort.of_manifest(manifest, "train")], "CC BY 4.0")


def test_rsna(tmp_path: Path) -> None:
    root, boxes = miniature.rsna(tmp_path / "archive")
    out = tmp_path / "out"
    manifest = prepare.rsna(root=str(root), boxes=str(boxes), out=str(out), size=32)
    assert counts(manifest) == {("rsna-2022", True): 2, ("rsna-2022", False): 1}
    assert {crop.label_source for crop in manifest.crops} == {"image"}


def test_kau_bcmd(tmp_path: Path) -> None:
    root, boxes = miniature.kau_bcmd(tmp_path / "archive")
    out = tmp_path / "out"
    manifest = prepare.kau_bcmd(
        root=str(root), boxes=str(boxes), out=str(out), size=32, label_source="birads"
    )
    assert counts(manifest) == {("kau-bcmd", True): 2, ("kau-bcmd", False): 1}


def test_a_command_says_what_is_missing_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = miniature.inbreast(tmp_path / "archive")
    out = tmp_path / "out"
    arguments = ["prepare", "inbreast", "--root", str(root), "--out", str(out), "--size", "32"]
    assert main(arguments) == 1
    assert "Ask for them with --label_source birads" in capsys.readouterr().err
    assert not (out / "run.json").exists()
    assert main([*arguments, "--label_source", "birads"]) == 0
    assert (out / "run.json").exists()
    assert len(CropsManifest.read(out).crops) == 4
