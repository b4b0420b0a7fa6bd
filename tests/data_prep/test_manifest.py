# SPDX-License-Identifier: Apache-2.0
import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_prep.crop_image import pixel_hash, save_crop_image
from data_prep.errors import LabelError, LeakageError, ManifestError
from data_prep.fingerprints import fingerprint
from data_prep.manifest import COLUMNS, Crop, CropsManifest
from tests.fixtures import write_cohort

CROP = Crop(
    file="images/a.png",
    patient_id="P1",
    lesion_id="1",
    image_id="I1",
    malignant=True,
    split="train",
    origin="cbis-ddsm",
    label_source="pathology",
    crop_rule="centred",
    sha256="0" * 64,
)


def change_cell(folder: Path, row: int, column: str, value: str) -> None:
    """Edits one cell of ``crops.csv``; rows are counted as in the messages, the header is 1."""
    path = folder / "crops.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    rows[row - 1][COLUMNS.index(column)] = value
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    crops = (
        replace(
            CROP, view="MLO", laterality="L", pixel_spacing_mm=0.1, attributes={"shape": "OVAL"}
        ),
        replace(CROP, file="images/b.png", image_id="I2", malignant=False),
    )
    written = CropsManifest.write(tmp_path, crops)
    read = CropsManifest.read(tmp_path / "crops.csv")
    assert read == CropsManifest.read(tmp_path)
    assert (read.crops, read.sha256) == (crops, written.sha256)
    assert not list(tmp_path.glob("*.part"))
    (tmp_path / "crops.csv").rename(tmp_path / "mine.csv")
    with pytest.raises(ManifestError, match=r"mine\.csv: .* is called crops\.csv"):
        CropsManifest.read(tmp_path / "mine.csv")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"split": "dev"}, "split is another .* allowed: 'train', 'val', 'test'"),
        ({"view": "AP"}, "view is another"),
        ({"laterality": "LEFT"}, "laterality is another"),
        ({"label_source": "guess"}, "label_source is another"),
        ({"crop_rule": "mine"}, "crop_rule is another"),
        ({"origin": "synthetic:"}, "origin is no name"),
        ({"origin": "gan:"}, "origin is no name"),
        ({"origin": "gan:checkpoint"}, "origin is no name"),
        ({"origin": "cbis^ddsm"}, "origin is no name"),
        ({"sha256": ""}, "sha256 has not 64"),
        ({"sha256": "0" * 63}, "sha256 has not 64"),
        ({"sha256": "G" * 64}, "sha256 has not 64"),
        ({"file": "../a.png"}, "below the manifest's folder"),
        ({"file": "/a.png"}, "below the manifest's folder"),
        ({"file": ""}, "below the manifest's folder"),
        ({"origin": ""}, "origin is empty"),
        ({"patient_id": ""}, "patient_id is empty"),
        ({"origin": "gan:0"}, "patient_id is set"),
        ({"pixel_spacing_mm": 0.0}, "above 0"),
        ({"pixel_spacing_mm": float("nan")}, "above 0"),
        ({"depth": 1}, "depth is out of range"),
        ({"depth": 513}, "depth is out of range"),
        ({"slice_spacing_mm": 1.0}, "slice_spacing_mm is set in the plane"),
        ({"depth": 4, "slice_spacing_mm": 0.0}, "above 0"),
        ({"attributes": {"depth": "4"}}, "attributes"),
        ({"attributes": {"Age": "40"}}, "attributes"),
        ({"attributes": {"patient_id": "40"}}, "attributes"),
    ],
)
def test_crop_refuses_values_outside_the_sets(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        replace(CROP, **changes)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("malignant", "2", "malignant is another"),
        ("malignant", "", "malignant is another"),
        ("malignant", "nan", "malignant is another"),
        ("split", "dev", "split is another"),
        ("pixel_spacing_mm", "wide", "pixel_spacing_mm is no number"),
        ("pixel_spacing_mm", "nan", "above 0"),
        ("file", "images/0000.png", "duplicate file, first in row 2"),
        ("image_id", "I0000", "duplicate crop id, first in row 2"),
    ],
)
def test_bad_cell_is_named_by_file_and_row(
    make_cohort: Callable[..., CropsManifest], column: str, value: str, says: str
) -> None:
    folder = make_cohort().folder
    change_cell(folder, 5, column, value)
    with pytest.raises(ManifestError, match=says) as caught:
        CropsManifest.read(folder)
    assert f"{folder / 'crops.csv'}, row 5: " in str(caught.value)


