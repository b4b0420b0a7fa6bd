# SPDX-License-Identifier: Apache-2.0
"""Slices of a DICOM file of breast tomosynthesis, one frame at a time.

Memory is that of one slice: a frame is read from its place in the file, and of no other frame more
than a compressed stream without a table of places needs to be passed over. What the functional
groups say of a frame (window, spacing, side, position) is brought into the form of a mammogram of
one frame, and everything after that is :mod:`data_prep.dicom`.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.encaps import encapsulate
from pydicom.uid import BreastTomosynthesisImageStorage

from data_prep.dicom import (
    Mammogram,
    PixelSource,
    opened_dicom,
    shown_pixels,
    stored_pixels,
)
from data_prep.dicom_checks import check_codestream, check_header, quiet
from data_prep.errors import DicomRejected
from data_prep.manifest import DEEPEST, Laterality

_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
# Macros of PS3.3, C.7.6.16.2 and C.8.11.7, and what a mammogram of one frame has at the top.
_MACROS = {
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}
_UNEVEN = 0.2  # share by which distances between slices may differ
_EDGE = 0.05  # share of the columns on each side that shows where the chest wall is


@dataclass(slots=True, kw_only=True, eq=False)
class Volume:
    """An open file of tomosynthesis.

    Attributes:
        slices: Number of slices, from one side of the breast to the other.
        slice_mm: Millimetres from slice to slice, if the file says so.
    """

    slices: int
    slice_mm: float | None
    _header: Dataset
    _source: PixelSource
    _where: str

    def slice(self, number: int, *, spacing_mm: float | None = None) -> Mammogram:
        """Reads one slice as it is shown.

        Args:
            number: From 0, below ``slices``.
            spacing_mm: Millimetres per pixel if the header has none, or one that cannot be right.

        Raises:
            DicomRejected: With a reason code, see the class.
        """
        where = self._where
        with quiet(where):
            one = _of_one_frame(self._header, number)
            check_header(one, where, secondary=False)
            size = int(one.Rows) * int(one.Columns) * int(one.BitsAllocated) // 8
            data = self._source.frame(number, frames=self.slices, size=size, where=where)
            if one.file_meta.TransferSyntaxUID.is_encapsulated:
                one.add_new("PixelData", "OB", encapsulate([data]))
                one["PixelData"].is_undefined_length = True
                check_codestream(one, where)
            else:
                one.add_new("PixelData", "OW", data)
            stored = stored_pixels(one, where)
        return shown_pixels(stored, where, spacing_mm)


@contextmanager
def open_volume(path: Path, *, where: str) -> Iterator[Volume]:
    """Opens a file and checks that it is tomosynthesis for presentation; reads no pixel.

    Args:
        path: DICOM file.
        where: Start of every message.

    Raises:
        DicomRejected: With a reason code, see the class.
    """
    with ExitStack() as stack:
        with quiet(where):
            header, source = stack.enter_context(opened_dicom(path, where))
            frames = int(header.get("NumberOfFrames") or 1)
            if header.get("SOPClassUID") != BreastTomosynthesisImageStorage or frames < 2:
                raise DicomRejected(
                    "not_tomosynthesis",
                    f"{where}: is no Breast Tomosynthesis Image of several frames. Give the "
                    "volume; mammograms are cut without --depth.",
                )
            if frames > DEEPEST:
                raise DicomRejected(
                    "too_large",
                    f"{where}: NumberOfFrames is {frames}, more than {DEEPEST}. Check the file.",
                )
            volume = Volume(
                slices=frames,
                slice_mm=_slice_mm(header, frames, where),
                _header=header,
                _source=source,
                _where=where,
            )
        yield volume


def turned(mammogram: Mammogram) -> Mammogram:
    """The image turned by half."""
    return replace(mammogram, codes=mammogram.codes[::-1, ::-1])


def is_turned(mammogram: Mammogram, side: Laterality) -> bool:
    """Whether the chest wall is not where it belongs: left for ``L`` and right for ``R``.

    Where breast reaches an edge the columns there are brighter than on the other side, which is
    air. Headers are not asked: those of BCS-DBT are wrong in places, say its authors.
    """
    wide = max(1, round(_EDGE * mammogram.shape[1]))
    left, right = (
        float(mammogram[:, part].mean()) for part in (slice(0, wide), slice(-wide, None))
    )
    return (left < right) == (side == "L") and left != right


def _of_one_frame(header: Dataset, number: int) -> Dataset:
    """Header of a mammogram that is one of the frames."""
    one = Dataset()
    one.file_meta = header.file_meta
    one.set_original_encoding(*header.original_encoding)
    left_out = [tag_for_keyword(name) for name in _GROUPS]
    for element in header.elements():
        if element.tag not in left_out:
            one[element.tag] = element
    one.NumberOfFrames = 1
    for sequence, names in _MACROS.items():
        macro = _macro(header, number, sequence)
        for name in names:
            if macro is not None and name in macro and name not in one:
                one.add(macro[name])
    anatomy = _macro(header, number, "FrameAnatomySequence")
    if anatomy is not None and not one.get("ImageLaterality"):
        one.ImageLaterality = str(anatomy.get("FrameLaterality") or "")
    return one


def _macro(header: Dataset, number: int, name: str) -> Dataset | None:
    """What the groups say of a frame, of itself or of all."""
    for sequence, place in zip(_GROUPS, (number, 0), strict=True):
        groups: Sequence[Any] = header.get(sequence) or ()
        if place < len(groups) and (found := groups[place].get(name)):
            macro: Dataset = found[0]
            return macro
    return None


def _slice_mm(header: Dataset, frames: int, where: str) -> float | None:
    """Distance of slices: of their positions, else as stated.

    Raises:
        DicomRejected: ``spacing`` for positions that are not evenly spaced.
    """
    places = []
    for number in range(frames):
        plane = _macro(header, number, "PlanePositionSequence")
        position = None if plane is None else plane.get("ImagePositionPatient")
        if position is not None and len(position) == 3:
            places.append([float(value) for value in position])
    if len(places) == frames:
        steps = np.diff(np.array(places), axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        mean = float(np.linalg.norm(steps.mean(axis=0)))
        if mean <= 0 or np.abs(lengths - mean).max() > _UNEVEN * mean:
            raise DicomRejected(
                "spacing",
                f"{where}: PlanePositionSequence (0020,9113) puts the slices at uneven distances "
                "or out of order. Sort the frames, or leave the file out.",
            )
        return round(mean, 4)
    measures = _macro(header, 0, "PixelMeasuresSequence")
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        if measures is not None and measures.get(name):
            return float(measures[name].value)
    return None
