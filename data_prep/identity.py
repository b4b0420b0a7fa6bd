# SPDX-License-Identifier: Apache-2.0
"""Who is who: the one identity of a patient, whatever the spelling of data set and number.

The identity decides who shares a clip, who is counted, which split a patient belongs to, and whose
privacy losses add up. Spelling must not decide any of it, so two ids that a person would read as
one are one. The rule errs on the side of one patient: two patients taken for one are both
protected, one patient taken for two is not.
"""

import unicodedata
from functools import lru_cache

from data_prep.errors import ManifestError


@lru_cache(maxsize=1 << 16)
def normalised(name: str) -> str:
    """A name without what people vary: case, blanks, separators, form of the characters.

    Full-width and other compatibility characters become plain ones (Unicode NFKC) and letters lose
    their case; of the rest only letters, digits and accents stay, so that blanks, hyphens of any
    kind, ``_ . / :`` and invisible characters do not count. Leading zeros stay: archives number
    patients with them, and ``01`` and ``1`` may be two.

    >>> normalised("CBIS-DDSM"), normalised(" p-0001"), normalised("P_0001"), normalised("P:1")
    ('cbisddsm', 'p0001', 'p0001', 'p1')
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(char for char in folded if unicodedata.category(char)[0] in "LNM")


def patient_identity(origin: str, patient_id: str) -> str:
    """The identity of a patient: equal for two crops if and only if they are of one patient.

    Args:
        origin: Data set that numbers its patients.
        patient_id: Number of the patient there.

    Returns:
        Both in normal form, joined by ``/``, which occurs in neither; empty if there is no patient.

    Raises:
        ManifestError: If either has no letter and no digit, so that it tells nobody apart.

    >>> patient_identity("CBIS_DDSM", "p 00001") == patient_identity("cbis-ddsm", "P_00001")
    True
    >>> patient_identity("inbreast", "P_00001")
    'inbreast/p00001'
    >>> patient_identity("phantom", "")
    ''
    """
    if not patient_id:
        return ""
    for name, value in (("origin", origin), ("patient_id", patient_id)):
        if not normalised(value):
            raise ManifestError(f"{name} is {value!r}. Give a name with a letter or a digit.")
    return f"{normalised(origin)}/{normalised(patient_id)}"
