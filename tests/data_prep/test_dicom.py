# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.misc import warn_and_log
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    DigitalMammographyXRayImageStorageForPresentation,
    DigitalMammographyXRayImageStorageForProcessing,
    JPEG2000Lossless,
    JPEGLosslessSV1,
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
    with pytest.raises(DicomRejected, match="Copy or download the file again") as caught:
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
        (JPEGLosslessSV1, "python-gdcm"),
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


def rejected(path: Path, **settings: Any) -> DicomRejected:
    with pytest.raises(DicomRejected) as caught:
        read_mammogram(path, **settings)
    assert "SECRET" not in error_text(caught.value).upper()
    return caught.value


def deflated(path: Path, pixels: NDArray[Any], **elements: Any) -> Path:
    return write_dicom(path, pixels, TransferSyntaxUID=DeflatedExplicitVRLittleEndian, **elements)


def test_a_deflated_file_is_read_and_a_cut_one_is_rejected(tmp_path: Path) -> None:
    path = deflated(tmp_path / "a.dcm", RAMP, **TWELVE_BITS)
    np.testing.assert_allclose(read_mammogram(path).pixels, RAMP / 4095, atol=1e-6)
    path.write_bytes(path.read_bytes()[:-20])
    assert rejected(path).reason == "unreadable"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\x28\0\x08\0IS\x02\x001 ", b"\x28\0\x08\0IS\x06\x001e400 "),  # frames without end
        (b"\x28\0\x10\0US\x02\0\x06\0", b"\x28\0\x10\0US\x03\0\x06\0\0"),  # no whole number
        (b"\x28\0\x10\0US\x02\0\x06\0", b""),  # no Rows
    ],
)
def test_whatever_pydicom_raises_ends_one_file(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, NumberOfFrames="1")
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    assert rejected(path).reason == "unreadable"


@pytest.mark.parametrize("error", [MemoryError, OverflowError, zlib.error, RecursionError])
def test_any_exception_becomes_a_rejection_and_an_interrupt_does_not(
    error: type[Exception],
) -> None:
    with pytest.raises(DicomRejected, match=error.__name__), quiet("a.dcm"):
        raise error("SECRET")
    with pytest.raises(KeyboardInterrupt), quiet("a.dcm"):
        raise KeyboardInterrupt


def test_an_unknown_warning_rejects_and_a_harmless_one_does_not() -> None:
    with quiet("a.dcm"):
        warnings.warn("Unknown encoding 'x' - using default encoding instead", stacklevel=1)
    with pytest.raises(DicomRejected, match="warning of its decoder"), quiet("a.dcm"):
        warnings.warn("End of file reached", stacklevel=1)


def test_malformed_modality_table_is_rejected(tmp_path: Path) -> None:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [4096, 100, 8])
    item.add_new("LUTData", "OW", np.arange(4096).astype("<u2").tobytes())
    path = write_dicom(tmp_path / "a.dcm", RAMP, ModalityLUTSequence=[item], **TWELVE_BITS)
    assert rejected(path).reason == "lut"


def test_pixels_in_the_upper_bits_are_shifted(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP << 4, BitsStored=12, HighBit=15)
    np.testing.assert_allclose(read_mammogram(path).pixels, RAMP / 4095, atol=1e-6)


def test_values_above_bits_stored_are_not_cut_to_size(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, BitsStored=10, HighBit=9)
    error = rejected(path)
    assert error.reason == "bits"
    assert "more bits than BitsStored (10)" in str(error)


def test_a_sign_repeated_in_unused_bits_is_no_surplus(tmp_path: Path) -> None:
    signed = np.array([[-2048, -1], [0, 2047]], np.int16)
    shown = read_mammogram(write_dicom(tmp_path / "a.dcm", signed, **TWELVE_BITS)).pixels
    np.testing.assert_allclose(shown, (signed.astype(float) + 2048) / 4095, atol=1e-6)
    short = write_dicom(tmp_path / "b.dcm", signed & np.int16(4095), **TWELVE_BITS)
    np.testing.assert_array_equal(read_mammogram(short).pixels, shown)
    assert rejected(write_dicom(tmp_path / "c.dcm", signed * 2, **TWELVE_BITS)).reason == "bits"


def test_overlays_in_unused_bits_are_masked_off(tmp_path: Path) -> None:
    drawn = RAMP | np.uint16(1 << 13)
    path = write_dicom(tmp_path / "a.dcm", drawn, **TWELVE_BITS)
    assert rejected(path).reason == "bits"
    dataset = dcmread(path)
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 13)
    dataset.save_as(path)
    np.testing.assert_allclose(read_mammogram(path).pixels, RAMP / 4095, atol=1e-6)


