import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pydicom
import pytest

from data_prep.phantoms.archive import COLUMNS, write_phantom_archive
from data_prep.phantoms.parameters import PhantomError

SIZE = (320, 256)
IDENTIFYING = (
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "InstitutionName",
    "ReferringPhysicianName",
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archive")
    write_phantom_archive(root, patients=12, image_size=SIZE)
    return root


def table(root: Path, part: str) -> list[dict[str, str]]:
    with (root / f"mass_case_description_{part}_set.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def rows(root: Path) -> list[dict[str, str]]:
    return table(root, "train") + table(root, "test")


def files(root: Path, path: str) -> list[pydicom.FileDataset]:
    """Files of the series that a table path names, as the reader finds them."""
    return [pydicom.dcmread(file) for file in sorted((root / path.strip()).parent.glob("*.dcm"))]


def case(root: Path, row: dict[str, str]) -> list[pydicom.FileDataset]:
    """Files of the one or two series of a lesion, without repeats."""
    both = files(root, row["cropped image file path"]) + files(root, row["ROI mask file path"])
    return list({file.SOPInstanceUID: file for file in both}.values())


def test_the_folder_says_that_it_is_a_phantom(archive: Path) -> None:
    assert "procedural" in (archive / "PHANTOM.txt").read_text().lower()


def test_tables_have_all_columns_and_newlines_in_path_cells(archive: Path) -> None:
    for part in ("train", "test"):
        assert tuple(table(archive, part)[0]) == COLUMNS
        for row in table(archive, part):
            assert row["ROI mask file path"].endswith("\n")
            assert row["abnormality type"] == "mass"
            assert row["image file path"].count("/") == 3
            assert row["patient_id"].startswith("P_9")


def test_no_patient_is_in_both_tables_and_both_hold_both_classes(archive: Path) -> None:
    parts = [table(archive, part) for part in ("train", "test")]
    patients = [{row["patient_id"] for row in part} for part in parts]
    assert not patients[0] & patients[1]
    assert len(patients[0] | patients[1]) == 12
    for part in parts:
        assert {"MALIGNANT", "BENIGN"} <= {row["pathology"] for row in part}


def test_patients_have_unequal_numbers_of_crops(archive: Path) -> None:
    counts = Counter(row["patient_id"] for row in rows(archive))
    assert {1, 2, 4, 6} <= set(counts.values())
    assert max(counts.values()) == 6
    assert {row["image view"] for row in rows(archive)} == {"CC", "MLO"}
    assert {row["left or right breast"] for row in rows(archive)} == {"LEFT", "RIGHT"}


def test_one_lesion_has_one_pathology_and_shape_in_all_views(archive: Path) -> None:
    seen = defaultdict(set)
    for row in rows(archive):
        lesion = (row["patient_id"], row["left or right breast"], row["abnormality id"])
        seen[lesion].add((row["pathology"], row["mass shape"], row["assessment"]))
    assert len(seen) < len(rows(archive))
    assert all(len(values) == 1 for values in seen.values())


def test_one_patient_has_lesions_of_both_classes(archive: Path) -> None:
    classes = defaultdict(set)
    for row in rows(archive):
        classes[row["patient_id"]].add(row["pathology"] == "MALIGNANT")
    assert 1 <= sum(len(found) == 2 for found in classes.values()) <= 2


def test_files_are_secondary_captures_without_spacing_window_or_person(archive: Path) -> None:
    paths = list(archive.rglob("*.dcm"))
    assert len(paths) > 40
    for path in paths:
        file = pydicom.dcmread(path)
        assert file.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert file.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage
        assert file.Modality == "MG"
        assert file.PatientID == path.relative_to(archive).parts[0]
        for name in ("PixelSpacing", "ImagerPixelSpacing", "WindowCenter", *IDENTIFYING):
            assert name not in file
        assert file.pixel_array.shape == (file.Rows, file.Columns)


def test_each_lesion_has_a_two_valued_mask_and_a_crop_of_its_mammogram(archive: Path) -> None:
    for row in rows(archive):
        (image,) = files(archive, row["image file path"])
        assert image.pixel_array.shape == SIZE
        assert image.pixel_array.dtype == np.uint16
        assert image.PatientOrientation == row["image view"]
        pair = case(archive, row)
        assert len(pair) == 2
        mask, crop = sorted(pair, key=lambda file: file.BitsStored)
        assert set(np.unique(mask.pixel_array)) == {0, 255}
        assert mask.Rows / mask.Columns == pytest.approx(SIZE[0] / SIZE[1], rel=0.01)
        patch = crop.pixel_array
        found = [
            (int(y), int(x))
            for y, x in np.argwhere(image.pixel_array == patch[0, 0])
            if np.array_equal(
                image.pixel_array[y : y + patch.shape[0], x : x + patch.shape[1]], patch
            )
        ]
        assert len(found) == 1
        scale = SIZE[0] / mask.Rows
        inside = np.argwhere(mask.pixel_array > 0) * scale - found[0]
        assert inside.min() >= -1
        assert (inside.max(axis=0) <= np.array(patch.shape) + 1).all()


def test_quirks_of_the_real_archive_occur(archive: Path) -> None:
    swapped_files = swapped_columns = rescaled = 0
    for row in rows(archive):
        crop_path, mask_path = row["cropped image file path"], row["ROI mask file path"]
        if Path(crop_path).parent == Path(mask_path).parent:
            swapped_files += files(archive, mask_path)[0].BitsStored == 8
        else:
            swapped_columns += files(archive, crop_path)[0].BitsStored == 8
        rescaled += any(
            file.BitsStored == 8 and (file.Rows, file.Columns) != SIZE
            for file in case(archive, row)
        )
    assert swapped_files >= 1
    assert swapped_columns >= 1
    assert rescaled == 1
    kinds = Counter(
        files(archive, path)[0].PhotometricInterpretation
        for path in {row["image file path"] for row in rows(archive)}
    )
    assert kinds["MONOCHROME1"] == 1


def test_monochrome1_is_stored_inverted(archive: Path) -> None:
    for row in rows(archive):
        (image,) = files(archive, row["image file path"])
        air = np.median(image.pixel_array[-20:])
        inverted = image.PhotometricInterpretation == "MONOCHROME1"
        assert air > 60000 if inverted else air < 5000


def test_equal_seeds_give_equal_files_and_others_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_phantom_archive(tmp_path / name, patients=4, image_size=SIZE, seed=seed)

    def contents(name: str) -> dict[str, bytes]:
        root = tmp_path / name
        paths = (path for path in root.rglob("*") if path.is_file())
        return {str(path.relative_to(root)): path.read_bytes() for path in paths}

    assert contents("a") == contents("b")
    assert contents("a").keys() != contents("c").keys()


def test_identifiers_are_unique_and_say_nothing(archive: Path) -> None:
    uids = [
        pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
        for path in archive.rglob("*.dcm")
    ]
    assert len(set(uids)) == len(uids)
    assert all(uid.is_valid for uid in uids)


@pytest.mark.parametrize(
    ("patients", "size", "message"),
    [
        (3, SIZE, "patients: 3. Give at least 4"),
        (8, (100, 256), "height: 100. Give at least 320"),
        (8, (320, 100), "width: 100. Give at least 256"),
    ],
)
def test_too_few_patients_or_pixels_are_refused(
    tmp_path: Path, patients: int, size: tuple[int, int], message: str
) -> None:
    with pytest.raises(PhantomError, match=message):
        write_phantom_archive(tmp_path / "new", patients=patients, image_size=size)
    with pytest.raises(PhantomError, match=r"seed: -1\. Give at least 0"):
        write_phantom_archive(tmp_path / "new", patients=8, image_size=SIZE, seed=-1)
    assert not (tmp_path / "new").exists()
