# SPDX-License-Identifier: Apache-2.0
"""Who is who: the one identity of a patient, whatever the spelling of data set and number.

The identity decides who shares a clip, who is counted, which split a patient belongs to, and whose
privacy losses add up. Spelling must not decide any of it, so two ids that a person would read as
one are one. Neither mistake protects anybody: one patient taken for two is clipped twice, and of
two taken for one each can move their common gradient from one end of the clip to the other. So ids
that could be read either way are refused where they meet, see :func:`require_told_apart`.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from data_prep.errors import ManifestError

# Characters that nobody sees, beside those of category Cf: Default_Ignorable_Code_Point in
# DerivedCoreProperties.txt of Unicode (joiners, fillers of Hangul, variation selectors and so on).
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    "\U000e0000-\U000e0fff]"
)
# Signs that people put between letters and digits, or leave out, and hyphens of all kinds.
_SEPARATORS = frozenset(".,:;/\\\u2212")
# Letters of Cyrillic and of Greek that look like those of Latin, as capitals or as small letters;
# after confusables.txt of Unicode Technical Standard 39.
_ALPHABETS = frozenset({"LATIN", "GREEK", "CYRILLIC"})
_CAPITALS = str.maketrans(
    "АВЕЗЅІЈКМНОРСТУҮХѴΑΒΕΖΗΙΚΜΝΟΡΤΥΧ".casefold(),  # noqa: RUF001  that is what it is about
    "ABE3SIJKMHOPCTYYXVABEZHIKMNOPTYX".casefold(),
)
# Each to a letter that no other of its alphabet has, so that two patients of it stay two.
_TWINS = {letter: latin for letter, latin in _CAPITALS.items() if chr(letter) not in "зү"}
_SMALL = str.maketrans(
    "абгеорсухѕіјѡѵүһԁԛԝαγινορσυ",  # noqa: RUF001  as above
    "a6reopcyxsijwvyhdqwayivopou",
)


@lru_cache(maxsize=1 << 16)
def normalised(name: str) -> str:
    """A name without what people vary: case, blanks, separators, form of the characters.

    Full-width and other compatibility characters become plain ones (Unicode NFKC), digits of all
    scripts those of ASCII, and letters lose their case, in Turkish, too; of the rest only letters,
    digits and accents stay, so that blanks, hyphens of any kind, ``_ . / :`` and invisible
    characters do not count, nor do other signs: ids that differ in these alone are refused where
    they meet. Leading zeros stay.

    >>> normalised("CBIS-DDSM"), normalised(" p-0001"), normalised("P_0001"), normalised("P:1")
    ('cbisddsm', 'p0001', 'p0001', 'p1')
    """
    return "".join(char for char in _folded(name) if unicodedata.category(char)[0] in "LNM")


def _folded(name: str) -> str:
    seen = "".join(char for char in _UNSEEN.sub("", name) if unicodedata.category(char) != "Cf")
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    plain = plain.replace("i\u0307", "i").replace("\u0131", "i")  # of dotted and dotless capitals
    plain = plain.translate({0x66B: ".", 0x66C: ",", 0xB7: "."})  # of decimals and thousands
    return "".join(str(unicodedata.digit(char, char)) for char in plain)


def patient_identity(origin: str, patient_id: str) -> str:
    """The identity of a patient: equal for two crops if and only if they are of one patient.

    Numbers count without leading zeros and without an empty decimal, which programs add and drop: a
    patient who is ``0007`` in one folder and ``7`` in another is one. Letters of Cyrillic and Greek
    count as those of Latin that they look like: who typed an id may have had either keyboard.

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
    'inbreast/p1'
    >>> patient_identity("phantom", "")
    ''
    """
    if not patient_id:
        return ""
    for name, value in (("origin", origin), ("patient_id", patient_id)):
        if not normalised(value):
            raise ManifestError(
                f"{name} has no letter and no digit. Give a name with a letter or a digit."
            )
    return f"{normalised(origin)}/{_as_latin(_without_zeros(patient_id))}"


@lru_cache(maxsize=1 << 16)
def _numbers(name: str) -> tuple[str, ...]:
    """Numbers in a name as they are written, apart where anything stands between their digits.

    And each dotless i, which is a letter of its own in Turkish and the small ``I`` elsewhere.
    """
    return (*re.findall(r"\d+", _folded(name)), *re.findall("\u0131", name))


@lru_cache(maxsize=1 << 16)
def _signs(name: str) -> tuple[str, ...]:
    """Signs in a name that are no separators, such as ``+``, ``*`` and ``#``."""
    return tuple(
        char
        for char in _folded(name)
        if (category := unicodedata.category(char))[0] in "PS"
        and category not in ("Pc", "Pd")
        and char not in _SEPARATORS
    )


@lru_cache(maxsize=1 << 16)
def _alphabets(name: str) -> frozenset[str]:
    """Which of the alphabets that look alike the letters of a name are of.

    Signs that are made of letters, such as the one for numero, are of none.
    """
    letters = (char for char in name if unicodedata.category(char)[0] == "L")
    plain = "".join(unicodedata.normalize("NFKC", char) for char in letters)
    return _ALPHABETS & {unicodedata.name(char, "").partition(" ")[0] for char in plain}


