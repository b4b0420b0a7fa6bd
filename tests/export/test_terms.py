# SPDX-License-Identifier: Apache-2.0
import pytest

from data_prep.errors import LicenceError
from mammo_dp.export.lineage import require_terms
from mammo_dp.privacy.statement.cohort import Cohort


def terms(*datasets: str, stated: str | None = None) -> list[str]:
    return require_terms([Cohort.unknown(name) for name in datasets], stated)


def test_a_known_licence_comes_with_its_credit() -> None:
    (line,) = terms("cbis-ddsm", "cbis-ddsm")
    assert line.startswith("cbis-ddsm: CC BY 3.0 (Lee et al. 2017")
    assert terms("CBIS_DDSM", "cbis ddsm")[0].startswith("CBIS_DDSM: CC BY 3.0")
    assert len(terms("CBIS_DDSM", "cbis ddsm")) == 1
    (line,) = terms("cmmd")
    assert line.startswith("cmmd: CC BY 4.0 (Cui et al. 2021")
    assert "Kashiwada et al. 2025" in line
    assert terms() == []


@pytest.mark.parametrize(
    "name", ["embed", "EMBED", "embed-2d", "EM_BED 2D", "embed2d", "\uff25MBED", "cbis-ddsm+embed"]
)
def test_a_forbidding_data_set_is_refused_whatever_is_stated(name: str) -> None:
    with pytest.raises(LicenceError, match=r"forbids passing on .* trained weights"):
        terms(name, stated="CC BY 4.0")


def test_unknown_terms_must_be_stated() -> None:
    for name, shown in (("inbreast", "inbreast"), ("", "unknown data")):
        with pytest.raises(LicenceError, match=f"^{shown}: nobody knows .* --licence_of_cohort"):
            terms("cbis-ddsm", name)
        assert f"{shown}: CC0, as stated by whoever exported" in terms(name, stated="CC0")


def test_a_word_within_a_word_forbids_nothing() -> None:
    assert terms("embedding-study", stated="CC0")
