# SPDX-License-Identifier: Apache-2.0
import pytest
from scipy.stats import binomtest, kstest

from data_prep.errors import DataError, LeakageError
from data_prep.splits import check_patients, patient_share, refine_split

PLACE_OF_P_00001 = 0.7835145213974819
IDS = [f"P_{i:05d}" for i in range(4000)]


def test_shares_are_uniform_and_depend_on_the_key() -> None:
    shares = [patient_share(i) for i in IDS]
    assert kstest(shares, "uniform").pvalue > 1e-3
    assert kstest([s**1.1 for s in shares], "uniform").pvalue < 1e-3
    assert patient_share("P_00001") == patient_share("P_00001")
    assert patient_share("P_00001") != patient_share("P_00001", key=b"mine")


def test_val_gets_the_stated_share_of_training_patients_only() -> None:
    val = sum(refine_split("train", i, val_fraction=0.15) == "val" for i in IDS)
    assert binomtest(val, len(IDS), 0.15).pvalue > 1e-3
    assert binomtest(val, len(IDS), 0.18).pvalue < 1e-3
    assert {refine_split("test", i, val_fraction=0.5) for i in IDS} == {"test"}
    assert {refine_split("train", i, val_fraction=0) for i in IDS} == {"train"}


def test_known_patients_stay_where_they_were_published() -> None:
    # Frozen: a change would move patients between parts of existing data sets.
    assert patient_share("P_00001") == pytest.approx(PLACE_OF_P_00001, abs=1e-12)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_impossible_share_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match="Give a share"):
        refine_split("train", "P_00001", val_fraction=fraction)


def test_patient_in_two_parts_is_leakage_without_naming_the_patient() -> None:
    check_patients([("a", "train", "row 1"), ("a", "train", "row 2"), ("b", "val", "row 3")])
    with pytest.raises(LeakageError, match=r"row 2: .*'val'.*'train' at row 1") as caught:
        check_patients([("SECRET", "train", "row 1"), ("SECRET", "val", "row 2")])
    assert "SECRET" not in str(caught.value)