def test_overlays_of_their_own_leave_the_pixels_alone(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, **TWELVE_BITS)
    dataset = dcmread(path)
    dataset.add_new(0x60000102, "US", 0)
    dataset.add_new(0x60003000, "OW", b"\xff" * 6)
    dataset.save_as(path)
    np.testing.assert_allclose(read_mammogram(path).pixels, RAMP / 4095, atol=1e-6)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_becomes_background(tmp_path: Path, photometric: str) -> None:
    padded = RAMP.copy()
    padded[:2] = 4095
    padded[2] = 4000
    path = write_dicom(
        tmp_path / "a.dcm",
        padded,
        PhotometricInterpretation=photometric,
        PixelPaddingValue=4095,
        PixelPaddingRangeLimit=4000,
        **TWELVE_BITS,
    )
    shown = read_mammogram(path).pixels
    assert (shown[:3] == 0).all()
    expected = RAMP[3:] / 4095
    np.testing.assert_allclose(
        shown[3:], expected if photometric == "MONOCHROME2" else 1 - expected, atol=1e-6
    )


def test_surplus_pixel_bytes_are_rejected_and_a_byte_of_padding_is_not(tmp_path: Path) -> None:
    error = rejected(write_dicom(tmp_path / "a.dcm", RAMP, Columns=6))
    assert error.reason == "bits"
    assert "more pixel bytes than Rows x Columns" in str(error)
    odd = np.arange(9, dtype=np.uint8).reshape(3, 3)
    path = write_dicom(tmp_path / "b.dcm", odd, PixelData=odd.tobytes() + b"\0")
    np.testing.assert_array_equal(read_stored(path), odd)


def test_inverse_presentation_inverts_once(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, PresentationLUTShape="INVERSE", **TWELVE_BITS)
    np.testing.assert_allclose(read_mammogram(path).pixels, 1 - RAMP / 4095, atol=1e-6)
    path = write_dicom(tmp_path / "b.dcm", RAMP, PresentationLUTShape="LIN OD", **TWELVE_BITS)
    assert rejected(path).reason == "lut"


@pytest.mark.parametrize(
    ("elements", "spacing", "source"),
    [
        ({"ImagerPixelSpacing": [0.1, 0.1]}, 0.1, "detector"),
        (
            {
                "ImagerPixelSpacing": [0.1, 0.1],
                "EstimatedRadiographicMagnificationFactor": "1.8",
            },
            0.1 / 1.8,
            "detector / magnification",
        ),
        (
            {
                "ImagerPixelSpacing": [0.1, 0.1],
                "PixelSpacing": [0.05, 0.05],
                "PixelSpacingCalibrationType": "GEOMETRY",
            },
            0.05,
            "calibrated",
        ),
        ({"PixelSpacing": [0.05, 0.05]}, 0.05, "image"),
        ({"NominalScannedPixelSpacing": [0.1, 0.1]}, 0.1, "scanner"),
        ({"ImagerPixelSpacing": []}, None, "none"),
    ],
)
def test_source_of_the_spacing(
    tmp_path: Path, elements: dict[str, Any], spacing: float | None, source: str
) -> None:
    shown = read_mammogram(write_dicom(tmp_path / "a.dcm", RAMP, **elements))
    assert shown.spacing_mm == (None if spacing is None else pytest.approx(spacing))
    assert shown.spacing_source == source


@pytest.mark.parametrize(
    ("elements", "tag"),
    [
        ({"ImagerPixelSpacing": [50, 50]}, "ImagerPixelSpacing (0018,1164)"),
        ({"ImagerPixelSpacing": ["90", "0.0001"]}, "ImagerPixelSpacing (0018,1164)"),
        ({"PixelSpacing": [0.2, 0.05]}, "PixelSpacing (0028,0030)"),
        (
            {"ImagerPixelSpacing": [0.1, 0.1], "EstimatedRadiographicMagnificationFactor": 0.1},
            "EstimatedRadiographicMagnificationFactor (0018,1114)",
        ),
    ],
)
def test_implausible_spacing_is_named_and_the_users_replaces_it(
    tmp_path: Path, elements: dict[str, Any], tag: str
) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, **elements)
    error = rejected(path)
    assert error.reason == "spacing"
    assert tag in str(error)
    assert "Give --spacing_mm" in str(error)
    shown = read_mammogram(path, spacing_mm=0.07)
    assert (shown.spacing_mm, shown.spacing_source) == (0.07, "user")
    assert shown.pixels.shape == RAMP.shape


def test_a_decimal_comma_is_named_and_the_users_spacing_replaces_it(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP, ImagerPixelSpacing=["0.1", "0.1"])
    path.write_bytes(path.read_bytes().replace(b"0.1\\0.1", b"0,1\\0,1"))
    error = rejected(path)
    assert error.reason == "spacing"
    assert "ImagerPixelSpacing (0018,1164) is no number (a decimal comma?)" in str(error)
    assert "Download" not in str(error)
    assert read_mammogram(path, spacing_mm=0.1).spacing_mm == 0.1


def test_empty_elements_are_absent_ones(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm",
        RAMP,
        RescaleSlope="",
        RescaleIntercept="",
        VOILUTFunction="",
        WindowCenter=1500,
        WindowWidth=1000,
        PixelPaddingValue=None,
        **TWELVE_BITS,
    )
    np.testing.assert_allclose(
        read_mammogram(path).pixels, window(RAMP.astype(float), 1500, 1000), atol=1e-6
    )


