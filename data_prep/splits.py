# SPDX-License-Identifier: Apache-2.0
"""Patient-wise splits: the official one, refined by a keyed hash of the patient id.

A patient's part depends on the patient alone, not on who else is in the data: adding a patient
moves no other.
"""

import hmac
import re
from collections.abc import Iterable

from data_prep.errors import DataError, LeakageError
from data_prep.identity import normalised
from data_prep.manifest import Split

# Public, so that everyone gets the same parts; it hides nothing.
SPLIT_KEY = b"mammo_dp patient split 1"


def patient_share(patient_id: str, *, key: bytes = SPLIT_KEY) -> float:
    """Place of a patient in ``[0, 1)``, uniform over ids, from HMAC-SHA-256.

    Spelling does not matter, nor does the name of the data set: under another name its patients
    keep their parts.

    Args:
        patient_id: Id as the archive gives it.
        key: Other keys give other, independent places.
    """
    # Letters and digits apart, as in P_00001: the form in which places were first given.
    name = "_".join(re.findall(r"\d+|\D+", normalised(patient_id).upper()))
    digest = hmac.digest(key, name.encode(), "sha256")
    return int.from_bytes(digest[:6], "big") / 2**48  # 48 bits: exact in a double


def refine_split(
    official: Split, patient_id: str, *, val_fraction: float, key: bytes = SPLIT_KEY
) -> Split:
    """Moves a share of an official training part to ``val``; other parts stay as given.

    Args:
        official: Part in which the archive puts the patient.
        patient_id: Id as the archive gives it.
        val_fraction: Expected share of training patients that become ``val``, in ``[0, 1)``.
        key: As for :func:`patient_share`.

    Raises:
        DataError: If ``val_fraction`` is outside its range.
    """
    if not 0 <= val_fraction < 1:
        raise DataError(f"val_fraction is {val_fraction}. Give a share of at least 0, below 1.")
    if official == "train" and patient_share(patient_id, key=key) < val_fraction:
        return "val"
    return official


def assign_split(
    patient_id: str, *, val_fraction: float, test_fraction: float, key: bytes = SPLIT_KEY
) -> Split:
    """The part of a patient whom the data set puts in none.

    With no share for ``test`` it is what :func:`refine_split` makes of a training part.

    Args:
        patient_id: Id as the data set gives it.
        val_fraction: Expected share of patients that become ``val``, in ``[0, 1)``.
        test_fraction: Expected share of patients that become ``test``, in ``[0, 1)``.
        key: As for :func:`patient_share`.

    Raises:
        DataError: If nobody would be left for training, or a share is outside its range.
    """
    if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
        raise DataError(
            f"val_fraction is {val_fraction}, test_fraction {test_fraction}. Give shares of at "
            "least 0, together below 1."
        )
    share = patient_share(patient_id, key=key)
    if share < val_fraction:
        return "val"
    return "test" if share < val_fraction + test_fraction else "train"


def check_patients(records: Iterable[tuple[str, Split, str]]) -> None:
    """Refuses a patient in two parts.

    Args:
        records: Patient id, of one data set, part, and where the record stands, which the message
            shows: a row of a table, or our own key.

    Raises:
        LeakageError: Naming both places, not the patient.
    """
    first: dict[str, tuple[Split, str]] = {}
    for patient_id, split, where in records:
        known, place = first.setdefault(normalised(patient_id), (split, where))
        if known != split:
            raise LeakageError(
                f"{where}: its patient is in {split!r}, but in {known!r} at {place}. "
                "Keep all records of a patient in one part."
            )
