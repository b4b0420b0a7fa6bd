# SPDX-License-Identifier: Apache-2.0
"""Slices of multi-frame files, against pydicom's own reading of the whole file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from data_prep.dicom_volumes import is_turned, open_volume, turned
from data_prep.errors import DicomRejected
from data_prep.phantoms.tomosynthesis_archive import BITS, PIXEL_MM, dicom_volume

SHAPE = (5, 12, 10)
TOP = 2**BITS - 1


def pixels() -> NDArray[np.uint16]:
    return np.random.default_rng(0).integers(0, TOP + 1, SHAPE).astype(np.uint16)


def made(**elements: Any) -> Dataset:
    file = dicom_volume(pixels(), view="MLO", side="R", patient="SECRET")
    file.StudyInstanceUID, file.SeriesInstanceUID = generate_uid(), generate_uid()
    file.SOPInstanceUID = generate_uid()
    for name, value in elements.items():
        setattr(file, name, value)
    return file


def saved(path: Path, file: Dataset, **how: Any) -> Path:
    file.save_as(path, enforce_file_format=True, **how)
    return path


def read(path: Path, number: int) -> None:
    with open_volume(path, where="row 2") as volume:
        volume.slice(number)


def grey(stored: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Grey values by the window over the whole range: PS3.3, C.11.2.1.2.1."""
    centre, width = 2.0 ** (BITS - 1), 2.0**BITS
    shown = (stored - (centre - 0.5)) / (width - 1) + 0.5
    return np.asarray(shown.clip(0, 1), np.float32)