@pytest.mark.parametrize(
    "column",
    [
        *("file", "patient_id", "view", "laterality", "malignant", "split", "origin"),
        *("label_source", "crop_rule", "pixel_spacing_mm", "sha256", "fingerprint"),
    ],
)
@pytest.mark.parametrize("cell", ["/MUELLER^ANNA^19500131", "19500131"])
def test_a_cell_in_a_wrong_column_is_not_shown(
    make_cohort: Callable[..., CropsManifest], column: str, cell: str
) -> None:
    folder = make_cohort().folder
    change_cell(folder, 5, column, cell)
    if column == "patient_id" or (cell.isdigit() and column in ("file", "origin")):
        CropsManifest.read(folder)  # which is what it may be
        return
    with pytest.raises(ManifestError) as caught:
        CropsManifest.read(folder)
    said = str(caught.value)
    assert said.startswith(f"{folder / 'crops.csv'}, row 5: {column} ")
    assert "ANNA" not in said
    assert "1950" not in said


@pytest.mark.parametrize("column", ["depth", "slice_spacing_mm"])
def test_a_word_for_a_number_of_a_volume_is_not_shown(tmp_path: Path, column: str) -> None:
    volume = replace(CROP, file="images/a.tif", depth=4, slice_spacing_mm=1.0)
    CropsManifest.write(tmp_path, [volume])
    path = tmp_path / "crops.csv"
    with path.open(newline="") as file:
        head, row = csv.reader(file)
    row[head.index(column)] = "MUELLER^ANNA"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, row])
    with pytest.raises(ManifestError, match=f"row 2: {column} is no number") as caught:
        CropsManifest.read(tmp_path)
    assert "ANNA" not in str(caught.value)


def test_patient_in_two_splits_is_leakage(make_cohort: Callable[..., CropsManifest]) -> None:
    folder = make_cohort().folder
    change_cell(folder, 8, "split", "val")  # a further crop of the patient of row 2
    with pytest.raises(
        LeakageError, match=r"rows 2 and 8: one patient in splits 'train' and 'val'"
    ):
        CropsManifest.read(folder)


def test_mixed_crop_rules_are_refused(make_cohort: Callable[..., CropsManifest]) -> None:
    folder = make_cohort().folder
    change_cell(folder, 8, "crop_rule", "reference-2024")
    with pytest.raises(ManifestError, match=r"as-is.*reference-2024.*mixed"):
        CropsManifest.read(folder)


def test_missing_empty_or_ragged_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="Run `mammo-dp prepare` first"):
        CropsManifest.read(tmp_path)
    path = tmp_path / "crops.csv"
    path.write_text("file,patient_id\n")
    with pytest.raises(ManifestError, match=r"columns .* are missing"):
        CropsManifest.read(tmp_path)
    path.write_text(",".join(COLUMNS) + "\n")
    with pytest.raises(ManifestError, match="holds no crop"):
        CropsManifest.read(tmp_path)
    path.write_bytes(b"\xe9")
    with pytest.raises(ManifestError, match="is not UTF-8"):
        CropsManifest.read(tmp_path)
    for cells in (("a.png",), ("a.png",) * (len(COLUMNS) + 1)):
        path.write_text(",".join(COLUMNS) + "\n" + ",".join(cells) + "\n")
        with pytest.raises(ManifestError, match="row 2: has more or fewer cells"):
            CropsManifest.read(tmp_path)


