# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import pytest

from data_prep.errors import ArchiveError, LabelError, ManifestError
from data_prep.readers.synthetic_folder import read_synthetic_folder


def test_label_is_the_last_word_and_order_is_numeric(tmp_path: Path) -> None:
    for name in ("batch_10_2_benign", "batch_2_11_malignant", "batch_2_9_benign", "7_malignant"):
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "README.md").touch()
    assert [(i.key, i.malignant) for i in read_synthetic_folder(tmp_path)] == [
        ("b0000_00007_malignant", True),
        ("b0002_00009_benign", False),
        ("b0002_00011_malignant", True),
        ("b0010_00002_benign", False),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "batch_0_1_is_benign-0.png",  # malignant, says its author
        "batch_0_1.png",
        "batch_0_1_benign_malignant.png",
        "sample_1_benign.png",
        "1_benign.PNG.png",
    ],
)
def test_name_outside_the_rule_stops(tmp_path: Path, name: str) -> None:
    (tmp_path / "0_benign.png").touch()
    (tmp_path / name).touch()
    with pytest.raises(LabelError, match="no class can be read") as caught:
        read_synthetic_folder(tmp_path)
    assert name in str(caught.value)


def test_missing_or_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is not a folder"):
        read_synthetic_folder(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match="holds no PNG"):
        read_synthetic_folder(tmp_path)


def test_two_names_of_one_crop_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1_benign.png").touch()
    (tmp_path / "batch_0_1_benign.png").touch()
    with pytest.raises(ManifestError, match=r"same crop as 1_benign\.png"):
        read_synthetic_folder(tmp_path)
