# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.errors import ArchiveError, DataError, LabelError, LeakageError, ManifestError
from data_prep.readers.crop_folder import read_crop_folder


def put(
    root: Path,
    *,
    patient: str = "P_00001",
    image: int | None = None,
    mass: int = 1,
    benign: int = 0,
    split: str = "train",
    folder: str | None = None,
    name: str | None = None,
    dataset: str = "cbis-ddsm",
) -> Path:
    image = int(patient[-5:]) if image is None else image
    folder = folder or f"is_benign_{'true' if benign else 'false'}"
    name = name or f"patient{dataset}__{patient}_image{image}_mass{mass}_is_benign_{benign}.png"
    path = root / "cbis-ddsm" / split / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([image, mass])
    Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
    return path


def test_label_is_one_minus_is_benign_and_ids_and_parts_are_kept(tmp_path: Path) -> None:
    put(tmp_path, patient="P_00007", image=123, mass=45, benign=1, split="val")
    put(tmp_path, patient="P_00002", image=9, mass=1, benign=0)
    put(tmp_path, patient="P_00001", image=8, mass=2, benign=1)
    crops = read_crop_folder(tmp_path).crops
    assert [
        (c.key, c.patient_id, c.image_id, c.lesion_id, c.malignant, c.split) for c in crops
    ] == [
        ("train_0001", "P_00001", "8", "2", False, "train"),
        ("train_0002", "P_00002", "9", "1", True, "train"),
        ("val_0001", "P_00007", "123", "45", False, "val"),
    ]
    assert {c.dataset for c in crops} == {"cbis-ddsm"}
    assert read_crop_folder(tmp_path / "cbis-ddsm").crops == crops


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"folder": "is_benign_true"}, "contradicts"),
        (
            {"folder": "benign"},
            r"<folder 1 of 1 by name>/train/<folder 1 of 1 by name> is none of is_benign_true, ",
        ),
        ({"dataset": "bcdr"}, "does not start with patient and the name of the folder"),
        ({"name": "whatever_is_benign-0.png"}, "does not match"),
        ({"name": "patientcbis-ddsm__P_00001_image1_mass1_is_benign_2.png"}, "does not match"),
    ],
)
def test_disagreement_about_the_label_stops(
    tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    put(tmp_path, **changes)  # type: ignore[arg-type]
    with pytest.raises(LabelError, match=says) as caught:
        read_crop_folder(tmp_path)
    assert "P_00001" not in str(caught.value).replace(str(tmp_path), "")


def test_patient_in_two_parts_is_leakage(tmp_path: Path) -> None:
    put(tmp_path)
    put(tmp_path, image=2, split="val")
    with pytest.raises(LeakageError, match=r"val_0001.*'val'.*'train'"):
        read_crop_folder(tmp_path)


@pytest.mark.parametrize("other", ["P_001", "P_00001+"])
def test_ids_that_could_be_of_one_patient_or_of_two_are_refused(tmp_path: Path, other: str) -> None:
    """Else a crop of one could be taken for a copy of the other's, and nobody would see its id."""
    put(tmp_path)
    put(tmp_path, patient=other, image=2)
    with pytest.raises(ManifestError, match=r"train, crop train_0001 and train, crop train_0002"):
        read_crop_folder(tmp_path)


def test_two_files_of_one_crop_are_refused(tmp_path: Path) -> None:
    put(tmp_path)
    put(tmp_path, benign=1)
    with pytest.raises(ManifestError, match="train_0001 and train_0002"):
        read_crop_folder(tmp_path)


def test_missing_empty_or_ambiguous_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is not a folder"):
        read_crop_folder(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match="data sets found: none"):
        read_crop_folder(tmp_path)
    (tmp_path / "cbis-ddsm" / "train").mkdir(parents=True)
    with pytest.raises(ArchiveError, match="holds no PNG"):
        read_crop_folder(tmp_path)
    (tmp_path / "bcdr" / "test").mkdir(parents=True)
    with pytest.raises(ArchiveError, match=r"data sets found: 2\. Give one"):
        read_crop_folder(tmp_path)


def test_a_linked_class_folder_is_read(tmp_path: Path) -> None:
    put(tmp_path / "root")
    put(tmp_path / "root", patient="P_00002", benign=1)
    linked = tmp_path / "root" / "cbis-ddsm" / "train" / "is_benign_true"
    linked.rename(tmp_path / "elsewhere")
    linked.symlink_to(tmp_path / "elsewhere")
    crops = read_crop_folder(tmp_path / "root").crops
    assert [crop.malignant for crop in crops] == [True, False]
    linked.unlink()
    linked.symlink_to(linked.with_name("is_benign_false"))
    with pytest.raises(ArchiveError, match="two of its folders are links to one"):
        read_crop_folder(tmp_path / "root")


def test_unknown_folders_and_misplaced_files_are_refused(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "cbis-ddsm" / "validation").mkdir()
    with pytest.raises(ArchiveError, match="<folder 2 of 2 by name> is none of train, val, "):
        read_crop_folder(tmp_path)
    (tmp_path / "cbis-ddsm" / "validation").rename(tmp_path / "cbis-ddsm" / ".cache")
    lost = put(tmp_path, patient="P_00002")
    lost.rename(tmp_path / "cbis-ddsm" / lost.name)
    with pytest.raises(LabelError, match="contradicts its folder"):
        read_crop_folder(tmp_path)


CROP = "patientclinic__7_image1_mass1_is_benign_1.png"
NAMED = "Mueller_Anna_1950-01-31"


@pytest.mark.parametrize(
    ("path", "where"),
    [
        (f"clinic/train/is_benign_true/{NAMED}/{CROP}", "/train/is_benign_true/<folder 1 of 1"),
        (f"clinic/train/is_benign_true/{NAMED}.png", "/train/is_benign_true/<file 1 of 1"),
        (f"clinic/train/{NAMED}/{CROP}", "/train/<folder 1 of 1 by name> is none of"),
        (f"clinic/{NAMED}/{CROP}", "/<folder 1 of 2 by name> is none of"),
        (
            f"clinic/train/is_benign_true/{CROP.replace('clinic', NAMED)}",
            "/train/is_benign_true/<file 1 of 1",
        ),
        (f"{NAMED}/train/is_benign_true/{CROP}", "/<folder 1 of 2 by name>/train/is_benign_true/<"),
        (f"{NAMED}/train/is_benign_false/{CROP}", "/train/is_benign_false/<file 1 of 1"),
        (f"{NAMED}/val/is_benign_true/{CROP}", "data sets found: 2"),
    ],
)
def test_names_of_folders_and_files_reach_no_message(tmp_path: Path, path: str, where: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    (tmp_path / "clinic").mkdir(exist_ok=True)
    if "/val/" in path or not path.startswith(NAMED):
        (tmp_path / "clinic" / "train").mkdir(exist_ok=True)
    with pytest.raises(DataError) as caught:
        read_crop_folder(tmp_path)
    said = str(caught.value)
    assert str(tmp_path) in said
    assert where in said
    assert "Anna" not in said
    assert "1950" not in said


def test_upper_case_suffixes_and_helper_files_do_not_matter(tmp_path: Path) -> None:
    path = put(tmp_path)
    path.rename(path.with_suffix(".PNG"))
    (path.parent / f"._{path.name}").write_bytes(b"x")
    folder = read_crop_folder(tmp_path)
    assert len(folder.crops) == 1
    assert folder.files.skipped == {"helper file": 1}