@lru_cache(maxsize=1 << 16)
def _as_latin(name: str) -> str:
    """A normal form in the letters of Latin that it looks like in capitals."""
    parted = unicodedata.normalize("NFD", name)
    return unicodedata.normalize("NFC", parted.translate(_TWINS))


@lru_cache(maxsize=1 << 16)
def _looks(name: str) -> tuple[str, ...]:
    """What a normal form looks like in capitals, and in small letters, as if all were Latin."""
    parted = unicodedata.normalize("NFD", name)
    return f"capitals {parted.translate(_CAPITALS)}", f"small {parted.translate(_SMALL)}"


# What programs make of a number, and nobody can read back.
_UNCLEAR = re.compile(
    "|".join(
        (
            r"\d+[.,]\d\d0",  # 12.000: twelve thousand, or twelve
            r"(?=.*\.)(?=.*,)[\d.,]+",  # 1,200.0: in one country 1200, in another 1.2
            r"[^\d.,]*[^\W\d_][^\d.,]*\d+[.,]0+",  # P1.0: P1, or P10 with a separator
            r".*\de\+\d+",  # 1e+05: a rounded number
            r"\d+[.,]\d+e-?\d+",  # 1.2e5: also rounded
        )
    )
)


@lru_cache(maxsize=1 << 16)
def _without_zeros(name: str) -> str:
    """The normal form without what programs add to numbers: zeros before and after, powers of ten.

    >>> [_without_zeros(name) for name in ("P_007", "12.0", "100", "1E3")]
    ['p7', '12', '100', '1000']
    """
    whole = _folded(name).strip()
    if power := re.fullmatch(r"(\d+)e(\d{1,2})", whole):
        whole = power[1] + "0" * int(power[2])
    elif decimal := re.fullmatch(r"(\d+)[.,](\d{1,2}|\d{4,})", whole):  # three may be thousands
        whole = f"{decimal[1]}.{decimal[2].rstrip('0')}"
    return re.sub(r"\d+", lambda digits: digits[0].lstrip("0") or "0", normalised(whole))


def require_told_apart(patients: Iterable[tuple[str, str, str]]) -> None:
    """Refuses ids of which nobody can tell whether they are those of one patient.

    Such are ids that differ in where their digits are parted (``1-11``, ``11-1``), in leading
    zeros (``7``, ``007``), in an empty decimal (``12``, ``12.0``, as tables of numbers have it) or
    in a sign that is no separator (``17+``, ``17-``), that look alike in Latin, Greek or Cyrillic,
    and any that mix these alphabets or that another program may have made of a number (``12.000``,
    ``1,200.0``, ``P1.0``, ``1.2E+05``).

    Args:
        patients: Origin, id, and where it stands, which the message shows.

    Raises:
        ManifestError: Naming both places, not the patients.
    """
    seen: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {}
    looks: dict[str, tuple[str, frozenset[str], str]] = {}
    for origin, patient_id, where in patients:
        if not (identity := patient_identity(origin, patient_id)):
            continue
        if _UNCLEAR.fullmatch(_folded(patient_id).strip()):
            raise ManifestError(
                f"{where}: a patient id that ends in zeros after a point or a comma, or in a power "
                "of ten, as programs write numbers. Nobody can tell which number was meant. Write "
                "the id as it was given, as text; where the point parts two numbers, such as year "
                "and patient, take a hyphen for it in all ids."
            )
        if len(alphabets := _alphabets(patient_id)) > 1:
            raise ManifestError(
                f"{where}: a patient id with letters of {' and '.join(sorted(alphabets))}, some of "
                "which look the same, so that one patient can have several such ids. Write the id "
                "in the letters of one alphabet."
            )
        numbers, signs = _numbers(patient_id), _signs(patient_id)
        spelled = f"{normalised(origin)} {normalised(patient_id)}"
        for name in (identity, spelled):
            others, other_signs, place = seen.setdefault(name, (numbers, signs, where))
            if others != numbers:
                raise ManifestError(
                    f"{place} and {where}: patient ids that differ in separated digits, in leading "
                    "zeros or in a decimal. Nobody can tell whether they are one patient's. Write "
                    "the ids of one patient in one way, and those of two so that they differ "
                    "otherwise."
                )
            if other_signs != signs:
                raise ManifestError(
                    f"{place} and {where}: patient ids that differ in a sign such as + or # alone, "
                    "which counts no more than a blank. Nobody can tell whether they are one "
                    "patient's. Write the ids of one patient in one way, and those of two so that "
                    "they differ in a letter or a digit."
                )
        plain = f"{normalised(origin)}/{_without_zeros(patient_id)}"
        for look in _looks(plain):
            other, of, place = looks.setdefault(look, (plain, alphabets, where))
            if other != plain and of != alphabets:
                raise ManifestError(
                    f"{place} and {where}: patient ids that look alike, in letters of two "
                    "alphabets. Nobody can tell whether they are one patient's. Write both in the "
                    "letters of one alphabet."
                )
