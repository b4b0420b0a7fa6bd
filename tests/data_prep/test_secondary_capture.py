# SPDX-License-Identifier: Apache-2.0
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import UID, SecondaryCaptureImageStorage

from data_prep.crop_image import pixel_hash
from data_prep.dicom import read_mammogram
from data_prep.errors import ManifestError
from data_prep.manifest import Crop
from data_prep.secondary_capture import (
    derived_uid,
    save_secondary_capture,
    secondary_capture,
)

PIXELS = np.arange(256, dtype=np.uint16).reshape(16, 16) * np.uint16(257)
CROP = Crop(
    file="images/000003_malignant.png",
    patient_id="",
    lesion_id="1",
    image_id="3",
    malignant=True,
    split="train",
    origin="gan:abc",
    label_source="generator",
    crop_rule="centred",
    sha256=pixel_hash(PIXELS),
    view="CC",
    attributes={"margin": "SPICULATED"},
)
# DICOM PS3.3, modules Patient, General Study, General Series, General Equipment, SC Equipment,
# General Image, Image Pixel and SOP Common: type 1 must have a value, type 2 must be present.
TYPE_1 = [
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"),
    *("Modality", "ConversionType", "SamplesPerPixel", "PhotometricInterpretation"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    "PixelData",
]
TYPE_2 = [
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName", "StudyID", "SeriesNumber", "Laterality"),
    *("Manufacturer", "InstanceNumber", "PatientOrientation"),
]


def written(folder: Path, crop: Crop = CROP, number: int = 3) -> Dataset:
    path = folder / "dicom" / "3.dcm"
    save_secondary_capture(path, secondary_capture(crop, PIXELS, number, "set"))
    assert [file.name for file in path.parent.iterdir()] == ["3.dcm"]
    return dcmread(path)


def test_what_is_read_back_is_what_was_written(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert np.array_equal(file.pixel_array, PIXELS)
    assert file.file_meta.MediaStorageSOPClassUID == SecondaryCaptureImageStorage
    assert file.file_meta.MediaStorageSOPInstanceUID == file.SOPInstanceUID
    assert file.PhotometricInterpretation == "MONOCHROME2"
    assert (file.BitsAllocated, file.BitsStored, file.HighBit) == (16, 16, 15)
    assert all(file[name].value not in (None, "") for name in TYPE_1)
    assert all(name in file for name in TYPE_2)


def test_our_own_reader_of_mammograms_shows_the_same_grey_values(tmp_path: Path) -> None:
    written(tmp_path)
    shown = read_mammogram(tmp_path / "dicom" / "3.dcm", allow_secondary_capture=True)
    assert np.allclose(shown.pixels, PIXELS / 65535, atol=1e-6)


def test_nobody_is_in_it_and_it_says_so(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert (file.PatientName, file.PatientID) == ("SYNTHETIC", "SYNTHETIC")
    assert (file.SyntheticData, file.ConversionType) == ("YES", "SYN")
    assert file.BurnedInAnnotation == "NO"
    assert file.PatientIdentityRemoved == "YES"
    dated = [element for element in file if element.VR in ("DA", "TM", "DT") and element.value]
    assert dated == []


def test_class_and_attributes_stand_in_standard_places(tmp_path: Path) -> None:
    file = written(tmp_path)
    assert file.SeriesDescription == "Synthetic masses, malignant"
    assert file.ImageComments == "malignant=1; margin=SPICULATED; view=CC; label_source=generator"
    benign = written(tmp_path, replace(CROP, malignant=False, attributes={}, view=None))
    assert benign.ImageComments == "malignant=0; label_source=generator"
    assert benign.SeriesInstanceUID != file.SeriesInstanceUID
    assert benign.StudyInstanceUID == file.StudyInstanceUID


def test_identifiers_follow_from_content_alone(tmp_path: Path) -> None:
    one, again = written(tmp_path / "a"), written(tmp_path / "b")
    assert (tmp_path / "a/dicom/3.dcm").read_bytes() == (tmp_path / "b/dicom/3.dcm").read_bytes()
    assert one.SOPInstanceUID == again.SOPInstanceUID
    other_crop = written(tmp_path / "c", replace(CROP, image_id="4"))
    other_pixels = written(tmp_path / "d", replace(CROP, sha256="0" * 64))
    assert len({file.SOPInstanceUID for file in (one, other_crop, other_pixels)}) == 3


def test_derived_identifiers_are_valid_uuids_below_the_free_root() -> None:
    for word in ("a", "b", "c", "d"):
        uid = UID(derived_uid(word))
        assert uid.is_valid
        assert len(uid) <= 44
        made = uuid.UUID(int=int(uid.removeprefix("2.25.")))
        assert (made.version, made.variant) == (5, uuid.RFC_4122)
    assert derived_uid("ab", "c") != derived_uid("a", "bc")


@pytest.mark.parametrize("origin", ["cbis-ddsm", "phantom-archive"])
def test_a_patient_is_refused(origin: str) -> None:
    crop = replace(CROP, origin=origin, patient_id="P_00001")
    with pytest.raises(ManifestError, match=f"a patient stands behind crops of {origin}") as caught:
        secondary_capture(crop, PIXELS, 0, "set")
    assert "P_00001" not in str(caught.value)
