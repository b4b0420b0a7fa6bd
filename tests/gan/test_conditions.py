# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from data_prep.manifest import Crop, View
from gan.conditions import ConditionError, Conditions, level_of


def crop(malignant: bool = False, view: View | None = None, **attributes: str) -> Crop:
    return Crop(
        file="a.png",
        patient_id="",
        lesion_id="1",
        image_id="1",
        malignant=malignant,
        split="train",
        origin="phantom",
        label_source="phantom",
        crop_rule="centred",
        sha256="0" * 64,
        view=view,
        attributes=attributes,
    )


def test_malignancy_alone_takes_two_columns() -> None:
    rows = Conditions().of_crops([crop(), crop(malignant=True)])
    assert rows.tolist() == [[1, 0], [0, 1]]


def test_unknown_attributes_leave_their_columns_at_zero() -> None:
    conditions = Conditions(("density", "view"))
    rows = conditions.of_crops([crop(view="MLO"), crop(malignant=True, density="4")])
    assert rows.tolist() == [[1, 0, 0, 0, 0, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1, 0, 0, 0]]
    assert rows.shape == (2, conditions.width)


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("SPICULATED", "SPICULATED"),
        ("CIRCUMSCRIBED-ILL_DEFINED", "ILL_DEFINED"),
        ("ILL_DEFINED-CIRCUMSCRIBED", "ILL_DEFINED"),
        ("spiculated", "SPICULATED"),
        ("circumscribed, obscured", "OBSCURED"),
        ("n/a", None),
        ("", None),
        ("SOMETHING_NEW", "OTHER"),
    ],
)
def test_rare_words_merge_into_the_most_suspicious_known_one(value: str, level: str) -> None:
    assert level_of(crop(margin=value), "margin") == level


def test_a_density_outside_the_scale_is_unknown() -> None:
    assert level_of(crop(density="0"), "density") is None
    assert level_of(crop(density="7"), "density") is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"margin": "SPICULATED"}, r"\['margin'\] cannot be asked for: .* trained with shape"),
        ({"shape": "SQUARE"}, "shape='SQUARE' is unknown. Allowed: OTHER, ROUND"),
    ],
)
def test_what_cannot_be_asked_for_is_named(asked: dict[str, str], message: str) -> None:
    with pytest.raises(ConditionError, match=message):
        Conditions(("shape",)).vector(malignant=True, attributes=asked)


@pytest.mark.parametrize(
    ("stated", "columns"),
    [
        ("0.3", [1, 0]),
        ("0.425", [0.75, 0.25]),
        ("0.8", [0, 1]),
        ("0.95", [0, 1]),  # the nearest end
        ("", [0, 0]),
        ("large", [0, 0]),
        ("nan", [0, 0]),
    ],
)
def test_a_number_lies_between_the_ends_of_its_range_or_is_unknown(
    stated: str, columns: list[float]
) -> None:
    conditions = Conditions(("shape", "size_share"))
    row = conditions.known_of([crop(size_share=stated)])[0]
    assert row[2:7].tolist() == [0] * 5
    assert row[7:].tolist() == pytest.approx(columns)


@pytest.mark.parametrize("value", ["0.9", "0.2", "nan", "large"])
def test_a_number_outside_its_range_cannot_be_asked_for(value: str) -> None:
    with pytest.raises(ConditionError, match=r"size_share='.*'\. Give a number from 0\.3 to 0\.8"):
        Conditions(("size_share",)).vector(malignant=True, attributes={"size_share": value})


def test_an_attribute_that_no_crop_has_is_refused() -> None:
    with pytest.raises(ConditionError, match="'margin' is known of none of the 2 crops"):
        Conditions(("shape", "margin")).of_crops([crop(shape="OVAL"), crop()])


def test_unknown_and_repeated_names_are_refused() -> None:
    with pytest.raises(ConditionError, match=r"\['age'\] are unknown. Allowed: density"):
        Conditions(("age",))
    with pytest.raises(ConditionError, match="stands twice"):
        Conditions(("view", "view"))


def test_forgetting_takes_whole_attributes_and_keeps_malignancy() -> None:
    conditions = Conditions(("shape", "density"))
    row = conditions.vector(malignant=True, attributes={"shape": "OVAL", "density": "2"})
    rows = row.repeat(20_000, 1)
    forgotten = conditions.forgetful(rows, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(forgotten[:, :2], rows[:, :2])
    kept = torch.stack([forgotten[:, 2:7].sum(1), forgotten[:, 7:].sum(1)])
    assert set(kept.flatten().tolist()) == {0.0, 1.0}
    # 0.9 * 0.9 keeps one; standard error 0.003
    assert kept.mean(1).tolist() == pytest.approx([0.81, 0.81], abs=0.012)
    assert float((kept.sum(0) == 0).float().mean()) == pytest.approx(0.1 + 0.9 * 0.01, abs=0.01)


def test_forgetting_takes_both_columns_of_a_number() -> None:
    conditions = Conditions(("size_share",))
    rows = conditions.vector(malignant=True, attributes={"size_share": "0.5"}).repeat(1000, 1)
    forgotten = conditions.forgetful(rows, 0.5, torch.Generator().manual_seed(0))
    assert set(forgotten[:, 2:].sum(1).round(decimals=3).tolist()) == {0.0, 1.0}
