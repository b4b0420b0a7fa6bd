# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.misc import warn_and_log
from pydicom.uid import (
    MPEG2MPML,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from data_prep.dicom import read_mammogram, read_series_file, read_stored
from data_prep.dicom_checks import quiet
from data_prep.errors import DicomRejected
from tests.data_prep.tiny_archive import error_text, lut_item, write_dicom

RAMP = np.arange(48, dtype=np.uint16).reshape(6, 8) * 80  # 0..3760, 12 bits
TWELVE_BITS = {"BitsStored": 12, "HighBit": 11}


def window(values: NDArray[np.float64], center: float, width: float) -> NDArray[np.float64]:
    """The LINEAR window of DICOM PS3.3 C.11.2.1.2.1, written out."""
    return np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1)


def test_without_a_window_the_stored_range_becomes_zero_to_one(tmp_path: Path) -> None:
    shown = read_mammogram(write_dicom(tmp_path / "a.dcm", RAMP, **TWELVE_BITS))
    np.testing.assert_allclose(shown.pixels, RAMP / 4095, atol=1e-6)
    assert shown.pixels.dtype == np.float32
    assert (shown.bits, shown.voi) == (12, "none")
    assert (shown.spacing_mm, shown.laterality, shown.view) == (None, None, None)


def test_window_follows_the_standard(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, WindowCenter=[1500, 9], WindowWidth=[1000, 9], **TWELVE_BITS
    )
    shown = read_mammogram(path)
    np.testing.assert_allclose(shown.pixels, window(RAMP.astype(float), 1500, 1000), atol=1e-6)
    assert shown.voi == "window"


def test_monochrome1_is_inverted_once_and_after_the_window(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        PhotometricInterpretation="MONOCHROME1",
        WindowCenter=1500,
        WindowWidth=1000,
        PresentationLUTShape="INVERSE",
        **TWELVE_BITS,
    )
    expected = 1 - window(RAMP.astype(float), 1500, 1000)
    np.testing.assert_allclose(read_mammogram(path).pixels, expected, atol=1e-6)


def test_rescale_comes_before_the_window(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        RescaleSlope=2,
        RescaleIntercept=-100,
        WindowCenter=2000,
        WindowWidth=3000,
        **TWELVE_BITS,
    )
    expected = window(RAMP.astype(float) * 2 - 100, 2000, 3000)
    np.testing.assert_allclose(read_mammogram(path).pixels, expected, atol=1e-5)


def test_rescale_alone_and_modality_table_keep_the_whole_range(tmp_path: Path) -> None:
    scaled = write_dicom(
        tmp_path / "a.dcm", RAMP, RescaleSlope=3, RescaleIntercept=5, **TWELVE_BITS
    )
    np.testing.assert_allclose(read_mammogram(scaled).pixels, RAMP / 4095, atol=1e-6)
    entries = [65535 - 16 * i for i in range(4096)]
    table = write_dicom(
        tmp_path / "b.dcm", RAMP, ModalityLUTSequence=[lut_item(entries)], **TWELVE_BITS
    )
    np.testing.assert_allclose(read_mammogram(table).pixels, 1 - RAMP * 16.0 / 65535, atol=1e-6)


def test_signed_pixels_fill_their_range(tmp_path: Path) -> None:
    signed = np.array([[-32768, 0], [100, 32767]], np.int16)
    shown = read_mammogram(write_dicom(tmp_path / "a.dcm", signed)).pixels
    np.testing.assert_allclose(shown, (signed.astype(float) + 32768) / 65535, atol=1e-6)


def test_table_of_interest_is_preferred_to_the_window(tmp_path: Path) -> None:
    entries = [min(65535, i * 32) for i in range(4096)]
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        VOILUTSequence=[lut_item(entries)],
        WindowCenter=1500,
        WindowWidth=1000,
        **TWELVE_BITS,
    )
    shown = read_mammogram(path)
    np.testing.assert_allclose(shown.pixels, np.array(entries)[RAMP] / 65535, atol=1e-6)
    assert shown.voi == "lut"


