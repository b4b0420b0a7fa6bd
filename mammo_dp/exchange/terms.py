# SPDX-License-Identifier: Apache-2.0
"""Whether the terms of a data set allow passing on what was trained on it."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from data_prep.errors import LicenceError
from data_prep.identity import normalised
from mammo_dp.privacy.statement.cohort import Cohort, one_spelling


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """Terms of a data set, as its publisher states them.

    Attributes:
        licence: Name of the licence or agreement.
        credit: Whom to name.
        allowed: Whether trained weights and generated images may be passed on.
    """

    licence: str
    credit: str
    allowed: bool


# By origin, the name that crops of the data set carry. Of others, whoever exports says the terms.
KNOWN: Mapping[str, Terms] = MappingProxyType(
    {
        "cbis-ddsm": Terms(
            licence="CC BY 3.0",
            credit="Lee et al. 2017, Scientific Data 4:170177, The Cancer Imaging Archive",
            allowed=True,
        ),
        "embed": Terms(
            licence="the EMBED data use agreement",
            credit="Jeong et al. 2023, Radiology: Artificial Intelligence 5(1)",
            allowed=False,
        ),
        "phantom-archive": Terms(
            licence="Apache-2.0", credit="mammo_dp; procedural, no patients", allowed=True
        ),
    }
)


def require_terms(cohorts: Iterable[Cohort], stated: str | None) -> list[str]:
    """Checks each data set in a lineage.

    Args:
        cohorts: All in the lineage.
        stated: Terms of data sets that are not in ``KNOWN``, as whoever exports states them.

    Returns:
        A line for each data set: name, licence, credit.

    Raises:
        LicenceError: If terms forbid the export, or are unknown.
    """
    lines = []
    for name in one_spelling(name for cohort in cohorts for name in cohort.dataset.split("+")):
        terms = _known(name)
        if terms is None and not stated:
            raise LicenceError(
                f"{name or 'unknown data'}: nobody knows here under which terms what was trained "
                "on it may be passed on. Look it up and say so with --licence_of_cohort, such as "
                '"CC BY 4.0"; if it may not, do not export.'
            )
        if terms is not None and not terms.allowed:
            raise LicenceError(
                f"{name}: {terms.licence} forbids passing on data, derivatives and trained "
                "weights. Train on another cohort."
            )
        lines.append(
            f"{name or 'unknown data'}: {stated}, as stated by whoever exported"
            if terms is None
            else f"{name}: {terms.licence} ({terms.credit})"
        )
    return lines


def _known(name: str) -> Terms | None:
    """Terms by origin, whatever the spelling; a forbidding data set is recognised in longer names.

    >>> [_known(name) == KNOWN["embed"] for name in ("EM-BED 2D", "my embed2d", "embedded")]
    [True, True, False]
    >>> _known("CBIS_DDSM") == KNOWN["cbis-ddsm"], _known("cbis-ddsm-2")
    (True, None)
    """
    known = {normalised(origin): terms for origin, terms in KNOWN.items()}
    words = re.findall(r"[^\W\d_]+|\d+", unicodedata.normalize("NFKC", name).casefold())
    parts = {"".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}
    forbidding = (known[part] for part in sorted(parts & set(known)) if not known[part].allowed)
    return known.get(normalised(name)) or next(forbidding, None)