def test_invalid_rows_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="duplicate crop id"):
        CropsManifest.write(tmp_path, [CROP, replace(CROP, file="images/b.png")])
    assert not (tmp_path / "crops.csv").exists()


def test_split_of_one_class_is_refused_where_both_are_needed(cohort: CropsManifest) -> None:
    assert cohort.require_classes("train") == cohort.rows("train")
    benign = tuple(crop for crop in cohort.crops if not crop.malignant)
    only = replace(cohort, crops=benign)
    with pytest.raises(LabelError, match=r"split 'train' holds only malignant=0"):
        only.require_classes("train")
    with pytest.raises(LabelError, match=r"split 'test' holds no crop"):
        cohort.require_classes("test")


def test_units_group_rows_by_patient(cohort: CropsManifest, tmp_path: Path) -> None:
    rows = cohort.rows("train")
    units = cohort.units(rows, "patient")
    assert sorted(row for unit in units for row in unit) == rows
    assert [{cohort.crops[row].patient_id for row in unit} for unit in units] == [
        {f"P{i:03d}"} for i in range(4)
    ]
    assert cohort.units(rows, "crop") == tuple((row,) for row in rows)
    synthetic = write_cohort(tmp_path, origin="gan:0", crops=4)
    assert synthetic.units(range(4), "patient") == ((0,), (1,), (2,), (3,))


def test_images_survive_at_sixteen_bits(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (8, 8), dtype=np.uint16)
    digest = save_crop_image(tmp_path / "images/a.png", pixels)
    manifest = CropsManifest.write(tmp_path, [replace(CROP, sha256=digest)])
    np.testing.assert_array_equal(manifest.images([0])[0], pixels)
    assert manifest.images([]).shape == (0, 0, 0)
    with Image.open(tmp_path / "images/a.png") as image:
        assert not image.info  # no text chunks


def test_hash_covers_shape_and_pixels() -> None:
    pixels = np.arange(16, dtype=np.uint16).reshape(4, 4)
    assert pixel_hash(pixels) == pixel_hash(pixels.copy())
    assert pixel_hash(pixels) == pixel_hash(np.asfortranarray(pixels))
    assert pixel_hash(pixels) != pixel_hash(pixels.reshape(2, 8))
    assert pixel_hash(pixels) != pixel_hash(pixels + 1)


def test_damaged_images_are_named_with_their_row(make_cohort: Callable[..., CropsManifest]) -> None:
    manifest = make_cohort()
    path = manifest.folder / manifest.crops[3].file
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    with pytest.raises(ManifestError, match=r"0003\.png \(crops\.csv, row 5\): cannot be read"):
        manifest.image(3)
    path.unlink()
    with pytest.raises(ManifestError, match="cannot be read"):
        manifest.image(3)
    save_crop_image(path, np.zeros((32, 32), np.uint16))
    with pytest.raises(ManifestError, match="differ from the recorded hash"):
        manifest.image(3)
    Image.new("L", (32, 16)).save(path)
    with pytest.raises(ManifestError, match=r"shape \(16, 32\)"):
        manifest.image(3)


def test_unequal_sizes_are_refused(tmp_path: Path) -> None:
    crops = []
    for i, size in enumerate((8, 9)):
        digest = save_crop_image(tmp_path / f"{i}.png", np.zeros((size, size), np.uint16))
        crops.append(replace(CROP, file=f"{i}.png", image_id=f"I{i}", sha256=digest))
    with pytest.raises(ManifestError, match=r"sizes \[8, 9\]"):
        CropsManifest.write(tmp_path, crops).images([0, 1])


def volume_row(folder: Path, slices: np.ndarray[Any, np.dtype[np.uint16]], name: str = "a") -> Crop:
    """Saves a volume and makes its row."""
    file = f"images/{name}.tif"
    digest = save_crop_image(folder / file, slices)
    return replace(
        CROP,
        file=file,
        image_id=name,
        sha256=digest,
        depth=len(slices),
        slice_spacing_mm=1.0,
        fingerprint=fingerprint(slices),
    )


