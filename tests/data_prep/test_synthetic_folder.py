# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep import prepare
from data_prep.errors import ArchiveError, LabelError, ManifestError, RecordRejected
from data_prep.readers.synthetic_folder import LabelRule, read_synthetic_folder


def save(path: Path, edge: int = 8, mode: str = "L", seed: int = 0) -> None:
    rng = np.random.default_rng([seed, edge, len(path.name)])
    Image.fromarray(rng.integers(0, 256, (edge, edge), np.uint8)).convert(mode).save(path)


def test_label_is_the_last_word_and_order_is_numeric(tmp_path: Path) -> None:
    for name in ("batch_10_2_benign", "batch_2_11_malignant", "batch_2_9_benign", "7_malignant"):
        (tmp_path / f"{name}.png").touch()
    (tmp_path / "README.md").touch()
    assert [(i.key, i.malignant) for i in read_synthetic_folder(tmp_path).images] == [
        ("b0000_00007_malignant", True),
        ("b0002_00009_benign", False),
        ("b0002_00011_malignant", True),
        ("b0010_00002_benign", False),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "batch_0_1_is_benign-0.png",  # malignant, says its author
        "batch_0_1_benign_malignant.png",
        "1_benign.PNG.png",
        "1_Benign.png",
        "1_nonmalignant.png",
        "3_0.png",  # malignant in medigan 00008
    ],
)
def test_a_word_without_a_class_stops_and_the_allowed_ones_are_named(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "0_benign.png").touch()
    (tmp_path / name).touch()
    allowed = r"has no class.* with word 'benign' or 'malignant'.*--malignant_word"
    with pytest.raises(LabelError, match=allowed) as caught:
        read_synthetic_folder(tmp_path)
    position = sorted(["0_benign.png", name]).index(name) + 1
    assert f"{tmp_path}/<file {position} of 2 by name>: " in str(caught.value)
    assert name not in str(caught.value)


@pytest.mark.parametrize("name", ["batch_0_1.png", "7.png", "Mueller_Anna_1950.png", "_benign.png"])
def test_a_name_without_number_or_word_stops(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(LabelError, match="no class can be read") as caught:
        read_synthetic_folder(tmp_path)
    assert f"{tmp_path}/<file 1 of 1 by name>: " in str(caught.value)
    assert name not in str(caught.value)


def test_numbers_and_negations_mean_what_the_importer_says(tmp_path: Path) -> None:
    for name in ("batch_0_1_0", "batch_0_2_1", "9_1"):
        (tmp_path / f"{name}.png").touch()
    numbers = read_synthetic_folder(tmp_path, LabelRule(malignant="0", benign="1")).images
    assert [(i.path.stem, i.malignant) for i in numbers] == [
        ("batch_0_1_0", True),
        ("batch_0_2_1", False),
        ("9_1", False),
    ]
    negated = tmp_path / "negated"
    negated.mkdir()
    (negated / "1_is_benign-0.png").touch()
    rule = LabelRule(malignant="is_benign-0", benign="is_benign-1")
    assert [i.malignant for i in read_synthetic_folder(negated, rule).images] == [True]


@pytest.mark.parametrize("words", [("malignant", "malignant"), ("", "benign"), ("malignant", "")])
def test_words_that_tell_nothing_apart_are_refused(words: tuple[str, str]) -> None:
    with pytest.raises(LabelError, match="Give two different words"):
        LabelRule(malignant=words[0], benign=words[1])


def test_missing_or_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is not a folder"):
        read_synthetic_folder(tmp_path / "nowhere")
    with pytest.raises(ArchiveError, match="holds no PNG"):
        read_synthetic_folder(tmp_path)


def test_two_names_of_one_crop_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1_benign.png").touch()
    (tmp_path / "batch_0_1_benign.png").touch()
    with pytest.raises(ManifestError, match=r"<file 2 of 2 by name>: names .*/<file 1 of 2 "):
        read_synthetic_folder(tmp_path)


def test_the_words_reach_the_import(tmp_path: Path) -> None:
    root = tmp_path / "medigan"
    root.mkdir()
    save(root / "batch_0_1_0.png", seed=1)
    save(root / "batch_0_2_1.png", seed=2)
    manifest = prepare.synthetic_folder(
        root=str(root), out=str(tmp_path / "out"), name="m", malignant_word="0", benign_word="1"
    )
    assert [(c.image_id, c.malignant) for c in manifest.crops] == [
        ("b0000_00001_malignant", True),
        ("b0000_00002_benign", False),
    ]


@pytest.mark.parametrize(
    ("mode", "reason"), [("RGB", "not_grey"), ("RGBA", "not_grey"), ("1", "not_grey")]
)
def test_an_image_that_is_not_grey_is_rejected_by_name(
    tmp_path: Path, mode: str, reason: str
) -> None:
    root = tmp_path / "set"
    root.mkdir()
    save(root / "1_benign.png")
    save(root / "2_malignant.png", mode=mode)
    manifest = prepare.synthetic_folder(root=str(root), out=str(tmp_path / "out"), name="s")
    assert len(manifest.crops) == 1
    listed = (tmp_path / "out" / "rejected.csv").read_text()
    assert f"b0000_00002_malignant,{reason},{root / '2_malignant.png'}: mode {mode}" in listed
    with pytest.raises(RecordRejected, match=f"mode {mode}. Crops are 8-bit grey PNG"):
        prepare.synthetic_folder(
            root=str(root), out=str(tmp_path / "strict"), name="s", strict=True
        )


def test_oblong_and_unequal_images_are_named(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    save(root / "1_benign.png", edge=8)
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(root / "2_benign.png")
    out = tmp_path / "out"
    prepare.synthetic_folder(root=str(root), out=str(out), name="s")
    assert "shape (8, 9). Crops are square" in (out / "rejected.csv").read_text()
    save(root / "3_malignant.png", edge=16)
    with pytest.raises(ArchiveError, match=r"crops have 8 and 16 px\. Give --size"):
        prepare.synthetic_folder(root=str(root), out=str(tmp_path / "sizes"), name="s")


def test_a_set_without_one_usable_image_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    save(root / "1_benign.png", mode="RGB")
    with pytest.raises(ArchiveError, match=r"no record became a crop \(not_grey 1\)"):
        prepare.synthetic_folder(root=str(root), out=str(tmp_path / "out"), name="s")


def test_png_in_a_folder_below_are_not_lost_without_a_word(tmp_path: Path) -> None:
    save(tmp_path / "1_benign.PNG")
    assert len(read_synthetic_folder(tmp_path).images) == 1
    (tmp_path / "more").mkdir()
    save(tmp_path / "more" / "2_benign.png")
    with pytest.raises(ArchiveError, match="<folder 1 of 1 by name>: holds PNG files too"):
        read_synthetic_folder(tmp_path)
