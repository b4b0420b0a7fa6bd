# SPDX-License-Identifier: Apache-2.0
"""Errors of data and training: each names the file, row, tag or setting and says what to do.

``ArchiveError``, ``LabelError``, ``LeakageError``, ``LicenceError`` and ``ManifestError`` stop a
reader. ``RecordRejected`` concerns one record, which goes to ``rejected.csv`` with its reason code.
"""


class DataError(ValueError):
    """The data cannot be used as they are; the message says where, why and what to do."""


class TrainingError(ValueError):
    """A fit or a test cannot run as asked; the message names the setting and the remedy."""


class ArchiveError(DataError):
    """A folder, table, column or name pattern of an archive is missing."""


class ManifestError(DataError):
    """``crops.csv`` or one of its images is malformed."""


class LabelError(DataError):
    """A label lies outside the stated mapping, or a split has one class only."""


class LeakageError(DataError):
    """A patient, or the same content, stands in two splits."""


class LicenceError(DataError):
    """The terms of a data set forbid what was asked for."""


class RecordRejected(DataError):
    """One record cannot become a crop.

    Args:
        reason: Code for ``rejected.csv``, such as ``no_mask``.
        message: Sentence with file, cause and remedy.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class DicomRejected(RecordRejected):
    """The file cannot be used.

    Reasons: no_image, unreadable, too_large, not_mammography, for_processing, multi_frame, syntax,
    burned_in, lut, bits (the header says otherwise of the pixels), spacing, not_tomosynthesis.
    """


class PictureRejected(RecordRejected):
    """A PNG, JPEG or TIFF cannot be used.

    Reasons: unreadable, too_large, multi_page, orientation, not_grey, not_square.
    """


class GeometryRejected(RecordRejected):
    """The lesion cannot be cut out.

    Reasons: no_mask, mask_mismatch, ambiguous, box_outside, too_small, mostly_padding, blank; of
    volumes slice_outside, too_few_slices.
    """


class DuplicateConflict(RecordRejected):
    """One content in several records.

    Reasons: duplicate, a copy of a record that stays; conflict, one content with two labels;
    patients, one content of two patients, which stops whatever the settings.
    """