def test_each_slice_is_the_frame_that_pydicom_reads(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.dcm", made())
    whole = pydicom.dcmread(path).pixel_array
    np.testing.assert_array_equal(whole, pixels())
    with open_volume(path, where="row 2") as volume:
        assert (volume.slices, volume.slice_mm) == (5, 1.0)
        for number in (3, 0, 4):
            shown = volume.slice(number)
            np.testing.assert_allclose(shown.pixels, grey(whole[number]), atol=2e-3)
    assert (shown.view, shown.laterality, shown.spacing_mm) == ("MLO", "R", PIXEL_MM)
    assert (shown.voi, shown.bits, shown.stored_shape) == ("window", BITS, (12, 10))


@pytest.mark.parametrize("with_table", [True, False])
def test_frames_of_a_compressed_file_are_found(tmp_path: Path, with_table: bool) -> None:
    plain = made()
    plain.compress(RLELossless)
    if not with_table:
        frames = pydicom.encaps.generate_frames(plain.PixelData, number_of_frames=5)
        plain.PixelData = encapsulate(list(frames), has_bot=False)
    path = saved(tmp_path / "a.dcm", plain)
    with open_volume(path, where="row 2") as volume:
        for number in (4, 1):
            np.testing.assert_allclose(
                volume.slice(number).pixels, grey(pixels()[number]), atol=2e-3
            )


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_encodings_are_read(tmp_path: Path, syntax: pydicom.uid.UID) -> None:
    file = made()
    big = syntax == ExplicitVRBigEndian
    if big:
        file.PixelData = pixels().astype(">u2").tobytes()
    file.file_meta.TransferSyntaxUID = syntax
    path = saved(tmp_path / "a.dcm", file, implicit_vr=syntax.is_implicit_VR, little_endian=not big)
    with open_volume(path, where="row 2") as volume:
        np.testing.assert_allclose(volume.slice(2).pixels, grey(pixels()[2]), atol=2e-3)


def test_only_the_frame_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.dcm", made())
    start = path.stat().st_size - pixels().nbytes
    read: list[int] = []
    with open_volume(path, where="row 2") as volume:
        source = volume._source._file
        whole = source.read

        def counted(size: int = -1) -> bytes:
            data = whole(size)
            if source.tell() > start:
                read.append(len(data))
            return data

        monkeypatch.setattr(source, "read", counted)
        volume.slice(3)
    assert sum(read) <= pixels()[0].nbytes


def test_a_window_of_one_frame_comes_before_that_of_all(tmp_path: Path) -> None:
    file, window = made(), Dataset()
    window.WindowCenter, window.WindowWidth = 100, 51
    file.PerFrameFunctionalGroupsSequence[1].FrameVOILUTSequence = [window]
    with open_volume(saved(tmp_path / "a.dcm", file), where="row 2") as volume:
        own, other = volume.slice(1).pixels, volume.slice(2).pixels
    assert own[pixels()[1] > 130].min() == 1
    np.testing.assert_allclose(other, grey(pixels()[2]), atol=2e-3)


def test_distances_of_slices_are_those_of_their_positions(tmp_path: Path) -> None:
    file = made()
    for number, group in enumerate(file.PerFrameFunctionalGroupsSequence):
        group.PlanePositionSequence[0].ImagePositionPatient = [0.6 * number, 0.0, 0.8 * number]
    with open_volume(saved(tmp_path / "a.dcm", file), where="row 2") as volume:
        assert volume.slice_mm == 1.0
    for group in file.PerFrameFunctionalGroupsSequence:
        del group.PlanePositionSequence
    file.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices = 0.5
    with open_volume(saved(tmp_path / "a.dcm", file), where="row 2") as volume:
        assert volume.slice_mm == 0.5
    del file.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    with open_volume(saved(tmp_path / "a.dcm", file), where="row 2") as volume:
        assert volume.slice_mm is None
        assert volume.slice(0, spacing_mm=0.1).spacing_mm == 0.1


def uneven(file: Dataset) -> None:
    file.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence[0].ImagePositionPatient = [
        *(0.0, 0.0, 3.5)
    ]


def deflated(file: Dataset) -> None:
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"SOPClassUID": pydicom.uid.CTImageStorage}, "not_tomosynthesis"),
        ({"NumberOfFrames": 1}, "not_tomosynthesis"),
        ({"NumberOfFrames": 6}, "bits"),
        ({"NumberOfFrames": 5000}, "too_large"),
        ({"Rows": 13}, "bits"),
        ({"Modality": "CT"}, "not_mammography"),
        ({"BurnedInAnnotation": "YES"}, "burned_in"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
        ({"PhotometricInterpretation": "RGB"}, "not_mammography"),
        (uneven, "spacing"),
        (deflated, "syntax"),
    ],
)
def test_what_is_no_volume_for_presentation_is_refused(
    tmp_path: Path, change: dict[str, Any] | Callable[[Dataset], None], reason: str
) -> None:
    file = made(**change) if isinstance(change, dict) else made()
    if callable(change):
        change(file)
    path = saved(tmp_path / "a.dcm", file)
    with pytest.raises(DicomRejected, match=r"^row 2: .*\.$") as caught:
        read(path, 0)
    assert caught.value.reason == reason
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 100, 2000, -1, -200])
def test_a_damaged_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path / "a.dcm", made())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DicomRejected, match="row 2") as caught:
        read(path, 4)
    assert caught.value.reason == "unreadable"


def test_an_error_of_the_caller_stays_what_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.dcm", made())
    with pytest.raises(KeyError), open_volume(path, where="row 2"):
        raise KeyError("of the caller")


def test_the_chest_wall_tells_whether_a_file_is_turned(tmp_path: Path) -> None:
    image = np.zeros((2, 20, 40), np.uint16)
    image[:, 5:15, :25] = 800
    for side, breast in (("L", image), ("R", image[:, :, ::-1])):
        file = dicom_volume(breast, view="CC", side="L", patient="x")
        file.SOPInstanceUID = generate_uid()
        with open_volume(saved(tmp_path / f"{side}.dcm", file), where="") as volume:
            shown = volume.slice(0)
        assert not is_turned(shown, side)  # type: ignore[arg-type]
        assert is_turned(turned(shown), side)  # type: ignore[arg-type]
        np.testing.assert_array_equal(turned(shown).pixels, shown.pixels[::-1, ::-1])
