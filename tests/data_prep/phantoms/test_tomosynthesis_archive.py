import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import BreastTomosynthesisImageStorage

from data_prep.archives import bcs_dbt
from data_prep.cut_image import ImageOrder, LesionOrder, crops_of
from data_prep.cutting import Cutting
from data_prep.dicom_volumes import is_turned, open_volume, turned
from data_prep.lesions import LesionTable, Slab
from data_prep.phantoms.parameters import PhantomError
from data_prep.phantoms.tomosynthesis_archive import (
    COLUMNS,
    _write_patient,
    write_tomosynthesis_archive,
)
from tests.data_prep.phantoms.test_archive import IDENTIFYING

SHAPE = (12, 160, 128)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tomosynthesis")
    write_tomosynthesis_archive(root, patients=6, shape=SHAPE)
    return root


@pytest.fixture(scope="module")
def table(archive: Path) -> LesionTable:
    return bcs_dbt.read(archive, depth=8)


def rows(root: Path, kind: str) -> list[dict[str, str]]:
    found = []
    for path in sorted(root.glob(f"BCS-DBT-{kind}-*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            assert tuple(reader.fieldnames or ()) == COLUMNS[kind]
            found += list(reader)
    return found


def test_the_folder_says_that_it_is_a_phantom(archive: Path, table: LesionTable) -> None:
    assert "procedural" in (archive / "PHANTOM.txt").read_text().lower()
    assert table.facts is bcs_dbt.PHANTOM_FACTS


def test_every_box_has_a_file_and_every_part_both_classes(
    archive: Path, table: LesionTable
) -> None:
    boxes = rows(archive, "boxes")
    assert not table.left_out
    assert len(table.rows) == len(boxes)
    assert {(row.split, row.malignant) for row in table.rows} == {
        (part, label) for part in ("train", "val", "test") for label in (False, True)
    }
    paths = rows(archive, "file-paths")
    assert len(paths) == len(rows(archive, "labels")) == len(list(archive.rglob("*.dcm")))
    per_patient = Counter(row["PatientID"] for row in paths)
    assert len(per_patient) == 6
    assert len(set(per_patient.values())) > 1


def test_files_are_tomosynthesis_and_hold_no_identifier(archive: Path) -> None:
    for path in sorted(archive.rglob("*.dcm"))[:3]:
        file = pydicom.dcmread(path)
        assert file.SOPClassUID == BreastTomosynthesisImageStorage
        assert file.pixel_array.shape == SHAPE
        assert len(file.PerFrameFunctionalGroupsSequence) == SHAPE[0]
        assert file.PatientID.startswith("DBT-P9")
        for name in IDENTIFYING:
            assert name not in file


def test_boxes_lie_on_masses_once_turned_files_are_turned_back(table: LesionTable) -> None:
    brighter, files_turned = [], 0
    for row in table.rows:
        assert isinstance(row.region, Slab)
        box = row.region.box
        with open_volume(row.path, where="") as volume:
            assert (volume.slices, volume.slice_mm) == (SHAPE[0], 1.0)
            shown = volume.slice(row.region.slice)
        assert row.region.side is not None
        if is_turned(shown, row.region.side):
            shown, files_turned = turned(shown), files_turned + 1
        inside = shown.pixels[box.y0 : box.y1, box.x0 : box.x1]
        high, wide = box.height, box.width
        around = shown.pixels[
            max(0, box.y0 - high) : box.y1 + high, max(0, box.x0 - wide) : box.x1 + wide
        ]
        brighter.append(inside.mean() > around.mean())
        assert not is_turned(shown, row.region.side)
    assert np.mean(brighter) > 0.85
    assert 0 < files_turned < len(table.rows)


def test_volumes_can_be_cut(table: LesionTable) -> None:
    row = table.rows[0]
    lesion = LesionOrder(where=row.where, region=row.region)
    order = ImageOrder(path=row.path, spacing_mm=None, scanned_film=False, lesions=(lesion,))
    (crop,) = crops_of(order, Cutting(size=32))
    assert not isinstance(crop, Exception)
    assert crop.pixels.shape == (8, 32, 32)
    assert (crop.slice_mm, crop.image_mm) == (1.0, 0.2)


def test_a_patient_depends_on_seed_and_place_only(archive: Path, tmp_path: Path) -> None:
    assert list(_write_patient(tmp_path, 5, SHAPE, 0))
    few = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*.dcm")}
    assert few
    for name, path in few.items():
        assert path.read_bytes() == (archive / name).read_bytes()


@pytest.mark.parametrize(
    ("patients", "shape", "name"),
    [(4, SHAPE, "patients"), (6, (8, 160, 128), "slices"), (6, (12, 100, 128), "height")],
)
def test_what_is_too_small_is_refused(
    tmp_path: Path, patients: int, shape: tuple[int, int, int], name: str
) -> None:
    with pytest.raises(PhantomError, match=name):
        write_tomosynthesis_archive(tmp_path, patients=patients, shape=shape)
    with pytest.raises(PhantomError, match="seed"):
        write_tomosynthesis_archive(tmp_path, patients=6, shape=SHAPE, seed=-1)
