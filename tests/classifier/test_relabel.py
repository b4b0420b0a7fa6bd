import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classifier.module import CropClassifier
from classifier.relabel import logits, most_suspicious, relabel
from classifier.released import load_classifier
from data_prep.datamodule import CropsDataset
from data_prep.errors import LabelError
from data_prep.manifest import CropsManifest

BODY: dict[str, Any] = {
    "backbone_args": {"patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2},
    "image_size": 32,
}
Make = Callable[..., CropsManifest]


@pytest.fixture
def judge(tmp_path: Path) -> str:
    torch.manual_seed(0)
    model = CropClassifier(**BODY)
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, path)
    return str(path)


def test_the_classifiers_ranking_becomes_the_label(
    make_cohort: Make, judge: str, tmp_path: Path
) -> None:
    made = make_cohort("made", origin="synthetic:made", crops=70)
    relabel(crops=str(made.folder), checkpoint=judge, out=str(tmp_path / "out"))
    found = CropsManifest.read(tmp_path / "out")
    model = load_classifier(judge)
    dataset = CropsDataset(made, made.rows())
    with torch.inference_mode():  # the naive way, crop by crop
        naive = np.array([float(model(dataset[i].image[None])) for i in range(len(dataset))])
    labels = np.array([crop.malignant for crop in found.crops])
    assert labels.sum() == 35
    assert naive[labels].min() >= naive[~labels].max() - 1e-5
    assert {crop.label_source for crop in found.crops} == {"classifier"}


def test_crops_on_whose_class_both_agree_can_be_kept_alone(
    make_cohort: Make, judge: str, tmp_path: Path
) -> None:
    made = make_cohort("made", origin="synthetic:made", crops=70)
    whole, part = str(tmp_path / "whole"), str(tmp_path / "part")
    relabel(crops=str(made.folder), checkpoint=judge, out=whole)
    relabel(crops=str(made.folder), checkpoint=judge, out=part, disagreement="drop")
    judged = CropsManifest.read(whole).crops
    agreed = [
        new for old, new in zip(made.crops, judged, strict=True) if old.malignant == new.malignant
    ]
    assert 0 < len(agreed) < 70
    assert list(CropsManifest.read(part).crops) == agreed
    assert len(list((tmp_path / "part/images").iterdir())) == len(agreed)


def test_crops_without_a_class_that_both_know_are_refused(
    make_cohort: Make, judge: str, tmp_path: Path
) -> None:
    made = make_cohort("made", origin="synthetic:made", crops=70)
    relabel(crops=str(made.folder), checkpoint=judge, out=str(tmp_path / "judged"))
    judged = CropsManifest.read(tmp_path / "judged")
    other = [replace(crop, malignant=not crop.malignant) for crop in judged.crops]
    CropsManifest.write(judged.folder, other)
    with pytest.raises(LabelError, match="agree on 0 malignant crops of 0"):
        relabel(
            crops=str(judged.folder),
            checkpoint=judge,
            out=str(tmp_path / "out"),
            disagreement="drop",
        )
    assert not (tmp_path / "out").exists()


def test_crops_stay_what_they_were(make_cohort: Make, judge: str, tmp_path: Path) -> None:
    made = make_cohort("made", origin="synthetic:made")
    relabel(
        crops=str(made.folder), checkpoint=judge, out=str(tmp_path / "out"), malignant_share=0.25
    )
    found = CropsManifest.read(tmp_path / "out")
    assert [c.sha256 for c in found.crops] == [c.sha256 for c in made.crops]
    assert np.array_equal(found.images(found.rows()), made.images(made.rows()))
    assert sum(crop.malignant for crop in found.crops) == 6
    shutil.rmtree(made.folder)  # the copy stands alone
    assert len(CropsManifest.read(tmp_path / "out").images(found.rows())) == 24


def test_labels_of_patients_are_not_replaced(
    cohort: CropsManifest, judge: str, tmp_path: Path
) -> None:
    with pytest.raises(LabelError, match="24 crops belong to patients"):
        relabel(crops=str(cohort.folder), checkpoint=judge, out=str(tmp_path / "out"))


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_that_leaves_one_class_is_refused(
    make_cohort: Make, judge: str, tmp_path: Path, share: float
) -> None:
    made = make_cohort("made", origin="synthetic:made")
    with pytest.raises(LabelError, match="between 0 and 1"):
        relabel(crops=str(made.folder), checkpoint=judge, out=str(tmp_path), malignant_share=share)


def test_both_classes_are_left_however_small_the_share() -> None:
    assert most_suspicious(np.array([1.0, 2.0, 3.0]), 1e-6).sum() == 1
    assert most_suspicious(np.array([1.0, 2.0, 3.0]), 1 - 1e-6).sum() == 2
    assert most_suspicious(np.zeros(4), 0.5).sum() == 2


@pytest.mark.parametrize("scores", [[], [1.0], [0.0, np.nan]])
def test_scores_that_rank_nothing_are_refused(scores: list[float]) -> None:
    with pytest.raises(LabelError, match="crops"):
        most_suspicious(np.array(scores), 0.5)


def test_logits_come_in_the_order_of_the_crops(make_cohort: Make) -> None:
    made = make_cohort("made", origin="synthetic:made", crops=70)
    torch.manual_seed(0)
    model = CropClassifier(**BODY).eval()
    found = logits(model, made)
    dataset = CropsDataset(made, [69, 3])
    with torch.inference_mode():
        alone = [float(model(dataset[i].image[None])) for i in range(2)]
    np.testing.assert_allclose(found[[69, 3]], alone, atol=1e-5)