def noisy_volume(depth: int = 3, size: int = 20) -> np.ndarray[Any, np.dtype[np.uint16]]:
    return np.random.default_rng(depth).integers(0, 2**16, (depth, size, size), np.uint16)


def test_a_volume_is_written_and_read_back(tmp_path: Path) -> None:
    slices = noisy_volume()
    crop = volume_row(tmp_path, slices)
    assert CropsManifest.write(tmp_path, [crop]).crops == (crop,)
    read = CropsManifest.read(tmp_path)
    assert read.crops == (crop,)
    assert read.depth == 3
    np.testing.assert_array_equal(read.pixels(0), slices)
    np.testing.assert_array_equal(read.stacked([0, 0]), np.stack([slices, slices]))
    assert read.stacked([]).shape == (0, 3, 0, 0)
    assert crop.fingerprint == fingerprint(slices[::-1])  # of the mean of its slices
    assert "depth" in (tmp_path / "crops.csv").read_text()


def test_a_table_in_the_plane_has_no_columns_of_depth(tmp_path: Path) -> None:
    CropsManifest.write(tmp_path, [CROP])
    assert "depth" not in (tmp_path / "crops.csv").read_text()


def test_volumes_are_refused_as_crops_in_the_plane_and_the_other_way_round(
    tmp_path: Path, cohort: CropsManifest
) -> None:
    volumes = CropsManifest.write(tmp_path, [volume_row(tmp_path, noisy_volume())])
    in_the_plane = r"volumes of 3 slices, where crops in the plane"
    with pytest.raises(ManifestError, match=in_the_plane):
        volumes.image(0)
    with pytest.raises(ManifestError, match=in_the_plane):
        volumes.images([0])
    with pytest.raises(ManifestError, match=r"crops in the plane, where volumes of 3 slices"):
        cohort.require_depth(3)
    with pytest.raises(ManifestError, match=r"volumes of 3 slices, where volumes of 4"):
        volumes.require_depth(4)
    volumes.require_depth(3)
    cohort.require_depth(None)


@pytest.mark.parametrize("depths", [(3, None), (3, 4)])
def test_depths_are_not_mixed(tmp_path: Path, depths: tuple[int, int | None]) -> None:
    rows = [volume_row(tmp_path, noisy_volume(depths[0]))]
    other = replace(CROP, file="images/b.png", image_id="I2")
    rows.append(other if depths[1] is None else volume_row(tmp_path, noisy_volume(depths[1]), "b"))
    with pytest.raises(ManifestError, match="are mixed"):
        CropsManifest.write(tmp_path, rows)


def test_a_damaged_volume_is_named(tmp_path: Path) -> None:
    slices = noisy_volume()
    crop = volume_row(tmp_path, slices)
    path = tmp_path / crop.file
    whole = path.read_bytes()
    for damage, says in (
        (whole[: len(whole) // 2], "cannot be read"),
        (b"no picture", "cannot be read"),
        (None, "cannot be read"),
    ):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        else:
            Image.fromarray(slices[0]).save(path)
        with pytest.raises(ManifestError, match=rf"row 2\): {says}"):
            CropsManifest.write(tmp_path, [crop]).pixels(0)
        path.touch()
    save_crop_image(path, slices[::-1])
    with pytest.raises(ManifestError, match="recorded hash"):
        CropsManifest.write(tmp_path, [crop]).pixels(0)


def test_a_volume_without_its_depth_is_not_read_as_one_slice(tmp_path: Path) -> None:
    crop = replace(volume_row(tmp_path, noisy_volume()), depth=None, slice_spacing_mm=None)
    with pytest.raises(ManifestError, match="the table says no depth"):
        CropsManifest.write(tmp_path, [crop]).image(0)