@pytest.mark.parametrize("windowed", [False, True])
def test_a_negative_slope_turns_the_scale_around(tmp_path: Path, windowed: bool) -> None:
    elements = {"WindowCenter": 1500, "WindowWidth": 1000} if windowed else {}
    path = write_dicom(
        tmp_path / "a.dcm",
        4095 - RAMP,
        RescaleSlope=-1,
        RescaleIntercept=4095,
        **TWELVE_BITS,
        **elements,
    )
    expected = window(RAMP.astype(float), 1500, 1000) if windowed else RAMP / 4095
    np.testing.assert_allclose(read_mammogram(path).pixels, expected, atol=1e-6)


def test_modality_may_be_missing_where_the_class_says_mammography(tmp_path: Path) -> None:
    kind = DigitalMammographyXRayImageStorageForPresentation
    path = write_dicom(tmp_path / "a.dcm", RAMP, Modality=None, SOPClassUID=kind)
    assert read_mammogram(path).bits == 16
    error = rejected(write_dicom(tmp_path / "b.dcm", RAMP, Modality=None))
    assert error.reason == "not_mammography"
    assert "Modality (0008,0060) is missing" in str(error)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_the_mark_is_read_if_it_begins_as_dicom(
    tmp_path: Path, implicit: bool
) -> None:
    dataset = dcmread(write_dicom(tmp_path / "a.dcm", RAMP, **TWELVE_BITS))
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, Dataset(dataset))
    path = tmp_path / "b.dcm"
    path.write_bytes(buffer.getvalue())
    np.testing.assert_allclose(read_mammogram(path).pixels, RAMP / 4095, atol=1e-6)
    path.write_bytes(b"\x89" + buffer.getvalue())
    assert "the mark DICM is missing" in str(rejected(path))


@pytest.mark.parametrize("change", [{"BitsAllocated": 32}, {"BitsStored": 17}, {"HighBit": 3}])
def test_bits_that_contradict_each_other_are_rejected(
    tmp_path: Path, change: dict[str, int]
) -> None:
    assert rejected(write_dicom(tmp_path / "a.dcm", RAMP, **change)).reason == "bits"


def test_a_codestream_of_another_size_is_not_decoded(tmp_path: Path) -> None:
    pytest.importorskip("openjpeg")
    large = np.kron(RAMP, np.ones((16, 16), np.uint16))
    path = write_dicom(tmp_path / "a.dcm", large, **TWELVE_BITS)
    dataset = dcmread(path)
    dataset.compress(JPEG2000Lossless)
    dataset.save_as(path)
    np.testing.assert_array_equal(read_stored(path), large)
    at = dataset.PixelData.index(b"\xff\x4f\xff\x51") + 8
    huge = (65535).to_bytes(4, "big") * 2
    dataset.PixelData = dataset.PixelData[:at] + huge + dataset.PixelData[at + 8 :]
    dataset.save_as(path)
    assert "another size than Rows and Columns" in str(rejected(path))


def limited(path: Path, megabytes: int) -> str:
    """What a process of its own says of a file with so much memory beyond what it has."""
    code = f"""
import resource, sys
from pathlib import Path
import data_prep.dicom as dicom
from data_prep.errors import RecordRejected
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = used + {megabytes} * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    dicom.read_mammogram(Path(sys.argv[1]))
    print("read")
except RecordRejected as error:
    print(error.reason)
"""
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_memory_is_bounded_by_what_was_checked(tmp_path: Path) -> None:
    header = write_dicom(tmp_path / "header.dcm", RAMP, Rows=65535, Columns=65535)
    assert limited(header, 64) == "too_large"
    zeros = np.zeros((10_000, 10_000), np.uint8)
    bomb = deflated(tmp_path / "bomb.dcm", zeros, Rows=10, Columns=10)
    assert bomb.stat().st_size < 2**20
    assert limited(bomb, 200) == "too_large"
    frames = write_dicom(tmp_path / "frames.dcm", RAMP, NumberOfFrames=60)
    data = frames.read_bytes()
    at = data.index(b"\xe0\x7f\x10\0OW\0\0") + 8
    frames.write_bytes(data[:at] + (2**32 - 2).to_bytes(4, "little") + data[at + 4 :])
    with frames.open("r+b") as file:
        file.truncate(4 * 2**30)  # sparse: it takes no place on the disk
    assert limited(frames, 64) == "multi_frame"
    single = tmp_path / "single.dcm"
    single.write_bytes(data[:at].replace(b"IS\x02\x0060", b"IS\x02\x001 "))
    with single.open("r+b") as file:
        file.seek(0, 2)
        file.write((2**32 - 2).to_bytes(4, "little"))
        file.truncate(4 * 2**30)
    assert limited(single, 64) == "too_large"
    assert limited(write_dicom(tmp_path / "whole.dcm", RAMP), 64) == "read"