@pytest.mark.parametrize("bad", ["short", "narrow"])
def test_malformed_table_falls_back_to_the_window_then_rejects(tmp_path: Path, bad: str) -> None:
    item = lut_item([0, 1, 2, 3])
    item.LUTDescriptor = [4096, 0, 16]
    if bad == "narrow":  # 8-bit entries for 4,096 values: pydicom would wrap the index
        item = lut_item([i // 16 for i in range(4096)], bits=8)
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        VOILUTSequence=[item],
        WindowCenter=1500,
        WindowWidth=1000,
        **TWELVE_BITS,
    )
    assert read_mammogram(path).voi == "window"
    path = write_dicom(tmp_path / "b.dcm", RAMP, VOILUTSequence=[item], **TWELVE_BITS)
    with pytest.raises(DicomRejected, match="malformed grey-value table") as caught:
        read_mammogram(path)
    assert caught.value.reason == "lut"


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")  # written on purpose
def test_impossible_window_or_rescale_is_rejected(tmp_path: Path) -> None:
    narrow = write_dicom(tmp_path / "a.dcm", RAMP, WindowCenter=5, WindowWidth=0, **TWELVE_BITS)
    flat = write_dicom(tmp_path / "b.dcm", RAMP, RescaleSlope=0, RescaleIntercept=1, **TWELVE_BITS)
    no_number = write_dicom(tmp_path / "c.dcm", RAMP, WindowCenter="nan", WindowWidth=9)
    for path in (narrow, flat, no_number):
        with pytest.raises(DicomRejected) as caught:
            read_mammogram(path)
        assert caught.value.reason == "lut"


def test_header_facts_are_read(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        ImagerPixelSpacing=[0.07, 0.07],
        PixelSpacing=[0.1, 0.1],
        ImageLaterality="R",
        Laterality="L",
        ViewPosition="MLO",
        **TWELVE_BITS,
    )
    shown = read_mammogram(path)
    assert (shown.spacing_mm, shown.laterality, shown.view) == (0.07, "R", "MLO")
    other = write_dicom(
        tmp_path / "b.dcm", RAMP, PixelSpacing=[0.1, 0.1], Laterality="L", ViewPosition="LM"
    )
    shown = read_mammogram(other)
    assert (shown.spacing_mm, shown.laterality, shown.view) == (0.1, "L", "other")


def test_unequal_spacing_becomes_square_pixels(tmp_path: Path) -> None:
    shown = read_mammogram(write_dicom(tmp_path / "a.dcm", RAMP, PixelSpacing=[0.2, 0.1]))
    assert shown.pixels.shape == (12, 8)
    assert shown.stored_shape == (6, 8)
    assert shown.spacing_mm == 0.1


@pytest.mark.parametrize(
    ("reason", "says", "elements"),
    [
        ("not_mammography", "Modality is not MG", {"Modality": "CT"}),
        ("not_mammography", "MONOCHROME", {"PhotometricInterpretation": "PALETTE COLOR"}),
        ("for_processing", "FOR PROCESSING", {"PresentationIntentType": "FOR PROCESSING"}),
        (
            "for_processing",
            "FOR PROCESSING",
            {"SOPClassUID": DigitalMammographyXRayImageStorageForProcessing},
        ),
        ("multi_frame", "NumberOfFrames is 2", {"NumberOfFrames": 2}),
        ("burned_in", "BurnedInAnnotation", {"BurnedInAnnotation": "YES"}),
    ],
)
def test_what_is_no_mammogram_for_presentation_is_rejected(
    tmp_path: Path, reason: str, says: str, elements: dict[str, Any]
) -> None:
    elements = {"SOPClassUID": DigitalMammographyXRayImageStorageForPresentation} | elements
    path = write_dicom(tmp_path / "a.dcm", np.stack([RAMP, RAMP]), **elements)
    with pytest.raises(DicomRejected, match=says) as caught:
        read_mammogram(path, allow_secondary_capture=True)
    assert caught.value.reason == reason
    assert str(caught.value).startswith("a.dcm: ")


def test_secondary_capture_needs_permission(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, Modality="OT")
    assert read_mammogram(path, allow_secondary_capture=True).bits == 16
    with pytest.raises(DicomRejected) as caught:
        read_mammogram(path)
    assert caught.value.reason == "not_mammography"


@pytest.mark.parametrize("keep", [0, 100, 0.7, 0.99])
def test_truncated_file_is_rejected_without_quoting_the_header(tmp_path: Path, keep: float) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    with pytest.raises(DicomRejected, match="Download the file again") as caught:
        read_mammogram(path, where="table.csv, row 7")
    assert caught.value.reason == "unreadable"
    assert str(caught.value).startswith("table.csv, row 7: ")
    assert "Secret" not in error_text(caught.value)
    assert "SECRET" not in error_text(caught.value)


def test_what_pydicom_says_of_values_is_neither_shown_nor_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def complain() -> None:
        warn_and_log("Invalid value for VR UI: 'SECRET'")  # a warning would be an error here
        raise ValueError("SECRET")

    with pytest.raises(DicomRejected) as caught, quiet("table.csv, row 7"):
        complain()
    assert "SECRET" not in caplog.text + error_text(caught.value)
    with pytest.warns(UserWarning, match="SECRET"):
        warn_and_log("Invalid value for VR UI: 'SECRET'")
    assert "SECRET" in caplog.text


def test_missing_file_is_rejected_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(DicomRejected, match="No such file") as caught:
        read_stored(tmp_path / "a.dcm")
    assert caught.value.reason == "unreadable"


def test_colour_or_one_row_is_no_grey_image(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP[:1])
    with pytest.raises(DicomRejected):
        read_stored(path)


@pytest.mark.parametrize(
    ("syntax", "remedy"),
    [
        (JPEG2000Lossless, "pylibjpeg-openjpeg"),
        (JPEGLSLossless, "pyjpegls"),
        (JPEGBaseline8Bit, "python-gdcm"),
        (MPEG2MPML, "decompress the file first"),
    ],
)
def test_missing_decoder_names_syntax_and_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str, remedy: str
) -> None:
    class Unavailable:
        is_available = False

    def decoder(uid: str) -> Unavailable:
        if uid == MPEG2MPML:
            raise NotImplementedError
        return Unavailable()

    monkeypatch.setattr("data_prep.dicom_checks.get_decoder", decoder)  # whatever is installed here
    data = b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x02\x00\x00\x00\x00\x00"
    path = write_dicom(tmp_path / "a.dcm", RAMP, TransferSyntaxUID=syntax, PixelData=data)
    with pytest.raises(DicomRejected, match=remedy) as caught:
        read_mammogram(path)
    assert caught.value.reason == "syntax"
    assert str(syntax) in str(caught.value)


def test_rle_needs_no_extra(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, **TWELVE_BITS)
    dataset = dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_stored(path), RAMP)


def test_series_entry_holds_what_an_index_needs(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm", RAMP, SeriesInstanceUID="1.2.3", SeriesDescription="ROI mask images"
    )
    entry = read_series_file(path)
    assert entry is not None
    assert (entry.series, entry.description, entry.pixels) == ("1.2.3", "roi mask images", 48)
    (tmp_path / "b.dcm").write_bytes(b"no DICOM")
    assert read_series_file(tmp_path / "b.dcm") is None
