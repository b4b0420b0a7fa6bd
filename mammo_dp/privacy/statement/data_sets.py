# SPDX-License-Identifier: Apache-2.0
"""Whether texts name the same data set: origins of crops, and what people say in a provenance.

Patients of whom no crop is here are known by the name of their data set alone. People write it in
their own way, within a sentence or in full, so names are looked for word by word. A name that is
missed makes a guarantee that nobody keeps; one that is seen where it is not costs a guarantee that
could be kept. So words that belong to many names tell nothing, and all others do.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

_WORDS = re.compile(r"[^\W_]+")
_DIGITS_AROUND = re.compile(r"^\d+|\d+$")
_SHORTEST = 3  # letters of a word that tells data sets apart
_TELLING = 4  # letters of a word that is told within a longer one
# Words of which a name consists in part, and others do as well.
_GENERIC = frozenset(
    """
    and the for from with own our all new old part test train training val validation public data
    dataset set sets database image images imaging crop crops mass masses lesion lesions mammo
    mammogram mammograms mammography mammographic breast cancer screening digital film hospital
    hospitals clinic clinical center centre university institute archive archives phantom phantoms
    synthetic generated published released study cohort patients collection project subset version
    ward site unit department group case cases
    """.split()  # noqa: SIM905  a paragraph of words
)
# Words by which nothing is named.
_UNTOLD = _GENERIC | frozenset(
    """
    unknown not known none private confidential internal inhouse house proprietary see paper article
    undisclosed unspecified various several other others some this that these those their his her
    women woman people cases exams scans pictures weights network model tbd todo
    """.split()  # noqa: SIM905
)
_ORDINARY = frozenset({"embedded", "embedding", "embeddings"})  # not the data set EMBED
# Data sets of mammograms, as their publishers write them out.
_IN_FULL = {
    "curated breast imaging subset": "cbis-ddsm",
    "digital database for screening mammography": "ddsm",
    "breast cancer digital repository": "bcdr",
    "breast cancer screening dbt": "bcs-dbt",
    "breast cancer screening digital breast tomosynthesis": "bcs-dbt",
    "chinese mammography": "cmmd",
    "cohort of screen aged women": "csaw",
    "duke university": "bcs-dbt",
    "emory": "embed",
    "king abdulaziz university": "kau-bcmd",
    "mammographic image analysis society": "mias",
    "optimam": "omi-db",
    "radiological society of north america": "rsna",
    "screening mammography breast cancer detection": "rsna",
}


_LONGEST = 300  # characters of what somebody says
_MARKUP = frozenset("<>|`[]{}*\\")


def is_plain(text: object) -> bool:
    """Whether what somebody says may stand within a statement or a card: one line, no markup.

    More lines could be read as a part of the document that nobody here has written.

    >>> is_plain("CC BY 4.0"), is_plain("two" + chr(10) + "lines"), is_plain("<b>"), is_plain(" ")
    (True, False, False, False)
    """
    return (
        isinstance(text, str)
        and bool(text.strip())
        and len(text) <= _LONGEST
        and text.isprintable()
        and _MARKUP.isdisjoint(text)
    )


def names_alike(one: str, other: str) -> bool:
    """Whether a text may name a data set that another text names.

    Args:
        one: Origin of crops, such as ``"cbis-ddsm"``, several joined by ``+``, or a sentence.
        other: Likewise. An empty text may mean any data set.

    >>> names_alike("cbis-ddsm", "mass crops of MIAS and ddsm (1999)")
    True
    >>> names_alike("own", "downloaded from the public web")
    False
    """
    if not _words(one) or not _words(other):
        return True
    return _names_one(one, other) or _names_one(other, one)


def _names_one(names: str, text: str) -> bool:
    """Whether a text has one of several names."""
    return any(_is_named(name, _words(text)) for name in map(_words, names.split("+")) if name)


def _is_named(name: tuple[str, ...], text: tuple[str, ...]) -> bool:
    """Whether a text has a name as a whole, or a word of it that tells."""
    whole = "".join(name)
    runs = ("".join(text[i:j]) for i in range(len(text)) for j in range(i + 1, i + len(name) + 2))
    if any(run == whole for run in runs):
        return True
    there = {_DIGITS_AROUND.sub("", word) for word in text}
    longer = [word for word in text if word not in _ORDINARY]  # such as BCDRF03, MiniDDSM
    return any(
        word in there or (len(word) >= _TELLING and any(word in other for other in longer))
        for word in _telling({*name, whole}, _GENERIC)
    )


def names_none(text: str) -> bool:
    """Whether a text names no data set, such as "our patients", so that it may mean any.

    >>> names_none("unknown"), names_none("in-house mammograms"), names_none("ImageNet-1k")
    (True, True, False)
    """
    return not _telling(_words(text), _UNTOLD)


def _telling(words: Iterable[str], common: frozenset[str]) -> list[str]:
    """Words that may be names, without digits around them."""
    bare = {_DIGITS_AROUND.sub("", word) for word in words}
    return [word for word in bare if len(word) >= _SHORTEST and word not in common]


@lru_cache(maxsize=1 << 10)
def _words(text: str) -> tuple[str, ...]:
    """Words without case and form, names in full followed by their short forms."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = _WORDS.findall(folded)
    sentence = f" {' '.join(words)} "
    for full, short in _IN_FULL.items():
        if f" {full} " in sentence:
            words += _WORDS.findall(short)
    return tuple(words)
